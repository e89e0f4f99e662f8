"""Electrons that counting misses because they hit too close to one another."""

from __future__ import annotations

import numpy as np


def corrected(counted: np.ndarray, area: float) -> np.ndarray:
    """Electrons a pixel and frame that gave `counted` maxima a pixel and frame; NaN where no dose gives so many.

    In places where electrons arrive at a rate r a pixel, n = (1 - exp(-a r)) / a maxima are found. For electrons that each
    light one pixel this is exact with an area a of 9 pixels: a block of 3 x 3 pixels holds an electron with probability
    1 - exp(-9 r), and its highest pixel is any of the nine with equal chance. Blots that spread have a larger area.

    Parameters
    ----------
    counted : of any shape, means of frames over a region of even dose.
    area : [pixel].
    """
    free = 1 - area * np.asarray(counted, float)
    with np.errstate(all="ignore"):
        return np.where(free > 0, -np.log(np.where(free > 0, free, np.nan)) / area, np.nan)


def corrected_error(counted: np.ndarray, counted_error: np.ndarray, area: float, area_error: float) -> np.ndarray:
    """Standard error of `corrected`, first order, from those of the counted maxima and of the area; NaN where that is.

    r = -ln(1 - a n) / a has the derivatives 1 / (1 - a n) by n and (n / (1 - a n) - r) / a by a. The area's error is common to
    all that one sample's area has corrected: it is not averaged away. Infinite where the area is not known (a sample too
    sparse), unless nothing was counted.

    Parameters
    ----------
    counted, counted_error : a pixel and frame, of any shape; from counting, sqrt(counted / (pixels * frames)) or a little less.
    area, area_error : [pixel], `Learned.coincidence_area` and its error.
    """
    counted, rate = np.asarray(counted, float), corrected(counted, area)
    with np.errstate(all="ignore"):
        factor = 1 / (1 - area * counted)
        by_area = (counted * factor - rate) / area
        error = np.hypot(factor * counted_error, np.where(by_area > 0, by_area * area_error, 0))
        return np.where(np.isfinite(rate), error, np.nan)


def rate_at_loss(loss: float, area: float) -> float:
    """Electrons a pixel and frame of which coincidence hides the part `loss`, 0 < loss < 1. area : see `corrected`."""
    from scipy.optimize import brentq

    return float(brentq(lambda x: -np.expm1(-x) / x - (1 - loss), 1e-9, 2 / (1 - loss))) / area


def mean_loss(counts: np.ndarray, frames: int, area: float, reach: int = 3) -> float:
    """Part of the electrons that coincidence has cost, over all pixels; NaN where a region is too dense to tell.

    The rate about each counted electron is that of the others within `reach`, over all frames together: give it as many
    frames of one pattern as there are.

    Parameters
    ----------
    counts : (rows, columns) electrons counted in `frames` frames. area : see `corrected`.
    """
    total = counts.sum()
    if not total or not frames:
        return 0.0
    rate = np.maximum(_box(counts.astype(float), reach) - 1, 0) / (_box(np.ones(counts.shape), reach) * frames)
    lit = counts > 0
    true = corrected(rate[lit], area)
    share = np.where(rate[lit] > 0, true / np.where(rate[lit] > 0, rate[lit], 1), 1.0)
    return float(1 - total / (counts[lit] * share).sum())


def coincidence_area(single: np.ndarray, pairs: int, counted_pairs: int, maps: np.ndarray) -> tuple[float, float]:
    """The area of `corrected` and its standard error [pixel], from frames that were laid on one another.

    If n maxima a pixel are found in one frame, (1 - (1 - a n)^2) / a = 2 n - a n^2 are found in the sum of two: what is
    missing is a times the sum of n^2, with nothing assumed of the shape of the blots.

    Parameters
    ----------
    single : (frames,) electrons of every frame. pairs : how often each was laid on another, frames being taken in turn.
    counted_pairs : maxima of all sums of two frames. maps : (frames, rows, columns) electrons of every frame, uint8.
    """
    frames = len(single)
    together = 2 * pairs * int(single.sum())
    everything = maps.sum(axis=0, dtype=float)
    cells = _box(np.ones(everything.shape), 2)
    own = sum(float((one * _box(one.astype(float), 2) / cells).sum()) for one in maps)
    squares = (float((everything * _box(everything, 2) / cells).sum()) - own) / max(frames * (frames - 1), 1)
    expected = squares * frames * pairs
    if expected <= 0:
        return np.nan, np.inf
    lost = together - counted_pairs
    # of the number lost, and of the square of the rate, as if they were independent
    spread = (1 + pairs / frames) / max(lost, 1.0) + 4 / max(single.sum(), 1.0)
    return lost / expected, float(np.sqrt(spread) * max(lost, 1.0) / expected)


def _box(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums over (2 `reach` + 1)^2 pixels, less what lies beyond the frame."""
    padded = np.pad(values, ((reach + 1, reach),) * 2)
    cumulative = padded.cumsum(axis=0).cumsum(axis=1)
    width = 2 * reach + 1
    return (cumulative[width:, width:] - cumulative[:-width, width:] - cumulative[width:, :-width]
            + cumulative[:-width, :-width])
