"""Counts in cells about a disk, from a summed-area table: the same numbers for any pixel size and disk radius.

A frame is taken as a density that is constant over each pixel, so a rectangle anywhere holds an exact sum of counts. Lengths
are pixels, vectors (y, x); lattices are six numbers, (centre, a*, b*) of y and then of x.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CELLS, REACH = 11, 1.65
"""Cells along a side of the square about a disk, and its half side [radii of the disk]."""
INNER_CELLS, INNER_REACH = 5, 0.75
"""The same for what the inside of a disk looks like."""
FINE_CELLS, FINE_REACH = 13, 1.35
"""The same where the lattice is known already: smaller cells show more of a disk's edge."""
DISKS = 32
"""Most disks of a pattern that are looked at."""
DISK_SQUARE, RING_SQUARE = 0.886, 1.45
"""Half sides of a square of a disk's area, and of one that holds what is about it [radii]."""
SCALARS = 7
GEOMETRY = 9
"""Numbers that say which reflection a disk is, and under which beam."""
FARTHEST = 9
"""Largest index of a reflection."""


@njit(cache=True, nogil=True)
def summed_area(frame):
    """Sums (rows + 1, columns + 1) of everything above and left of each pixel corner."""
    rows, columns = frame.shape
    table = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        total = 0.0
        for j in range(columns):
            total += frame[i, j]
            table[i + 1, j + 1] = table[i, j + 1] + total
    return table


@njit(cache=True, nogil=True)
def _split(place, size):
    """Index and fraction of a place along an axis of a table of this size, in pixels of which 0 is the middle of the first."""
    place = min(max(place + 0.5, 0.0), size - 1.0)
    index = min(int(place), size - 2)
    return index, place - index


@njit(cache=True, nogil=True)
def _corner(table, y, x):
    """The table at any place."""
    (i, v), (j, u) = _split(y, table.shape[0]), _split(x, table.shape[1])
    return (1 - v) * ((1 - u) * table[i, j] + u * table[i, j + 1]) + v * ((1 - u) * table[i + 1, j] + u * table[i + 1, j + 1])


@njit(cache=True, nogil=True)
def box(table, y, x, half):
    """Counts in the square of half a side `half` about a place."""
    return (_corner(table, y + half, x + half) - _corner(table, y - half, x + half)
            - _corner(table, y + half, x - half) + _corner(table, y - half, x - half))


@njit(cache=True, nogil=True)
def choose_disks(table, lattice, radius, most, index):
    """Indices (most, 2), in place, of the reflections that stand out most; their number.

    A reflection counts if its disk lies on the detector. What stands out is judged by the counts in a square of the disk's
    area against those in the frame about it.
    """
    inner, outer = DISK_SQUARE * radius, RING_SQUARE * radius
    ratio = inner**2 / (outer**2 - inner**2)
    count = 0
    found = np.empty(((2 * FARTHEST + 1)**2, 3))
    for h in range(-FARTHEST, FARTHEST + 1):
        for k in range(-FARTHEST, FARTHEST + 1):
            y = lattice[0] + h * lattice[1] + k * lattice[2]
            x = lattice[3] + h * lattice[4] + k * lattice[5]
            if y < radius - 0.5 or x < radius - 0.5 or y > table.shape[0] - 1.5 - radius or x > table.shape[1] - 1.5 - radius:
                continue
            inside = box(table, y, x, inner)
            about = box(table, y, x, outer) - inside
            found[count, 0] = -(inside - ratio * about) / np.sqrt(inside + ratio**2 * about + 1.0)
            found[count, 1], found[count, 2] = h, k
            count += 1
    order = np.argsort(found[:count, 0], kind="mergesort")
    kept = min(count, most)
    for n in range(kept):
        index[n, 0], index[n, 1] = found[order[n], 1], found[order[n], 2]
    return kept


@njit(cache=True, nogil=True)
def sample_disk(table, y, x, radius, total, row, cells=CELLS, reach=REACH):
    """What a disk network sees of the disk about a place, in place in `row` (cells**2 + SCALARS,)."""
    edges = cells + 1
    half = reach * radius
    corners, columns, parts = np.empty((edges, edges)), np.empty(edges, np.int64), np.empty(edges)
    for j in range(edges):
        columns[j], parts[j] = _split(x - half + 2 * half * j / cells, table.shape[1])
    for i in range(edges):
        row_above, v = _split(y - half + 2 * half * i / cells, table.shape[0])
        above, below = table[row_above], table[row_above + 1]
        for j in range(edges):
            k, u = columns[j], parts[j]
            corners[i, j] = (1 - v) * ((1 - u) * above[k] + u * above[k + 1]) + v * ((1 - u) * below[k] + u * below[k + 1])
    counts = 0.0
    for i in range(cells):
        for j in range(cells):
            value = max(corners[i + 1, j + 1] - corners[i, j + 1] - corners[i + 1, j] + corners[i, j], 0.0)
            row[i * cells + j] = value
            counts += value
    scale = 1.0 / (counts / cells**2 + 0.05)
    for n in range(cells**2):
        row[n] = np.sqrt(row[n] * scale) - 0.8
    inside = box(table, y, x, DISK_SQUARE * radius)
    n = cells**2
    row[n] = np.log(counts + 1.0) / 3.0 - 1.5
    row[n + 1] = np.log((counts + 1.0) / (total + 1.0)) / 3.0 + 1.0
    row[n + 2] = inside / (counts + 1.0)
    row[n + 3] = np.log(radius) - 1.2
    row[n + 4] = (y - np.floor(y + 0.5)) * 2.0 / radius
    row[n + 5] = (x - np.floor(x + 0.5)) * 2.0 / radius
    row[n + 6] = 1.0 / radius


@njit(cache=True, nogil=True)
def sample_lattice(table, lattice, radius, total, index, count, rows):
    """`sample_disk` for `count` reflections of a lattice."""
    for n in range(count):
        h, k = index[n, 0], index[n, 1]
        sample_disk(table, lattice[0] + h * lattice[1] + k * lattice[2], lattice[3] + h * lattice[4] + k * lattice[5], radius,
                    total, rows[n])
    for n in range(count, len(rows)):
        rows[n] = 0.0


@njit(cache=True, nogil=True)
def sample_finely(table, lattice, radius, total, beam, index, count, rows):
    """What the refining network sees of `count` disks of a lattice, in place (disks, FINE_CELLS**2 + SCALARS + GEOMETRY).

    beam : (3,) reciprocal nanometres of a pixel, high tension [V], semi-convergence angle [rad].
    """
    first = FINE_CELLS**2 + SCALARS
    for n in range(count):
        h, k = index[n, 0], index[n, 1]
        v, u = h * lattice[1] + k * lattice[2], h * lattice[4] + k * lattice[5]
        row = rows[n]
        sample_disk(table, lattice[0] + v, lattice[3] + u, radius, total, row[:first], FINE_CELLS, FINE_REACH)
        row[first], row[first + 1] = v * beam[0] / 8.0, u * beam[0] / 8.0
        row[first + 2], row[first + 3] = v / radius / 10.0, u / radius / 10.0
        row[first + 4] = (v * v + u * u) * beam[0]**2 / 64.0
        row[first + 5] = 1.0 if h == 0 and k == 0 else 0.0
        row[first + 6] = np.log10(total + 1.0) / 2.0 - 2.0
        row[first + 7], row[first + 8] = beam[1] / 2e5 - 0.8, beam[2] * 1e3 - 2.0
    for n in range(count, len(rows)):
        rows[n] = 0.0


@njit(cache=True, nogil=True)
def _density(frame, y, x):
    """Bilinear interpolation; 0 off the detector."""
    i, j = int(np.floor(y)), int(np.floor(x))
    if i < 0 or j < 0 or i > frame.shape[0] - 2 or j > frame.shape[1] - 2:
        return 0.0
    v, u = y - i, x - j
    return (1 - v) * ((1 - u) * frame[i, j] + u * frame[i, j + 1]) + v * ((1 - u) * frame[i + 1, j] + u * frame[i + 1, j + 1])


@njit(cache=True, nogil=True)
def sample_inside(frame, y, x, cosine, sine, radius, out):
    """Mean counts a pixel in INNER_CELLS x INNER_CELLS cells of a disk, in place (INNER_CELLS**2,), in axes turned from x
    towards y by the angle of `cosine` and `sine`."""
    fine = 2 * INNER_CELLS
    step = 2 * INNER_REACH * radius / fine
    out[:] = 0.0
    for i in range(fine):
        v = (i + 0.5 - INNER_CELLS) * step
        for j in range(fine):
            u = (j + 0.5 - INNER_CELLS) * step
            out[(i // 2) * INNER_CELLS + j // 2] += 0.25 * _density(frame, y + v * cosine + u * sine, x + u * cosine - v * sine)
