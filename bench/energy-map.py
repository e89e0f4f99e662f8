"""Energy maps of sheets drawn at random: how near the planner's map comes to the truth with a tenth of the positions read.

Sheets are those of config/energetics.yaml with other seeds: strain, irradiated spot and vacancies anew. Only the reading is
simulated: the mean energy over the hexagon that a cell of 7 x 7 is, and where vacancies lie in it and in the footprint about
it; one vacancy in thirty has a probability of a third, one reading in fifty a doubtful one too many, one in twenty is refused,
and all have errors. Strain energy is by linear elasticity (2D modulus 340 N/m: Lee et al., Science 321, 385, 2008; Poisson's
ratio 0.165), a vacancy costs 7.84 eV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from edgetem_nodes.graph.instrument import simulation
from edgetem_nodes.operator.energetics.evaluation import NINETY, RICH, correlation
from edgetem_nodes.operator.energetics.true_sheet import TrueSheet
from edgetem_nodes.operator.energetics.truth import EnergyTruth
from edgetem_nodes.operator.evaluation import at_rest
from edgetem_nodes.operator.experiment import SCHEMAS, load_experiment
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Energetics, Model, Parameters
from edgetem_nodes.planner.sights import Sight
from edgetem_nodes.planner.stopping import UNCERTAINTY_TARGET, Spent

CONFIGURATION = Path(__file__).resolve().parents[1] / "config" / "energetics.yaml"
MODULUS, POISSON = 340.0 / 0.1602176634, 0.165
"""2D Young's modulus [eV/nm^2], Poisson's ratio."""
VACANCY, ATOM_AREA = 7.84, 0.02619
"""[eV], [nm^2]."""
OVERLOOKED, DOUBTFUL, REFUSED = 0.03, 0.02, 0.05
"""Probabilities: of a vacancy, of a reading, of a reading."""
PLACE_ERROR = 0.02
"""Of a vacancy along an axis [nm]."""
CASES = ((2.57, 3.5),)
"""Area of the cell [nm^2], radius of the discs [nm]."""
FOOTPRINT = 4.4
"""[nm^2], a square: where vacancies are seen, whether or not they are in the cell."""
TARGET, FIRST_SEED = 0.4, 100
"""[eV/nm^2], and the first of the seeds, none of which is the configuration's."""


def _truth(seed: int) -> EnergyTruth:
    """Of a sheet drawn anew: energies [eV] at its sites."""
    configuration = load_experiment(CONFIGURATION, {"/**.seed": seed})
    microscope = configuration.parameters("microscope", SCHEMAS["microscope"])
    settings = simulation(at_rest(microscope.instrument), seed).settings
    sheet = TrueSheet.of(settings, seed)
    stretch = 0.5 * (np.swapaxes(sheet.deformation, 1, 2) @ sheet.deformation - np.eye(2))
    xx, yy, xy = stretch[:, 0, 0], stretch[:, 1, 1], stretch[:, 0, 1]
    density = MODULUS / (1 - POISSON**2) * (0.5 * (xx**2 + yy**2) + POISSON * xx * yy + (1 - POISSON) * xy**2)
    defects = np.where(sheet.occupied == sheet.host, 0.0, VACANCY)
    return EnergyTruth(sheet.places, density * ATOM_AREA, defects, settings.field, None, (), "")


def _read(truth: EnergyTruth, tree: cKDTree, place: np.ndarray, area: float, rng: np.random.Generator) -> tuple[Sight, bool]:
    """What a site saw [eV/nm^2], and whether it was not refused."""
    edge = np.sqrt(area * 2 / np.sqrt(3)) * 1e-9
    cell = Sight(edge * np.array([[0.0, 1.0], [np.sqrt(3) / 2, 0.5]]), 0.0, 0.0)
    square = np.sqrt(FOOTPRINT) * 1e-9 * np.eye(2)
    near = np.array(tree.query_ball_point(place, edge + square[0, 0]))
    away = truth.places[near] - place
    inside = near[cell.sees(away)]
    strain, vacant = truth.strain[inside].sum() / area, near[(truth.defects[near] > 0) & Sight(square, 0.0, 0.0).sees(away)]
    likely = np.where(rng.random(len(vacant)) < OVERLOOKED, 1 / 3, 1.0)
    places = truth.places[vacant] - place
    in_cell = cell.sees(places)
    places = places + PLACE_ERROR * 1e-9 * rng.normal(size=places.shape)
    if rng.random() < DOUBTFUL:
        likely, in_cell = np.append(likely, 0.5), np.append(in_cell, True)
        places = np.concatenate([places, (truth.places[rng.choice(inside)] - place)[None]])
    error = 0.04 + 0.1 * strain
    contents = likely * VACANCY * (1 + 0.03 * rng.normal(size=len(likely)))
    sight = Sight(square, strain + error * rng.normal(), error, places, likely, np.where(in_cell, contents * 1e-18, np.nan),
                  np.where(in_cell, likely * (1 - likely) * VACANCY**2 * 1e-36, np.nan))
    return sight, rng.random() > REFUSED


def _mapped(truth: EnergyTruth, seed: int, area: float, radius: float) -> dict[str, float]:
    """One experiment with the design of the configuration, and its map beside the truth."""
    planner = load_experiment(CONFIGURATION, {}).parameters("planner", SCHEMAS["planner"])
    parameters = Parameters(point_budget=planner.point_budget, initial_points=planner.initial_points,
                            batch_points=planner.batch_points, acquisition_function=planner.acquisition_function,
                            target_standard_deviation=TARGET, model=Model(use_survey=False),
                            energetics=Energetics(mapped=True, averaging_nm=radius))
    field, tree, rng = truth.field, cKDTree(truth.places), np.random.default_rng(seed)
    experiment = ActiveExperiment(np.ones((1, *field.shape)), field, parameters, seed)
    while not (reason := experiment.stop_reason(Spent(experiment.points))):
        at = experiment.ask().candidates
        sights, valid = zip(*[_read(truth, tree, place, area, rng) for place in field.positions(at)], strict=True)
        values = [one.smooth + np.nansum(one.contents) / (area * 1e-18) for one in sights]
        errors = [np.sqrt(one.error**2 + np.nansum(one.variances) / (area * 1e-18)**2) for one in sights]
        experiment.tell(at, np.array(values), np.array(errors), np.array(valid), sights=sights)
    mean, deviation = (each.ravel() for each in experiment.predict())
    strain, defects = truth.averaged(radius * 1e-9)
    off, rich = mean - strain - defects, defects > RICH * defects.max()
    held = np.abs(off) < NINETY * deviation
    return {"points": experiment.points, "correlation": correlation(mean, strain + defects),
            "rmse": float(np.sqrt(np.mean(off**2))), "standard_deviation": float(np.sqrt(np.mean(deviation**2))),
            "bias_rich": float(off[rich].mean()), "coverage90": float(held.mean()), "coverage90_rich": float(held[rich].mean()),
            "reached": float(reason == UNCERTAINTY_TARGET), "within_target": float(np.mean(np.abs(off) < NINETY * TARGET))}


def run(quick: bool) -> dict[str, Any]:
    """Means over seeds for each cell and radius [eV/nm^2]; of correlations the median, and the share of 0.95 or more.

    `holds`: share of the experiments that reached the target whose true error is below it.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + (2 if quick else 20))
    truths, cases = [_truth(seed) for seed in seeds], []
    for area, radius in CASES:
        found = [_mapped(truth, seed, area, radius) for truth, seed in zip(truths, seeds, strict=True)]
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        correlations = np.array([one["correlation"] for one in found])
        reached = [one["rmse"] <= TARGET and one["within_target"] >= 0.9 for one in found if one["reached"]]
        cases.append({"footprint_nm2": FOOTPRINT, "cell_nm2": area, "radius_nm": radius, **mean,
                      "correlation": float(np.median(correlations)), "correlation_least": float(correlations.min()),
                      "share_095": float(np.mean(correlations >= 0.95)),
                      "holds": float(np.mean(reached)) if reached else None})
    return {"seeds": len(seeds), "target_eV_per_nm2": TARGET, "cases": cases}
