"""Acquisition functions by their standard names.

Each gives a value, in units that it states, and a merit: the logarithm of a quantity that is not negative and orders the
candidates alike. Merits of different functions are penalised and divided by costs in the same way, by adding to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
_SMALLEST = 1e-300


@dataclass(frozen=True)
class Goal:
    """What is sought.

    Attributes
    ----------
    best : value to improve on [scalar], of expected and probability of improvement.
    beta : standard deviations in the upper confidence bound.
    level : contour sought by `level_set` [scalar].
    top_level : value that the sought top set exceeds [scalar], of `top_set`.
    """

    best: float
    beta: float = 2.0
    level: float = 0.0
    top_level: float = 0.0


def log_expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement over `best`, also where the improvement itself underflows.

    EI = s h(z), h(z) = phi(z) + z Phi(z), z = (mean - best) / s: Jones, Schonlau and Welch, J. Global Optim. 13, 455
    (1998), equation 15. The stable form of log h: Ament et al., NeurIPS 36 (2023), equation 9.

    Parameters
    ----------
    mean, deviation : (candidates,) [scalar], deviation > 0.
    best : the value to improve on [scalar].
    """
    z = (mean - best) / deviation
    near = np.maximum(z, -1.0)
    density = np.exp(-0.5 * near**2 - _LOG_SQRT_2PI)
    ordinary = np.log(density + near * ndtr(near))
    far = np.minimum(z, -1.0)
    # 1 + z Phi/phi loses all digits for z << -1, where its series is 1/z^2 - 3/z^4 + ...
    ratio = 1.0 + far * np.sqrt(0.5 * np.pi) * erfcx(-far / np.sqrt(2.0))
    series = (1.0 - 3.0 / far**2 + 15.0 / far**4) / far**2
    tail = -0.5 * far**2 - _LOG_SQRT_2PI + np.log(np.where(far < -100.0, series, np.maximum(ratio, _SMALLEST)))
    return np.log(deviation) + np.where(z > -1.0, ordinary, tail)


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Expected improvement over `best` [scalar]; Jones, Schonlau and Welch (1998), equation 15."""
    return np.exp(log_expected_improvement(mean, deviation, best))


def log_probability_of_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the probability of more than `best`: Kushner, J. Basic Eng. 86, 97 (1964)."""
    return log_ndtr((mean - best) / deviation)


def upper_confidence_bound(mean: np.ndarray, deviation: np.ndarray, beta: float) -> np.ndarray:
    """mean + beta * deviation [scalar]; Srinivas et al., ICML 2010, equation 6, beta standing for their sqrt(beta_t)."""
    return mean + beta * deviation


def straddle(mean: np.ndarray, deviation: np.ndarray, level: float) -> np.ndarray:
    """1.96 deviation - |mean - level| [scalar], largest where a contour may lie: Bryan et al., NIPS 18, 163 (2005)."""
    return 1.96 * deviation - np.abs(mean - level)


def augmentation(deviation: np.ndarray, noise_variance: float) -> np.ndarray:
    """What measurement noise leaves of an improvement, 0 to 1: Huang et al., J. Global Optim. 34, 441 (2006), equation 12."""
    noise = np.sqrt(noise_variance)
    return 1.0 - noise / np.sqrt(noise_variance + deviation**2) if noise > 0 else np.ones_like(deviation)


def curiosity(correlations: np.ndarray, surprise: np.ndarray, ridge: float = 0.3) -> np.ndarray:
    """Expected surprise of each candidate: measured surprises, interpolated by the kernel, the rest taken for average.

    After the idea of Vatsavai et al., Digital Discovery (2025), doi:10.1039/d5dd00119f: go where structure predicts the
    property worst. They predict the error by a network; here it is a Gaussian process of the same kernel, with what is
    not known yet counting for as much as it may be: mean + standard deviation of the predicted error.

    Parameters
    ----------
    correlations : (rows, candidates) of the kernel between measurements and candidates, the measurements first: the first
        `rows` columns are the measurements themselves.
    surprise : (rows,) absolute error of each measurement's prediction by all others, in its standard deviations.
    ridge : variance of a surprise that says nothing, over their variance.

    Returns
    -------
    (candidates,) [standard deviations].
    """
    rows = len(surprise)
    between, across = correlations[:, :rows], correlations[:, rows:]
    level, spread = float(surprise.mean()), float(max(surprise.std(), 1e-12))
    solved = np.linalg.solve(between + ridge * np.eye(rows), across)
    mean = level + (surprise - level) @ solved
    left = np.maximum(1.0 - (across * solved).sum(axis=0), 0.0)
    return np.maximum(mean, 0.0) + spread * np.sqrt(left)


def log_positive(value: np.ndarray) -> np.ndarray:
    """Logarithm of what is not negative."""
    return np.log(np.maximum(value, _SMALLEST))


def log_above_least(value: np.ndarray, range_: tuple[float, float]) -> np.ndarray:
    """Merit of a value that may be negative: how far it is above the lower end of a range, over the range's width."""
    low, high = range_
    return log_positive((value - low) / (high - low) if high > low else np.ones_like(value))
