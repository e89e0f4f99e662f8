"""Telling whether measured positions form a raster."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.scan import ScanField

_TOLERANCE = 1e-2
"""Of a step: how far a position may lie off its grid point."""


def raster_of(positions: np.ndarray, expected: int = 0) -> tuple[ScanField | None, np.ndarray | None]:
    """The raster that positions lie on, and the place of each in it.

    Parameters
    ----------
    positions : (frames, 2), (y, x) [m], in any order.
    expected : positions that were asked for, where fewer were measured (a scan that was aborted); 0: as many.

    Returns
    -------
    The raster and (frames,) int64 places row * columns + column; (None, None) for positions that fill no raster: places of
    it are measured twice, or not at all although the scan is complete, or lie off a grid of equal steps.
    """
    positions = np.asarray(positions, float).reshape(-1, 2)
    if len(positions) < 4 or not np.isfinite(positions).all():
        return None, None
    axes = [_equal_steps(positions[:, axis]) for axis in (0, 1)]
    if None in axes:
        return None, None
    (top, y_step, rows), (left, x_step, columns) = axes
    if expected > len(positions) and columns > 1 and expected % columns == 0:
        rows = max(rows, expected // columns)
    index = (positions - (top, left)) / (y_step, x_step)
    nearest = np.rint(index).astype(np.int64)
    places = nearest[:, 0] * columns + nearest[:, 1]
    wanted = max(expected, len(positions))
    if np.abs(index - nearest).max() > _TOLERANCE or len(np.unique(places)) != len(places) or rows * columns != wanted:
        return None, None
    return ScanField((top, left), (y_step, x_step), (rows, columns)), places


def _equal_steps(values: np.ndarray) -> tuple[float, float, int] | None:
    """First value, step and number of the distinct values of one coordinate; None where the steps differ."""
    span = float(np.ptp(values))
    if span == 0:
        return None
    ordered = np.sort(values)
    steps = np.diff(ordered)
    large = steps[steps > 1e-3 * span / max(1, len(values) - 1)]
    step = float(large.min())
    first, count = float(ordered[0]), int(round(span / step)) + 1
    step = span / (count - 1)
    if count > len(values):
        return None
    return first, step, count
