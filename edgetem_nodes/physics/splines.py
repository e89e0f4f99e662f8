"""Points laid down on a periodic grid with B-splines, whose transform can be divided out exactly."""

from __future__ import annotations

import numpy as np


def laid_down(points: np.ndarray, shape: tuple[int, int], order: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum of B-splines of an even `order` around points (n, 2) [samples], float64 `shape`; each sums to its weight, or 1.

    Its transform is that of delta functions times sinc(f)^order along each axis, f in cycles a sample, but for aliases.
    """
    base = np.floor(points).astype(np.int64)
    values = _cardinal(points - base, order)
    reach = np.arange(order)[:, None] + 1 - order // 2
    rows, columns = (base[:, 0] + reach) % shape[0], (base[:, 1] + reach) % shape[1]
    places = (rows[:, None] * shape[1] + columns[None, :]).ravel()
    along = values[:, :, 0] if weights is None else values[:, :, 0] * weights
    grid = np.bincount(places, (along[:, None] * values[None, :, :, 1]).ravel(), minlength=shape[0] * shape[1])
    return grid.reshape(shape)


def _cardinal(after: np.ndarray, order: int) -> np.ndarray:
    """B-spline at the samples around a point that lies `after` (...,) of a sample behind one: (order, ...), lowest first.

    By the recursion of Cox and de Boor.
    """
    values = np.zeros((order, *after.shape))
    values[0] = 1.0
    for degree in range(2, order + 1):
        previous = values.copy()
        for k in range(degree):
            lower = previous[k - 1] if k else 0.0
            values[k] = ((degree - k - after) * lower + (k + after) * previous[k]) / (degree - 1)
    # values[k] is now the spline at k + after; the lowest sample is the farthest one below the point.
    return values[::-1]
