"""The run against random sampling and against taking the brightest survey pixels, at equal dose, after the run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.operator.evaluation import measure_full_map
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.operator.outcome import Outcome
from edgetem_nodes.planner.simulation import SimulatedRun, found_fraction, map_correlation, map_error, simulate

ANGSTROM2 = 1e-20
"""[m²]."""
RANDOM, BRIGHTEST = "random sampling", "brightest survey pixels"
COMPARISON = "comparison.json"
SMOOTHING = 1.0
"""Standard deviation of the Gaussian that smooths the full map for `found_smoothed` [pixel]."""
Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """Figures of the run and of the baselines on the same field.

    Attributes
    ----------
    full : (rows, columns) measured map, all positions once.
    found : part of the top 2 % of the full map that was measured, by strategy.
    found_smoothed : the same for the full map smoothed by one pixel: at few counts the noise of a single pixel decides
        which are the top 2 %, and no strategy can know it beforehand.
    correlation, error : of the final predicted map with the full one, by strategy.
    found_curves, correlation_curves : (dose [e/Å²], value) by strategy.
    """

    full: np.ndarray
    found: dict[str, float]
    found_smoothed: dict[str, float]
    correlation: dict[str, float]
    error: dict[str, float]
    found_curves: dict[str, Curve]
    correlation_curves: dict[str, Curve]

    def save(self, path: Path, points: int) -> None:
        """Write the figures as JSON; null where there is none, as the correlation with a flat map."""
        figures = {name: {who: value if np.isfinite(value) else None for who, value in getattr(self, name).items()}
                   for name in ("found", "found_smoothed", "correlation", "error")}
        path.write_text(json.dumps({"points": points, **figures}, indent=2, allow_nan=False) + "\n")

    def curves(self) -> list[tuple[str, str, dict[str, Curve], str]]:
        """File name, quantity, curves and caption of each learning curve."""
        return [
            ("learning_curve_map", "correlation with the full map", self.correlation_curves,
             "How well the predicted map agrees with the full one, against random sampling with the same model."),
            ("learning_curve_top", "part of the top 2 % found", self.found_curves,
             "How many of the largest 2 % of all positions had been measured."),
        ]

    def rows(self) -> list[tuple[str, str]]:
        """Lines for the report's table."""
        def line(values: dict[str, float]) -> str:
            return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        return [("top 2 % found", line(self.found)), ("top 2 %, smoothed", line(self.found_smoothed)), ("map correlation", line(self.correlation)),
                ("map RMS error", line(self.error))]


def compare(outcome: Outcome) -> Comparison:
    """Measure the full map with the run's own source, and run the baselines on it with the run's own model and seed."""
    name = outcome.configuration.nodes["planner"]["acquisition_function"].replace("_", " ")
    full = measure_full_map(outcome.configuration, outcome.scan_field, outcome.featurizer)
    candidates, _, _ = outcome.measured()
    parameters = replace(outcome.configuration.parameters("planner", SCHEMAS["planner"]),
                         point_budget=max(1, len(candidates)))
    seed = int(outcome.experiment.seed)

    def baseline(strategy: str, curve: bool) -> SimulatedRun:
        return simulate(outcome.survey, full.values, full.standard_errors, outcome.scan_field, parameters, seed, strategy,
                        curve)

    random, brightest = baseline("random", True), baseline("brightness", False)
    mean = np.asarray(outcome.last_map.mean).reshape(outcome.scan_field.shape)
    survey, per_point = _dose(outcome)

    def areal(points: Any) -> np.ndarray:
        field = outcome.scan_field
        return (survey + per_point * np.asarray(points)) / (np.prod(field.shape) * np.prod(field.step)) * ANGSTROM2

    def discovery(chosen: np.ndarray) -> Curve:
        points = np.unique(np.linspace(1, len(chosen), min(len(chosen), 60)).astype(int))
        return areal(points), np.array([found_fraction(chosen[:n], full.values) for n in points])

    def found(smoothing: float) -> dict[str, float]:
        chosen = {name: candidates, RANDOM: random.candidates, BRIGHTEST: brightest.candidates}
        return {who: found_fraction(where, full.values, smoothing=smoothing) for who, where in chosen.items()}

    own = [(d.points, m) for d in outcome.decisions if (m := outcome.maps.get(d.index)) is not None]
    own_curve = (areal([points for points, _ in own]),
                 np.array([map_correlation(np.asarray(m.mean).reshape(full.values.shape), full.values) for _, m in own]))
    return Comparison(
        full=full.values,
        found=found(0.0),
        found_smoothed=found(SMOOTHING),
        correlation={name: map_correlation(mean, full.values), RANDOM: map_correlation(random.mean, full.values),
                     BRIGHTEST: map_correlation(brightest.mean, full.values)},
        error={name: map_error(mean, full.values), RANDOM: map_error(random.mean, full.values),
               BRIGHTEST: map_error(brightest.mean, full.values)},
        found_curves={name: discovery(candidates), RANDOM: discovery(random.candidates),
                      BRIGHTEST: discovery(brightest.candidates)},
        correlation_curves={name: own_curve, RANDOM: (areal([p for p, *_ in random.learning_curve]),
                                                      np.array([c for _, c, _ in random.learning_curve]))})


def _dose(outcome: Outcome) -> tuple[float, float]:
    """Electrons of the survey, and of one measured position."""
    survey = float(np.nan_to_num(outcome.survey_dose))
    last = outcome.decisions[-1]
    return survey, (last.dose - survey) / max(last.points, 1)
