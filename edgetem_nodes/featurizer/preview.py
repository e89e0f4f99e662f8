"""A picture for people of what has been measured so far. Imports no ROS."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.scan import ScanField


class Preview:
    """The scalar over the field once the field is known, else the latest frame.

    Attributes: `field`, None until an overview told it.
    """

    def __init__(self) -> None:
        self.field: ScanField | None = None
        self._map = np.zeros((0, 0), np.float32)
        self._frame: np.ndarray | None = None

    def set_field(self, field: ScanField) -> None:
        """Start a new map, NaN where nothing was measured, if the field is another one."""
        if field != self.field:
            self.field = field
            self._map = np.full(field.shape, np.nan, np.float32)

    def clear(self) -> None:
        """Forget the map: what comes is another scalar."""
        self._map[:] = np.nan

    def add(self, positions: np.ndarray, scalars: np.ndarray, frame: np.ndarray | None) -> None:
        """Enter scalars (rows,) at positions (rows, 2) [m]; positions outside the field are left out."""
        if frame is not None:
            self._frame = np.atleast_2d(np.asarray(frame, np.float32))
        if self.field is None:
            return
        grid = (positions - self.field.origin) / self.field.step
        near = (np.isfinite(grid) & (grid > -0.5) & (grid < np.array(self.field.shape) - 0.5)).all(axis=1)
        rows, columns = np.rint(grid[near]).astype(int).T
        self._map[rows, columns] = scalars[near]

    def image(self) -> tuple[np.ndarray, str] | None:
        """The picture (rows, columns) float32 and its frame of reference ("scan" or "detector"); None: nothing yet."""
        if self.field is not None:
            return self._map, "scan"
        return (self._frame, "detector") if self._frame is not None and self._frame.ndim == 2 else None
