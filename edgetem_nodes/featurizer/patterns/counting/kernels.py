"""The compiled loop of electron counting. Imported when frames are first counted: numba takes a second to load."""

from __future__ import annotations

import numpy as np
from numba import njit

WORD = 8
"""Pixels that are skipped at once where none of them is above its threshold: their marks make one 64-bit word."""


@njit(cache=True, nogil=True)
def _mark(flat, level, least, marks):
    """1 where a pixel is above its level, or no number; a loop of its own, so that the processor's vectors do it."""
    for pixel in range(len(level)):
        if least is None:
            marks[pixel] = not (flat[pixel] <= level[pixel])
        else:
            marks[pixel] = not (flat[pixel] <= level[pixel] and flat[pixel] >= least)


@njit(cache=True, nogil=True)
def find_electrons(frames, level, least, dark, inverse_gain, lowest, highest, saturation, subpixels, pixels, values, starts,
                   notes):
    """Local maxima of frames above a threshold: one electron each.

    A pixel is a maximum where it is greater than its four neighbours above and to the left, and not less than the four
    below and to the right, so that of equal neighbours one counts.

    Parameters
    ----------
    frames : (frames, rows, columns) as the camera gave them.
    level : (rows * columns,) of the frames' type; a pixel at or below it is no electron.
    least : least finite number of a floating type; None for integers.
    dark, inverse_gain : (rows * columns,) float32; inverse_gain 0 leaves a pixel out.
    lowest, highest : corrected values that are an electron lie above `lowest` and not above `highest`.
    saturation : raw value from which on a pixel is saturated.
    subpixels : parts of a pixel along each axis; above 1 electrons are placed by the centroid of 3 x 3 pixels.
    pixels, values : filled with the place, and the corrected value, of every electron, (room,) uint32 and float32.
    starts : (frames + 1,) int64, filled.
    notes : (frames, 3) int64, filled: maxima above `highest`, saturated pixels, values that are not a finite number.

    Returns
    -------
    Number of frames that were counted: less than all where there was no more room.
    """
    rows, columns = frames.shape[1], frames.shape[2]
    size, found = rows * columns, 0
    marks = np.zeros(-(-size // WORD) * WORD, np.uint8)
    words = marks.view(np.uint64)
    # the nearest first: most pixels of a blot that are no maximum are told by them
    around = np.array([1, -1, columns, -columns, columns + 1, columns - 1, 1 - columns, -1 - columns])
    starts[0] = 0
    for index in range(len(frames)):
        if found + size // 4 + rows + columns + 4 > len(pixels):
            return index
        flat = frames[index].reshape(size)
        high, saturated, wrong = 0, 0, 0
        _mark(flat, level, least, marks)
        for word in range(len(words)):
            if words[word] == 0:
                continue
            for pixel in range(word * WORD, min(word * WORD + WORD, size)):
                if marks[pixel] == 0:
                    continue
                raw = np.float32(flat[pixel])
                if not np.isfinite(raw):
                    wrong += 1
                    continue
                saturated += raw >= saturation
                value = (raw - dark[pixel]) * inverse_gain[pixel]
                if value <= lowest or not _is_maximum(flat, dark, inverse_gain, value, pixel, rows, columns, around):
                    continue
                if value > highest:
                    high += 1
                    continue
                pixels[found] = pixel if subpixels == 1 else _finer(flat, dark, inverse_gain, pixel, rows, columns, subpixels)
                values[found] = value
                found += 1
        starts[index + 1] = found
        notes[index, 0], notes[index, 1], notes[index, 2] = high, saturated, wrong
    return len(frames)


@njit(cache=True, nogil=True)
def _is_maximum(flat, dark, inverse_gain, value, pixel, rows, columns, around):
    """Whether no neighbour of a pixel is greater than its value, nor an earlier one as great."""
    inside = columns < pixel < (rows - 1) * columns
    column = pixel % columns
    inside = inside and 0 < column < columns - 1
    for step in around:
        other = pixel + step
        if not inside:
            if not 0 <= other < rows * columns or abs(other % columns - column) > 1:
                continue
        if inverse_gain[other] > 0:
            there = (np.float32(flat[other]) - dark[other]) * inverse_gain[other]
            if there > value or (step < 0 and there == value):
                return False
    return True


@njit(cache=True, nogil=True)
def _finer(flat, dark, inverse_gain, pixel, rows, columns, subpixels):
    """The part of a pixel in which the centroid of 3 x 3 values lies, as an index of the finer frame."""
    total, down, right = np.float32(0), np.float32(0), np.float32(0)
    row, column = pixel // columns, pixel % columns
    for y in range(max(row - 1, 0), min(row + 2, rows)):
        for x in range(max(column - 1, 0), min(column + 2, columns)):
            other = y * columns + x
            value = max((np.float32(flat[other]) - dark[other]) * inverse_gain[other], np.float32(0))
            total += value
            down += value * (y - row)
            right += value * (x - column)
    part_y = min(max(int((down / total + np.float32(0.5)) * subpixels), 0), subpixels - 1)
    part_x = min(max(int((right / total + np.float32(0.5)) * subpixels), 0), subpixels - 1)
    return (row * subpixels + part_y) * columns * subpixels + column * subpixels + part_x


@njit(cache=True, nogil=True)
def isolated_sums(frame, dark, inverse_gain, pixels, reach, distance, sums):
    """Sum of the corrected values within `reach` of every electron of a frame that stands alone; NaN for the others.

    frame, dark, inverse_gain : (rows, columns). pixels : (electrons,). sums : (electrons,), filled.
    An electron stands alone where no other one, no edge and no pixel that is left out lies within `distance` (`reach`).
    """
    rows, columns = frame.shape
    taken = np.zeros((rows, columns), np.uint8)
    for pixel in pixels:
        taken[pixel // columns, pixel % columns] = 1
    for index in range(len(pixels)):
        row, column = pixels[index] // columns, pixels[index] % columns
        total, alone = 0.0, reach <= row < rows - reach and reach <= column < columns - reach
        for y in range(max(row - distance, 0), min(row + distance + 1, rows)):
            for x in range(max(column - distance, 0), min(column + distance + 1, columns)):
                if taken[y, x] and (y != row or x != column):
                    alone = False
                if abs(y - row) <= reach and abs(x - column) <= reach:
                    if inverse_gain[y, x] <= 0:
                        alone = False
                    total += (np.float32(frame[y, x]) - dark[y, x]) * inverse_gain[y, x]
        sums[index] = total if alone else np.nan
