"""An energy map: what came of each site of a batch, from its pattern to its energy, and what the experiment is told.

A site fails at one of STEPS, and then is told as a failure whatever came before: above all, a site whose micro-scan failed is
not told by the strain of its nanobeam pattern alone, because that would claim that there are no defects without having looked.
Knows no ROS.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetem_nodes.planner.actions import Setting
from edgetem_nodes.planner.ledger import Pending, Told
from edgetem_nodes.planner.parameters import MicroScan, Parameters
from edgetem_nodes.planner.sights import Sight, sight_of

NAME, UNIT = "excess_energy_density", "eV/nm^2"
HIGH_NAME = "excess_energy_density_high"
"""Column of the better of two levels."""
EV_PER_NM2 = 1.602176634e-19 * 1e18
"""[J/m^2] (SI definition of the electronvolt, 2019)."""
STEPS = {"pattern": "whose pattern was rejected", "micro_scan": "whose micro-scan failed", "structure": "without a structure",
         "energy": "without an energy"}
"""Where a site can fail, in order, and what is said of so many of them."""
NIL = uuid.UUID(int=0)


@dataclass
class Site:
    """A site on its way to an energy.

    Attributes
    ----------
    row : number within its batch. acquisition_id, index : of its pattern. micro_scan_id, micro_scan_index : of its
        micro-scan; all zero: none.
    value, standard_error : excess energy density [eV/nm^2]; NaN before it is known.
    sight : what of the specimen the energy is of, and where in it defects lie; None: not known.
    step, failure : where it failed and why; empty: it did not.
    """

    row: int
    acquisition_id: uuid.UUID
    index: int
    micro_scan_id: uuid.UUID = NIL
    micro_scan_index: int = 0
    value: float = math.nan
    standard_error: float = math.nan
    sight: Sight | None = None
    step: str = ""
    failure: str = ""

    @property
    def done(self) -> bool:
        """Whether its energy, or why there is none, is known."""
        return bool(self.step) or math.isfinite(self.value)

    def fail(self, step: str, reason: str) -> None:
        """It comes to no energy."""
        self.step, self.failure = step, reason or STEPS[step]

    def take(self, density: float, standard_error: float) -> None:
        """Its energy has come: density and standard error [J/m^2]. A density that is not finite is a failure."""
        if not math.isfinite(density):
            self.fail("energy", "the excess energy is not known: the engine has no reference for this structure")
            return
        self.value, self.standard_error = density / EV_PER_NM2, standard_error / EV_PER_NM2

    def see(self, structure: Any, energetics: Any) -> None:
        """Learn from an AtomicStructure and the Energetics of it what the energy is of; after `take`."""
        density = energetics.expected_defect_energy / energetics.cell_area / EV_PER_NM2 if energetics.cell_area else math.nan
        places = np.asarray(structure.seen_positions, float).reshape(-1, 2)[:, ::-1]
        self.sight = sight_of(structure.footprint_area, (places, structure.seen_probabilities, structure.seen_in_cell),
                              energetics.cell_area, self.value, self.standard_error, density)


def check(parameters: Parameters) -> None:
    """Raise ValueError where the parameters of an energy map contradict each other; the message says what to do."""
    e, scan, actions = parameters.energetics, parameters.micro_scan, parameters.actions
    high = e.high_fidelity
    if not e.mapped:
        for name, given in (("micro_scan.enabled", scan.enabled), ("energetics.averaging_nm", e.averaging_nm),
                            ("energetics.high_fidelity.points", high.points)):
            if given:
                raise ValueError(f"{name} = {given} belongs to an energy map: set energetics.mapped, or leave it out")
        return
    if e.points:
        raise ValueError(f"energetics.points = {e.points} computes energies at the end, energetics.mapped at every site: "
                         "set one of them")
    if actions.scalar_counts:
        raise ValueError("actions.scalar_counts is set, but an energy (energetics.mapped) is no number of counts")
    if high.points and (high.engine or e.engine, high.settings) == (e.engine, e.settings):
        raise ValueError("energetics.high_fidelity names the engine and settings that compute every site: name a better engine "
                         "or other settings")
    if scan.enabled:
        needed = ["semi_convergence_mrad", "defocus_nm"] + [name for name in ("probe_current_pA", "camera_length_mm")
                                                            if getattr(scan, name)]
        missing = [name for name in needed if not getattr(actions, name)]
        if missing:
            raise ValueError(f"micro_scan.enabled changes the optics, and actions.{missing[0]} is empty: name the nanobeam's "
                             "value there, one is enough, so that the microscope can go back to it")


def caveats(parameters: Parameters) -> list[str]:
    """What is to be known of an energy map before its uncertainty is trusted, for people; empty: nothing."""
    p = parameters
    if not p.energetics.mapped:
        return []
    found = []
    if p.point_budget <= p.initial_points:
        found.append(f"point_budget = {p.point_budget} leaves nothing after initial_points = {p.initial_points}: a map of so "
                     "few sites can look flat and certain where none of them met a defect, and no batch follows that would tell")
    if p.energetics.averaging_nm and p.acquisition_function != "integrated_posterior_variance":
        found.append(f"acquisition_function = {p.acquisition_function} does not know of energetics.averaging_nm: "
                     "integrated_posterior_variance chooses what an averaged map is uncertain of")
    return found


def aim(parameters: Parameters) -> str:
    """What the map is of and how certain it is to be, for people; empty where no energy is mapped."""
    p, radius = parameters, parameters.energetics.averaging_nm
    if not p.energetics.mapped:
        return ""
    what = f"mean over discs of radius {radius:g} nm" if radius else "expectation at each position"
    target = p.target_standard_deviation
    return f"{what}, until " + (f"its standard deviation is at most {target:g} {UNIT}" if target else "a budget is spent")


def micro_scan_setting(scan: MicroScan) -> Setting:
    """How the micro-scan is measured."""
    optics = {"semi_convergence_angle": scan.semi_convergence_mrad * 1e-3, "defocus": scan.defocus_nm * 1e-9}
    if scan.probe_current_pA:
        optics["probe_current"] = scan.probe_current_pA * 1e-12
    if scan.camera_length_mm:
        optics["camera_length"] = scan.camera_length_mm * 1e-3
    return Setting(scan.dwell_ms * 1e-3, optics)


def told(sites: Sequence[Site], pending: Pending) -> Told:
    """Values and standard errors (rows, 1 + outputs), validity (rows,): the energies in place of the first column.

    Parameters
    ----------
    sites : one a row, in order. pending : the rows of the nanobeam, all there.
    """
    values, errors, valid = pending.sorted()
    values[:, 0] = [site.value for site in sites]
    errors[:, 0] = [site.standard_error for site in sites]
    return values, errors, valid & np.array([not site.step for site in sites], bool)


def account(sites: Sequence[Site]) -> str:
    """What became of a batch, for people: counts by step. A replay has the same counts, whatever the reasons were."""
    failed = [f"{sum(site.step == step for site in sites)} {words}" for step, words in STEPS.items()
              if any(site.step == step for site in sites)]
    good = sum(not site.step for site in sites)
    return f"energies of {good} of {len(sites)} positions" + (f" ({', '.join(failed)})" if failed else "")


def read_area(footprint: float, cell: Sequence[float]) -> float:
    """Area that an energy density is the mean over [m^2]: of a footprint as much as its periodic cell holds; 0: not known.

    Parameters
    ----------
    footprint : that was seen [m^2]. cell : (9,) lattice vectors in rows, (x, y, z) [m].
    """
    plane = np.asarray(cell, float).reshape(3, 3)[:2, :2]
    area = abs(float(np.linalg.det(plane)))
    return min(float(footprint), area) if area > 0 else float(footprint)
