"""Disks of a pattern without knowing its lattice: by how many standard errors the counts of a disk exceed those about it."""

from __future__ import annotations

import numpy as np
from numba import njit

PEAKS = 40
"""Most peaks of a pattern."""
FINEST = 2.6
"""Radius of a disk [pixel] to which larger ones are binned for the search."""
_WIDER = 0.3
"""By how much more than the disk is summed [binned pixel], so that there is one place only where the sum holds all of it."""
SIGNIFICANT = 4.5
"""Standard errors by which a peak stands out: of some thousand places without a disk, one in a hundred patterns has one."""


@njit(cache=True, nogil=True)
def _binned(frame, bin_):
    rows, columns = frame.shape[0] // bin_, frame.shape[1] // bin_
    out = np.zeros((rows, columns))
    for i in range(rows * bin_):
        for j in range(columns * bin_):
            out[i // bin_, j // bin_] += frame[i, j]
    return out


@njit(cache=True, nogil=True)
def _runs(radius):
    """Half lengths of the rows of a disk of pixels about its middle row."""
    reach = int(np.floor(radius))
    runs = np.empty(2 * reach + 1, np.int64)
    for n in range(-reach, reach + 1):
        runs[n + reach] = int(np.floor(np.sqrt(radius**2 - n**2)))
    return runs


@njit(cache=True, nogil=True)
def disk_and_ring(radius):
    """Half lengths of the rows of the disk that is summed, and of the whole with the ring about it."""
    return _runs(radius + _WIDER), _runs(1.55 * radius + 2 * _WIDER)


@njit(cache=True, nogil=True)
def significance(image, radius):
    """By how many standard errors (rows, columns) the disk about each pixel holds more than the ring about it says.

    0 where the disk does not lie on the image whole.
    """
    rows, columns = image.shape
    inner, outer = disk_and_ring(radius)
    a, b = len(inner) // 2, len(outer) // 2
    # sums along rows, with room for the ring on either side
    sums = np.zeros((rows, columns + 2 * b + 1))
    for i in range(rows):
        total = 0.0
        for j in range(columns):
            total += image[i, j]
            sums[i, b + j + 1] = total
        sums[i, b + columns + 1:] = total
    lengths = np.empty((2 * b + 1, columns))
    for n in range(2 * b + 1):
        for j in range(columns):
            lengths[n, j] = min(j + outer[n], columns - 1) - max(j - outer[n], 0) + 1
    area = 0.0
    for half in inner:
        area += 2 * half + 1
    result = np.zeros((rows, columns))
    inside, about, whole = np.empty(columns), np.empty(columns), np.empty(columns)
    for i in range(a, rows - a):
        inside[:], about[:], whole[:] = 0.0, 0.0, 0.0
        for n in range(max(-b, -i), min(b, rows - 1 - i) + 1):
            half = outer[n + b]
            line, length = sums[i + n], lengths[n + b]
            for j in range(columns):
                about[j] += line[b + j + half + 1] - line[b + j - half]
                whole[j] += length[j]
        for n in range(-a, a + 1):
            half, line = inner[n + a], sums[i + n]
            for j in range(columns):
                inside[j] += line[b + j + half + 1] - line[b + j - half]
        for j in range(a, columns - a):
            ratio = area / max(whole[j] - area, 1.0)
            rest = max(about[j] - inside[j], 0.0)
            result[i, j] = (inside[j] - ratio * rest) / np.sqrt(max(inside[j], 0.0) + ratio**2 * rest + 1.0)
    return result


@njit(cache=True, nogil=True)
def binning(radius):
    """Pixels along an axis that are added up for the search."""
    return max(1, int(radius / FINEST))


@njit(cache=True, nogil=True)
def score_map(frame, radius):
    """`significance` of a frame in binned pixels."""
    return significance(_binned(frame, binning(radius)), radius / binning(radius))


@njit(cache=True, nogil=True)
def find_peaks(score, radius, places, weights):
    """Peaks of a score map, the strongest first, in place: (PEAKS, 2) [pixel of the frame] and their standard errors (PEAKS,);
    their number. `radius` is in pixels of the frame."""
    bin_ = binning(radius)
    rows, columns = score.shape
    found = np.empty((rows * columns, 3))
    count = 0
    # on the rim of the map a disk that the camera cuts looks like a peak
    rim = int(np.floor(radius / bin_ + _WIDER)) + 1
    for i in range(rim, rows - rim):
        for j in range(rim, columns - rim):
            value = score[i, j]
            if value < SIGNIFICANT:
                continue
            top = True
            for n in range(-1, 2):
                for m in range(-1, 2):
                    other = score[i + n, j + m]
                    if other > value or (other == value and (n < 0 or (n == 0 and m < 0))):
                        top = False
            if top:
                found[count, 0] = -value
                found[count, 1] = i + _top(score[i - 1, j], value, score[i + 1, j])
                found[count, 2] = j + _top(score[i, j - 1], value, score[i, j + 1])
                count += 1
    order = np.argsort(found[:count, 0], kind="mergesort")
    kept = 0
    for n in order:
        if kept == len(places):
            break
        y, x = bin_ * found[n, 1] + (bin_ - 1) / 2, bin_ * found[n, 2] + (bin_ - 1) / 2
        near = False
        for m in range(kept):
            if (places[m, 0] - y)**2 + (places[m, 1] - x)**2 < (1.7 * radius)**2:
                near = True
        if not near:
            places[kept, 0], places[kept, 1], weights[kept] = y, x, -found[n, 0]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _top(before, here, after):
    """Where a parabola through three values has its top, from the middle one."""
    curvature = before - 2 * here + after
    return min(max(0.5 * (before - after) / curvature, -0.5), 0.5) if curvature < 0 else 0.0
