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


LARGEST_STRETCH = 0.08
"""By which a lattice may differ from a phase's: twice what is trained, and more."""


def distinct(reciprocal: np.ndarray, tolerance: float = 0.03) -> np.ndarray:
    """Of lattices (n, 2, 2), as columns, those that are not another one stretched by less than `tolerance`."""
    matrices, stretches = np.zeros((len(reciprocal), len(reciprocal), 2, 2)), np.full((len(reciprocal),) * 2, np.inf)
    match_rows(np.ascontiguousarray(reciprocal), np.linalg.inv(reciprocal[:, None] @ CHOICES), matrices, stretches)
    kept: list[int] = []
    for number in range(len(reciprocal)):
        if all(stretches[number, other] > tolerance for other in kept):
            kept.append(number)
    return reciprocal[kept]


def _unimodular() -> np.ndarray:
    """Integer matrices (n, 2, 2) of determinant +-1 with entries up to 1 in magnitude."""
    entries = np.stack(np.meshgrid(*[[-1, 0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    determinant = entries[:, 0, 0] * entries[:, 1, 1] - entries[:, 0, 1] * entries[:, 1, 0]
    return entries[np.abs(determinant) == 1].astype(float)


CHOICES = _unimodular()


@njit(cache=True, nogil=True)
def match_rows(measured, inverses, matrices, stretches):
    """The matrix A with measured = A @ reference @ U for an integer U, in place (rows, phases, 2, 2), and its stretch: of those
    that stretch least, which are the equivalents by the lattice's symmetry, the one that turns least.

    A takes undeformed reciprocal vectors to measured ones; the deformation of the crystal is its inverse transposed. Phases
    that are matched already, to `LARGEST_STRETCH`, are left as they are, as are rows with NaN.

    Parameters
    ----------
    measured : (rows, 2, 2) columns. inverses : (phases, n, 2, 2) of reference @ U, for all U.
    """
    for row in range(len(measured)):
        m00, m01, m10, m11 = measured[row, 0, 0], measured[row, 0, 1], measured[row, 1, 0], measured[row, 1, 1]
        if not np.isfinite(m00 + m01 + m10 + m11):
            continue
        for phase in range(len(inverses)):
            if stretches[row, phase] <= LARGEST_STRETCH:
                continue
            least, nearest = stretches[row, phase], 1e9
            for n in range(inverses.shape[1]):
                i00, i01 = inverses[phase, n, 0, 0], inverses[phase, n, 0, 1]
                i10, i11 = inverses[phase, n, 1, 0], inverses[phase, n, 1, 1]
                a00, a01 = m00 * i00 + m01 * i10, m00 * i01 + m01 * i11
                a10, a11 = m10 * i00 + m11 * i10, m10 * i01 + m11 * i11
                if a00 * a11 - a01 * a10 <= 0:
                    continue
                # singular values of a 2 x 2 matrix: sum and difference of two lengths
                mean, half = np.hypot(a00 + a11, a01 - a10) / 2, np.hypot(a00 - a11, a01 + a10) / 2
                stretch = max(abs(mean + half - 1.0), abs(mean - half - 1.0))
                if stretch > least + 1e-7:
                    continue
                turn = abs(np.arctan2(a01 - a10, a00 + a11))
                if stretch < least - 1e-7 or turn < nearest:
                    least, nearest = min(stretch, least), turn
                    matrices[row, phase, 0, 0], matrices[row, phase, 0, 1] = a00, a01
                    matrices[row, phase, 1, 0], matrices[row, phase, 1, 1] = a10, a11
            stretches[row, phase] = least


_FINER = np.array([[[1, 0], [0, 1]], [[2, 0], [0, 1]], [[1, 0], [0, 2]], [[1, 1], [-1, 1]], [[2, 0], [0, 2]]], float)
"""The lattice of disks, and those parts of it that are seen where every other disk is too weak."""


def matches(phases: Phases, measured: np.ndarray, orientation: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (rows, phases, 2, 2) that take each phase's reciprocal vectors to measured ones, and the largest stretches.

    Where the lattice itself does not fit a phase, the lattices of every other or every fourth of its disks are tried.

    Parameters
    ----------
    measured : (rows, 2, 2) columns [1/m]; rows with NaN match nothing.
    orientation : angle of the undeformed lattices' first vectors from x towards y [rad]; of equivalent turns the least counts.
    """
    count, cosine, sine = len(phases.names), np.cos(orientation), np.sin(orientation)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    lattices = np.ascontiguousarray(measured)
    result, least = np.full((len(measured), count, 2, 2), np.nan), np.full((len(measured), count), np.inf)
    for multiple in _FINER:
        references = turn @ phases.reciprocal @ multiple
        match_rows(lattices, np.linalg.inv(references[:, None] @ CHOICES), result, least)
    return result, least


def mixed(matrices: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (rows, 2, 2) of the matrices (rows, phases, 2, 2) of those phases that are left, and covariance (rows, 4, 4) between
    them, row by row; NaN where none is left.

    Parameters
    ----------
    weights : (rows, phases), 0 of those that are not left.
    """
    total = weights.sum(axis=1)
    share = weights / np.where(total > 0, total, np.nan)[:, None]
    flat = np.where(weights[..., None] > 0, matrices.reshape(*weights.shape, 4), 0.0)
    mean = np.einsum("np,npi->ni", share, flat)
    off = np.where(weights[..., None] > 0, flat - mean[:, None], 0.0)
    return mean.reshape(-1, 2, 2), np.nan_to_num(np.einsum("np,npi,npj->nij", share, off, off))


def agreement(matrices: np.ndarray, within: np.ndarray, between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether phases differ by less than the errors, (rows,) bool: in every element of their matrices, and in the turn alone.

    Parameters
    ----------
    matrices : (rows, 2, 2) their mean. within, between : (rows, 4, 4) covariances of its errors, and over the phases.
    """
    filled = np.nan_to_num(matrices, nan=1.0)
    angle = np.arctan2(filled[:, 0, 1] - filled[:, 1, 0], filled[:, 0, 0] + filled[:, 1, 1])
    cosine, sine, nothing = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    # of the matrices turned back symmetric and antisymmetric part are strain and rotation
    back = np.stack([cosine, nothing, -sine, nothing, nothing, cosine, nothing, -sine, sine, nothing, cosine, nothing, nothing,
                     sine, nothing, cosine], axis=1).reshape(-1, 4, 4)
    linear = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0], [0, 0.5, -0.5, 0]]) @ back
    spread, error = (np.einsum("nij,njk,nik->ni", linear, one, linear) for one in (between, within))
    agree = spread <= error
    return agree.all(axis=1), agree[:, 3]
