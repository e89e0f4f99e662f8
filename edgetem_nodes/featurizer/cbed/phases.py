"""Which of the known lattices a measured one can be, and by which deformation. Vectors (y, x)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit


@dataclass(frozen=True)
class Phases:
    """The materials that a network knows.

    Attributes
    ----------
    names : of the phases.
    lattices : (phases, 2, 2) rows a, b [m] of the undeformed lattice, the first vector along x.
    sheets : (phases,) bool, thickness in layers.
    spacings : (phases,) [m] along the beam.
    thicknesses : (phases, 2) least and largest that were trained [m].
    """

    names: tuple[str, ...]
    lattices: np.ndarray
    sheets: np.ndarray
    spacings: np.ndarray
    thicknesses: np.ndarray

    def number(self, name: str) -> int:
        """Index of a phase; raises ValueError where there is none of this name."""
        if name not in self.names:
            raise ValueError(f"material {name!r} is none that the network was trained on: {', '.join(self.names)}")
        return self.names.index(name)

    @property
    def reciprocal(self) -> np.ndarray:
        """(phases, 2, 2) columns a*, b* [1/m]."""
        return np.linalg.inv(self.lattices)


def distinct(reciprocal: np.ndarray, tolerance: float = 0.03) -> np.ndarray:
    """Of lattices (n, 2, 2), as columns, those that are not another one stretched by less than `tolerance`."""
    kept: list[np.ndarray] = []
    for one in reciprocal:
        result = np.zeros((2, 2))
        if all(best_match(np.ascontiguousarray(one), np.ascontiguousarray(other), CHOICES, result) > tolerance
               for other in kept):
            kept.append(one)
    return np.array(kept)


def _unimodular() -> np.ndarray:
    """Integer matrices (n, 2, 2) of determinant +-1 with entries up to 1 in magnitude."""
    entries = np.stack(np.meshgrid(*[[-1, 0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    determinant = entries[:, 0, 0] * entries[:, 1, 1] - entries[:, 0, 1] * entries[:, 1, 0]
    return entries[np.abs(determinant) == 1].astype(float)


CHOICES = _unimodular()


@njit(cache=True, nogil=True)
def best_match(measured, reference, choices, result):
    """The matrix A (2, 2), in place, with measured = A @ reference @ U for an integer U: of those that stretch least, which are
    the equivalents by the lattice's symmetry, the one that turns least. Returns the largest stretch.

    A takes undeformed reciprocal vectors to measured ones; the deformation of the crystal is its inverse transposed.
    """
    least, nearest = 1e9, 1e9
    for n in range(len(choices)):
        basis = reference @ choices[n]
        determinant = basis[0, 0] * basis[1, 1] - basis[0, 1] * basis[1, 0]
        inverse = np.array([[basis[1, 1], -basis[0, 1]], [-basis[1, 0], basis[0, 0]]]) / determinant
        a = measured @ inverse
        if a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0] <= 0:
            continue
        # singular values of a 2 x 2 matrix: half sum and half difference of two lengths
        s = np.hypot(a[0, 0] + a[1, 1], a[0, 1] - a[1, 0]) / 2
        d = np.hypot(a[0, 0] - a[1, 1], a[0, 1] + a[1, 0]) / 2
        stretch = max(abs(s + d - 1.0), abs(s - d - 1.0))
        turn = abs(np.arctan2(a[0, 1] - a[1, 0], a[0, 0] + a[1, 1]))
        if stretch < least - 1e-7 or (stretch < least + 1e-7 and turn < nearest):
            least, nearest = min(stretch, least), turn
            result[:] = a
    return least


@njit(cache=True, nogil=True)
def match_rows(measured, references, choices, matrices, stretches):
    """`best_match` of lattices (rows, 2, 2) with every reference (phases, 2, 2), both as columns, in place."""
    for row in range(len(measured)):
        for phase in range(len(references)):
            stretches[row, phase] = best_match(measured[row], references[phase], choices, matrices[row, phase])


_FINER = np.array([[[1, 0], [0, 1]], [[2, 0], [0, 1]], [[1, 0], [0, 2]], [[1, 1], [-1, 1]], [[2, 0], [0, 2]]], float)
"""The lattice of disks, and those parts of it that are seen where every other disk is too weak."""
LARGEST_STRETCH = 0.08
"""By which a lattice may differ from a phase's: twice what is trained, and more."""


def matches(phases: Phases, measured: np.ndarray, orientation: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (rows, phases, 2, 2) that take each phase's reciprocal vectors to measured ones, and the largest stretches.

    Where the lattice itself does not fit a phase, the lattices of every other or every fourth of its disks are tried.

    Parameters
    ----------
    measured : (rows, 2, 2) columns [1/m]; rows with NaN match nothing.
    orientation : angle of the undeformed lattices' first vectors from x towards y [rad]; of equivalent turns the least counts.
    """
    lost = ~np.isfinite(measured).all(axis=(1, 2))
    lattices = np.ascontiguousarray(np.where(lost[:, None, None], np.eye(2), measured))
    count, cosine, sine = len(phases.names), np.cos(orientation), np.sin(orientation)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    result, least = np.full((len(measured), count, 2, 2), np.nan), np.full((len(measured), count), np.inf)
    for multiple in _FINER:
        references = np.ascontiguousarray(turn @ phases.reciprocal @ multiple)
        matrices, stretches = np.zeros_like(result), np.zeros_like(least)
        match_rows(lattices, references, CHOICES, matrices, stretches)
        better = (least > LARGEST_STRETCH) & (stretches < least) & ~lost[:, None]
        result[better], least[better] = matrices[better], stretches[better]
    return result, least
