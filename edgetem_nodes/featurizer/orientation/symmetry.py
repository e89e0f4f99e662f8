"""Laue symmetry of a crystal from its atoms, and directions and orientations that it makes equivalent.

Kinematic diffraction obeys Friedel's law, so orientations are told apart up to the proper rotations of the Laue class (the
point group with an inversion added) and no further.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

_LAUE_CLASSES = {(1, 1): "-1", (2, 2): "2/m", (4, 2): "mmm", (4, 4): "4/m", (8, 4): "4/mmm", (3, 3): "-3", (6, 3): "-3m",
                 (6, 6): "6/m", (12, 6): "6/mmm", (12, 3): "m-3", (24, 4): "m-3m"}
"""By the number of proper rotations and the highest order of an axis (International Tables for Crystallography A, 3.2.1)."""
_POLE = np.array([0.8, 0.17, 0.57532599])
"""A direction on no symmetry element of the usual settings; its neighbourhood is the fundamental sector."""


@dataclass(frozen=True)
class Symmetry:
    """Proper rotations that leave a crystal's diffraction as it is.

    Attributes
    ----------
    rotations : (n, 3, 3) in the crystal's Cartesian axes (z, y, x), the identity first.
    laue_class : its name.
    """

    rotations: np.ndarray
    laue_class: str

    @classmethod
    def of_rotations(cls, rotations: np.ndarray) -> Symmetry:
        """From proper rotations (n, 3, 3), in any order.

        Raises
        ------
        ValueError : they are not the proper rotations of a Laue class.
        """
        angle = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
        turning = angle[angle > 1e-3]
        order = round(2 * np.pi / turning.min()) if len(turning) else 1
        name = _LAUE_CLASSES.get((len(rotations), order))
        if name is None:
            raise ValueError(f"{len(rotations)} rotations, the smallest by 360/{order} degrees, are those of no Laue class: "
                             "give the atoms to better than the tolerance, or another tolerance")
        return cls(rotations[np.argsort(angle, kind="stable")], name)

    def sector(self, directions: np.ndarray, inversion: bool = False) -> np.ndarray:
        """Representatives (n, 3) in the fundamental sector of directions (n, 3): the equivalent closest to a fixed pole.

        Parameters
        ----------
        inversion : whether a direction and its opposite are one (the standard triangle of an inverse pole figure).
        """
        directions = np.asarray(directions, float).reshape(-1, 3)
        equivalents = np.einsum("sij,nj->nsi", self.rotations, directions)
        if inversion:
            equivalents = np.concatenate([equivalents, -equivalents], axis=1)
        return equivalents[np.arange(len(directions)), np.argmax(equivalents @ _POLE, axis=1)]

    def directions(self, step: float) -> np.ndarray:
        """Unit vectors (n, 3) that sample the fundamental sector evenly, about `step` [rad] apart.

        A Fibonacci lattice on the sphere (Gonzalez, Math. Geosci. 42, 49, 2010), cut to the sector.

        Raises
        ------
        ValueError : the step is not between 0.1 and 20 degrees.
        """
        if not np.radians(0.1) <= step <= np.radians(20):
            raise ValueError(f"a step of {np.degrees(step):g} degrees between zone axes is not between 0.1 and 20 degrees")
        count = round(4 * np.pi / step ** 2)
        index = np.arange(count)
        height = 1 - (2 * index + 1) / count
        azimuth = np.pi * (3 - np.sqrt(5)) * index
        across = np.sqrt(1 - height ** 2)
        sphere = np.stack([height, across * np.sin(azimuth), across * np.cos(azimuth)], axis=-1)
        kept = []
        for part in np.array_split(sphere, max(1, count // 20000)):
            best = np.max(np.einsum("sij,nj->nsi", self.rotations, part) @ _POLE, axis=1)
            kept.append(part[part @ _POLE >= best - 1e-12])
        return np.concatenate(kept)


def laue_symmetry(vectors: np.ndarray, places: np.ndarray, kinds: np.ndarray, tolerance: float = 0.05e-10) -> Symmetry:
    """Proper rotations of the Laue class, found by trial.

    In a reduced basis of the primitive lattice every symmetry of the lattice is a matrix of -1, 0 and 1; those that also take
    every atom to one of its kind, with some translation, are kept.

    Parameters
    ----------
    vectors : (3, 3) lattice vectors, rows, (z, y, x) [m].
    places : (atoms, 3) in units of those vectors.
    kinds : (atoms,) int; atoms of one kind scatter alike.
    tolerance : [m] by which atoms and lattice points may miss each other.

    Raises
    ------
    ValueError : no Laue class has what was found: the structure is symmetric within the tolerance in part.
    """
    basis, places, kinds = _primitive(np.asarray(vectors, float), np.asarray(places, float), np.asarray(kinds), tolerance)
    metric, inverse = basis @ basis.T, np.linalg.inv(basis)
    candidates = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    candidates = candidates[np.abs(np.abs(np.linalg.det(candidates)) - 1) < 1e-6]
    moved = candidates @ metric @ candidates.transpose(0, 2, 1)
    # a change of a dot product |a||b| d/|a|: vectors are compared within the tolerance
    allowed = tolerance * np.sqrt(np.add.outer(np.diag(metric), np.diag(metric)))
    candidates = candidates[(np.abs(moved - metric) <= allowed).all(axis=(1, 2))]
    proper = {}
    for whole in candidates:
        if _maps(places @ whole, places, kinds, basis, tolerance):
            turned = _nearest_rotation((inverse @ whole @ basis).T * np.linalg.det(whole))
            proper[tuple(np.round(turned, 3).ravel() + 0.0)] = turned
    return Symmetry.of_rotations(np.array(list(proper.values())))


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _distances(offsets: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Distance (...) [m] of fractional offsets (..., 3) from the nearest lattice point, up to half a cell."""
    return np.linalg.norm((offsets - np.rint(offsets)) @ vectors, axis=-1)


def _matches(moved: np.ndarray, places: np.ndarray, kinds: np.ndarray, vectors: np.ndarray, tolerance: float) -> bool:
    """Whether moved atoms fall on atoms of their kind."""
    return all((_distances(moved[kinds == kind][:, None] - places[kinds == kind], vectors).min(axis=1) <= tolerance).all()
               for kind in np.unique(kinds))


def _translations(moved: np.ndarray, places: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Shifts (n, 3) that take one moved atom of the rarest kind to each atom of that kind."""
    names, numbers = np.unique(kinds, return_counts=True)
    rarest = kinds == names[np.argmin(numbers)]
    return places[rarest] - moved[rarest][0]


def _maps(moved: np.ndarray, places: np.ndarray, kinds: np.ndarray, vectors: np.ndarray, tolerance: float) -> bool:
    return any(_matches(moved + shift, places, kinds, vectors, tolerance) for shift in _translations(moved, places, kinds))


def _primitive(vectors: np.ndarray, places: np.ndarray, kinds: np.ndarray,
               tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reduced basis (3, 3) of the primitive lattice, and its atoms: places in that basis, and kinds."""
    shifts = np.array([shift for shift in _translations(places, places, kinds)
                       if _matches(places + shift, places, kinds, vectors, tolerance)])
    around = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)), float)
    basis = _shortest(((shifts[:, None] + around).reshape(-1, 3)) @ vectors, tolerance)
    # once more, for the first basis may have come from a long cell whose neighbourhood is not round
    basis = _shortest(around @ basis, tolerance)
    inside = places @ vectors @ np.linalg.inv(basis)
    kept: list[int] = []
    for atom in range(len(inside)):
        alike = [other for other in kept if kinds[other] == kinds[atom]]
        if not alike or _distances(inside[alike] - inside[atom], basis).min() > tolerance:
            kept.append(atom)
    return basis, inside[kept], kinds[kept]


def _shortest(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The three shortest independent of lattice points (n, 3): in three dimensions they are a basis (3, 3)."""
    lengths = np.linalg.norm(points, axis=1)
    order = np.argsort(lengths.round(16), kind="stable")
    directions = (points / np.maximum(lengths, tolerance)[:, None])[order[lengths[order] > 2 * tolerance]]
    lattice = points[order[lengths[order] > 2 * tolerance]]
    second = int(np.argmax(np.linalg.norm(np.cross(directions, directions[0]), axis=1) > 1e-2))
    normal = np.cross(directions[0], directions[second])
    third = int(np.argmax(np.abs(directions @ normal) > 1e-2 * np.linalg.norm(normal)))
    return lattice[[0, second, third]]
