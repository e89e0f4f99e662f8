"""A whole experiment on a map that is fully measured already: baselines for reports and benchmarks, no graph involved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import qmc

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Parameters

STRATEGIES = ("configured", "random", "brightness", "low_discrepancy", "plain_deep_kernel")


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
    measurement_deviation: np.ndarray
    """(rows, columns) [scalar] of what a further measurement would read."""
    learning_curve: list[tuple[int, float, float]]
    """After every batch where asked for: points, correlation and root-mean-square error [scalar] of the predicted map."""


def simulate(survey: np.ndarray, truth: np.ndarray, standard_errors: np.ndarray, field: ScanField, parameters: Parameters,
             seed: int, strategy: str = "configured", curve: bool = False, allowed: np.ndarray | None = None,
             until: Callable[[np.ndarray], bool] | None = None, learn: bool = True) -> SimulatedRun:
    """Run one experiment to its point budget on a fully measured map.

    Parameters
    ----------
    survey : (channels, rows, columns) [counts].
    truth, standard_errors : (rows, columns) [scalar], what a measurement gives; a truth that is not finite is a failure.
    strategy : "configured" decides as the parameters say; "random" measures random positions with the same surrogate and
        batches, "low_discrepancy" a grid that fills the field evenly from the first point on; "brightness" takes the
        brightest pixels of the first survey channel; "plain_deep_kernel" decides and predicts by `PlainDeepKernel`, point
        by point, after the same initial scan.
    curve : learn after every batch to fill `learning_curve`, for strategies that would learn only at the end.
    allowed : (rows, columns) bool, where the probe may go; everywhere by default.
    until : given the candidates measured so far after every batch, whether to end before the budget.
    learn : predict at the end; without, the predicted maps are NaN, and strategies that need no model never train one.

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
    # The map has one scalar, whatever else the run measured with it.
    experiment = ActiveExperiment(survey, field, replace(parameters, outputs=[]), seed, allowed)
    choose, model = _chooser(experiment, strategy)
    points: list[tuple[int, float, float]] = []
    budget = min(parameters.point_budget, values.size)
    while experiment.points < budget and experiment.available().any():
        batch = parameters.batch_points if experiment.points else parameters.initial_points
        if strategy == "plain_deep_kernel" and experiment.points:
            batch = 1
        chosen = choose(min(batch, budget - experiment.points))
        for learner in {id(experiment): experiment, id(model): model}.values():
            learner.tell(chosen, values[chosen], errors[chosen], np.isfinite(values[chosen]))
        if curve:
            mean, _ = model.predict()
            points.append((experiment.points, map_correlation(mean, truth), map_error(mean, truth)))
        if until is not None and until(experiment.measured):
            break
    mean, deviation = model.predict() if learn else np.full((2, *field.shape), np.nan)
    spread = model.predict_measurement()[1] if learn else np.full(field.shape, np.nan)
    if not curve and learn:
        points.append((experiment.points, map_correlation(mean, truth), map_error(mean, truth)))
    return SimulatedRun(strategy, experiment.measured, mean, deviation, spread, points)


def _chooser(experiment: ActiveExperiment, strategy: str) -> tuple[Callable[[int], np.ndarray], object]:
    """What gives the next positions, at most so many, and the model that learns and predicts."""
    if strategy == "configured":
        return lambda count: experiment.ask(count).candidates, experiment
    if strategy == "plain_deep_kernel":
        # Torch is imported late, and only where this baseline is asked for.
        from edgetem_nodes.planner.plain_deep_kernel import PlainDeepKernel

        parameters = experiment.parameters
        model = PlainDeepKernel(experiment.survey, parameters.model.patch_size,
                                parameters.acquisition_function == "expected_improvement", experiment.seed)

        def choose(count: int) -> np.ndarray:
            if not experiment.points:
                return experiment.ask(count).candidates
            return np.array([model.choose(experiment.available())])
        return choose, model
    order = _order(experiment, strategy)

    def following(count: int) -> np.ndarray:
        return order[experiment.available()[order]][:count]
    return following, experiment


def _order(experiment: ActiveExperiment, strategy: str) -> np.ndarray:
    """(candidates,) all positions in the order in which a strategy without a model takes them."""
    size = experiment.survey[0].size
    generator = np.random.Generator(np.random.PCG64([experiment.seed, 1]))
    if strategy == "brightness":
        return np.argsort(-experiment.survey[0].ravel(), kind="stable")
    if strategy == "random":
        return generator.permutation(size)
    return low_discrepancy_order(experiment.field.shape, generator)


def low_discrepancy_order(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """All positions of a grid, each once, such that any first so many of them lie evenly: (rows * columns,) flat indices.

    Scrambled Sobol points (Owen, J. Complexity 14, 466, 1998) fall into the cells of the grid; a cell already taken passes
    the point on to nobody, and the cells that no point has fallen into come last, in random order.
    """
    rows, columns = shape
    points = qmc.Sobol(2, rng=generator).random_base2(int(np.ceil(np.log2(4 * rows * columns))))
    cells = (points[:, 0] * rows).astype(np.int64) * columns + (points[:, 1] * columns).astype(np.int64)
    _, first = np.unique(cells, return_index=True)
    reached = cells[np.sort(first)]
    left = np.setdiff1d(np.arange(rows * columns), reached)
    return np.concatenate([reached, generator.permutation(left)])


def top_positions(truth: np.ndarray, fraction: float = 0.02, smoothing: float = 0.0) -> np.ndarray:
    """Flat indices of the largest `fraction` of a map; positions as large as the smallest of them are all taken.

    Parameters
    ----------
    truth : (rows, columns) [scalar]; what is not finite is left out.
    smoothing : standard deviation of a Gaussian [pixel] that the map is smoothed with first. Where counting noise decides
        which single pixels read highest, those cannot be predicted by anything: smoothed, the question is about the
        specimen.
    """
    truth = smoothed(truth, smoothing) if smoothing > 0 else np.asarray(truth, np.float64)
    known = np.isfinite(truth)
    finite = truth[known]
    count = max(1, round(fraction * len(finite)))
    threshold = np.partition(finite, len(finite) - count)[len(finite) - count]
    return np.flatnonzero(known.ravel() & (np.where(known, truth, -np.inf).ravel() >= threshold))


def smoothed(values: np.ndarray, scale: float) -> np.ndarray:
    """A map (rows, columns) smoothed by a Gaussian of `scale` [pixel]; NaN where it was not finite."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    # Normalised by the smoothed mask, so that unknown positions and edges pull nothing down.
    weight = gaussian_filter(known.astype(float), scale, mode="constant")
    smooth = gaussian_filter(np.where(known, values, 0.0), scale, mode="constant")
    return np.where(known, smooth / np.where(known, weight, 1.0), np.nan)


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
