"""The scan field: where the probe can go, as a grid of candidate positions; and calibrated axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A calibrated axis: value = offset + scale * index, in SI units ("J", "rad", "m"; "" for uncalibrated)."""

    name: str
    unit: str
    scale: float
    offset: float
    size: int

    def values(self) -> np.ndarray:
        """Value at every index, shape (size,) [unit]."""
        return self.offset + self.scale * np.arange(self.size)


@dataclass(frozen=True)
class ScanField:
    """Grid of candidate positions: point (row, column) lies at origin + (row, column) * step, (y, x) [m]."""

    origin: tuple[float, float]
    step: tuple[float, float]
    shape: tuple[int, int]

    def positions(self, candidates: np.ndarray | None = None) -> np.ndarray:
        """Positions (count, 2), (y, x) [m], of flat grid indices (row * columns + column); all of them by default."""
        flat = np.arange(self.shape[0] * self.shape[1]) if candidates is None else np.asarray(candidates, np.int64)
        rows, columns = np.divmod(flat, self.shape[1])
        return np.stack([self.origin[0] + rows * self.step[0], self.origin[1] + columns * self.step[1]], axis=-1)

    def magnified(self, magnification: float) -> ScanField:
        """The same grid with its steps divided by `magnification`, about the same centre.

        Raises
        ------
        ValueError : a magnification that is not positive and finite.
        """
        if not 0.0 < magnification < np.inf:
            raise ValueError(f"magnification {magnification:g} is not a positive number")
        step = self.step[0] / magnification, self.step[1] / magnification
        origin = tuple(self.origin[axis] + (self.shape[axis] - 1) / 2 * (self.step[axis] - step[axis]) for axis in (0, 1))
        return ScanField(origin, step, self.shape)

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """Whether each position (count, 2), (y, x) [m], is within half a step of the grid: (count,) bool."""
        index = (np.asarray(positions, float).reshape(-1, 2) - self.origin) / self.step
        return ((index >= -0.5) & (index < np.asarray(self.shape) - 0.5)).all(axis=1)

    def nearest(self, positions: np.ndarray) -> np.ndarray:
        """Flat grid index, shape (count,) int64, of the grid point nearest to each position (count, 2) [m], wherever it is."""
        index = np.rint((np.asarray(positions, float).reshape(-1, 2) - self.origin) / self.step).astype(np.int64)
        rows, columns = np.clip(index, 0, np.asarray(self.shape) - 1).T
        return rows * self.shape[1] + columns

    def candidates(self, positions: np.ndarray) -> np.ndarray:
        """Flat grid index, shape (count,) int64, of the grid point nearest to each position (count, 2), (y, x) [m].

        Raises
        ------
        ValueError : a position is more than half a step outside the grid, or not finite.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        index = (positions - self.origin) / self.step
        outside = ~self.contains(positions)
        if outside.any():
            (row, column), (y, x) = index[outside][0], positions[outside][0] * 1e9
            corners = self.positions(np.array([0, self.shape[0] * self.shape[1] - 1])) * 1e9
            (top, left), (bottom, right) = corners.min(axis=0), corners.max(axis=0)
            raise ValueError(f"scan position (y, x) = ({y:.4g}, {x:.4g}) nm, (row, column) ({row:.4g}, {column:.4g}), is "
                             f"outside the {self.shape[0]} x {self.shape[1]} field, y {top:.4g} to {bottom:.4g} nm and x "
                             f"{left:.4g} to {right:.4g} nm")
        rows, columns = np.rint(index).astype(np.int64).T
        return rows * self.shape[1] + columns
