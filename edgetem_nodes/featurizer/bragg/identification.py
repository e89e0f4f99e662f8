"""The lattice of a set of spots, without knowing it: two shortest vectors, the spots' indices, and what does not fit."""

from __future__ import annotations

import numpy as np

_CANDIDATES = 24
_AGREEMENT = 0.9
"""Part of the best lattice's explained weight that a coarser lattice must explain to be preferred."""


def reduced(basis: np.ndarray) -> np.ndarray:
    """The same lattice's two shortest vectors (columns), the second anticlockwise of the first as seen with y upwards
    and at 90 degrees or up to 120 (Lagrange's reduction; obtuse as crystallographers have it)."""
    a, b = np.array(basis, float).T
    while True:
        if a @ a > b @ b:
            a, b = b, a
        whole = np.rint(a @ b / (a @ a))
        if whole == 0:
            break
        b = b - whole * a
    if a @ b > 1e-9 * (a @ a):
        b = b - a if (b - a) @ (b - a) <= b @ b * (1 + 1e-3) else b
    if a[1] * b[0] - a[0] * b[1] < 0:
        b = -b
    return np.stack([a, b], axis=1)


def identify(spots: np.ndarray, weights: np.ndarray, tolerance: float, shortest: float) -> np.ndarray:
    """Two vectors (2, 2), columns (y, x) [pixel], of the lattice on which most of the spots' weight lies.

    Every pair of differences between spots proposes a lattice; its score is the weight of the spots within `tolerance` of
    it, its origin being free; of the lattices that explain nearly as much as the best, that of the largest cell is taken, as
    any lattice's multiples explain all that it does. Works with the central disk or without (a beam stop).

    Parameters
    ----------
    spots : (n, 2) [pixel]; weights : (n,).
    tolerance : [pixel]; shortest : least length of a lattice vector [pixel].

    Raises
    ------
    ValueError : fewer than 4 spots, spots on one line, or no lattice that explains half their weight.
    """
    spots, weights = np.asarray(spots, float), np.asarray(weights, float)
    if len(spots) < 4:
        raise ValueError(f"{len(spots)} disks were found and 4 or more are needed to identify a lattice: add up more patterns, "
                         "lower the significance, or give the lattice vectors")
    strongest = np.argsort(weights)[::-1][:40]
    spots, weights = spots[strongest], weights[strongest]
    vectors = _differences(spots, weights, tolerance, shortest)
    best: list[tuple[float, float, np.ndarray]] = []
    for i, a in enumerate(vectors):
        for b in vectors[i + 1:]:
            volume = abs(a[0] * b[1] - a[1] * b[0])
            if volume < 0.3 * np.hypot(*a) * np.hypot(*b):
                continue
            basis = np.stack([a, b], axis=1)
            explained = weights[_on_lattice(spots, weights, basis, tolerance)].sum() / weights.sum()
            best.append((explained, volume, basis))
    if not best:
        raise ValueError(f"the {len(spots)} disks that were found lie on one line: no lattice in two dimensions; tilt the "
                         "specimen, or give the lattice vectors")
    most = max(score for score, _, _ in best)
    if most < 0.5:
        raise ValueError(f"the likeliest lattice explains {100 * most:.0f} % of the disks found, and 50 % or more are needed: "
                         "several grains, or none; learn from one grain's patterns, or give the lattice vectors")
    _, _, basis = max((entry for entry in best if entry[0] >= _AGREEMENT * most), key=lambda entry: entry[1])
    return reduced(_fitted(spots, weights, reduced(basis), tolerance))


def _differences(spots: np.ndarray, weights: np.ndarray, tolerance: float, shortest: float) -> list[np.ndarray]:
    """Differences of spots, the shortest of each kind, half of the plane."""
    i, j = np.triu_indices(len(spots), 1)
    vectors = spots[j] - spots[i]
    vectors = np.where((vectors[:, :1] < -1e-9) | ((np.abs(vectors[:, :1]) <= 1e-9) & (vectors[:, 1:] < 0)), -vectors, vectors)
    strength = np.minimum(weights[i], weights[j])
    kept: list[np.ndarray] = []
    groups: list[list] = []
    for index in np.argsort(np.hypot(*vectors.T)):
        vector = vectors[index]
        if np.hypot(*vector) < shortest:
            continue
        near = [group for group in groups if np.hypot(*(group[0] / group[1] - vector)) < 2 * tolerance]
        if near:
            near[0][0] = near[0][0] + strength[index] * vector
            near[0][1] += strength[index]
        elif len(groups) < 4 * _CANDIDATES:
            groups.append([strength[index] * vector, strength[index]])
    for total, weight in groups:
        kept.append(total / weight)
    order = np.argsort([-weight / (1 + np.hypot(*vector)) for vector, (_, weight) in zip(kept, groups, strict=True)])
    return [kept[index] for index in order[:_CANDIDATES]]


def _on_lattice(spots: np.ndarray, weights: np.ndarray, basis: np.ndarray, tolerance: float) -> np.ndarray:
    """Which spots (n,) bool lie on a lattice whose origin is free: the mean phase of the weights says where it is."""
    phase = spots @ np.linalg.inv(basis).T
    origin = np.angle((weights[:, None] * np.exp(2j * np.pi * phase)).sum(axis=0)) / (2 * np.pi)
    rest = phase - origin
    return np.hypot(*((rest - np.rint(rest)) @ basis.T).T) < tolerance


def _fitted(spots: np.ndarray, weights: np.ndarray, basis: np.ndarray, tolerance: float) -> np.ndarray:
    """Least squares of the basis, on spots from the strongest outwards, so that small errors are not indexed wrongly."""
    origin = spots[np.argmax(weights)]
    for reach in (2.0, 4.0, 8.0):
        index = np.rint((spots - origin) @ np.linalg.inv(basis).T)
        near = np.abs(index).max(axis=1) <= reach
        near &= np.hypot(*(spots - origin - index @ basis.T).T) < 1.5 * tolerance
        design = np.concatenate([np.ones((near.sum(), 1)), index[near]], axis=1)
        if np.linalg.matrix_rank(design) < 3:
            continue
        root = np.sqrt(weights[near])[:, None]
        solution = np.linalg.lstsq(root * design, root * spots[near], rcond=None)[0]
        origin, basis = solution[0], solution[1:].T
    return basis


def completed(basis: np.ndarray, spots: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Where the direct beam is: the point (2,) of the spots' lattice nearest to `near` [pixel]."""
    phase = spots @ np.linalg.inv(basis).T
    origin = np.angle(np.exp(2j * np.pi * phase).sum(axis=0)) / (2 * np.pi)
    steps = np.rint(np.linalg.solve(basis, near) - origin)
    candidates = origin + steps + np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    places = candidates @ basis.T
    return places[np.argmin(np.hypot(*(places - near).T))]
