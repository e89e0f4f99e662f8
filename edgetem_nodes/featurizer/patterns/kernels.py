"""Compiled loops of the fused pass: every number in a frame is read once, and goes into all sums.

A frame's sums depend on that frame alone, bit for bit: no loop reaches over frames. Moments are the sums of 1, y, x, yy, yx
and xx with the counts, in pixels from pixel (0, 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

PART, WHOLE = 1, 2
"""How much of a row a mask covers; 0: nothing."""


@njit(cache=True, nogil=True)
def integer_sums(frames, masks, cover, moments_row, used, most_rows, scratch, regions, sums, moments, top):
    """Sums of integer frames (frames, rows, columns) over masks of their type, all bits set inside.

    Parameters
    ----------
    masks : (masks, rows, columns); the one at `moments_row` is the moments', -1: no moments.
    cover : (masks, rows), `PART`, `WHOLE` or 0.
    used : (rows, columns), the pixels that `top`, the largest value, is taken of.
    most_rows : so many rows fit into the scratch arrays' type without overflow.
    scratch : (3, columns), regions : (masks, columns), of an integer type.
    sums : (frames, masks), moments : (frames, 6), float64; top : (frames,) of the frames' type; all filled here.
    """
    count, rows, columns = frames.shape
    first_sum, second_sum, third_sum = scratch[0], scratch[1], scratch[2]
    for index in range(count):
        frame = frames[index]
        sums[index] = 0.0
        moments[index] = 0.0
        largest = frame[0, 0] & used[0, 0]
        for first in range(0, rows, most_rows):
            last = min(first + most_rows, rows)
            scratch[:] = 0
            regions[:] = 0
            for i in range(first, last):
                row = frame[i]
                for j in range(columns):
                    largest = max(largest, row[j] & used[i, j])
                if moments_row >= 0:
                    inside = masks[moments_row, i]
                    for j in range(columns):
                        s = first_sum[j] + (row[j] & inside[j])
                        t = second_sum[j] + s
                        first_sum[j] = s
                        second_sum[j] = t
                        third_sum[j] += t
                for d in range(len(masks)):
                    if d != moments_row and cover[d, i]:
                        inside, region = masks[d, i], regions[d]
                        for j in range(columns):
                            region[j] += row[j] & inside[j]
            _fold(last, scratch, moments[index])
            for d in range(len(masks)):
                sums[index, d] += np.sum(regions[d])
        top[index] = largest


@njit(cache=True, nogil=True)
def real_sums(frames, masks, cover, moments_row, used, most_rows, scratch, regions, sums, moments, top):
    """The same for frames of real numbers, with masks of type bool; what a mask leaves out may be NaN."""
    count, rows, columns = frames.shape
    first_sum, second_sum, third_sum = scratch[0], scratch[1], scratch[2]
    for index in range(count):
        frame = frames[index]
        sums[index] = 0.0
        moments[index] = 0.0
        largest = -np.inf
        for first in range(0, rows, most_rows):
            last = min(first + most_rows, rows)
            scratch[:] = 0
            regions[:] = 0
            for i in range(first, last):
                row = frame[i]
                for j in range(columns):
                    if used[i, j] and row[j] > largest:
                        largest = row[j]
                if moments_row >= 0:
                    inside = masks[moments_row, i]
                    for j in range(columns):
                        s = first_sum[j] + (row[j] if inside[j] else 0.0)
                        t = second_sum[j] + s
                        first_sum[j] = s
                        second_sum[j] = t
                        third_sum[j] += t
                for d in range(len(masks)):
                    if d != moments_row and cover[d, i]:
                        inside, region = masks[d, i], regions[d]
                        for j in range(columns):
                            region[j] += row[j] if inside[j] else 0.0
            _fold(last, scratch, moments[index])
            for d in range(len(masks)):
                sums[index, d] += np.sum(regions[d])
        top[index] = largest


@njit(cache=True, nogil=True)
def _fold(last, scratch, moments):
    """Add to the moments (6,) those of a band of rows that ends before row `last`.

    scratch (3, columns) holds, by column, the sums of q^0, q and q (q + 1) / 2 with the counts, where row last - q: what adding
    up running sums of running sums gives without one multiplication.
    """
    s0, s1, s2, t0, t1, u0 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(scratch.shape[1]):
        s, t = float(scratch[0, j]), float(scratch[1, j])
        s0 += s
        s1 += j * s
        s2 += float(j) * j * s
        t0 += t
        t1 += j * t
        u0 += float(scratch[2, j])
    e = float(last)
    moments[0] += s0
    moments[1] += e * s0 - t0
    moments[2] += s1
    moments[3] += e * e * s0 - 2.0 * e * t0 + 2.0 * u0 - t0
    moments[4] += e * s1 - t1
    moments[5] += s2


@njit(cache=True, nogil=True)
def weighted_sums(frames, weights, spans, used, line, sums):
    """sums (frames, maps) float64 of frames of any type with weight maps (maps, rows, columns) float64.

    spans (maps, rows, 2) holds the first and one past the last column with a weight; `used` (rows, columns) bool is false
    where a pixel counts as zero, whatever it holds; `line` (columns,) float64 is scratch.
    """
    count, rows, columns = frames.shape
    for index in range(count):
        sums[index] = 0.0
        for i in range(rows):
            row = frames[index, i]
            for j in range(columns):
                line[j] = row[j] if used[i, j] else 0.0
            for k in range(len(weights)):
                total, weight = 0.0, weights[k, i]
                for j in range(spans[k, i, 0], spans[k, i, 1]):
                    total += line[j] * weight[j]
                sums[index, k] += total


@njit(cache=True, nogil=True)
def event_sums(starts, pixels, table, sums):
    """sums (frames, maps) float64 of electron events with weights by pixel, table (pixels, maps) float64."""
    for index in range(len(starts) - 1):
        total = sums[index]
        total[:] = 0.0
        for k in range(starts[index], starts[index + 1]):
            weight = table[pixels[k]]
            for m in range(len(total)):
                total[m] += weight[m]


@njit(cache=True, nogil=True)
def frame_sums(frames, total, squares, largest):
    """Add frames to a float64 total and sum of squares, and to the largest value, all (rows, columns)."""
    for index in range(len(frames)):
        for i in range(frames.shape[1]):
            row = frames[index, i]
            for j in range(frames.shape[2]):
                value = float(row[j])
                total[i, j] += value
                squares[i, j] += value * value
                largest[i, j] = max(largest[i, j], value)
