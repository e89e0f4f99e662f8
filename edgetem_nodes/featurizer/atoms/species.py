"""What columns are, from their amplitudes within a sublattice: host, lighter, heavier, missing or double, with probabilities.

A mixture whose host is a normal distribution about the level of the columns around, as wide as robust statistics say, and
whose other parts are wide; its weights are learnt by expectation maximisation. Candidates are controlled for false discovery
(Benjamini & Hochberg, J. R. Stat. Soc. B 57, 289, 1995) against the host's distribution, not by the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import norm

KINDS = ("host", "lighter", "heavier", "vacancy", "double")
HOST, LIGHTER, HEAVIER, VACANCY, DOUBLE = range(5)
LIGHT = (0.2, 0.8)
"""Amplitudes of lighter dopants over the host's, any alike."""
HEAVY = (1.25, 3.5)
"""Of heavier ones."""
VACANT_SPREAD = 0.07
"""What remains where a column is missing, from tails and settled dirt: standard deviation over the host."""
SMALLEST_SPREAD = 0.04
"""Of hosts: what a Gaussian on a smooth background does not describe, the probe's tails and settled dirt, over the host."""
PRIOR = np.array([0.97, 0.0075, 0.0075, 0.0075, 0.0075])
PRIOR_COUNT = 40.0
"""The prior weighs as much as this many columns."""
NEAREST = 24
"""Columns of the same sublattice that make the local level, of 60 or more."""
IDENTIFIABLE = 4.0
"""Standard deviations by which a missing column is to lie from the host, else kinds are not told."""
FALSE_DISCOVERY = 0.1
"""Expected part of the candidates that are host."""


@dataclass(frozen=True)
class Classified:
    """Columns of one sublattice.

    Attributes
    ----------
    ratio, ratio_error : (n,) amplitude over the local host level, standard error of the fit alone.
    probabilities : (n, 5) in the order KINDS; NaN where kinds are not identifiable. Weights of the kinds are learnt from all.
    alone : (n, 5) the same with the weights before learning: what a column says whichever others are in the image.
    q_values : (n,) false discovery rate at which a column would be a candidate; NaN as above.
    spread : standard deviation of hosts over their mean, noise of the fit taken off.
    separation : host from vacancy, in standard deviations of one column.
    """

    ratio: np.ndarray
    ratio_error: np.ndarray
    probabilities: np.ndarray
    alone: np.ndarray
    q_values: np.ndarray
    spread: float
    separation: float

    @property
    def identifiable(self) -> bool:
        """Whether one column's amplitude says anything of its kind."""
        return self.separation >= IDENTIFIABLE


def classify(places: np.ndarray, amplitudes: np.ndarray, errors: np.ndarray) -> Classified:
    """Probabilities of kinds for the columns of one sublattice, missing ones with the amplitude measured at their site.

    Parameters
    ----------
    places : (n, 2). amplitudes, errors : (n,), the image's unit; NaN: not measured.
    """
    known = np.isfinite(amplitudes) & np.isfinite(errors)
    level = np.full(len(places), np.nan)
    if known.sum() >= 5:
        level[known] = _local_level(places[known], amplitudes[known])
    positive = known & (level > 0)
    ratio, error = np.full(len(places), np.nan), np.full(len(places), np.nan)
    ratio[positive], error[positive] = amplitudes[positive] / level[positive], errors[positive] / level[positive]
    probabilities, alone = (np.full((len(places), len(KINDS)), np.nan) for _ in range(2))
    q_values = np.full(len(places), np.nan)
    if positive.sum() < 5:
        return Classified(ratio, error, probabilities, alone, q_values, float("nan"), 0.0)
    total = _robust_spread(ratio[positive])
    spread = float(np.sqrt(max(total**2 - np.median(error[positive]) ** 2, SMALLEST_SPREAD**2)))
    separation = float(1 / np.sqrt(spread**2 + np.median(error[positive]) ** 2))
    result = Classified(ratio, error, probabilities, alone, q_values, spread, separation)
    if result.identifiable:
        densities = _densities(ratio[positive], error[positive], spread)
        probabilities[positive], alone[positive] = _mixed(densities), _posterior(densities, PRIOR)
        deviation = np.abs(ratio[positive] - 1) / np.sqrt(spread**2 + error[positive] ** 2)
        q_values[positive] = false_discovery(2 * norm.sf(deviation))
    return result


def _local_level(places: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Median amplitude (n,) of the columns around; of all where there are few."""
    if len(places) < 60:
        return np.full(len(places), np.median(amplitudes))
    _, near = cKDTree(places).query(places, k=NEAREST + 1)
    return np.median(amplitudes[near[:, 1:]], axis=1)


def _robust_spread(ratio: np.ndarray) -> float:
    """Standard deviation of the host from the middle half, which a few per cent of defects do not move."""
    low, high = np.quantile(ratio, (0.25, 0.75))
    return float((high - low) / (2 * norm.ppf(0.75)))


def _densities(ratio: np.ndarray, error: np.ndarray, spread: float) -> np.ndarray:
    """Density (n, 5) of each ratio if the column is of each kind."""
    host = np.sqrt(spread**2 + error**2)
    vacant = np.sqrt(VACANT_SPREAD**2 + error**2)
    double = np.sqrt(2 * spread**2 + error**2)
    return np.stack([norm.pdf(ratio, 1.0, host), _flat(ratio, *LIGHT, host), _flat(ratio, *HEAVY, host),
                     norm.pdf(ratio, 0.0, vacant), norm.pdf(ratio, 2.0, double)], axis=1)


def _flat(ratio: np.ndarray, low: float, high: float, spread: np.ndarray) -> np.ndarray:
    """Density of a uniform distribution blurred by a normal one."""
    return (norm.cdf((ratio - low) / spread) - norm.cdf((ratio - high) / spread)) / (high - low)


def _mixed(densities: np.ndarray) -> np.ndarray:
    """Posterior probabilities (n, 5), weights learnt under a Dirichlet prior, those for a column from all others: else a
    single odd one would make its own kind frequent."""
    weights = PRIOR.copy()
    for _ in range(200):
        posterior = _posterior(densities, weights)
        new = (posterior.sum(axis=0) + PRIOR_COUNT * PRIOR) / (len(densities) + PRIOR_COUNT)
        if np.abs(new - weights).max() < 1e-7:
            break
        weights = new
    others = posterior.sum(axis=0) - posterior + PRIOR_COUNT * PRIOR
    return _posterior(densities, others)


def _posterior(densities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probabilities (n, 5) of the kinds of columns with these weights."""
    product = np.maximum(densities, 1e-300) * weights
    return product / product.sum(axis=1, keepdims=True)


def false_discovery(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values (n,) of p-values (n,)."""
    order = np.argsort(p_values)
    stepped = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    result = np.empty(len(p_values))
    result[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
    return result
