"""What a scan says frame by frame, and the part of it that is a complete raster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.calibration.deflection import LEAST_POSITIONS, MOST_MISSING
from edgetem_nodes.physics.scan import ScanField


@dataclass(frozen=True)
class ScanData:
    """Reductions of the frames of a scan.

    Attributes
    ----------
    field : grid of the scan.
    center_of_mass, errors : (frames, 2), (y, x) [pixel], over the whole detector; NaN where a frame has none. Errors may be
        None.
    candidates : (frames,) flat grid index of each frame; None: the grid's order from its start.
    dark_field, dark_field_errors : (frames,), annular dark field, atoms bright; or None.
    """

    field: ScanField
    center_of_mass: np.ndarray
    errors: np.ndarray | None = None
    candidates: np.ndarray | None = None
    dark_field: np.ndarray | None = None
    dark_field_errors: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames, size = len(self.center_of_mass), self.field.shape[0] * self.field.shape[1]
        for name in ("errors", "candidates", "dark_field", "dark_field_errors"):
            value = getattr(self, name)
            if value is not None and len(value) != frames:
                raise ValueError(f"{name} of {len(value)} frames do not fit centres of mass of {frames} frames")
        index = self.index
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise ValueError(f"frame at grid point {int(index.max())} is outside the {self.field.shape[0]} x "
                             f"{self.field.shape[1]} field")

    @property
    def index(self) -> np.ndarray:
        """Flat grid index (frames,)."""
        return np.arange(len(self.center_of_mass)) if self.candidates is None else np.asarray(self.candidates, np.int64)

    @property
    def positions(self) -> np.ndarray:
        """(frames, 2), (y, x) [m]."""
        return self.field.positions(self.index)

    @property
    def middle(self) -> tuple[float, float]:
        """Mean position (y, x) [m] of the frames that have a centre of mass, which are those that their sum shows."""
        seen = np.isfinite(self.center_of_mass).all(axis=1)
        if not seen.any():
            return 0.0, 0.0
        return tuple(self.positions[seen].mean(axis=0).tolist())

    def rows(self) -> slice:
        """The longest run of rows that are complete but for a tenth.

        Raises
        ------
        ValueError : it is too short for the rotation: a sparse scan, or one that was aborted early.
        """
        seen = np.zeros(self.field.shape, bool)
        seen.ravel()[self.index[np.isfinite(self.center_of_mass).all(axis=1)]] = True
        complete = np.concatenate([[False], seen.mean(axis=1) >= 1 - MOST_MISSING, [False]])
        starts, stops = np.flatnonzero(np.diff(complete.astype(int)) == 1), np.flatnonzero(np.diff(complete.astype(int)) == -1)
        best = int(np.argmax(stops - starts)) if len(starts) else 0
        count = int(stops[best] - starts[best]) if len(starts) else 0
        if count < LEAST_POSITIONS:
            raise ValueError(f"not determined: {count} rows of the {self.field.shape[0]} x {self.field.shape[1]} scan follow "
                             f"one another without gaps, fewer than {LEAST_POSITIONS}: scan a raster, not sparse positions")
        return slice(int(starts[best]), int(stops[best]))

    def image(self, values: np.ndarray, rows: slice) -> np.ndarray:
        """Values (frames, ...) on the rows of the grid, (rows, columns, ...); NaN where there is no frame."""
        values = np.asarray(values, float)
        grid = np.full((self.field.shape[0] * self.field.shape[1], *values.shape[1:]), np.nan)
        grid[self.index] = values
        return grid.reshape(*self.field.shape, *values.shape[1:])[rows]
