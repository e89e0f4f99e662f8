"""Dead time of a counter: how many of the pulses that arrive in an exposure are counted (Knoll, Radiation Detection, ch. 4).

Given their number, the pulses of a Poisson process arrive at independent, evenly distributed times, so the counted ones can
be drawn after the fact from the number alone. A dead time is given as a part of the exposure.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np

_FEWEST, _EXACT, _LIGHT = 8, 64, 0.05
"""The loss is exact for up to so many pulses, and for so many if their number times the dead time exceeds the third."""
_FEW = 5.0
"""Mean number of lost pulses below which they are drawn from a binomial distribution, and above from a normal one."""


def surviving(pulses: np.ndarray, dead: float, paralysable: bool, rng: np.random.Generator) -> np.ndarray:
    """Counted pulses, float64 of the shape of `pulses`.

    Exact up to 8 pulses a pixel, and up to 64 that crowd. Above, few lost pulses are binomially distributed about the
    conditional mean, many normally with the conditional variance: exact ones for a paralysable counter (k given gaps between
    n points all exceed t with probability (1 - k t)^n), asymptotic ones otherwise.

    Parameters
    ----------
    pulses : whole numbers, any shape. dead : dead time over exposure. paralysable : an uncounted pulse prolongs it.
    rng : of this frame.
    """
    counted = np.array(pulses, np.float64)
    if dead <= 0:
        return counted
    flat = counted.reshape(-1)
    exposed = np.flatnonzero(flat >= 2)
    arrived = flat[exposed].astype(np.int64)
    fewest = arrived <= _FEWEST
    crowded = ~fewest & (arrived <= _EXACT) & (arrived * dead > _LIGHT)
    if not paralysable:
        fewest, crowded = np.zeros_like(fewest), fewest | crowded
    many = ~(fewest | crowded)
    lost = np.empty(len(arrived))
    lost[fewest] = _lost_of_few(arrived[fewest], dead, rng)
    lost[crowded] = _lost_of_crowded(arrived[crowded], dead, paralysable, rng)
    lost[many] = _lost_of_many(arrived[many], dead, paralysable, rng)
    flat[exposed] -= lost
    return counted


@lru_cache(maxsize=32)
def _chances(dead: float) -> np.ndarray:
    """Probability that at most k of n pulses are lost by a paralysable counter, row n up to 8, column k up to 7.

    m of the n - 1 gaps exceed t with probability C(n-1, m) sum over j of (-1)^j C(n-1-m, j) (1 - (m + j) t)^n.
    """
    table = np.ones((_FEWEST + 1, _FEWEST))
    for pulses in range(2, _FEWEST + 1):
        gaps = pulses - 1
        longer = [comb(gaps, m) * sum((-1) ** j * comb(gaps - m, j) * max(0.0, 1 - (m + j) * dead) ** pulses
                                      for j in range(gaps - m + 1)) for m in range(gaps, -1, -1)]
        table[pulses, :pulses] = np.cumsum(np.clip(longer, 0, 1))
    return table


def _lost_of_few(numbers: np.ndarray, dead: float, rng: np.random.Generator) -> np.ndarray:
    """Pulses (n,) that a paralysable counter loses of 2 to 8."""
    return (rng.random(len(numbers))[:, None] > _chances(dead)[numbers, :-1]).sum(axis=1)


def _lost_of_many(numbers: np.ndarray, dead: float, paralysable: bool, rng: np.random.Generator) -> np.ndarray:
    """Pulses (n,) lost of many: binomial where they are few, else normal."""
    mean, variance = _moments(numbers, dead, paralysable)
    lost = np.clip(numbers - mean, 0, numbers - 1)
    rare = lost < _FEW
    normal = lost[~rare] + np.sqrt(variance[~rare]) * rng.standard_normal(np.count_nonzero(~rare))
    lost[~rare] = np.clip(np.rint(normal), 0, numbers[~rare] - 1)
    lost[rare] = rng.binomial(numbers[rare] - 1, lost[rare] / (numbers[rare] - 1))
    return lost


def _lost_of_crowded(numbers: np.ndarray, dead: float, paralysable: bool, rng: np.random.Generator) -> np.ndarray:
    """Pulses (n,) lost, from drawn times of arrival."""
    if not len(numbers):
        return np.zeros(0)
    pixel = np.repeat(np.arange(len(numbers)), numbers)
    # the pixels' exposures one after the other on one axis, with room in between
    times = np.sort(2.0 * pixel + rng.random(len(pixel)) * (1 - 2.0 ** -40))
    while True:
        close = np.concatenate([[False], np.diff(times) < dead])
        close[1:] &= (times[1:] // 2) == (times[:-1] // 2)
        if paralysable or not close.any():
            break
        # of a chain of close pulses the first is counted, so the second surely is not; the third may be
        times = times[~(close & ~np.concatenate([[False], close[:-1]]))]
    return numbers - np.bincount((times // 2).astype(np.int64)[~close], minlength=len(numbers))


def _moments(pulses: np.ndarray, dead: float, paralysable: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the counted number, given the number of pulses."""
    if paralysable:
        one, two = np.clip(1 - dead, 0, None) ** pulses, np.clip(1 - 2 * dead, 0, None) ** pulses
        gaps = (pulses - 1) * one
        return 1 + gaps, np.clip(gaps + (pulses - 1) * (pulses - 2) * two - gaps ** 2, 0, None)
    load = pulses * dead
    # pulses / (1 + load); then the start of an exposure with a free counter; then that the number of pulses is given
    mean = pulses / (1 + load) + load ** 2 / (2 * (1 + load) ** 2) + load / (1 + load) ** 3
    return mean, pulses * load / (1 + load) ** 4


def throughput(load: np.ndarray, paralysable: bool) -> np.ndarray:
    """Counted over arriving pulses for a rate times dead time `load`: exp(-load), or 1 / (1 + load)."""
    load = np.asarray(load, float)
    return np.exp(-load) if paralysable else 1 / (1 + load)


def corrected(counted: np.ndarray, dead: float, paralysable: bool) -> np.ndarray:
    """Arriving pulses, float64, of counted ones: the inverse of `throughput` on its rising branch.

    A paralysable counter never counts more than 1 / (e dead) pulses; what reads more is taken to be at that maximum.
    """
    counted = np.asarray(counted, float)
    if dead <= 0:
        return counted
    if not paralysable:
        return counted / np.clip(1 - counted * dead, 1e-3, None)
    target = np.minimum(counted * dead, np.exp(-1) * (1 - 1e-9))
    load = target.copy()
    for _ in range(60):
        step = (load * np.exp(-load) - target) / np.maximum(np.exp(-load) * (1 - load), 1e-6)
        load = np.clip(load - step, 0, 1)
        if np.abs(step).max(initial=0) < 1e-12:
            break
    return load / dead
