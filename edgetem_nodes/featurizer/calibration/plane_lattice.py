"""A known plane lattice, and the search for how it lies in a map of peaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PlaneLattice:
    """A lattice of known size in the plane of the specimen.

    Attributes
    ----------
    cell : (2, 2), direct lattice vectors as rows, (y, x) [m]; how it is turned is not used.
    absent : called with indices (h, k); whether that reflection is forbidden.
    """

    cell: np.ndarray
    absent: Callable[[int, int], bool] = lambda h, k: False

    @classmethod
    def hexagonal(cls, constant: float) -> PlaneLattice:
        """Two vectors of length `constant` [m] at 120 degrees (graphene, MoS2)."""
        return cls(constant * np.array([[0.0, 1.0], [np.sqrt(0.75), -0.5]]))

    @classmethod
    def rectangular(cls, height: float, width: float) -> PlaneLattice:
        """Cells of height x width [m]; a square lattice if they are equal."""
        return cls(np.array([[height, 0.0], [0.0, width]]))

    def reciprocal(self, shells: int) -> np.ndarray:
        """Reciprocal vectors (count, 2), (y, x) [1/m], of the innermost shells of equal length, without zero."""
        basis = np.linalg.inv(self.cell).T
        order = range(-2 * shells - 2, 2 * shells + 3)
        indices = np.array([(h, k) for h in order for k in order if (h, k) != (0, 0) and not self.absent(h, k)])
        vectors = indices @ basis
        lengths = np.linalg.norm(vectors, axis=1)
        distinct = np.unique(np.round(lengths / lengths.min(), 6))
        if not 1 <= shells <= len(distinct):
            raise ValueError(f"{shells} shells of a lattice cannot be given: 1 to {len(distinct)}")
        return vectors[lengths <= lengths.min() * (distinct[shells - 1] + 1e-4)]


def search(height: Callable[[np.ndarray], np.ndarray], vectors: np.ndarray, tolerance: float, resolution: float,
           independent: bool) -> np.ndarray:
    """Matrix (2, 2), a rotation by any angle and a scale near one, that takes vectors onto the highest peaks.

    Parameters
    ----------
    height : of a map at points (..., 2), in the unit of the vectors.
    vectors : (count, 2), with the scale that is expected.
    tolerance : part by which the scale may differ.
    resolution : width of a peak, in the unit of the vectors; the search is twice as fine.
    independent : whether y and x have scales of their own.
    """
    farthest = np.linalg.norm(vectors, axis=1).max()
    step = min(0.5 * resolution / farthest, tolerance)
    scales = 1 + np.arange(-np.ceil(tolerance / step), np.ceil(tolerance / step) + 1) * step
    pairs = [(a, b) for a in scales for b in scales] if independent else [(a, a) for a in scales]
    best = -np.inf, np.eye(2)
    for angle in np.arange(0, np.pi, step):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = np.asarray(pairs)[:, None, :] * (vectors @ turn.T)[None]
        total = height(points).sum(axis=1)
        place = int(np.argmax(total))
        if total[place] > best[0]:
            best = float(total[place]), np.diag(pairs[place]) @ turn
    return best[1]
