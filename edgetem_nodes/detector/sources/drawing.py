"""Electrons drawn one by one from expected patterns: as fast as a fast camera where a frame holds few of them.

Poisson counts of independent pixels are a Poisson number of electrons, each of which falls on a pixel with the probability
that the pattern says: both descriptions are the same distribution (thinning of a Poisson process). The second costs time in
proportion to the electrons, not to the pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_30, _27, _31, _32, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(11)


def alias_table(pattern: np.ndarray) -> np.ndarray:
    """Table (pixels,) uint64 from which a pixel is drawn in constant time with a probability proportional to `pattern`.

    Each entry holds a threshold (upper 32 bits) below which its own pixel is drawn, and the pixel that is drawn else (lower 32
    bits): the alias method (Walker, ACM Trans. Math. Softw. 3 (1977) 253; Vose, IEEE Trans. Softw. Eng. 17 (1991) 972).

    Raises
    ------
    ValueError : a negative or not finite intensity, or none above 0.
    """
    weights = np.ravel(np.asarray(pattern, float))
    if not (np.isfinite(weights).all() and weights.min(initial=0.0) >= 0 and weights.sum() > 0):
        raise ValueError("a pattern to draw from needs finite intensities, none negative and not all 0: it has a sum of "
                         f"{weights.sum():g} and a smallest value of {weights.min(initial=0.0):g}")
    own, other = _paired(weights * (len(weights) / weights.sum()))
    threshold = np.minimum(np.rint(own * 2.0**32), 2.0**32 - 1).astype(np.uint64)
    return (threshold << _32) | other.astype(np.uint64)


@njit(cache=True)
def _paired(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each pixel's own entry, and the pixel that fills up the rest of it; `share` has a mean of 1."""
    count = len(share)
    own, other = np.ones(count), np.arange(count)
    small, large = np.empty(count, np.int64), np.empty(count, np.int64)
    n_small = n_large = 0
    for pixel in range(count):
        if share[pixel] < 1.0:
            small[n_small] = pixel
            n_small += 1
        else:
            large[n_large] = pixel
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        poor, rich = small[n_small], large[n_large - 1]
        own[poor], other[poor] = share[poor], rich
        share[rich] -= 1.0 - share[poor]
        if share[rich] < 1.0:
            n_large -= 1
            small[n_small] = rich
            n_small += 1
    return own, other


@njit(cache=True, nogil=True)
def _mixed(state: np.uint64) -> np.uint64:
    """64 random bits of a counter: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = (state ^ (state >> _30)) * _MIX_1
    state = (state ^ (state >> _27)) * _MIX_2
    return state ^ (state >> _31)


@njit(cache=True, nogil=True)
def _uniform(state: np.uint64) -> float:
    """In 0 < u < 1."""
    return (float(_mixed(state) >> _11) + 0.5) * 2.0**-53


@njit(cache=True, nogil=True)
def _poisson(mean: float, state: np.uint64) -> tuple[int, np.uint64]:
    """A Poisson number, and the counter behind the random numbers that it took.

    Below 10 by multiplication (Knuth), else by transformed rejection (Hoermann, Insurance: Math. Econ. 12 (1993) 39).
    """
    if mean < 10.0:
        limit, product, number = math.exp(-mean), 1.0, -1
        while product > limit:
            state += _STEP
            product *= _uniform(state)
            number += 1
        return number, state
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    scale, quick = math.log(1.1239 + 1.1328 / (b - 3.4)), 0.9277 - 3.6224 / (b - 2.0)
    while True:
        state += _STEP
        u = _uniform(state) - 0.5
        state += _STEP
        v = _uniform(state)
        near = 0.5 - abs(u)
        number = int(math.floor((2.0 * a / near + b) * u + mean + 0.43))
        if near >= 0.07 and v <= quick:
            return number, state
        if number < 0 or (near < 0.013 and v > near):
            continue
        if math.log(v) + scale - math.log(a / (near * near) + b) <= (
                number * math.log(mean) - mean - math.lgamma(number + 1.0)):
            return number, state


@njit(cache=True, nogil=True)
def draw(tables: np.ndarray, places: np.ndarray, means: np.ndarray, key: np.uint64, first: int, frames: np.ndarray) -> None:
    """Draw frames in place. A frame depends on its index, its table, its mean and the key alone.

    Parameters
    ----------
    tables : (places, pixels) uint64, of `alias_table`.
    places : (count,) int64, the table of each frame.
    means : (count,) float64, expected electrons of each frame.
    key : random, of the exposure.
    first : index of the first frame in the exposure.
    frames : (count, pixels) unsigned integers, overwritten; a pixel stops at the type's largest value.
    """
    pixels = np.uint64(tables.shape[1])
    largest = frames.dtype.type(-1)
    for row in range(len(frames)):
        frame, table = frames[row], tables[places[row]]
        frame[:] = 0
        state = _mixed(key ^ _mixed(np.uint64(first + row) * _STEP + _STEP))
        electrons, state = _poisson(means[row], state)
        for _ in range(electrons):
            state += _STEP
            bits = _mixed(state)
            pixel = ((bits >> _32) * pixels) >> _32
            entry = table[pixel]
            if (bits & _LOW) >= (entry >> _32):
                pixel = entry & _LOW
            if frame[pixel] != largest:
                frame[pixel] += 1
