"""Compiled loops of the fused pass: every number in a frame is read from memory once, and goes into all sums.

A frame's sums depend on that frame alone, bit for bit: no sum reaches over frames. Moments are the sums of 1, y, x, yy, yx
and xx with the counts, in pixels from pixel (0, 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.patterns.strips import mask_strip, moment_strip, weight_strip

REORDERED = {"reassoc", "contract", "nsz"}
"""Sums of real numbers may be taken in another order (the same for every frame), so that they use vectors; NaN stays NaN."""


@njit(cache=True, nogil=True)
def masked_sums(frames, masks, spans, inside, used, masked, most_rows, edge, running, regions, line, sums, moments, top):
    """Sums of frames (frames, rows, columns) under masks, their moments and their largest values.

    Masks are unsigned integers as wide as the pixels, all bits set inside; their columns are padded with zeros to whole strips.

    Parameters
    ----------
    masks : (masks, rows, padded columns) of the detectors.
    spans : (masks, strips, 2), the first row and one past the last that a mask has in each strip.
    inside, used : (rows, padded columns), pixels of the moments and of the largest value; looked at only where `masked`.
    most_rows : so many rows fit into the running sums' type without overflow.
    edge : (rows, width), zeros of the frames' type, for the columns beyond whole strips of that width; scratch.
    running : (3, padded columns), regions : (masks, width), line : (1, padded columns) of the frames' type; scratch.
    sums : (frames, masks), moments : (frames, 6), float64; top : (frames,) of the frames' type, 0 at least; all filled here.
    """
    rows, columns = frames.shape[1:]
    width = edge.shape[1]
    for index in range(len(frames)):
        frame = frames[index]
        _copy_edge(frame, edge)
        sums[index] = 0.0
        moments[index] = 0.0
        line[:] = 0
        for first in range(0, rows, most_rows):
            last = min(first + most_rows, rows)
            running[:] = 0
            regions[:] = 0
            for column in range(0, columns, width):
                whole = column + width <= columns
                source, place = (frame, column) if whole else (edge, 0)
                ahead = frames.strides[0] + (first * columns + column * (last - first)) * frames.itemsize if whole else 0
                moment_strip(source, inside, used, masked, first, last, place, column, running, line, ahead)
                for d in range(len(masks)):
                    start, stop = max(first, spans[d, column // width, 0]), min(last, spans[d, column // width, 1])
                    if start < stop:
                        mask_strip(source, masks[d], start, stop, place, column, regions[d:d + 1])
            _fold(last, running, moments[index])
            for d in range(len(masks)):
                sums[index, d] += regions[d].sum()
        top[index] = line.max()


@njit(cache=True, nogil=True)
def _copy_edge(frame, edge):
    """The columns beyond whole strips."""
    whole = frame.shape[1] // edge.shape[1] * edge.shape[1]
    for i in range(len(frame)):
        for j in range(whole, frame.shape[1]):
            edge[i, j - whole] = frame[i, j]


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


@njit(cache=True, nogil=True)
def weighted_sums(frames, weights, spans, used, edge, partial, sums):
    """sums (frames, groups * maps) float64 of frames with weight maps, several in a group.

    Parameters
    ----------
    weights : (groups, strips, rows, maps * width) float64, padded with zeros to whole strips.
    spans : (groups, strips, 2), the first row and one past the last that a group has in each strip.
    used : (rows, padded columns), as wide as the pixels, no bit set where a pixel counts as zero, whatever it holds.
    edge : (rows, width) of the frames' type, partial : (frames, maps, width) float64; scratch.
    """
    columns = frames.shape[2]
    maps, width = partial.shape[1:]
    for group in range(len(weights)):
        partial[:] = 0.0
        # frames innermost: they and a strip of weights fit into the cache, all weights do not
        for strip in range(weights.shape[1]):
            column = strip * width
            whole = column + width <= columns
            start, stop = spans[group, strip, 0], spans[group, strip, 1]
            for index in range(len(frames) if start < stop else 0):
                if not whole:
                    _copy_edge(frames[index], edge)
                source, place = (frames[index], column) if whole else (edge, 0)
                weight_strip(source, used, start, stop, place, column, weights[group, strip], partial[index])
        for index in range(len(frames)):
            for k in range(maps):
                sums[index, group * maps + k] = partial[index, k].sum()


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
