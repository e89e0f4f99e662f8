"""How many points there are where nobody has looked: a log-Gaussian Cox process, fitted to counts in what was seen.

Points scatter by chance with a density exp(g), g a Gaussian process over the field: a density that varies by factors, which a
Gaussian process of the density itself would flatten where it is large and let go below zero elsewhere (Moller, Syversveen and
Waagepetersen, Scand. J. Stat. 25, 451, 1998). The posterior of g is taken for the Gaussian nearest to it (Opper and
Archambeau, Neural Comput. 21, 786, 2009): expected numbers then add up to those seen, which they do not about the most
probable g. Length and size of its variation are integrated over on a grid, because tens of points do not tell them. Knows no
ROS, draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

LENGTHS = (0.1, 0.16, 0.25, 0.4)
"""Length scales, in units of the field's longer side."""
SIZES = (0.7, 1.2, 1.8, 2.5)
"""Standard deviations of g about its level."""
USUAL_SIZE = 1.5
"""Of a half-normal prior of those."""
LEVEL = 2.0
"""Standard deviation of the level of g about that of the mean density."""
LEAST_WEIGHT = 0.03
"""Of the grid's points over that of the likeliest, below which one is left out."""
STEPS, UNDAMPED, TOLERANCE, LARGEST = 100, 8, 1e-3, 500.0
"""Newton steps at most, how many before variances change by a part only, change of g at which they end, largest exponent."""


@dataclass(frozen=True)
class Intensity:
    """Density of points in blocks: `mean` (blocks,) and `covariance` (blocks, blocks) [1/area, 1/area^2]; what of the grid was
    used: (weight, length, size) of each."""

    mean: np.ndarray
    covariance: np.ndarray
    grid: tuple[tuple[float, float, float], ...]


def fitted(counts: np.ndarray, areas: np.ndarray, places: np.ndarray) -> Intensity:
    """Density of points from what was seen.

    Parameters
    ----------
    counts : (blocks,) points seen in each, not negative; expected numbers need not be whole. areas : (blocks,) that was seen of
        each, 0: nothing. places : (blocks, 2) in units of the field's longer side.
    """
    counts, areas = np.asarray(counts, float), np.asarray(areas, float)
    if not areas.sum() > 0:
        raise ValueError("nothing was seen: the density of points is not known anywhere")
    level = float(np.log((counts.sum() + 0.5) / areas.sum()))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    found = []
    for length in LENGTHS:
        alike = _matern(apart / length)
        for size in SIZES:
            prior = size**2 * alike + LEVEL**2
            prior[np.diag_indices(len(prior))] += 1e-8 * size**2
            middle, covariance, evidence = _nearest(counts, areas, prior, level)
            found.append((evidence - 0.5 * (size / USUAL_SIZE) ** 2, length, size, middle, covariance))
    scores = np.array([one[0] for one in found])
    weights = np.exp(scores - scores.max())
    kept = np.flatnonzero(weights >= LEAST_WEIGHT)
    weights = weights[kept] / weights[kept].sum()
    means, own = [], 0.0
    for weight, number in zip(weights, kept, strict=True):
        _, _, _, middle, covariance = found[number]
        mean = np.exp(middle + np.diag(covariance) / 2)
        own = own + weight * np.outer(mean, mean) * np.expm1(covariance)
        means.append(mean)
    mean = weights @ np.stack(means)
    off = np.stack(means) - mean
    return Intensity(mean, own + np.einsum("k,ki,kj->ij", weights, off, off),
                     tuple((float(weight), *found[number][1:3]) for weight, number in zip(weights, kept, strict=True)))


def _matern(distance: np.ndarray) -> np.ndarray:
    """Correlation at distances in length scales, smoothness 5/2."""
    scaled = np.sqrt(5) * distance
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def _nearest(counts: np.ndarray, areas: np.ndarray, prior: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (blocks,) and covariance of the Gaussian nearest to the posterior of g, and a bound of the evidence's logarithm.

    Its mean is where the posterior is largest if areas are larger by exp(variance / 2), its covariance that of the curvature
    there: both are found together, by Newton steps (Rasmussen and Williams, 2006, algorithm 3.1) that are halved until the
    posterior density grows.
    """
    g, slope, own = np.full(len(counts), level), np.zeros(len(counts)), np.diag(prior)
    variance = np.zeros(len(counts))
    for number in range(STEPS):
        effective = areas * np.exp(variance / 2)
        expected = effective * np.exp(np.minimum(g, LARGEST))
        root = np.sqrt(expected)
        factor = np.linalg.cholesky(np.eye(len(g)) + root[:, None] * prior * root[None])
        seen = solve_triangular(factor, root[:, None] * prior, lower=True)
        wanted = expected * (g - level) + counts - expected
        newton = wanted - root * solve_triangular(factor, seen @ wanted, lower=True, trans="T") - slope
        before, taken = (g, variance), 1.0 if number < UNDAMPED else 0.4
        variance = variance + taken * (own - np.square(seen).sum(axis=0) - variance)
        g, slope = _uphill(counts, effective, prior, level, slope, newton)
        if max(np.abs(g - before[0]).max(), np.abs(variance - before[1]).max()) < TOLERANCE:
            break
    bound = float((counts * g - expected).sum() - 0.5 * (slope @ (g - level) - expected @ variance)
                  - np.log(np.diag(factor)).sum())
    return g, prior - seen.T @ seen, bound


def _uphill(counts: np.ndarray, areas: np.ndarray, prior: np.ndarray, level: float, slope: np.ndarray,
            step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g (blocks,) and prior^-1 (g - level) after as much of a step as makes the posterior density grow."""
    def density(tried: np.ndarray) -> tuple[np.ndarray, float]:
        at = level + prior @ tried
        return at, float(-0.5 * tried @ (at - level) + (counts * at - areas * np.exp(np.minimum(at, LARGEST))).sum())

    before, length = density(slope)[1], 1.0
    while True:
        g, value = density(slope + length * step)
        if value >= before or length < 1e-3:
            return g, slope + length * step
        length /= 2
