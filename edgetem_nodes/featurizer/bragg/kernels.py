"""Compiled loops of the likelihood of a lattice of disks: one disk on its window, and small symmetric systems.

Weights of a disk are those of 1 / variance of the expected counts (Fisher scoring), so the normal matrices are the Fisher
information and no second derivative is needed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

PIXEL_SUMS = 3
"""Of the final pass: log-likelihood ratio to background alone, Pearson's chi-square, pixels."""
_FLOOR = 0.03


@njit(cache=True, nogil=True)
def solve(matrix, size, right, columns):
    """Cholesky: right (size, columns) becomes matrix^-1 right, the matrix its factor. False where it is not positive."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                if not total > 1e-12 * matrix[i, i] or not total > 0.0:
                    return False
                matrix[i, i] = np.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    for c in range(columns):
        for i in range(size):
            total = right[i, c]
            for k in range(i):
                total -= matrix[i, k] * right[k, c]
            right[i, c] = total / matrix[i, i]
        for i in range(size - 1, -1, -1):
            total = right[i, c]
            for k in range(i + 1, size):
                total -= matrix[k, i] * right[k, c]
            right[i, c] = total / matrix[i, i]
    return True


_FAST = {"nsz", "arcp", "contract", "reassoc"}
"""Liberties of arithmetic that let loops be vectorised; not that of taking NaN and infinity for impossible."""
_KNOWN = np.float32(0.003)
"""Of a template's brightest pixel: how well it is known."""
VALUE, SLOPE_Y, SLOPE_X, LIGHT, COUNT, BELOW, WEIGHT, REST, WEIGHTED, VECTORS = range(10)
WORK = VECTORS + 9
"""Rows of the scratch, each a patch of (2 reach + 1) rows of (2 reach + 3) pixels of which the last two are not used."""


@njit(cache=True, nogil=True, fastmath=_FAST)
def _between(target, nw, ne, sw, se, part_y, part_x):
    """Linear interpolation between four phases. Loops hold few arrays: with more they are not vectorised."""
    a, b = (np.float32(1) - part_y) * (np.float32(1) - part_x), (np.float32(1) - part_y) * part_x
    c, d = part_y * (np.float32(1) - part_x), part_y * part_x
    for p in range(len(target)):
        target[p] = a * nw[p] + b * ne[p] + c * sw[p] + d * se[p]


@njit(cache=True, nogil=True)
def render(phases, reach, cy, cx, work):
    """The disk centred on (cy, cx) and its derivatives to cy and cx, into the first rows of the scratch; first pixel."""
    over, width, length = phases.shape[1], 2 * reach + 3, work.shape[1]
    first_y, first_x = int(np.rint(cy)) - reach, int(np.rint(cx)) - reach
    place_y, place_x = (first_y - cy + reach + 1) * over, (first_x - cx + reach + 1) * over
    base_y, base_x = int(np.floor(place_y)), int(np.floor(place_x))
    part_y, part_x = np.float32(place_y - base_y), np.float32(place_x - base_x)
    starts = np.empty((2, 2), np.int64)
    for a in range(2):
        for b in range(2):
            starts[a, b] = (base_y + a) // over * width + (base_x + b) // over
    y0, y1, x0, x1 = base_y % over, (base_y + 1) % over, base_x % over, (base_x + 1) % over
    kept = length - 4
    for which in range(3):
        table = phases[which]
        _between(work[which, :kept], table[y0, x0].ravel()[starts[0, 0]:starts[0, 0] + kept],
                 table[y0, x1].ravel()[starts[0, 1]:starts[0, 1] + kept],
                 table[y1, x0].ravel()[starts[1, 0]:starts[1, 0] + kept],
                 table[y1, x1].ravel()[starts[1, 1]:starts[1, 1] + kept], part_y, part_x)
    return first_y, first_x


@njit(cache=True, nogil=True)
def gather(frame, background, first_y, first_x, middle_y, middle_x, window, reach, work):
    """Counts and background of the pixels within `window` of a middle; background 0 where a pixel is not used."""
    across, width = 2 * reach + 1, 2 * reach + 3
    counts, below = work[COUNT], work[BELOW]
    counts[:], below[:] = 0.0, 0.0
    for i in range(across):
        y = first_y + i
        rest = window * window - (y - middle_y)**2
        if y < 0 or y >= frame.shape[0] or rest < 0.0:
            continue
        half = np.sqrt(rest)
        low = max(int(np.ceil(middle_x - half)), first_x, 0)
        high = min(int(np.floor(middle_x + half)), first_x + across - 1, frame.shape[1] - 1)
        for x in range(low, high + 1):
            counts[i * width + x - first_x] = frame[y, x]
            below[i * width + x - first_x] = background[y, x]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _scale(target, one, factor):
    for p in range(len(target)):
        target[p] = one[p] * factor


@njit(cache=True, nogil=True, fastmath=_FAST)
def _product(target, one, other):
    for p in range(len(target)):
        target[p] = one[p] * other[p]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _dot(one, other):
    total = np.float32(0)
    for p in range(len(one)):
        total += one[p] * other[p]
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _weigh(weight, rest, light, below, count, level, gain, readout):
    """1 / variance and residual of each pixel, from the disk's expected counts `light` and the background.

    No template is known better than to `_KNOWN` of its brightest pixel: on a dark background its rim would weigh without bound.
    """
    top = np.float32(0)
    for p in range(len(light)):
        top = max(top, light[p])
    for p in range(len(weight)):
        dark = level * below[p]
        expected = max(light[p] + dark, np.float32(0.01) * dark + np.float32(1e-20))
        variance = gain * max(expected, _KNOWN * top) + readout
        weight[p] = np.float32(1) / variance if below[p] > np.float32(0) else np.float32(0)
        rest[p] = count[p] - expected


@njit(cache=True, nogil=True)
def _final_sums(below, count, weight, rest, level, gain, sums):
    for p in range(len(below)):
        if below[p] > 0.0:
            dark = level * below[p]
            expected = count[p] - rest[p]
            sums[0] += (count[p] * np.log(expected / dark) - (expected - dark)) / gain
            sums[1] += weight[p] * rest[p]**2
            sums[2] += 1.0


@njit(cache=True, nogil=True)
def _contrast(work, amplitudes, terms, radius, reach, first_y, first_x, cy, cx):
    """Expected counts of a disk whose inside is a polynomial, its derivatives to the place, and the polynomials' disks.

    A polynomial falls below zero nowhere: there the disk has `_FLOOR` of its mean, and no slope.
    """
    width, flat = 2 * reach + 3, amplitudes[0]
    value, light = work[VALUE], work[LIGHT]
    for p in range(work.shape[1]):
        work[VECTORS + 2, p] = value[p]
        ry, rx = (first_y + p // width - cy) / radius, (first_x + p % width - cx) / radius
        inside, lean_y, lean_x = flat + amplitudes[1] * ry + amplitudes[2] * rx, amplitudes[1], amplitudes[2]
        work[VECTORS + 3, p], work[VECTORS + 4, p] = value[p] * ry, value[p] * rx
        if terms > 3:
            bowl, cross, skew = ry * ry + rx * rx - 0.5, ry * ry - rx * rx, 2 * ry * rx
            inside += amplitudes[3] * bowl + amplitudes[4] * cross + amplitudes[5] * skew
            lean_y += 2 * ((amplitudes[3] + amplitudes[4]) * ry + amplitudes[5] * rx)
            lean_x += 2 * ((amplitudes[3] - amplitudes[4]) * rx + amplitudes[5] * ry)
            work[VECTORS + 5, p], work[VECTORS + 6, p] = value[p] * bowl, value[p] * cross
            work[VECTORS + 7, p] = value[p] * skew
        if inside < _FLOOR * flat:
            inside, lean_y, lean_x = _FLOOR * flat, 0.0, 0.0
            work[VECTORS + 2, p] = _FLOOR * value[p]
            for t in range(3, terms + 2):
                work[VECTORS + t, p] = 0.0
        light[p] = inside * value[p]
        work[VECTORS, p] = work[SLOPE_Y, p] * inside - value[p] * lean_y / radius
        work[VECTORS + 1, p] = work[SLOPE_X, p] * inside - value[p] * lean_x / radius


@njit(cache=True, nogil=True)
def disk_normal(frame, background, phases, reach, radius, window, middle, cy, cx, amplitudes, terms, level, common,
                gain, readout, work, normal, score, sums, final):
    """Fisher information and score of one disk: place (y, x), `terms` amplitudes of its polynomials, local background.

    Parameters
    ----------
    background : (rows, columns) shape of the background; 0 where a pixel is not used.
    window, middle : radius and centre (2,) of the pixels that are used [pixel].
    level, common : of the local background and of the pattern's, in units of `background`.
    gain, readout : counts an electron; variance of the readout [counts^2].
    work : (WORK, (2 reach + 1) (2 reach + 3)) float32 scratch, zero at first.
    normal, score : (terms + 3, terms + 3) and (terms + 3,), set.
    sums : where `final`, the three `PIXEL_SUMS` are added.
    """
    size = terms + 3
    first_y, first_x = render(phases, reach, cy, cx, work)
    gather(frame, background, first_y, first_x, middle[0], middle[1], window, reach, work)
    light = work[LIGHT]
    if terms == 1:
        flat = np.float32(amplitudes[0])
        _scale(light, work[VALUE], flat)
        _scale(work[VECTORS], work[SLOPE_Y], flat)
        _scale(work[VECTORS + 1], work[SLOPE_X], flat)
        work[VECTORS + 2, :] = work[VALUE]
    else:
        _contrast(work, amplitudes, terms, radius, reach, first_y, first_x, cy, cx)
    work[VECTORS + size - 1, :] = work[BELOW]
    _weigh(work[WEIGHT], work[REST], light, work[BELOW], work[COUNT], np.float32(level), np.float32(gain), np.float32(readout))
    if final:
        _final_sums(work[BELOW], work[COUNT], work[WEIGHT], work[REST], common, gain, sums)
    for i in range(size):
        _product(work[WEIGHTED], work[VECTORS + i], work[WEIGHT])
        score[i] = _dot(work[WEIGHTED], work[REST])
        for j in range(i + 1):
            normal[i, j] = _dot(work[WEIGHTED], work[VECTORS + j])
            normal[j, i] = normal[i, j]


@njit(cache=True, nogil=True)
def eliminate(normal, score, terms, scatter, effective, pull, tail):
    """Part of a disk's information that is about its place, its amplitudes and background being unknown.

    Parameters
    ----------
    scatter : variance of the disk's place about the lattice [pixel^2].
    effective, pull : (2, 2) information and (2,) score of the lattice's place of this disk, set.
    tail : (terms + 1, terms + 4) set: amplitudes' inverse matrix times (cross terms, score), then the inverse itself.

    Returns the displacement's chi-square, or -1 where there is no information.
    """
    size = terms + 1
    inner = normal[2:, 2:].copy()
    for i in range(size):
        tail[i, :] = 0.0
        tail[i, 0], tail[i, 1], tail[i, 2], tail[i, 3 + i] = normal[2 + i, 0], normal[2 + i, 1], score[2 + i], 1.0
    if not solve(inner, size, tail, size + 3):
        effective[:], pull[:] = 0.0, 0.0
        return -1.0
    for i in range(2):
        pull[i] = score[i]
        for k in range(size):
            pull[i] -= normal[i, 2 + k] * tail[k, 2]
        for j in range(2):
            effective[i, j] = normal[i, j]
            for k in range(size):
                effective[i, j] -= normal[i, 2 + k] * tail[k, j]
    a, b, d = effective[0, 0], effective[0, 1], effective[1, 1]
    determinant = a * d - b * b
    if not (a > 0.0 and d > 0.0 and determinant > 1e-9 * a * d):
        effective[:], pull[:] = 0.0, 0.0
        return -1.0
    shift_y, shift_x = (d * pull[0] - b * pull[1]) / determinant, (a * pull[1] - b * pull[0]) / determinant
    # information of the lattice: (inverse information + scatter)^-1
    yy, yx, xx = d / determinant + scatter, -b / determinant, a / determinant + scatter
    volume = yy * xx - yx * yx
    effective[0, 0], effective[0, 1], effective[1, 0], effective[1, 1] = xx / volume, -yx / volume, -yx / volume, yy / volume
    pull[0] = effective[0, 0] * shift_y + effective[0, 1] * shift_x
    pull[1] = effective[1, 0] * shift_y + effective[1, 1] * shift_x
    return shift_y * pull[0] + shift_x * pull[1]
