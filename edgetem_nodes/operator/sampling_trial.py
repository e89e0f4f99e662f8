"""One run of one sampling strategy on a field that is fully measured, and what it is judged by (docs/sampling.md)."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgetem_nodes.operator.mapped_fields import MappedField
from edgetem_nodes.planner.calibration import calibrate, reserved_positions, segment
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.simulation import found_fraction, map_error, simulate, top_positions

GOALS = ("discovery", "mapping")
SETTINGS: dict[str, dict[str, Any]] = {
    "discovery": {"acquisition_function": "expected_improvement", "target_fraction": 0.02, "initial_points": 10,
                  "initial_design": "survey", "batch_points": 5},
    "mapping": {"acquisition_function": "integrated_posterior_variance"},
}
"""What each goal changes in the planner's defaults; the surrogate is that of the field's configuration."""
AMPLITUDE = {"discovery": False, "mapping": True}
"""Whether the variability follows the survey: it says where a map needs points, but extremes may hide where it is small."""
TOP, SHARE = 0.02, 0.9
"""Discovery: this share of this fraction of the positions, those with the largest truth, is to be measured."""
MAP_DOSE = 0.1
"""Mapping: the dose, survey counted, in units of a full map's."""
RESERVED = 0.1
"""Fraction of the positions that mapping experiments are never offered: calibration is judged there."""
DISCOVERY_LIMIT = 0.15
"""Dose in units of a full map's at which discovery with a model is given up."""
PLAIN = "plain_dkl"


@dataclass(frozen=True)
class Method:
    """A strategy of `simulate`; `survey` says for which goals it uses, and so pays for, the survey image."""

    strategy: str
    survey: tuple[str, ...] = GOALS
    goals: tuple[str, ...] = GOALS


METHODS = {
    "edgetem": Method("configured"),
    "random": Method("random", survey=("mapping",)),
    "random_position_gp": Method("random", survey=(), goals=("mapping",)),
    "grid": Method("low_discrepancy", survey=("mapping",)),
    "position_gp": Method("configured", survey=()),
    PLAIN: Method("plain_deep_kernel"),
    "brightest": Method("brightness", goals=("discovery",)),
}
"""By name. Random and grid need no survey to discover; to map they use the planner's model, and so the survey."""


def settings(goal: str) -> Parameters:
    """The planner's parameters for a goal."""
    return replace(Parameters(), **SETTINGS[goal])


def dose_to_find(candidates: np.ndarray, top: np.ndarray, survey_dose: float) -> float:
    """Dose at which `SHARE` of the top positions had been measured, in positions; infinite where they were not."""
    needed = math.ceil(SHARE * len(top))
    places = np.flatnonzero(np.isin(candidates, top))
    return float(survey_dose + places[needed - 1] + 1) if len(places) >= needed else math.inf


def random_dose(positions: int, top: int) -> float:
    """Expected dose of random sampling for the same: the mean of a negative hypergeometric distribution, m (n+1) / (k+1)."""
    return math.ceil(SHARE * top) * (positions + 1) / (top + 1)


def trial(field: MappedField, method: str, goal: str, seed: int, parameters: Parameters | None = None) -> dict[str, Any]:
    """Run one experiment.

    Parameters
    ----------
    parameters : the planner's, for every method that uses the planner; those of the goal by default.

    Returns
    -------
    `seconds` (CPU), `points`, and for discovery `dose`, `dose_single` (positions; infinite where not reached), `found`; for
    mapping `error`, `error_single` [scalar] and `calibration` by region.

    Raises
    ------
    ValueError : an unknown method or goal, or a method that does not serve the goal.
    """
    if method not in METHODS or goal not in METHODS[method].goals:
        raise ValueError(f"there is no method {method!r} for {goal!r}; there are "
                         f"{', '.join(name for name, known in METHODS.items() if goal in known.goals)}")
    started, chosen = time.process_time(), METHODS[method]
    survey_dose = field.survey_dose if goal in chosen.survey else 0.0
    # A survey without contrast tells a model nothing: it is left with the position alone.
    survey = field.survey if goal in chosen.survey else np.zeros_like(field.survey)
    run = _discover if goal == "discovery" else _map
    parameters = parameters or replace(settings(goal), model=replace(field.model, amplitude=AMPLITUDE[goal]))
    result = run(field, chosen.strategy, survey, survey_dose, parameters, seed)
    return {**result, "seconds": time.process_time() - started}


def _discover(field: MappedField, strategy: str, survey: np.ndarray, survey_dose: float, parameters: Parameters,
              seed: int) -> dict[str, Any]:
    size = field.values.size
    top, single = top_positions(field.truth, TOP), top_positions(field.values, TOP)
    cheap = strategy in ("random", "brightness", "low_discrepancy")
    budget = size if cheap else max(1, int(DISCOVERY_LIMIT * size - survey_dose))
    made = simulate(survey, field.values, field.standard_errors, field.field, replace(parameters, point_budget=budget), seed,
                    strategy, until=lambda measured: math.isfinite(dose_to_find(measured, top, 0.0)), learn=False)
    tenth = made.candidates[:max(0, int(MAP_DOSE * size - survey_dose))]
    return {"dose": dose_to_find(made.candidates, top, survey_dose),
            "dose_single": dose_to_find(made.candidates, single, survey_dose),
            "found": found_fraction(made.candidates, field.truth, TOP),
            "found_at_tenth": found_fraction(tenth, field.truth, TOP), "points": len(made.candidates)}


def _map(field: MappedField, strategy: str, survey: np.ndarray, survey_dose: float, parameters: Parameters,
         seed: int) -> dict[str, Any]:
    size = field.values.size
    reserved = reserved_positions(size, RESERVED, np.random.default_rng([seed, 2]))
    budget = max(1, int(MAP_DOSE * size - survey_dose))
    made = simulate(survey, field.values, field.standard_errors, field.field, replace(parameters, point_budget=budget), seed,
                    strategy, allowed=~reserved.reshape(field.values.shape))
    judged = [array.ravel()[reserved] for array in (made.mean, made.measurement_deviation, field.values,
                                                    segment(field.truth))]
    return {"error": map_error(made.mean, field.truth), "error_single": map_error(made.mean, field.values),
            "calibration": {region: asdict(found) for region, found in calibrate(*judged).items()},
            "points": len(made.candidates)}


def pooled(trials: list[dict[str, Any]], region: str) -> dict[str, float | None]:
    """Coverage and mean CRPS over all seeds' reserved positions of a region, one of `calibration.REGIONS` or "all".

    None where there is none.
    """
    found = [one["calibration"][region] for one in trials]
    count = sum(one["count"] for one in found)
    return {key: sum(one[key] * one["count"] for one in found if one["count"]) / count if count else None
            for key in ("coverage", "score")}
