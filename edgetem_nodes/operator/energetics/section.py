"""The part of a report that is of an energy map: figures, pictures, every site, and the truth beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from edgetem_nodes.graph.instrument import simulation
from edgetem_nodes.hpc_bridge.engines import engine as engine_named
from edgetem_nodes.hpc_bridge.engines import settings as engine_settings
from edgetem_nodes.operator.energetics import pictures
from edgetem_nodes.operator.energetics.engine_energies import SheetEngine
from edgetem_nodes.operator.energetics.evaluation import EnergyEvaluation, evaluate
from edgetem_nodes.operator.energetics.site_table import SiteRecord, computed_sites, rejected, site_records
from edgetem_nodes.operator.energetics.true_sheet import TrueSheet
from edgetem_nodes.operator.energetics.truth import EnergyTruth, energy_truth
from edgetem_nodes.operator.evaluation import at_rest
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.operator.outcome import Outcome

EVALUATION = "energy_evaluation.json"
TRUTH = "energy_truth.npz"
"""The truth as it was computed last, with what it was computed of."""
DRAWN = 3
"""Structures that are drawn."""


@dataclass
class EnergySection:
    """`rows` of figures, `pictures` (caption, file), `sites` lines of the table, `rejected` reasons and how often."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[tuple[str, Path]] = field(default_factory=list)
    sites: list[tuple[str, ...]] = field(default_factory=list)
    rejected: list[tuple[str, int]] = field(default_factory=list)
    truth: str = ""


def energy_section(outcome: Outcome, folder: Path, judged: bool = True) -> EnergySection | None:
    """What a report says of an energy map; None where the experiment made none.

    Parameters
    ----------
    folder : for pictures. judged : compute the truth, where the specimen is simulated, and compare with it.
    """
    if not outcome.site_energies:
        return None
    records, section = site_records(outcome), EnergySection()
    columns = outcome.scan_field.shape[1]
    section.sites, section.rejected = [record.cells(columns) for record in records], rejected(records)
    if outcome.last_map is None:
        return section
    shape = outcome.scan_field.shape
    points = {d.index: d.points for d in outcome.decisions}
    maps = [(int(points.get(index, 0)), *(np.asarray(values).reshape(shape) for values in (one.mean, one.standard_deviation)))
            for index, one in sorted(outcome.maps.items())]
    target = float(outcome.configuration.nodes["planner"]["target_standard_deviation"])
    sites = computed_sites(records, outcome)
    truth, evaluation = None, None
    if judged:
        try:
            truth = true_energies(outcome)
        except ValueError as error:
            section.truth = f"No truth beside it: {error}."
    if truth is not None and len(sites.densities):
        radius = float(outcome.configuration.nodes["planner"]["energetics.averaging_nm"]) * 1e-9
        evaluation = evaluate(truth, maps, sites, radius, target, len({record.candidate for record in records}))
        evaluation.save(outcome.folder / EVALUATION)
        section.rows, section.truth = evaluation.rows(), told(truth)
    section.pictures = _pictures(outcome, folder, records, maps, target, truth, evaluation)
    return section


def told(truth: EnergyTruth) -> str:
    """How the truth was made, for people."""
    kinds = "; ".join(f"{one.count} of {one.kind} at {one.energy:.2f} eV" for one in truth.clusters) or "none"
    residual = truth.law.residual / 1.602176634e-19 * 1e-18
    return (f"The truth: {truth.method} on the atoms that the specimen has. Strain energy by a polynomial fitted to "
            f"{truth.law.points} strains up to {100 * truth.law.largest:.2g} %, off by {residual:.2g} eV/nm² (root mean "
            "square, each left out of the fit). Defects in the field, each kind relaxed alone in the unstrained sheet: "
            f"{kinds}.")


def true_energies(outcome: Outcome) -> EnergyTruth:
    """The truth about the specimen of an experiment by the engine that computed every site; kept in the folder.

    Raises
    ------
    ValueError : the specimen was not simulated, or there is no truth about its energy; the message says why.
    """
    configuration = outcome.configuration
    microscope, planner, bridge = (configuration.parameters(name, SCHEMAS[name])
                                   for name in ("microscope", "planner", "hpc_bridge"))
    if microscope.instrument.driver != "simulated":
        raise ValueError("the specimen was measured, nobody knows its atoms")
    simulated = simulation(at_rest(microscope.instrument), microscope.seed)
    name = planner.energetics.engine or bridge.engine
    calculation = engine_settings(engine_named(name), bridge.calculation, planner.energetics.settings)
    engine = SheetEngine(simulated.settings.specimen, name, calculation, bridge.sheet.vacuum_nm * 1e-9)
    of = {"specimen": simulated.settings.specimen, "options": asdict(simulated.settings.options), "seed": microscope.seed,
          "field": [list(outcome.scan_field.origin), list(outcome.scan_field.step), list(outcome.scan_field.shape)],
          "engine": name, "calculation": asdict(calculation)}
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    path = outcome.folder / TRUTH
    kept = EnergyTruth.load(path, key, outcome.scan_field)
    if kept is None:
        kept = energy_truth(TrueSheet.of(simulated.settings, microscope.seed), outcome.scan_field, engine,
                            lambda step: print(f"truth of the energy map: {step}", flush=True))
        kept.save(path, key)
    return kept


def _pictures(outcome: Outcome, folder: Path, records: list[SiteRecord], maps: list, target: float, truth: EnergyTruth | None,
              evaluation: EnergyEvaluation | None) -> list[tuple[str, Path]]:
    scan, (_, mean, deviation) = outcome.scan_field, maps[-1]
    chosen = np.array([record.candidate for record in records if record.low], int)
    beside = ", and the truth beside it. The planner never saw it." if evaluation else "."
    shown = [(f"The energy map after the last decision, with the sites{beside}",
              pictures.maps(scan, mean, deviation, chosen, folder / "energy_map.png", evaluation))]
    deviations = np.array([[one.mean(), one.max()] for _, _, one in maps])
    shown.append(("How the uncertainty fell.", pictures.course(evaluation, [count for count, *_ in maps], deviations, target,
                                                               folder / "energy_course.png")))
    drawn = telling_structures(records)
    if drawn:
        shown.append(("Structures that the engine was given, along the beam: rings mark defects, with their probabilities.",
                      pictures.structures(drawn, scan.shape[1], folder / "structures.png")))
    sites = computed_sites(records, outcome)
    if evaluation is not None:
        regions = evaluation.regions.ravel()[scan.candidates(sites.positions)]
        shown.append(("Computed energies against the truth in each cell.",
                      pictures.sites_against_truth(evaluation, sites, sites.true(truth), regions, folder / "energy_sites.png")))
    if any(record.low and record.high for record in records):
        shown.append(("What the better level changes.", pictures.two_levels(records, folder / "two_levels.png")))
    return shown


def telling_structures(records: list[SiteRecord]) -> list[SiteRecord]:
    """The costliest site with defects, the costliest without, and the cheapest: as many of them as there are."""
    known = sorted((r for r in records if r.structure is not None and r.low is not None), key=lambda r: r.low[0])
    def defective(record: SiteRecord) -> bool:
        return any(probability >= 0.5 for probability in record.structure.defect_probabilities)
    with_defects, without = [r for r in known if defective(r)], [r for r in known if not defective(r)]
    chosen = [*with_defects[-1:], *without[-1:], *known[:1]]
    return list({id(record): record for record in chosen}.values())[:DRAWN]
