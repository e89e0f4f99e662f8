"""What the disks of a pattern look like inside, in the axes of its own lattice: input of the pattern network.

Axes are turned so that the first reduced reciprocal vector lies along x: the network need not learn that a pattern turns with
the specimen. What a disk holds is a part of the counts of the pattern, so that dose does not matter but through noise, and is
compared with the other diffracted disks and with the opposite one (Friedel's law is broken by tilt, and by columns of unlike
atoms); what it looks like inside is relative to its own mean, so that weak disks are seen as well.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.cbed.networks import CONTEXT, INSIDE_INPUTS
from edgetem_nodes.featurizer.cbed.sampling import DISK_SQUARE, INNER_CELLS, RING_SQUARE, box, sample_inside, summed_area

MOST = 24
"""Most disks that the pattern network sees."""


@njit(cache=True, nogil=True)
def _one(frame, table, lattice, index, count, radius, nanometre, total, disks):
    """Disks of a pattern, in place (MOST, INSIDE_INPUTS); returns cosine and sine of the lattice's angle, and their number."""
    length = np.hypot(lattice[1], lattice[4])
    cosine, sine = lattice[4] / length, lattice[1] / length
    kept = 0
    cells = INNER_CELLS**2
    area = np.pi * radius**2
    for n in range(count):
        if kept == MOST:
            break
        h, k = index[n, 0], index[n, 1]
        v, u = h * lattice[1] + k * lattice[2], h * lattice[4] + k * lattice[5]
        y, x = lattice[0] + v, lattice[3] + u
        row = disks[kept]
        sample_inside(frame, y, x, cosine, sine, radius, row[:cells])
        inside = box(table, y, x, DISK_SQUARE * radius)
        about = (box(table, y, x, RING_SQUARE * radius) - inside) / (RING_SQUARE**2 / DISK_SQUARE**2 - 1.0)
        mean = 0.05 / area
        for m in range(cells):
            mean += row[m] / cells
        for m in range(cells):
            row[m] = np.sqrt(max(row[m], 0.0) / mean) - 0.8
        row[cells] = np.sqrt(max(inside, 0.0) / total) * 4.0
        row[cells + 1] = np.sqrt(max(about, 0.0) / total) * 4.0
        row[cells + 2] = np.log((max(inside - about, 0.0) + 0.5) / total) / 3.0 + 1.5
        gy, gx = (v * cosine - u * sine) * nanometre, (u * cosine + v * sine) * nanometre
        row[cells + 3], row[cells + 4] = gy / 8.0, gx / 8.0
        row[cells + 5] = (gy**2 + gx**2) / 64.0
        row[cells + 6] = 1.0 if h == 0 and k == 0 else 0.0
        row[cells + 7] = max(inside - about, 0.0)
        kept += 1
    diffracted, others = 0.0, 0.0
    for n in range(kept):
        diffracted += disks[n, cells + 7] * (1.0 - disks[n, cells + 6])
        others += 1.0 - disks[n, cells + 6]
    mean = diffracted / max(others, 1.0) + 0.5
    for n in range(kept):
        disks[n, cells + 8], disks[n, cells + 9] = 0.0, 0.0
        for m in range(kept):
            if index[n, 0] == -index[m, 0] and index[n, 1] == -index[m, 1] and n != m:
                one, other = disks[n, cells + 7], disks[m, cells + 7]
                disks[n, cells + 8] = (one - other) / (one + other + 1.0)
                disks[n, cells + 9] = np.sqrt(np.abs(one - other) / (one + other + 1.0))
    for n in range(kept):
        disks[n, cells + 7] = (np.sqrt(disks[n, cells + 7] / mean) - 1.0) * (1.0 - disks[n, cells + 6])
    return cosine, sine, kept


@njit(cache=True, nogil=True)
def inside_rows(frames, lattice, index, count, radii, nanometre, tension, angle, total, search, disks, present, context, axes):
    """Inputs of the pattern network, in place; patterns without a lattice (NaN) get none.

    Parameters
    ----------
    search : (rows, 5) as `search_figures`.
    nanometre : (rows,) reciprocal nanometres of a pixel. tension : (rows,) [V]. angle : (rows,) semi-convergence [rad].
    axes : (rows, 2) cosine and sine of the lattice's angle, from x towards y.
    """
    for row in range(len(frames)):
        disks[row], present[row], context[row] = 0.0, 0.0, 0.0
        axes[row, 0], axes[row, 1] = 1.0, 0.0
        if not np.isfinite(lattice[row, 0]):
            continue
        axes[row, 0], axes[row, 1], kept = _one(frames[row], summed_area(frames[row]), lattice[row], index[row], count[row],
                                                radii[row], nanometre[row], total[row] + 1.0, disks[row])
        for n in range(kept):
            present[row, n] = 1.0
        one = context[row]
        a = np.hypot(lattice[row, 1], lattice[row, 4]) * nanometre[row]
        b = np.hypot(lattice[row, 2], lattice[row, 5]) * nanometre[row]
        dot = (lattice[row, 1] * lattice[row, 2] + lattice[row, 4] * lattice[row, 5]) * nanometre[row]**2
        one[0] = np.log10(total[row] + 1.0) / 2.0 - 2.0
        one[1], one[2] = tension[row] / 2e5 - 0.8, angle[row] * 1e3 - 2.0
        one[3], one[4], one[5] = (a - 4.5) / 1.5, (b - 4.5) / 1.5, dot / (a * b) * 2.0
        one[6] = np.log(radii[row]) - 1.2
        one[7] = nanometre[row] * radii[row] * 2.0 / a
        one[8] = kept / MOST
        for n in range(5):
            one[9 + n] = search[row, n]


def search_figures(share, clear, peaks, strongest, joint):
    """How well a lattice was found, for the pattern network (rows, 5): see `Lattices` for each."""
    return np.stack([2 * share - 1, 2 * clear - 1, peaks / 20.0 - 1, np.log1p(np.maximum(strongest, 0.0)) / 2 - 1.5,
                     np.log1p(np.maximum(joint, 0.0)) / 2 - 1.5], axis=1)


def allocated(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arrays for disks, presence, context and axes of so many patterns."""
    return (np.zeros((rows, MOST, INSIDE_INPUTS), np.float32), np.zeros((rows, MOST), np.float32),
            np.zeros((rows, CONTEXT), np.float32), np.zeros((rows, 2)))
