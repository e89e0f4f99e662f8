"""Whether a predicted uncertainty is honest: coverage and score of Gaussian predictions, by region of the specimen.

Judged on positions that the experiment was never offered, against their measured values: the predictive variance of a
measured value is the model's plus the measurement's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.special import ndtr, ndtri

REGIONS = ("field", "interface", "particle")
"""Values of `segment`'s labels, in order."""
_BINS = 256


@dataclass(frozen=True)
class Calibration:
    """Of a set of Gaussian predictions. NaN, and a count of 0, for an empty set.

    Attributes
    ----------
    coverage : fraction of the measured values inside the central interval.
    score : mean continuous ranked probability score, in units of the scalar; lower is better.
    count : predictions judged.
    """

    coverage: float
    score: float
    count: int


def reserved_positions(count: int, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """(count,) bool: a random `fraction` of the positions, kept from the experiment to judge it by."""
    chosen = np.zeros(count, bool)
    chosen[generator.permutation(count)[:round(fraction * count)]] = True
    return chosen


def interval_coverage(mean: np.ndarray, deviation: np.ndarray, values: np.ndarray, level: float = 0.9) -> float:
    """Fraction of `values` (n,) inside the central interval of probability `level` of N(mean, deviation^2), all (n,)."""
    return float((np.abs(values - mean) <= ndtri(0.5 + 0.5 * level) * deviation).mean())


def gaussian_crps(mean: np.ndarray, deviation: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score (n,) of N(mean, deviation^2) for what was measured [scalar].

    Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), equation 21, with the sign that makes small scores good:
    s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = (value - mean) / s. A deviation of zero scores the absolute error.
    """
    deviation = np.asarray(deviation, float)
    safe = np.where(deviation > 0, deviation, 1.0)
    z = (values - mean) / safe
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    score = safe * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(deviation > 0, score, np.abs(values - mean))


def calibrate(mean: np.ndarray, deviation: np.ndarray, values: np.ndarray, labels: np.ndarray | None = None,
              level: float = 0.9) -> dict[str, Calibration]:
    """Judge predictions of measured values, all together ("all") and in each of `REGIONS` where labels are given.

    Parameters
    ----------
    mean, deviation : (n,) predicted reading and its standard deviation, the measurement's own noise included [scalar].
    values : (n,) measured; positions whose value is not finite are left out.
    labels : (n,) int, index into `REGIONS`.
    level : of the central interval.
    """
    known = np.isfinite(values) & np.isfinite(deviation)
    sets = {"all": known}
    if labels is not None:
        sets.update({name: known & (labels == number) for number, name in enumerate(REGIONS)})
    return {name: _judged(mean[chosen], deviation[chosen], values[chosen], level) for name, chosen in sets.items()}


def _judged(mean: np.ndarray, deviation: np.ndarray, values: np.ndarray, level: float) -> Calibration:
    if not len(values):
        return Calibration(float("nan"), float("nan"), 0)
    return Calibration(interval_coverage(mean, deviation, values, level),
                       float(gaussian_crps(mean, deviation, values).mean()), len(values))


def otsu_threshold(values: np.ndarray) -> float:
    """The value that parts a distribution into two classes with the largest variance between them.

    Otsu, IEEE Trans. Syst. Man Cybern. 9, 62 (1979), equation 18, on a histogram of 256 bins. Values that are all equal
    are returned themselves.
    """
    values = np.asarray(values, float).ravel()
    if np.ptp(values) == 0:
        return float(values[0])
    counts, edges = np.histogram(values, _BINS)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1] / counts.sum()
    first = np.cumsum(counts * centres)[:-1] / counts.sum()
    mean = (counts * centres).sum() / counts.sum()
    split = below * (1 - below)
    between = np.where(split > 0, np.square(mean * below - first) / np.where(split > 0, split, 1.0), 0.0)
    # Between two well separated classes every threshold is as good as another: take the middle one.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(0.5 * (edges[best[0] + 1] + edges[best[-1] + 1]))


def segment(truth: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Regions of a map: (rows, columns) int, index into `REGIONS`.

    Interface: where the gradient's magnitude, at a Gaussian `scale` [pixel], is above its Otsu threshold; particle: the rest
    of what is above the map's own Otsu threshold; field: everything else. What is not finite is field.
    """
    known = np.isfinite(truth)
    if not known.any():
        return np.zeros(truth.shape, int)
    filled = np.where(known, truth, np.median(truth[known]))
    gradient = gaussian_gradient_magnitude(filled, scale)
    labels = np.where(filled > otsu_threshold(filled[known]), 2, 0)
    labels[gradient > otsu_threshold(gradient[known])] = 1
    return np.where(known, labels, 0)
