"""What counting needs to know of a camera, learned from a sample of its frames: noise, thresholds, signal of an electron."""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

FEWEST_ELECTRONS = 200
"""In a sample, to learn from."""
LEAST_EFFICIENCY = 0.5
REFITS = 4
LEAST_SIGMAS, MOST_SIGMAS = 3.0, 12.0
FALSE_SHARE = 0.002
"""False electrons over true ones that the threshold allows where none is asked for."""


@dataclass(frozen=True)
class Learned:
    """What a sample of frames has told. Values are in counts above the dark reference, after division by the gain.

    Attributes
    ----------
    dark, inverse_gain : (rows, columns) float32; inverse_gain is 0 where a pixel is dead, hot or left out.
    background_mean, background_noise : of the Gaussian peak of pixels without an electron.
    threshold, xray_threshold : a maximum between them is an electron.
    counts_per_electron : mean signal of an electron that was counted, over 5 x 5 pixels.
    efficiency : part of the electrons that reach the threshold, from the spectrum of heights carried on below it.
    false_positives : maxima of the noise alone, a frame.
    xray_share : maxima above `xray_threshold` over electrons.
    coincidence_area, coincidence_area_error : see `coincidence.corrected` [pixel].
    hot_pixels : number of pixels left out because they fire by themselves.
    electrons, frames : of the sample.
    """

    dark: np.ndarray
    inverse_gain: np.ndarray
    background_mean: float
    background_noise: float
    threshold: float
    xray_threshold: float
    counts_per_electron: float = np.nan
    efficiency: float = np.nan
    false_positives: float = np.nan
    xray_share: float = np.nan
    coincidence_area: float = 9.0
    coincidence_area_error: float = np.inf
    hot_pixels: int = 0
    electrons: int = 0
    frames: int = 0


def dark_of(frames: np.ndarray) -> np.ndarray:
    """Dark reference (rows, columns) float32 of sparse frames (frames, rows, columns): the mean of each pixel's values without
    those that lie three spreads above or below its median.

    Raises
    ------
    ValueError : there are fewer than 16 frames.
    """
    if len(frames) < 16:
        raise ValueError(f"a dark reference cannot be made of {len(frames)} frames with beam: give 16 or more, or blank frames")
    values = frames.astype(np.float32)
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    near = np.abs(values - middle) <= 3 * np.maximum(spread, 0.5)
    return ((values * near).sum(axis=0) / np.maximum(near.sum(axis=0), 1)).astype(np.float32)


def background_peak(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the Gaussian that pixels without electrons make, from corrected values (n,).

    A parabola through the logarithms of the histogram, from 2.5 standard deviations below the peak to 0.75 above it: electrons,
    which only add, lie on the other side.

    Raises
    ------
    ValueError : most pixels hold an electron, so that there is no such peak; or all values are equal.
    """
    median = float(np.median(values))
    below = median - values[values < median]
    sigma = float(np.sqrt((below**2).mean())) if len(below) else 0.0
    if not sigma > 0:
        raise ValueError(f"the pixels without electrons all read {median:g} counts: frames without read noise are counted "
                         "already (Events.of), or the dark reference was clipped to whole counts")
    mean, first = median, sigma
    for _ in range(REFITS):
        width = sigma / 8
        edges = np.arange(mean - 2.5 * sigma, mean + 0.75 * sigma + width, width)
        counts, _ = np.histogram(values, edges)
        x = (edges[:-1] + width / 2 - mean) / sigma
        used = counts > 0
        if used.sum() < 6:
            break
        curvature, slope, _ = np.polyfit(x[used], np.log(counts[used]), 2, w=np.sqrt(counts[used]))
        if not (curvature < 0 and abs(slope) < -4 * curvature and abs(mean - median) < 3 * first):
            break
        mean, sigma = mean - sigma * slope / (2 * curvature), sigma * float(np.sqrt(-0.5 / curvature))
    else:
        return float(mean), sigma
    raise ValueError(f"the background is no Gaussian peak near {median:g} counts: most pixels hold an electron (counting "
                     "needs a sparse beam: shorten the dwell time), or the dark reference does not belong to these frames")


def hot_pixels(fired: np.ndarray) -> np.ndarray:
    """Pixels (rows, columns) bool that fire more than ten times as often as any of their neighbours, by six spreads.

    Electrons spread over neighbours, so that even the sharpest spot lets those fire too.
    """
    padded = np.pad(fired.astype(float), 1)
    rows, columns = fired.shape
    around = np.max([padded[1 + y:1 + y + rows, 1 + x:1 + x + columns]
                     for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)], axis=0)
    return fired > 10 * around + 6 * np.sqrt(10 * around + 1)


def sigmas_for(values: np.ndarray, mean: float, noise: float, sigmas: float | None) -> float:
    """How many standard deviations above the background an electron begins.

    Where none is asked for: as few as keep the Gaussian's false electrons below `FALSE_SHARE` of the electrons; the number of
    electrons is that of pixels above 6 standard deviations, which their spread makes too large by a small factor.
    """
    if sigmas is not None:
        if not LEAST_SIGMAS <= sigmas <= MOST_SIGMAS:
            raise ValueError(f"a threshold of {sigmas:g} standard deviations is not between {LEAST_SIGMAS:g} and "
                             f"{MOST_SIGMAS:g}: below, noise is counted; above, few electrons are")
        return sigmas
    share = max((values > mean + 6 * noise).mean() / 3, 1e-9)
    for tenth in range(int(10 * LEAST_SIGMAS), int(10 * MOST_SIGMAS) + 1):
        if 0.5 * erfc(tenth / 10 / sqrt(2)) < FALSE_SHARE * share:
            return tenth / 10
    return MOST_SIGMAS


def xray_threshold(heights: np.ndarray, sigmas: float) -> float:
    """Height above which a maximum is no electron: `sigmas` upper half-widths (84th percentile less median) above the median of
    the heights (electrons,)."""
    median, upper = np.percentile(heights, [50, 84.13])
    return float(median + sigmas * (upper - median))


def part_above(heights: np.ndarray, threshold: float, mean: float, false: float) -> float:
    """Part of the electrons above the threshold, from the heights (electrons,) of those that are; `false` of them are noise.

    The density of heights just above the threshold is carried on below it in a straight line, which ends at zero signal or
    where the slope of the density (between two tenths of the way to the median) leads to none, if that is nearer.
    """
    width = max((float(np.median(heights)) - threshold) / 10, 1e-9)
    first, second = (np.count_nonzero((heights >= threshold + i * width) & (heights < threshold + (i + 1) * width))
                     for i in (0, 1))
    # noise falls so steeply that it lies in the first tenth
    first = max(first - false, 0.0)
    reach = max(threshold - mean, 0.0)
    if second > first:
        reach = min(reach, width * (first / (second - first) + 0.5))
    return float(len(heights) / (len(heights) + 0.5 * first / width * reach))
