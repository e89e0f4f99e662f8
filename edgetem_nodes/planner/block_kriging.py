"""An averaged map of the specimen as it is: what of each disc was seen counts as read, the rest as expected.

z(x) = m(x) + w(x): a smooth expectation, and white scatter of single defects about it. A reading is z averaged over its
footprint, with an error of its own; a value of the map is z averaged over a disc. Their covariances are those of change of
support with micro-scale variation (Journel and Huijbregts, Mining Geostatistics, 1978, section V.A; Cressie, Statistics for
Spatial Data, 1993, sections 3.2.1 and 5.2): <K> + t |F n F'| / |F| and so on, t the scatter's variance over a footprint. It
grows with what is expected there, as that of a compound Poisson sum does (`scatter.py`): t = c max(m, least). The smooth
part's amplitude grows with it, as that of a density that varies by factors: with the same amplitude everywhere a flat
surrounding flattens a small spot.

c is the variogram's (`scatter_scale`). Length scales and amplitude are integrated over on a grid, because tens of readings do
not tell them: taken for certain they make a map too sure of itself. Knows no ROS, draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from edgetem_nodes.planner.averaging import AveragedMap, averaged
from edgetem_nodes.planner.support import Footprints, Support
from edgetem_nodes.planner.surrogates import TrainedSurrogate
from edgetem_nodes.planner.surrogates.posterior import SMALLEST_VARIANCE, Posterior

STRETCHES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Factors of the learned length scales."""
SMOOTH = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Standard deviations of the smooth part, in units of the scatter's over a footprint."""
PAIRS = 4
"""Nearest footprints without anything in common that each is compared with."""
SMALLEST_SCALE = 0.05
"""Of the scatter, in units of the readings' variance over their mean."""
LEAST_WEIGHT = 0.1
"""Of the grid's points over that of the likeliest, below which one is left out."""
LEAST = 0.1
"""Expectation that counts at least, in units of the readings' root mean square."""
ROUNDS = 3
"""Times that the hypotheses are weighed, each with what the last round expects; the first with the same everywhere."""


@dataclass(frozen=True)
class Readings:
    """Valid readings of an averaged map: `values` and `errors` (rows,) [scalar], an error that is not known 0, and of what."""

    values: np.ndarray
    errors: np.ndarray
    footprints: Footprints


@dataclass(frozen=True)
class Hypothesis:
    """A point of the grid: factor of length scales, smooth part over scatter, and its weight."""

    stretch: float
    smooth: float
    weight: float


def scatter_scale(readings: Readings, least: float) -> float:
    """c [scalar]: variance of the mean over a footprint about what is expected there, over that expectation.

    Half the mean square of differences of neighbouring footprints that have nothing in common: the variogram at its shortest
    distance (Matheron, Econ. Geol. 58, 1246, 1963), the readings' own errors taken off, over their mean. A likelihood would
    give part of it to a smooth map with features as small as a footprint, which is then taken to go on where nothing was seen.

    Parameters
    ----------
    least : expectation that counts at least [scalar].
    """
    values, variances, centres = readings.values, np.square(readings.errors), readings.footprints.centres
    ratio = float(values.var()) / max(float(values.mean()), least)
    away = np.abs(centres[:, None] - centres[None])
    edges = 0.5 * np.add.outer(readings.footprints.edges, readings.footprints.edges)
    apart = (away.max(axis=2) >= edges * (1 - 1e-9)) & ~np.eye(len(values), dtype=bool)
    order = np.argsort(np.where(apart, np.hypot(*np.moveaxis(away, 2, 0)), np.inf), axis=1, kind="stable")[:, :PAIRS]
    first, second = np.repeat(np.arange(len(values)), order.shape[1]), order.ravel()
    first, second = first[apart[first, second]], second[apart[first, second]]
    squares = 0.5 * (np.square(values[first] - values[second]) - variances[first] - variances[second]).sum()
    means = np.maximum(0.5 * (values[first] + values[second]), 0.0).sum()
    least_scale = max(SMALLEST_SCALE * ratio, SMALLEST_VARIANCE * least)
    return max(float(squares / means), least_scale) if means > 0 else max(ratio, least_scale)


class Shaped(Posterior):
    """A posterior times a known shape (candidates,), its mean and its amplitude left out: the prior of a smooth part."""

    def __init__(self, inner: Posterior, shape: np.ndarray) -> None:
        self._inner, self._shape = inner, shape / np.sqrt(inner.prior_variance)
        self.mean, self.variance = np.zeros(len(shape)), shape**2
        self.prior_variance, self.noise_variance = self.variance, 0.0

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self._inner.covariance(rows, columns) * np.outer(self._shape[rows], self._shape[columns])


class BlockKriging:
    """Joint model of readings and disc means.

    Parameters
    ----------
    trained : surrogate of the readings. support : discs and typical footprint.
    readings : of footprints.
    """

    def __init__(self, trained: TrainedSurrogate, support: Support, readings: Readings) -> None:
        self.support, self.everywhere = support, np.arange(int(np.prod(support.field.shape)))
        self._readings = readings
        self._least = max(LEAST * float(np.sqrt(np.mean(np.square(readings.values)))), 1e-12)
        self._unmeasured = {stretch: trained.unmeasured(stretch) for stretch in STRETCHES}
        self.mean = float(self._unmeasured[1.0].mean[0])
        self.scale = scatter_scale(readings, self._least)
        self._expect(np.full(len(self.everywhere), float(readings.values.mean())))
        for _ in range(ROUNDS - 1):
            self._expect(self._expectation())

    def _expect(self, expected: np.ndarray) -> None:
        """Take an expectation (positions,) for what the scatter grows with, and weigh the hypotheses."""
        self.shape = np.sqrt(np.maximum(expected, self._least))
        self.priors = {stretch: Shaped(prior, self.shape) for stretch, prior in self._unmeasured.items()}
        self.hypotheses = self._weighed()

    def _own(self, readings: Readings) -> np.ndarray:
        """Covariance (rows, rows) of the readings' own errors."""
        return np.diag(np.square(readings.errors) + 1e-9 * self._least**2)

    def scatter(self, left: Footprints, right: Footprints) -> np.ndarray:
        """(left, right) covariance of the scatter in footprints, but for its scale."""
        return self.support.in_common(left, right) * np.outer(*(self.shape[self.support.nearest(one)] for one in (left, right)))

    def scatter_in_discs(self, footprints: Footprints) -> np.ndarray:
        """(n, positions) covariance of the scatter in footprints and in discs, but for its scale."""
        return self.support.in_discs(footprints, self.shape).toarray() * self.shape[self.support.nearest(footprints)][:, None]

    def _weighed(self) -> tuple[Hypothesis, ...]:
        """The grid's points with their posterior weights, the likeliest first."""
        rows, found = self._readings, []
        at, residual, own = self.support.nearest(rows.footprints), rows.values - self.mean, self._own(rows)
        scatter = self.scatter(rows.footprints, rows.footprints)
        for stretch in STRETCHES:
            like = self.priors[stretch].covariance(at, at)
            for smooth in SMOOTH:
                factored = np.linalg.cholesky(self.scale * (smooth**2 * like + scatter) + own)
                explained = solve_triangular(factored, residual, lower=True)
                evidence = -0.5 * explained @ explained - np.log(np.diag(factored)).sum()
                found.append((float(evidence), stretch, smooth))
        scores = np.array([one[0] for one in found])
        weights = np.exp(scores - scores.max())
        kept = [number for number in np.argsort(-weights, kind="stable") if weights[number] >= LEAST_WEIGHT]
        total = weights[kept].sum()
        return tuple(Hypothesis(*found[number][1:], float(weights[number] / total)) for number in kept)

    def _expectation(self) -> np.ndarray:
        """(positions,) posterior mean of m [scalar]."""
        rows, result = self._readings, 0.0
        at = self.support.nearest(rows.footprints)
        between = {one.stretch: self.priors[one.stretch].covariance(at, self.everywhere) for one in self.hypotheses}
        for one in self.hypotheses:
            whitened, explained = self._solved(one, rows, self.scale * one.smooth**2 * between[one.stretch])
            result = result + one.weight * (self.mean + explained @ whitened)
        return result

    def discs(self) -> AveragedMap:
        """Mean and variance of every disc's mean."""
        rows, support, known = self._readings, self.support, {}
        at, scatter = support.nearest(rows.footprints), self.scatter_in_discs(rows.footprints)
        scattered, means, variances = support.disc_variance(self.shape**2), [], []
        for one in self.hypotheses:
            if one.stretch not in known:
                prior = self.priors[one.stretch]
                known[one.stretch] = ((support.discs @ prior.covariance(self.everywhere, at)).T,
                                      averaged(prior, support.field, support.radius).variance)
            between, own = known[one.stretch]
            whitened, explained = self._solved(one, rows, self.scale * (one.smooth**2 * between + scatter))
            prior = self.scale * (one.smooth**2 * own + scattered)
            means.append(self.mean + explained @ whitened)
            variances.append(np.maximum(prior - np.square(whitened).sum(axis=0), SMALLEST_VARIANCE * prior))
        weights = np.array([one.weight for one in self.hypotheses])
        mean = weights @ np.stack(means)
        return AveragedMap(mean, weights @ (np.stack(variances) + np.square(np.stack(means) - mean)))

    def _solved(self, one: Hypothesis, rows: Readings, cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cross-covariance (rows, positions) and residuals (rows,), both whitened by the readings' covariance."""
        at = self.support.nearest(rows.footprints)
        matrix = one.smooth**2 * self.priors[one.stretch].covariance(at, at) + self.scatter(rows.footprints, rows.footprints)
        factored = np.linalg.cholesky(self.scale * matrix + self._own(rows))
        return solve_triangular(factored, cross, lower=True), solve_triangular(factored, rows.values - self.mean, lower=True)

    def next_readings(self) -> NextReadings:
        """What readings still to come will be, and what they tell of discs, by the likeliest hypothesis."""
        one, rows = self.hypotheses[0], self._readings
        prior = NextReadings.Prior(self, one)
        typical = self.support.typical(self.everywhere)
        whitened, explained = self._solved(one, rows, prior.readings(rows.footprints, typical))
        discs, _ = self._solved(one, rows, prior.discs(rows.footprints))
        return NextReadings(prior, self.mean + explained @ whitened, whitened, discs, float(np.median(rows.errors)) ** 2)


class NextReadings(Posterior):
    """Posterior of the mean of the specimen over the typical footprint at each position, as it really is.

    Parameters
    ----------
    prior : of readings and discs. mean : (positions,) [scalar].
    readings, discs : (rows, positions) what is known of either, whitened by the covariance of the rows that were read.
    noise : variance of a reading's own error [scalar squared].
    """

    class Prior:
        """Covariances of readings and disc means before anything is read, by one hypothesis."""

        def __init__(self, model: BlockKriging, hypothesis: Hypothesis) -> None:
            self.model, self._one, self._smooth = model, hypothesis, model.priors[hypothesis.stretch]

        def readings(self, left: Footprints, right: Footprints) -> np.ndarray:
            """(left, right)."""
            one, places = self._one, [self.model.support.nearest(footprints) for footprints in (left, right)]
            return self.model.scale * (one.smooth**2 * self._smooth.covariance(*places) + self.model.scatter(left, right))

        def discs(self, footprints: Footprints) -> np.ndarray:
            """(n, positions)."""
            one, support = self._one, self.model.support
            smooth = (support.discs @ self._smooth.covariance(self.model.everywhere, support.nearest(footprints))).T
            return self.model.scale * (one.smooth**2 * smooth + self.model.scatter_in_discs(footprints))

        @property
        def variance(self) -> np.ndarray:
            """(positions,) of readings of a typical footprint."""
            return self.model.scale * (self._one.smooth**2 + 1.0) * self.model.shape**2

    def __init__(self, prior: Prior, mean: np.ndarray, readings: np.ndarray, discs: np.ndarray, noise: float) -> None:
        self._prior, self._readings, self._discs = prior, readings, discs
        self.mean, self.prior_variance = mean, prior.variance
        self.variance = np.maximum(prior.variance - np.square(readings).sum(axis=0), SMALLEST_VARIANCE * prior.variance)
        self.noise_variance = noise + SMALLEST_VARIANCE * float(prior.variance.max())

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        typical = self._prior.model.support.typical
        return (self._prior.readings(typical(rows), typical(columns))
                - self._readings[:, rows].T @ self._readings[:, columns])

    def with_discs(self, rows: np.ndarray, discs: np.ndarray) -> np.ndarray:
        """(rows, discs) covariance of readings at positions and of disc means about positions [scalar squared]."""
        prior = self._prior.discs(self._prior.model.support.typical(rows))[:, discs]
        return prior - self._readings[:, rows].T @ self._discs[:, discs]
