"""A whole experiment on a map that is fully measured already: baselines for reports and benchmarks, no graph involved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Parameters

STRATEGIES = ("configured", "random", "brightness")


@dataclass(frozen=True)
class SimulatedRun:
    """What a strategy measured, in order, and what the surrogate made of it at the end."""

    strategy: str
    candidates: np.ndarray
    """(points,) int64, in order of measurement."""
    mean: np.ndarray
    """(rows, columns) predicted map at the end [scalar]."""
    standard_deviation: np.ndarray
    """(rows, columns) [scalar]."""
    learning_curve: list[tuple[int, float, float]]
    """After every batch where asked for: points, correlation and root-mean-square error [scalar] of the predicted map."""


def simulate(survey: np.ndarray, truth: np.ndarray, standard_errors: np.ndarray, field: ScanField, parameters: Parameters,
             seed: int, strategy: str = "configured", curve: bool = False) -> SimulatedRun:
    """Run one experiment to its point budget on a fully measured map.

    Parameters
    ----------
    survey : (channels, rows, columns) [counts].
    truth, standard_errors : (rows, columns) [scalar], what a measurement gives; a truth that is not finite is a failure.
    strategy : "configured" decides as the parameters say; "random" measures random positions with the same surrogate and
        batches; "brightness" takes the brightest pixels of the first survey channel.
    curve : learn after every batch to fill `learning_curve`, for strategies that would learn only at the end.

    Raises
    ------
    ValueError : unknown strategy, or shapes that do not fit.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: take one of {', '.join(STRATEGIES)}")
    values, errors = np.asarray(truth, np.float64).ravel(), np.asarray(standard_errors, np.float64).ravel()
    if not np.shape(truth) == np.shape(standard_errors) == tuple(field.shape):
        raise ValueError(f"truth {np.shape(truth)} and standard errors {np.shape(standard_errors)} must fit the field "
                         f"{tuple(field.shape)}")
    if strategy != "configured":
        parameters = replace(parameters, acquisition_function="random", exploration_fraction=0.0)
    experiment = ActiveExperiment(survey, field, parameters, seed)
    brightest = np.argsort(-experiment.survey[0].ravel(), kind="stable")
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    points = []
    budget = min(parameters.point_budget, values.size)
    while experiment.points < budget and experiment.available().any():
        batch = parameters.batch_points if experiment.points else parameters.initial_points
        count = min(batch, budget - experiment.points)
        if strategy == "configured":
            chosen = experiment.ask(count).candidates
        else:
            free = experiment.available()
            order = brightest if strategy == "brightness" else generator.permutation(values.size)
            chosen = order[free[order]][:count]
        experiment.tell(chosen, values[chosen], errors[chosen], np.isfinite(values[chosen]))
        if curve or experiment.points >= budget:
            mean, _ = experiment.predict()
            points.append((experiment.points, map_correlation(mean, truth), map_error(mean, truth)))
    mean, deviation = experiment.predict()
    return SimulatedRun(strategy, experiment.measured, mean, deviation, points if curve else points[-1:])


def top_positions(truth: np.ndarray, fraction: float = 0.02, smoothing: float = 0.0) -> np.ndarray:
    """Flat indices of the largest `fraction` of a map; positions as large as the smallest of them are all taken.

    Parameters
    ----------
    truth : (rows, columns) [scalar]; what is not finite is left out.
    smoothing : standard deviation of a Gaussian [pixel] that the map is smoothed with first. Where counting noise decides
        which single pixels read highest, those cannot be predicted by anything: smoothed, the question is about the
        specimen.
    """
    truth = np.asarray(truth, np.float64)
    known = np.isfinite(truth)
    if smoothing > 0:
        # Normalised by the smoothed mask, so that unknown positions and edges pull nothing down.
        weight = gaussian_filter(known.astype(float), smoothing, mode="constant")
        smooth = gaussian_filter(np.where(known, truth, 0.0), smoothing, mode="constant")
        truth = np.where(known, smooth / np.where(known, weight, 1.0), np.nan)
    finite = truth[known]
    count = max(1, round(fraction * len(finite)))
    threshold = np.partition(finite, len(finite) - count)[len(finite) - count]
    return np.flatnonzero(known.ravel() & (np.where(known, truth, -np.inf).ravel() >= threshold))


def found_fraction(candidates: np.ndarray, truth: np.ndarray, fraction: float = 0.02, smoothing: float = 0.0) -> float:
    """Share of the `top_positions` that were measured."""
    return float(np.isin(top_positions(truth, fraction, smoothing), candidates).mean())


def map_correlation(mean: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation of a predicted map with the truth, where the truth is finite."""
    known = np.isfinite(truth)
    return float(np.corrcoef(np.asarray(mean)[known], np.asarray(truth)[known])[0, 1])


def map_error(mean: np.ndarray, truth: np.ndarray) -> float:
    """Root-mean-square difference of a predicted map from the truth [scalar], where the truth is finite."""
    known = np.isfinite(truth)
    return float(np.sqrt(np.mean(np.square(np.asarray(mean)[known] - np.asarray(truth)[known]))))
