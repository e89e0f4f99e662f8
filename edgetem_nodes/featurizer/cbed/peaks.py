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
    if bin_ == 1:
        return frame.astype(np.float32)
    rows, columns = frame.shape[0] // bin_, frame.shape[1] // bin_
    out = np.zeros((rows, columns), np.float32)
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
    """By how many standard errors (rows, columns) float32 the disk about each pixel holds more than the ring about it says.

    0 where the disk does not lie on the image whole.
    """
    rows, columns = image.shape
    inner, outer = disk_and_ring(radius)
    a, b = len(inner) // 2, len(outer) // 2
    # sums along rows, with room for the ring on either side; single precision holds counts to 2^24, and is twice as fast
    sums = np.zeros((rows, columns + 2 * b + 1), np.float32)
    for i in range(rows):
        total = np.float32(0.0)
        for j in range(columns):
            total += image[i, j]
            sums[i, b + j + 1] = total
        sums[i, b + columns + 1:] = total
    area, one, zero = np.float32(0.0), np.float32(1.0), np.float32(0.0)
    for half in inner:
        area += np.float32(2 * half + 1)
    result = np.zeros((rows, columns), np.float32)
    inside, about, ratio = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    for i in range(a, rows - a):
        inside[:], about[:] = zero, zero
        if i <= b or i >= rows - b:
            _ring_ratio(outer, i, rows, area, ratio)
        for n in range(max(-b, -i), min(b, rows - 1 - i) + 1):
            _add_runs(sums[i + n], b, outer[n + b], about)
        for n in range(-a, a + 1):
            _add_runs(sums[i + n], b, inner[n + a], inside)
        out = result[i]
        for j in range(columns):
            # comparisons instead of max(), which minds NaN and so one number at a time
            rest, own = about[j] - inside[j], inside[j]
            rest = rest if rest > zero else zero
            floor = own if own > zero else zero
            out[j] = (own - ratio[j] * rest) / np.sqrt(floor + ratio[j] * ratio[j] * rest + one)
        out[:a], out[columns - a:] = zero, zero
    return result


@njit(cache=True, nogil=True)
def _add_runs(line, b, half, total):
    """Add what runs of half a length `half` about each pixel of a row hold, from its sums."""
    # from slices on, as indices that may be negative are looked up one by one
    high, low = line[b + half + 1:], line[b - half:]
    for j in range(len(total)):
        total[j] += high[j] - low[j]


@njit(cache=True, nogil=True)
def _ring_ratio(outer, i, rows, area, ratio):
    """Pixels of the disk over those of the ring, as far as it lies on the image, for the pixels of row i, in place."""
    columns, b = len(ratio), len(outer) // 2
    for j in range(columns):
        whole = np.float32(0.0)
        for n in range(max(-b, -i), min(b, rows - 1 - i) + 1):
            whole += np.float32(min(j + outer[n + b], columns - 1) - max(j - outer[n + b], 0) + 1)
        rest = whole - area
        ratio[j] = area / (rest if rest > np.float32(1.0) else np.float32(1.0))


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
