"""The lattice on which the disks of a pattern lie, its origin near the undeflected beam. Vectors (y, x) [pixel]."""

from __future__ import annotations

import numpy as np
from numba import njit

CANDIDATES = 16
_STRONGEST = 18
_AGREEMENT = 0.92
"""Part of the best lattice's explained weight that one of a larger cell must explain to be preferred."""


@njit(cache=True, nogil=True)
def reduce_basis(a, b):
    """Lagrange's reduction, in place: the two shortest vectors, `b` at 90 to 120 degrees from `a`, from x towards y."""
    for _ in range(50):
        if a[0]**2 + a[1]**2 > b[0]**2 + b[1]**2:
            for n in range(2):
                a[n], b[n] = b[n], a[n]
        whole = np.rint((a[0] * b[0] + a[1] * b[1]) / (a[0]**2 + a[1]**2))
        if whole == 0:
            break
        b[0] -= whole * a[0]
        b[1] -= whole * a[1]
    if a[0] * b[1] - a[1] * b[0] > 0:  # b to the wrong side: as many turns from x towards y have a negative (y, x) determinant
        b[0], b[1] = -b[0], -b[1]
    # nearly square lattices stay at 90 degrees, whatever noise says
    if a[0] * b[0] + a[1] * b[1] > 0.05 * (a[0]**2 + a[1]**2):
        b[0] -= a[0]
        b[1] -= a[1]


@njit(cache=True, nogil=True)
def _differences(places, weights, count, tolerance, shortest, vectors):
    """Likely lattice vectors (CANDIDATES, 2), in place: frequent and short differences of peaks; their number."""
    used = min(count, _STRONGEST)
    most = used * (used - 1) // 2
    differences, strength = np.empty((most, 2)), np.empty(most)
    n = 0
    for i in range(used):
        for j in range(i + 1, used):
            y, x = places[j, 0] - places[i, 0], places[j, 1] - places[i, 1]
            if np.hypot(y, x) < shortest:
                continue
            if y < -1e-9 or (abs(y) <= 1e-9 and x < 0):
                y, x = -y, -x
            differences[n, 0], differences[n, 1] = y, x
            strength[n] = min(min(weights[i], weights[j]), 30.0)
            n += 1
    groups, sums = np.zeros((most, 2)), np.zeros(most)
    filled = 0
    order = np.argsort(differences[:n, 0]**2 + differences[:n, 1]**2, kind="mergesort")
    for m in order:
        y, x = differences[m, 0], differences[m, 1]
        near = -1
        for g in range(filled):
            v, u = groups[g, 0] / sums[g], groups[g, 1] / sums[g]
            if np.hypot(v - y, u - x) < tolerance:
                near = g
                break
            if np.hypot(v + y, u + x) < tolerance:
                near, y, x = g, -y, -x
                break
        if near < 0:
            near = filled
            filled += 1
        groups[near, 0] += strength[m] * y
        groups[near, 1] += strength[m] * x
        sums[near] += strength[m]
    rank = np.empty(filled)
    for g in range(filled):
        rank[g] = -sums[g] / (1.0 + np.hypot(groups[g, 0], groups[g, 1]) / sums[g])
    order = np.argsort(rank, kind="mergesort")
    kept = min(filled, len(vectors))
    for g in range(kept):
        vectors[g] = groups[order[g]] / sums[order[g]]
    return kept


@njit(cache=True, nogil=True)
def explained_share(places, weights, count, origin, a, b, tolerance):
    """Share of the peaks' weight within `tolerance` of the lattice, and the weighted mean square distance of those."""
    determinant = a[0] * b[1] - a[1] * b[0]
    good, whole, square = 0.0, 0.0, 0.0
    for n in range(count):
        y, x = places[n, 0] - origin[0], places[n, 1] - origin[1]
        h, k = (y * b[1] - x * b[0]) / determinant, (a[0] * x - a[1] * y) / determinant
        dh, dk = h - np.rint(h), k - np.rint(k)
        distance = (dh * a[0] + dk * b[0])**2 + (dh * a[1] + dk * b[1])**2
        weight = min(weights[n], 30.0)
        whole += weight
        if distance < tolerance**2:
            good += weight
            square += weight * distance
    return good / max(whole, 1e-9), square / max(good, 1e-9)


@njit(cache=True, nogil=True)
def _refined(places, weights, count, lattice, tolerance, reach):
    """One round of weighted least squares of the lattice, in place, on peaks with indices up to `reach`; whether it worked."""
    origin, a, b = lattice[::3], lattice[1::3], lattice[2::3]
    determinant = a[0] * b[1] - a[1] * b[0]
    normal, right = np.zeros((3, 3)), np.zeros((3, 2))
    used = 0
    design = np.ones(3)
    for n in range(count):
        y, x = places[n, 0] - origin[0], places[n, 1] - origin[1]
        h, k = (y * b[1] - x * b[0]) / determinant, (a[0] * x - a[1] * y) / determinant
        design[1], design[2] = np.rint(h), np.rint(k)
        if max(abs(design[1]), abs(design[2])) > reach:
            continue
        dh, dk = h - design[1], k - design[2]
        if (dh * a[0] + dk * b[0])**2 + (dh * a[1] + dk * b[1])**2 > tolerance**2:
            continue
        weight = min(weights[n], 30.0)
        used += 1
        for i in range(3):
            for j in range(3):
                normal[i, j] += weight * design[i] * design[j]
            for j in range(2):
                right[i, j] += weight * design[i] * places[n, j]
    if used < 3 or abs(np.linalg.det(normal)) < 1e-6 * normal[0, 0]**3:
        return False
    solution = np.linalg.solve(normal, right)
    for j in range(2):
        for i in range(3):
            lattice[3 * j + i] = solution[i, j]
    return True


@njit(cache=True, nogil=True)
def find_lattice(places, weights, count, radius, nominal, lattice):
    """The lattice (6,), in place, that explains most of the peaks' weight, of the largest cell; the share that it explains.

    0 where there are fewer than 3 peaks, or all of them lie on a line.
    """
    if count < 3:
        return 0.0
    tolerance = 0.4 * radius + 0.35
    vectors = np.zeros((CANDIDATES, 2))
    candidates = _differences(places, weights, count, 0.6 * radius + 0.35, 1.75 * radius, vectors)
    origin = places[0].copy()
    most = candidates * (candidates - 1) // 2
    pairs, scores, areas = np.zeros((most, 2), np.int64), np.zeros(most), np.zeros(most)
    n, best = 0, 0.0
    for i in range(candidates):
        for j in range(i + 1, candidates):
            a, b = vectors[i], vectors[j]
            area = abs(a[0] * b[1] - a[1] * b[0])
            if area < 0.4 * np.hypot(a[0], a[1]) * np.hypot(b[0], b[1]):
                continue
            share, square = explained_share(places, weights, count, origin, a, b, tolerance)
            pairs[n, 0], pairs[n, 1] = i, j
            scores[n], areas[n] = share - 0.15 * square / tolerance**2, area
            best = max(best, scores[n])
            n += 1
    if n == 0:
        return 0.0
    chosen, largest = -1, 0.0
    for m in range(n):
        if scores[m] >= _AGREEMENT * best and areas[m] * (0.5 + scores[m]) > largest:
            chosen, largest = m, areas[m] * (0.5 + scores[m])
    a, b = vectors[pairs[chosen, 0]].copy(), vectors[pairs[chosen, 1]].copy()
    reduce_basis(a, b)
    lattice[0], lattice[3] = origin[0], origin[1]
    lattice[1], lattice[4], lattice[2], lattice[5] = a[0], a[1], b[0], b[1]
    for reach in (1.5, 2.5, 4.5, 9.5):
        _refined(places, weights, count, lattice, 1.3 * tolerance, reach)
    a[0], a[1], b[0], b[1] = lattice[1], lattice[4], lattice[2], lattice[5]
    if abs(a[0] * b[1] - a[1] * b[0]) < radius**2:
        return 0.0
    reduce_basis(a, b)
    lattice[1], lattice[4], lattice[2], lattice[5] = a[0], a[1], b[0], b[1]
    share, _ = explained_share(places, weights, count, lattice[::3], a, b, tolerance)
    _move_origin(lattice, nominal)
    return share


@njit(cache=True, nogil=True)
def _move_origin(lattice, nominal):
    """Move the origin, in place, to the lattice's point nearest to where the undeflected beam should be."""
    y, x = nominal[0] - lattice[0], nominal[1] - lattice[3]
    determinant = lattice[1] * lattice[5] - lattice[4] * lattice[2]
    h = np.rint((y * lattice[5] - x * lattice[2]) / determinant)
    k = np.rint((lattice[1] * x - lattice[4] * y) / determinant)
    best, h0, k0 = 1e300, h, k
    for dh in range(-1, 2):
        for dk in range(-1, 2):
            v = (h + dh) * lattice[1] + (k + dk) * lattice[2] - y
            u = (h + dh) * lattice[4] + (k + dk) * lattice[5] - x
            if v * v + u * u < best:
                best, h0, k0 = v * v + u * u, h + dh, k + dk
    lattice[0] += h0 * lattice[1] + k0 * lattice[2]
    lattice[3] += h0 * lattice[4] + k0 * lattice[5]
