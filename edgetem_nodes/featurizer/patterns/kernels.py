"""Compiled loops beside the fused pass: sums over events, over frames by pixel, and over what is below zero."""

from __future__ import annotations

import numpy as np
from numba import njit

REORDERED = {"reassoc", "contract", "nsz"}
"""Sums of real numbers may be taken in another order (the same for every frame), so that they use vectors; NaN stays NaN."""


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
def pattern_sums(frames, total, squares, largest):
    """Add frames to a float64 total and sum of squares, and to the largest value, all (rows, columns)."""
    for i in range(frames.shape[1]):
        for index in range(len(frames)):
            row = frames[index, i]
            for j in range(frames.shape[2]):
                value = float(row[j])
                total[i, j] += value
                squares[i, j] += value * value
                largest[i, j] = value if value > largest[i, j] or np.isnan(value) else largest[i, j]


@njit(cache=True, nogil=True, fastmath=REORDERED)
def squares_below(frames, dark, weights, sums):
    """sums (frames, 6) of twice the squares of frames less dark where they are below zero, times weights (both (rows, columns)
    float64), times 1, y, x, yy, yx and xx; a pixel whose dark is -inf is left out."""
    rows, columns = dark.shape
    for index in range(len(frames)):
        sums[index] = 0.0
        for i in range(rows):
            row, level, weight = frames[index, i], dark[i], weights[i]
            below = 0
            for j in range(columns):
                below += row[j] < level[j]
            if not below:
                continue
            s0, s1, s2, y = 0.0, 0.0, 0.0, float(i)
            for j in range(columns):
                short = level[j] - float(row[j])
                square = 2.0 * weight[j] * short * short if short > 0 else 0.0
                x = float(j)
                s0 += square
                s1 += x * square
                s2 += x * x * square
            sums[index, 0] += s0
            sums[index, 1] += y * s0
            sums[index, 2] += s1
            sums[index, 3] += y * y * s0
            sums[index, 4] += y * s1
            sums[index, 5] += s2
