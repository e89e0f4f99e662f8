"""What is computed for a structure: its energy, what it is compared with, the excess energy and its error."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetem_nodes.hpc_bridge import elasticity, engines, expectation, reservoirs, sheets
from edgetem_nodes.hpc_bridge.expectation import Kind
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import Reference, Step, final_energy
from edgetem_nodes.hpc_bridge.restraint import Restraint
from edgetem_nodes.hpc_bridge.stiffness import left_by_errors
from edgetem_nodes.hpc_bridge.structures import Structure, to_atoms

SEED = 20260101
"""Of the errors that are drawn."""


@dataclass(frozen=True)
class Level:
    """An engine with its settings."""

    engine: engines.Engine
    calculation: Calculation


@dataclass(frozen=True)
class Plan:
    """One calculation as it goes to a worker.

    Attributes: `height` of the cell along z [m] that a sheet and its reference share; `match` None: no reference, and
    `without` says why; `potentials` of the atoms that the structure has too many or too few.
    """

    structure: Structure
    engine: str
    calculation: Calculation
    vacuum: float
    height: float
    match: sheets.Match | None
    without: str
    potentials: tuple[reservoirs.Potential, ...] = ()

    @property
    def final(self) -> Level:
        """What the energies come from."""
        engine = engines.engine(self.engine)
        if not engine.forces or self.calculation.relax_with:
            return Level(engine, replace(self.calculation, relax=False, relax_with=""))
        return Level(engine, self.calculation)

    @property
    def relaxing(self) -> Level:
        """What relaxes, and gives stress: the same, or a cheaper method."""
        method = self.calculation.relax_with
        if not method and engines.engine(self.engine).forces:
            return self.final
        return Level(engines.engine("tblite"), replace(self.calculation, method=method or engines.RELAXING, relax_with=""))

    @property
    def reference_key(self) -> tuple:
        """Equal for structures that share a reference: same sheet, supercell, engine, method, settings."""
        return (self.match.sheet.name, self.match.lattice, tuple(self.match.supercell.ravel().tolist()),
                round(self.height * 1e12), self.engine, self.calculation)

    @property
    def harmonic(self) -> bool:
        """Whether the stiffness of the perfect sheet says what errors of positions leave."""
        calculation = self.relaxing.calculation
        return bool(self.match is not None and calculation.relax and calculation.restraint and not calculation.noise_draws
                    and len(self.structure.covariances))

    @property
    def lone_defects(self) -> dict[Kind, Plan]:
        """Plans of one defect alone in this supercell, for every kind that may be there and has a defined energy."""
        if self.match is None:
            return {}
        plans = {kind: expectation.alone(self, kind) for kind in expectation.kinds(self.structure)}
        return {kind: found for kind, found in plans.items() if found is not None}

    def reservoir_key(self, reservoir: reservoirs.Reservoir) -> tuple:
        """Equal for structures that share the energy of a reservoir."""
        size = (self.match.cells, round(self.height * 1e12)) if reservoir.kind == "sheet" else ()
        return (reservoir.kind, reservoir.name, *size, self.engine, self.calculation)


@dataclass(frozen=True)
class Result:
    """Energies [J] as Energetics.msg names them, forces (atoms, 3) [N] of the relaxing engine alone, largest force [N] with the
    restraint's pull, convergence, steps, and what else is to be said of it; NaN where there is no reference."""

    energy: float
    reference_energy: float
    excess_energy: float
    standard_error: float
    cell_area: float
    strain_variance_energy: float
    position_variance_energy: float
    restraint_energy: float
    restraint_chi_square: float
    defect_energy: float
    expected_defect_energy: float
    cell_size_error: float
    forces: np.ndarray
    max_force: float
    converged: bool
    steps: int
    notes: dict[str, Any]


def plan(structure: Structure, engine: str, calculation: Calculation, lattice: float, vacuum: float) -> Plan:
    """What is to be done for a checked structure.

    Parameters
    ----------
    lattice : constant of the unstrained sheet [m]; 0: the literature value.
    vacuum : on either side of a sheet that is not periodic along z [m].
    """
    match, without, potentials = None, "not asked for", ()
    if calculation.reference:
        match, without = sheets.match(structure, lattice)
    if engine == "emt":
        match, without = None, "emt knows no sheet"
    if match is not None:
        potentials, missing = reservoirs.potentials(match, calculation.environment)
        if missing:
            match, without = None, missing
    height = 0.0
    if match is not None:
        height = structure.cell[2, 2] if structure.periodic[2] else match.sheet.thickness + 2 * vacuum
    return Plan(structure, engine, calculation, vacuum, float(height), match, without, potentials)


def compute(work: Plan, reference: Reference | None, energies: dict[str, float] | None = None,
            formation: dict[Kind, float] | None = None, stiffness: np.ndarray | None = None, step: Step = lambda *_: None,
            canceled: Callable[[], bool] = lambda: False) -> Result:
    """Energy of the structure, and its excess over the reference where there is one.

    Parameters
    ----------
    energies : of the reservoirs that the plan's potentials need, by name, a formula unit [J].
    formation : energy [J] of one defect of each kind that may be there, alone.
    stiffness : of the perfect sheet, where `Plan.harmonic`; without it errors are drawn once.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    structure = work.structure
    if reference is not None:
        structure = sheets.carry_over(structure, work.match, reference.cell, reference.thickness)
    atoms, relaxing = to_atoms(structure, work.vacuum), work.relaxing
    restraint = _restraint(atoms, structure, relaxing.calculation)
    result = engines.calculate(atoms, relaxing.engine, relaxing.calculation, structure.charge, step, canceled)
    max_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max()) * engines.EV_PER_ANGSTROM
    slope = _gradient(atoms)
    notes, held, chi_square, left, scatter = {}, 0.0, math.nan, 0.0, 0.0
    if restraint is not None:
        held = restraint.adjust_potential_energy(atoms) * engines.ELECTRONVOLT
        chi_square = restraint.chi_square(atoms)
        left, scatter, notes = _left_by_errors(atoms, restraint, work, reference, stiffness, structure.charge, canceled)
    energy = result.energy
    if work.final != relaxing:
        energy = engines.energy(atoms, work.final.engine, work.final.calculation, structure.charge) if reference is None \
            else final_energy(atoms, work, reference.scale)
    compared = _compare(work, reference, energies or {}, structure, slope, canceled)
    excess = defects = expected = math.nan
    if not math.isnan(compared.reference_energy):
        above = energy - compared.reference_energy - left
        defects = above - compared.perfect_strain if work.match.surplus else 0.0
        expected, variance = expectation.expected(work.structure, work.match.surplus, defects, formation or {})
        scatter += variance
        excess = above - np.nan_to_num(compared.bias) + expected - defects
    error = _standard_error(compared, restraint is not None, scatter)
    area = abs(float(np.linalg.det(work.structure.cell[:2, :2]))) if any(structure.periodic) else math.nan
    return Result(energy, compared.reference_energy, excess, error, area, compared.bias, left, held, chi_square, defects,
                  expected, compared.repetition, result.forces, max_force, result.converged, result.steps, notes)


def _restraint(atoms: Any, structure: Structure, calculation: Calculation) -> Restraint | None:
    """The restraint to places that were measured one by one, set on the atoms; None: there are none, or it is switched off."""
    if not (calculation.restraint and calculation.relax and len(structure.covariances)):
        return None
    found = Restraint(atoms.positions[:, :2], structure.covariances * 1e20, calculation.restraint_temperature_k)
    if not found.coordinates:
        return None
    atoms.set_constraint(found)
    return found


def _left_by_errors(atoms: Any, restraint: Restraint, work: Plan, reference: Reference | None, stiffness: np.ndarray | None,
                    charge: int, canceled: Callable[[], bool]) -> tuple[float, float, dict[str, float]]:
    """Energy [J] that errors of the positions leave on average in the restrained atoms, its variance [J^2], and notes on the
    atoms without restraint where they were computed.

    From the stiffness of the sheet; or from the relaxed atoms without restraint errors are drawn and relaxed as the measured
    ones were: one draw over some 60 coordinates is an average over as many modes, a sum of squares that scatters by
    sqrt(2 / coordinates) of itself, once for the structure and once for the draws.
    """
    level = work.relaxing
    if stiffness is not None and not level.calculation.noise_draws:
        left, variance = left_by_errors(atoms, restraint, stiffness, work, reference)
        return left * engines.ELECTRONVOLT, variance * engines.ELECTRONVOLT ** 2, {}
    # the same structure gives the same energy again, and two structures independent errors of the draws
    generator = np.random.default_rng([SEED, zlib.crc32(restraint.measured.tobytes())])
    calculation = replace(level.calculation, max_steps=2 * level.calculation.max_steps)
    free = atoms.copy()
    free.set_constraint()
    lowest = engines.calculate(free, level.engine, calculation, charge, canceled=canceled)
    found = []
    for _ in range(max(1, level.calculation.noise_draws)):
        drawn = free.copy()
        drawn.set_constraint(restraint.drawn(free.positions, generator))
        found.append(engines.calculate(drawn, level.engine, calculation, charge, canceled=canceled).energy - lowest.energy)
    left = float(np.mean(found))
    return left, left ** 2 * 2 / restraint.coordinates * (1 + 1 / len(found)), {
        "unrestrained_energy_ev": lowest.energy / engines.ELECTRONVOLT, "unrestrained_chi_square": restraint.chi_square(free)}


@dataclass(frozen=True)
class Comparison:
    """Of a structure with its reference: `reference_energy` [J] with all chemical potentials, `perfect_strain` energy [J] of
    the perfect sheet equally strained, gradient and curvature of the energy with strain [J], covariance of the strain, `bias`
    that it adds [J], error of a defect by its `repetition` [J]; NaN and None where there is none."""

    reference_energy: float = math.nan
    perfect_strain: float = 0.0
    slope: np.ndarray | None = None
    stiffness: np.ndarray | None = None
    covariance: np.ndarray | None = None
    bias: float = math.nan
    repetition: float = math.nan


def _compare(work: Plan, reference: Reference | None, energies: dict[str, float], structure: Structure, slope: np.ndarray,
             canceled: Callable[[], bool]) -> Comparison:
    if reference is None:
        return Comparison()
    area = abs(float(np.linalg.det(reference.cell[:2, :2])))
    stiffness = elasticity.curvature(reference.c11, reference.c12, area)
    covariance = elasticity.strain_covariance(work.structure)
    bias = math.nan if covariance is None else elasticity.variance_energy(stiffness, covariance)
    perfect, repetition = 0.0, 0.0
    if work.match.surplus and not canceled():
        perfect, gradient = _perfect_strained(work, reference, canceled)
        repetition = elasticity.repetition_error(slope, gradient, stiffness)
    whole = reference.energy + reservoirs.energy_of_surplus(work.match, work.potentials, reference.energy, energies)
    return Comparison(whole, perfect, slope, stiffness, covariance, bias, repetition)


def _perfect_strained(work: Plan, reference: Reference, canceled: Callable[[], bool]) -> tuple[float, np.ndarray]:
    """Strain energy [J] and gradient (3,) of the perfect sheet in the structure's cell."""
    whole = sheets.build(work.match.sheet, reference.lattice, reference.thickness, work.match.supercell, work.height)
    cell = whole.cell.copy()
    cell[:2, :2] = reference.cell[:2, :2] @ work.match.deformation.T
    fractions = whole.positions[:, :2] @ np.linalg.inv(whole.cell[:2, :2])
    positions = np.concatenate([fractions @ cell[:2, :2], whole.positions[:, 2:]], axis=1)
    atoms = to_atoms(replace(whole, positions=positions, cell=cell), work.vacuum)
    level = work.relaxing
    found = engines.calculate(atoms, level.engine, level.calculation, canceled=canceled)
    slope, energy = _gradient(atoms), found.energy
    if work.final != level:
        energy = final_energy(atoms, work, reference.scale)
    return energy - reference.energy, slope


def _gradient(atoms: Any) -> np.ndarray:
    """Derivative (3,) of the energy with strain [J]; NaN where the atoms are not periodic."""
    if not atoms.pbc.all():
        return np.full(3, math.nan)
    return elasticity.gradient(atoms.get_stress(voigt=False), atoms.get_volume()) * engines.ELECTRONVOLT


def _standard_error(compared: Comparison, restrained: bool, scatter: float) -> float:
    """Standard error [J] from strain and the variance `scatter` [J^2] of positions and of defects that may be there; NaN
    without reference or where nothing is known."""
    if math.isnan(compared.reference_energy) or compared.covariance is None and not restrained:
        return math.nan
    if compared.covariance is None:
        return math.sqrt(scatter)
    return math.hypot(elasticity.standard_error(compared.slope, compared.stiffness, compared.covariance), math.sqrt(scatter))


def describe(work: Plan, reference: Reference | None) -> tuple[str, dict]:
    """The reference in words, and what the settings JSON says of the carried-over strain."""
    if reference is None:
        return "", {"without_reference": work.without}
    match, final, relaxing = work.match, work.final, work.relaxing
    level = f"{work.engine} {final.calculation.method}"
    words = (f"{match.sheet.name} without stress, supercell {match.supercell.tolist()}, "
             f"a = {reference.lattice * 1e9:.5f} nm in {relaxing.engine.name} {relaxing.calculation.method}")
    if work.potentials:
        words += "; " + ", ".join(f"{count:+d} {potential.words}" for (_, count), potential
                                  in zip(match.surplus, work.potentials, strict=True))
        if len(match.sheet.formula) > 1:
            words += f" ({work.calculation.environment})"
    if final != relaxing:
        words += (f"; energies {level} at geometries of {relaxing.engine.name} {relaxing.calculation.method}, widened by "
                  f"{reference.scale:.4f}")
    words += "; neutral cells, closed shells"
    return words, {"sheet": match.sheet.name, "supercell": match.supercell.tolist(), "strain": match.strain.tolist(),
                   "unstrained_nm": match.lattice * 1e9, "engine_nm": reference.lattice * 1e9,
                   "height_nm": work.height * 1e9, "c11_n_per_m": reference.c11, "c12_n_per_m": reference.c12}
