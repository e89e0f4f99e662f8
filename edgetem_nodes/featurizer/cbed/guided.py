"""The lattice of a pattern whose single disks hardly stand out: known lattices are turned and stretched over all disks at once.

A sheet of one atom's thickness puts some ten of 1e4 electrons into a disk, which is nothing by itself; twelve disks together
are found. Vectors (y, x); the map of significance is that of `peaks`, in binned pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

STRAIN = 0.04
"""By how much known lattices are stretched and shrunk."""
_REACH = 3.5
"""Radius within which reflections count, over the length of the shortest reciprocal vector."""
_MOST = 60
CLIP = 6.0
"""Standard errors for which a disk counts at most: one strong feature is no lattice."""
_HOPELESS, _WORTH = 0.35, 3.5
"""A turn is given up where its six nearest disks reach less than this part of the best so far, or of what is worth a try."""
_STEP = 0.6
"""Step of turn and stretch at the outermost reflection [radii]."""


@njit(cache=True, nogil=True)
def _at(score, y, x):
    """Significance at a place; NaN where it was not computed."""
    i, j = int(np.rint(y)), int(np.rint(x))
    if i < 1 or j < 1 or i > score.shape[0] - 2 or j > score.shape[1] - 2:
        return np.nan
    return score[i, j]


@njit(cache=True, nogil=True)
def ordered_nodes(basis, nodes):
    """Reflections within reach, nearest first, in place (_MOST, 2); their number."""
    shortest = min(np.hypot(basis[0, 0], basis[1, 0]), np.hypot(basis[0, 1], basis[1, 1]))
    found = np.empty((169, 3))
    count = 0
    for h in range(-6, 7):
        for k in range(-6, 7):
            length = np.hypot(h * basis[0, 0] + k * basis[0, 1], h * basis[1, 0] + k * basis[1, 1])
            if (h != 0 or k != 0) and length <= _REACH * shortest:
                found[count, 0], found[count, 1], found[count, 2] = length, h, k
                count += 1
    order = np.argsort(found[:count, 0], kind="mergesort")
    kept = min(count, _MOST)
    for n in range(kept):
        nodes[n, 0], nodes[n, 1] = found[order[n], 1], found[order[n], 2]
    return kept


@njit(cache=True, nogil=True)
def smallest_turn(basis):
    """Turn [rad] that takes a reduced lattice into itself."""
    a, b = np.hypot(basis[0, 0], basis[1, 0]), np.hypot(basis[0, 1], basis[1, 1])
    cosine = (basis[0, 0] * basis[0, 1] + basis[1, 0] * basis[1, 1]) / (a * b)
    if abs(a - b) > 0.02 * a:
        return np.pi
    if abs(abs(cosine) - 0.5) < 0.02:
        return np.pi / 3
    return np.pi / 2 if abs(cosine) < 0.02 else np.pi


@njit(cache=True, nogil=True)
def joint_significance(score, centre, basis, nodes, count, hopeless=0.0):
    """Standard errors by which the reflections of a lattice stand out together, of the nearest 4, 6, ... or all.

    It is given up where the nearest 6 together stand out by less than `hopeless`.
    """
    total, best, used = 0.0, 0.0, 0
    for n in range(count):
        if used == 6 and total < hopeless * 2.449:
            return best
        value = _at(score, centre[0] + nodes[n, 0] * basis[0, 0] + nodes[n, 1] * basis[0, 1],
                    centre[1] + nodes[n, 0] * basis[1, 0] + nodes[n, 1] * basis[1, 1])
        if np.isfinite(value):
            total += min(max(value, -2.0), CLIP)
            used += 1
        if used >= 4 and (n % 2 == 1 or n == count - 1):
            best = max(best, total / np.sqrt(used))
    return best


@njit(cache=True, nogil=True)
def guided_lattice(score, radius, centre, references, lattice):
    """The known lattice that stands out most, in place (6,) [binned pixel]; its joint significance.

    Parameters
    ----------
    score, radius : the map, and radius of a disk.
    centre : (2,) of the direct beam.
    references : (n, 2, 2) known reciprocal lattices, undeformed, as columns.
    """
    nodes = np.zeros((_MOST, 2))
    best = 0.0
    kept, basis = np.zeros((2, 2)), np.zeros((2, 2))
    for number in range(len(references)):
        known = np.ascontiguousarray(references[number])
        count = ordered_nodes(known, nodes)
        far = 0.0
        for n in range(min(count, 12)):
            far = max(far, np.hypot(nodes[n, 0] * known[0, 0] + nodes[n, 1] * known[0, 1],
                                    nodes[n, 0] * known[1, 0] + nodes[n, 1] * known[1, 1]))
        step = _STEP * radius / far
        whole = smallest_turn(known)
        turns = int(np.ceil(whole / step))
        stretches = int(np.ceil(STRAIN / step))
        for s in range(-stretches, stretches + 1):
            scale = 1.0 + STRAIN * s / max(stretches, 1)
            for t in range(turns):
                angle = whole * t / turns
                c, d = scale * np.cos(angle), scale * np.sin(angle)
                for k in range(2):
                    basis[0, k] = c * known[0, k] + d * known[1, k]
                    basis[1, k] = c * known[1, k] - d * known[0, k]
                value = joint_significance(score, centre, basis, nodes, min(count, 24), _HOPELESS * max(best, _WORTH))
                if value > best:
                    best = value
                    kept[:] = basis
    lattice[0], lattice[3] = centre
    lattice[1], lattice[2], lattice[4], lattice[5] = kept[0, 0], kept[0, 1], kept[1, 0], kept[1, 1]
    if best > 0.0:
        _pull(score, radius, lattice, nodes)
    return best


@njit(cache=True, nogil=True)
def _pull(score, radius, lattice, nodes):
    """Least squares of the two vectors, in place, on the highest place within a radius of each reflection."""
    basis = np.array([[lattice[1], lattice[2]], [lattice[4], lattice[5]]])
    count = min(ordered_nodes(basis, nodes), 24)
    normal, right = 4.0 * np.eye(2), 4.0 * basis.T.copy()
    reach = int(np.ceil(0.8 * radius))
    for n in range(count):
        y = lattice[0] + nodes[n, 0] * basis[0, 0] + nodes[n, 1] * basis[0, 1]
        x = lattice[3] + nodes[n, 0] * basis[1, 0] + nodes[n, 1] * basis[1, 1]
        top, v, u = 1.5, 0.0, 0.0
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                value = _at(score, y + i, x + j)
                if np.isfinite(value) and value > top:
                    top, v, u = value, np.rint(y + i), np.rint(x + j)
        if top > 1.5:
            weight = min(top, CLIP)**2 / 9.0
            place = np.array([v - lattice[0], u - lattice[3]])
            for i in range(2):
                for j in range(2):
                    normal[i, j] += weight * nodes[n, i] * nodes[n, j]
                    right[i, j] += weight * nodes[n, i] * place[j]
    solution = np.linalg.solve(normal, right)
    lattice[1], lattice[2], lattice[4], lattice[5] = solution[0, 0], solution[1, 0], solution[0, 1], solution[1, 1]
