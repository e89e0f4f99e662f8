"""Compiled loops of the fused pass: every number in a frame is read from memory once, and goes into all sums.

A frame's sums depend on that frame alone, bit for bit: no sum reaches over frames. Moments are the sums of 1, y, x, yy, yx
and xx with the counts, in pixels from pixel (0, 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.patterns.strips import mask_strip, moment_strip

REORDERED = {"reassoc", "contract"}
"""Sums of real numbers may be taken in another order (the same for every frame), so that they use vectors; NaN stays NaN."""
GROUP = 8
"""Frames that share one reading of weights."""


@njit(cache=True, nogil=True)
def masked_sums(frames, masks, spans, inside, used, masked, width, most_rows, running, regions, line, sums, moments, top):
    """Sums of frames (frames, rows, columns) under masks, their moments and their largest values.

    Masks are unsigned integers as wide as the pixels, all bits set inside.

    Parameters
    ----------
    masks : (masks, rows, columns) of the detectors.
    spans : (masks, strips, 2), the first row and one past the last that a mask has in each strip of `width` columns.
    inside, used : (rows, columns), pixels of the moments and of the largest value; looked at only where `masked`.
    most_rows : so many rows fit into the running sums' type without overflow.
    running : (3, columns), regions : (masks, width), line : (1, columns) of the frames' type; all scratch.
    sums : (frames, masks), moments : (frames, 6), float64; top : (frames,) of the frames' type; all filled here.
    """
    rows, columns = frames.shape[1:]
    whole = columns // width * width
    for index in range(len(frames)):
        frame = frames[index]
        sums[index] = 0.0
        moments[index] = 0.0
        line[:] = 0
        for first in range(0, rows, most_rows):
            last = min(first + most_rows, rows)
            running[:] = 0
            regions[:] = 0
            for column in range(0, whole, width):
                moment_strip(frame, inside, used, masked, first, last, column, running, line, frames.strides[0])
                for d in range(len(masks)):
                    start, stop = max(first, spans[d, column // width, 0]), min(last, spans[d, column // width, 1])
                    if start < stop:
                        mask_strip(frame, masks[d], start, stop, column, regions[d:d + 1])
            if whole < columns:
                _edge_moments(frame, inside, used, masked, first, last, whole, running, line)
                _edge_sums(frame, masks, first, last, whole, regions)
            _fold(last, running, moments[index])
            for d in range(len(masks)):
                sums[index, d] += regions[d].sum()
        top[index] = line.max()


@njit(cache=True, nogil=True)
def _edge_moments(frame, inside, used, masked, first, last, column, running, line):
    """What `moment_strip` does, for the columns that no whole strip covers."""
    for i in range(first, last):
        for j in range(column, frame.shape[1]):
            if not masked or inside[i, j]:
                running[0, j] += frame[i, j]
            running[1, j] += running[0, j]
            running[2, j] += running[1, j]
            if (not masked or used[i, j]) and frame[i, j] > line[0, j]:
                line[0, j] = frame[i, j]


@njit(cache=True, nogil=True)
def _edge_sums(frame, masks, first, last, column, regions):
    """What `mask_strip` does, for the columns that no whole strip covers."""
    for d in range(len(masks)):
        for i in range(first, last):
            for j in range(column, frame.shape[1]):
                if masks[d, i, j]:
                    regions[d, j - column] += frame[i, j]


@njit(cache=True, nogil=True, fastmath=REORDERED)
def _fold(last, running, moments):
    """Add to the moments (6,) those of a band of rows that ends before row `last`.

    running (3, columns) holds, by column, the sums of 1, q and q (q + 1) / 2 with the counts, where q = last - row: what
    running sums of running sums come to, without one multiplication.
    """
    s0, s1, s2, t0, t1, u0 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(running.shape[1]):
        x, s, t = float(j), float(running[0, j]), float(running[1, j])
        s0 += s
        s1 += x * s
        s2 += x * x * s
        t0 += t
        t1 += x * t
        u0 += float(running[2, j])
    end = float(last)
    moments[0] += s0
    moments[1] += end * s0 - t0
    moments[2] += s1
    moments[3] += end * end * s0 - 2.0 * end * t0 + 2.0 * u0 - t0
    moments[4] += end * s1 - t1
    moments[5] += s2


@njit(cache=True, nogil=True, fastmath=REORDERED)
def _product(values, weights, start, stop):
    total = 0.0
    for j in range(start, stop):
        total += values[j] * weights[j]
    return total


@njit(cache=True, nogil=True)
def weighted_sums(frames, weights, spans, used, lines, sums):
    """sums (frames, maps) float64 of frames with weight maps (maps, rows, columns) float64.

    spans (maps, rows, 2) holds the first and one past the last column with a weight. `used` (rows, columns) bool is false where
    a pixel counts as zero, whatever it holds. `lines` (`GROUP`, columns) float64 is scratch.
    """
    rows, columns = frames.shape[1:]
    sums[:] = 0.0
    for begin in range(0, len(frames), len(lines)):
        group = min(len(lines), len(frames) - begin)
        for i in range(rows):
            for g in range(group):
                for j in range(columns):
                    lines[g, j] = frames[begin + g, i, j] if used[i, j] else 0.0
            for k in range(len(weights)):
                if spans[k, i, 0] < spans[k, i, 1]:
                    for g in range(group):
                        sums[begin + g, k] += _product(lines[g], weights[k, i], spans[k, i, 0], spans[k, i, 1])


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
                largest[i, j] = value if value > largest[i, j] or value != value else largest[i, j]
