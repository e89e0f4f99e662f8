"""The mean cell of an image: folded by its lattice, it shows columns too faint to be found one by one."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from edgetem_nodes.featurizer.atoms.lattice_fit import LatticeFit, fractional

SAMPLING = 0.5
"""Of the mean cell [pixel]."""
APART = 0.6
"""How far a faint column is to be from known ones, over the distance of nearest columns (at least two sigma)."""


def mean_cell(image: np.ndarray, fit: LatticeFit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and number of pixels of each bin of the cell, (n1, n2) along the two vectors; bin (0, 0) begins at node 0."""
    counts = np.maximum(np.rint(np.linalg.norm(fit.vectors, axis=1) / SAMPLING).astype(int), 4)
    rows, columns = np.indices(image.shape)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1).astype(float)
    inside = fractional(places, fit.origin, fit.vectors, fit.polynomial, fit.scale)
    index = np.floor((inside - np.floor(inside)) * counts).astype(int) % counts
    flat = index[:, 0] * counts[1] + index[:, 1]
    number = np.bincount(flat, minlength=counts.prod()).reshape(counts)
    total = np.bincount(flat, weights=image.ravel(), minlength=counts.prod()).reshape(counts)
    return total / np.maximum(number, 1), number


def faint_sites(rest: np.ndarray, fit: LatticeFit, sigma: float) -> np.ndarray:
    """Fractional places (m, 2), strongest first, of maxima of the mean cell away from the known sublattices.

    Parameters
    ----------
    rest : image (rows, columns) from which the known columns were taken off. sigma : of a column [pixel].
    """
    cell, _ = mean_cell(rest - gaussian_filter(rest, 2 * float(np.linalg.norm(fit.vectors[1]))), fit)
    smooth = gaussian_filter(cell, 0.5 * sigma / SAMPLING, mode="wrap")
    peaks = np.argwhere((smooth == maximum_filter(smooth, size=5, mode="wrap")) & (smooth > smooth.mean()))
    limit = max(APART * fit.nearest, 2.0 * sigma)
    result: list[np.ndarray] = []
    for place in ((peaks + 0.5) / cell.shape)[np.argsort(-smooth[tuple(peaks.T)])]:
        gaps = place - np.array([*fit.offsets, *result])
        if np.linalg.norm((gaps - np.rint(gaps)) @ fit.vectors, axis=1).min() > limit:
            result.append(place)
    return np.array(result).reshape(-1, 2)


def centred(rest: np.ndarray, places: np.ndarray, sigma: float) -> np.ndarray:
    """By how much (2,) [pixel] the mean column of places (n, 2) is off them: the highest point of the stacked image."""
    smooth = gaussian_filter(rest, 0.7 * sigma)
    shifts = np.arange(-5, 6) * 0.35 * sigma / 2
    stack = np.array([[map_coordinates(smooth, (places + (dy, dx)).T, order=1, mode="nearest").mean() for dx in shifts]
                      for dy in shifts])
    y, x = (int(np.clip(i, 1, len(shifts) - 2)) for i in np.unravel_index(stack.argmax(), stack.shape))
    step = shifts[1] - shifts[0]
    result = []
    for line, centre in ((stack[y - 1:y + 2, x], shifts[y]), (stack[y, x - 1:x + 2], shifts[x])):
        curvature = line[0] - 2 * line[1] + line[2]
        result.append(centre + (np.clip(0.5 * (line[0] - line[2]) / curvature, -1, 1) * step if curvature < 0 else 0.0))
    return np.array(result)
