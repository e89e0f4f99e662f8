"""What a pattern holds beside the lattice that was found: the disks of a second crystal, or the rings of many.

Both are looked for in the map of significance of `peaks`, in binned pixels, away from the disks of the lattice. Vectors (y, x).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.cbed.guided import CLIP, smallest_turn

_APART = 2.0
"""Distance from a disk's middle within which what is seen may be of that disk [radii]."""
_STEP = 0.6
"""Step of turns at the twelfth reflection [radii]."""
_ENOUGH, _HOPELESS, _WORTH = 6, 0.35, 3.5
"""Reflections after which a turn is given up that reaches less than this part of the best, or of what is worth a look."""
_FEWEST = 4
"""Reflections, or places on a circle, of which a mean is taken."""
_ON_CIRCLES = 24
"""Nearest reflections that are compared with the circle they lie on."""


@njit(cache=True, nogil=True)
def beside(score, centre, basis, radius):
    """A copy of the map with NaN where a disk of the lattice is, and where the map ends."""
    rows, columns = score.shape
    result = score.copy()
    rim, near = int(np.floor(radius + 0.3)), _APART * radius
    result[:rim], result[rows - rim:], result[:, :rim], result[:, columns - rim:] = np.nan, np.nan, np.nan, np.nan
    area = abs(basis[0, 0] * basis[1, 1] - basis[0, 1] * basis[1, 0])
    far = np.hypot(rows, columns)
    most_h = int(far * np.hypot(basis[0, 1], basis[1, 1]) / area) + 1
    most_k = int(far * np.hypot(basis[0, 0], basis[1, 0]) / area) + 1
    for h in range(-most_h, most_h + 1):
        for k in range(-most_k, most_k + 1):
            y = centre[0] + h * basis[0, 0] + k * basis[0, 1]
            x = centre[1] + h * basis[1, 0] + k * basis[1, 1]
            if y < -near or x < -near or y > rows + near or x > columns + near:
                continue
            for i in range(max(int(np.ceil(y - near)), 0), min(int(y + near), rows - 1) + 1):
                half = np.sqrt(max(near**2 - (i - y)**2, 0.0))
                result[i, max(int(np.ceil(x - half)), 0):min(max(int(x + half), -1), columns - 1) + 1] = np.nan
    return result


@njit(cache=True, nogil=True)
def _there(score, y, x):
    """What counts of the map at a place; NaN off it."""
    i, j = int(np.rint(y)), int(np.rint(x))
    if i < 0 or j < 0 or i >= score.shape[0] or j >= score.shape[1]:
        return np.nan
    return min(max(score[i, j], -2.0), CLIP)


@njit(cache=True, nogil=True)
def second_lattice(others, centre, basis, radius, nodes, count):
    """Standard errors by which the lattice stands out when it is turned, at the best turn, where it does not fall on itself.

    Parameters
    ----------
    others : of `beside`. nodes, count : of `ordered_nodes`.
    """
    far = 0.0
    for n in range(min(count, 12)):
        far = max(far, np.hypot(nodes[n, 0] * basis[0, 0] + nodes[n, 1] * basis[0, 1],
                                nodes[n, 0] * basis[1, 0] + nodes[n, 1] * basis[1, 1]))
    whole = smallest_turn(basis)
    turns, best = int(np.ceil(whole * far / (_STEP * radius))), 0.0
    for t in range(1, turns):
        c, d = np.cos(whole * t / turns), np.sin(whole * t / turns)
        ay, ax = c * basis[0, 0] + d * basis[1, 0], c * basis[1, 0] - d * basis[0, 0]
        by, bx = c * basis[0, 1] + d * basis[1, 1], c * basis[1, 1] - d * basis[0, 1]
        total, used = 0.0, 0
        for n in range(count):
            value = _there(others, centre[0] + nodes[n, 0] * ay + nodes[n, 1] * by,
                           centre[1] + nodes[n, 0] * ax + nodes[n, 1] * bx)
            if np.isnan(value):
                continue
            total += value
            used += 1
            if used >= _FEWEST:
                best = max(best, total / np.sqrt(used))
            if used == _ENOUGH and total < _HOPELESS * max(best, _WORTH) * np.sqrt(_ENOUGH):
                break
    return best


@njit(cache=True, nogil=True)
def ring_share(score, others, centre, basis, radius, nodes, count):
    """How much of what stands out at reflections stands out all along the circles on which they lie: near 0 for a crystal,
    near 1 for rings, on which a lattice can be found anywhere. Arguments as of `second_lattice`, and the whole map."""
    on, along = 0.0, 0.0
    for n in range(min(count, _ON_CIRCLES)):
        h, k = nodes[n, 0], nodes[n, 1]
        if h < 0 or (h == 0 and k < 0):
            continue
        v, u = h * basis[0, 0] + k * basis[0, 1], h * basis[1, 0] + k * basis[1, 1]
        own, seen = 0.0, 0
        for sign in (-1, 1):
            value = _there(score, centre[0] + sign * v, centre[1] + sign * u)
            if not np.isnan(value):
                own += value
                seen += 1
        steps = int(np.ceil(2 * np.pi * np.hypot(v, u) / radius))
        c, d = np.cos(2 * np.pi / steps), np.sin(2 * np.pi / steps)
        total, used = 0.0, 0
        for _ in range(steps):
            v, u = c * v + d * u, c * u - d * v
            value = _there(others, centre[0] + v, centre[1] + u)
            if not np.isnan(value):
                total += value
                used += 1
        if seen > 0 and used >= _FEWEST:
            on += own / seen
            along += total / used
    return along / max(on, 1.0)
