"""Sub-pixel positions and amplitudes of columns: Gaussians of one shared shape on a smooth background, neighbours taken off.

Least squares by Gauss-Newton, column after column until nothing moves; the shape, a full precision matrix, is fitted to all
columns at once with their own parameters eliminated. The background is what is left, smoothed, after every sweep; a column
may deviate from it a little: free backgrounds and the shape would grow against each other where columns overlap.
Covariances are those of least squares under the noise that the residuals show: its variance grows with the signal, and
neighbouring pixels may be correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, minimum_filter
from scipy.spatial import cKDTree

from edgetem_nodes.featurizer.atoms import fitting_kernels as kernels

SWEEPS = 24
EVERY = 2
"""Sweeps between two estimates of the background."""
CONVERGED = 5e-3
"""Step of the last sweep that a hundredth of the columns may exceed [pixel]."""
STIFFNESS = 3.0
"""How strongly a column's own background is drawn to the smooth one, over what its pixels say."""
SMOOTH = 1.3
"""Width of the smoothing that leaves the background, over the distance of nearest columns (at least four sigma)."""
WINDOW = 2.3
"""Radius of a column's window over its sigma."""
FEWEST_PIXELS = 12
CORRELATED = 3
"""Farthest pixels whose noise is taken for correlated."""
SMALLEST_CORRELATION = 0.08


@dataclass(frozen=True)
class ColumnFits:
    """Fitted columns.

    Attributes
    ----------
    positions : (n, 2), (y, x) [pixel]. amplitudes, backgrounds : (n,), the image's unit.
    covariance : (n, 4, 4) of amplitude, y, x, background; NaN where the fit failed.
    usable : (n,) bool, whether the fit means something. shape : covariance matrix (2, 2) of the Gaussian [pixel^2].
    noise : standard deviation of a pixel at the mean background. window : radius of the windows [pixel].
    """

    positions: np.ndarray
    amplitudes: np.ndarray
    backgrounds: np.ndarray
    covariance: np.ndarray
    usable: np.ndarray
    shape: np.ndarray
    noise: float
    window: float

    @property
    def position_covariance(self) -> np.ndarray:
        """(n, 2, 2), (y, x) [pixel^2]."""
        return self.covariance[:, 1:3, 1:3]

    @property
    def amplitude_errors(self) -> np.ndarray:
        """(n,) standard errors."""
        variance = self.covariance[:, 0, 0]
        return np.sqrt(np.where(variance > 0, variance, np.nan))

    @property
    def sigma(self) -> float:
        """Geometric mean of the Gaussian's widths [pixel]."""
        return float(np.linalg.det(self.shape) ** 0.25)


def fit_columns(image: np.ndarray, places: np.ndarray, sigma: float, shape: np.ndarray | None = None,
                fixed: np.ndarray | None = None) -> ColumnFits:
    """Fit all columns of an image.

    Parameters
    ----------
    image : (rows, columns) finite numbers. places : (n, 2), where they are about [pixel]. sigma : about [pixel].
    shape : covariance matrix (2, 2) that is kept [pixel^2]; None: it is fitted.
    fixed : (n,) bool, columns whose place is kept and whose amplitude alone is wanted; None: none.

    Raises
    ------
    ValueError : no column has a window inside the image.
    """
    image = np.ascontiguousarray(image, np.float64)
    places = np.ascontiguousarray(places, np.float64)
    fixed = np.zeros(len(places), bool) if fixed is None else np.asarray(fixed, bool)
    radius = max(WINDOW * sigma, 2.5)
    full = np.pi * radius**2
    usable = np.array([kernels.window_count(p, radius, *image.shape) > max(FEWEST_PIXELS, 0.6 * full) for p in places], bool)
    if not usable.any():
        raise ValueError(f"none of {len(places)} columns lies {radius:.1f} pixels inside the image of {image.shape} pixels")
    precision = _precision(np.eye(2) * sigma**2 if shape is None else shape)
    table, background = _start(image, places, radius)
    width = max(SMOOTH * _nearest(places, sigma), 4 * sigma)
    starts, neighbours = _neighbours(places, 3.2 * sigma + radius)
    centres = places.copy()
    for number in range(SWEEPS):
        before = table[:, 1:3].copy()
        matrix, right = kernels.sweep(image - background, centres, radius, table, precision, starts, neighbours, usable,
                                      1.5 * sigma, fixed, STIFFNESS)
        if number % EVERY == 0:
            background = _background(image, table, precision, width)
        if shape is None and number >= 2:
            precision = _stepped(precision, matrix, right)
        if number in (6, 12):
            _drop(table, usable, fixed, np.sqrt(np.linalg.det(np.array([precision[:2], precision[1:]])) ** -0.5))
        if number > 7 and np.quantile(np.abs(table[usable, 1:3] - before[usable]), 0.99) < CONVERGED:
            break
    moved = np.linalg.norm(table[:, 1:3] - centres, axis=1)
    usable &= (moved < 1.4 * sigma) & np.isfinite(table).all(axis=1)
    if not usable.any():
        raise ValueError(f"none of {len(places)} columns can be fitted: no atomic columns are there, or the dose is too low")
    centres = np.where(usable[:, None], table[:, 1:3], centres)
    covariance, noise = _errors(image, background, centres, radius, table, precision, (starts, neighbours), usable, fixed)
    own = map_coordinates(background, table[:, 1:3].T, order=1, mode="nearest") + table[:, 3]
    return ColumnFits(table[:, 1:3].copy(), table[:, 0].copy(), own, covariance, usable,
                      np.linalg.inv(np.array([precision[:2], precision[1:]])), noise, radius)


def column_width(image: np.ndarray, places: np.ndarray, nearest: float) -> float:
    """Sigma [pixel] of the mean column of places (n, 2), about: from the half height of the stacked image's radial profile.

    Parameters
    ----------
    nearest : distance of nearest columns [pixel]; the lowest point within it counts as background.
    """
    radii = np.arange(0.0, max(nearest, 4.0) + 0.25, 0.25)
    angles = np.arange(12) * np.pi / 6
    ring = radii[:, None, None] * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    samples = map_coordinates(image, (places[:, None, None] + ring).reshape(-1, 2).T, order=1, mode="nearest")
    profile = samples.reshape(len(places), len(radii), len(angles)).mean(axis=(0, 2))
    lowest = int(np.argmin(profile))
    half = 0.5 * (profile[:2].mean() + profile[lowest])
    below = np.flatnonzero(profile[:lowest + 1] < half)
    return float(np.clip(radii[below[0]] / 1.177 if len(below) else nearest / 5, 0.8, 0.4 * max(nearest, 3.0)))


def without_columns(image: np.ndarray, fits: ColumnFits) -> np.ndarray:
    """The image (rows, columns) with the fitted columns taken off; their backgrounds stay."""
    model = np.zeros(image.shape)
    table = np.column_stack([fits.amplitudes, fits.positions, fits.backgrounds])[fits.usable]
    kernels.add_columns(model, table, _precision(fits.shape))
    return image - model


def _precision(shape: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(shape)
    return np.array([inverse[0, 0], inverse[0, 1], inverse[1, 1]])


def _start(image: np.ndarray, places: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """First parameters (n, 4), the smoothed image at the place less the lowest around it, and an image of that."""
    smooth = gaussian_filter(image, max(0.35 * radius / WINDOW, 0.5))
    low = gaussian_filter(minimum_filter(gaussian_filter(image, 0.5 * radius / WINDOW), 2 * int(np.ceil(radius)) + 1), radius)
    index = tuple(np.clip(np.rint(places).astype(int), 0, np.array(image.shape) - 1).T)
    return np.column_stack([smooth[index] - low[index], places, np.zeros(len(places))]), low


def _nearest(places: np.ndarray, sigma: float) -> float:
    """Median distance of nearest columns; six sigma of a single one."""
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(places) > 1 else 6 * sigma


def _background(image: np.ndarray, table: np.ndarray, precision: np.ndarray, width: float) -> np.ndarray:
    """What is left of the image without the columns, smoothed; beyond the edge there is nothing, not the edge again."""
    model = np.zeros(image.shape)
    kernels.add_columns(model, table, precision)
    inside = [gaussian_filter1d(np.ones(n), width, mode="constant", truncate=3.0) for n in image.shape]
    return gaussian_filter(image - model, width, mode="constant", truncate=3.0) / (inside[0][:, None] * inside[1])


def _drop(table: np.ndarray, usable: np.ndarray, fixed: np.ndarray, sigma: float) -> None:
    """Give up columns that turn out to have no height, and the lower of two that have run into each other, so that they do not
    grow against each other."""
    lost = usable & ~fixed & ~(table[:, 0] > 0)
    for i, j in cKDTree(table[:, 1:3]).query_pairs(0.8 * sigma):
        if not (fixed[i] or fixed[j] or lost[i] or lost[j]):
            lost[i if table[i, 0] < table[j, 0] else j] = True
    usable[lost] = False
    table[lost, 0] = 0.0


def _neighbours(places: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Compressed list of the columns within a distance of each: starts (n + 1,), indices."""
    lists = [[j for j in near if j != k] for k, near in enumerate(cKDTree(places).query_ball_point(places, distance))]
    return (np.concatenate([[0], np.cumsum([len(near) for near in lists])]).astype(np.int64),
            np.array([j for near in lists for j in near], np.int64))


def _stepped(precision: np.ndarray, matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The shape after a step that changes no width by more than a fifth; as it was where that is no shape."""
    scale = np.sqrt(precision[0] * precision[2])
    try:
        step = np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return precision
    largest = np.abs(step).max()
    trial = precision + step * min(1.0, 0.3 * scale / max(largest, 1e-300))
    positive = trial[0] > 0 and trial[2] > 0 and trial[0] * trial[2] > 1.1 * trial[1] ** 2
    return trial if positive and np.isfinite(trial).all() else precision


def _errors(image: np.ndarray, background: np.ndarray, centres: np.ndarray, radius: float, table: np.ndarray,
            precision: np.ndarray, near: tuple[np.ndarray, np.ndarray], usable: np.ndarray,
            fixed: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance (n, 4, 4), and the noise of a pixel on the mean background."""
    rest, model = np.full(image.shape, np.nan), np.full(image.shape, np.nan)
    kernels.residuals(image - background, centres, radius, table, precision, *near, usable, rest, model)
    model += background
    seen = np.isfinite(rest)
    own = np.where(fixed, 2, 4)[usable].mean() * usable.sum()
    freedom = max(seen.sum() - own, 1.0) / seen.sum()
    constant, slope = _noise_model(model[seen], rest[seen] ** 2 / freedom)
    expected = np.where(seen, model, np.mean(model[seen]))
    variance = np.maximum(constant + slope * expected, 1e-3 * max(constant + slope * np.mean(model[seen]), 1e-300))
    correlation = _correlation(np.where(seen, np.clip(rest / np.sqrt(variance), -4, 4), 0.0), seen)
    result = np.empty((len(table), 4, 4))
    kernels.covariances(variance, correlation, centres, radius, table, precision, usable, fixed, STIFFNESS, result)
    return result, float(np.sqrt(max(constant + slope * float(background.mean()), 1e-300)))


def _noise_model(model: np.ndarray, square: np.ndarray) -> tuple[float, float]:
    """Constant and slope >= 0 of the variance of a pixel against its expectation, by least squares on bins."""
    order = np.argsort(model)
    bins = np.array_split(order, min(20, max(2, len(order) // 200)))
    x, y = np.array([model[b].mean() for b in bins]), np.array([square[b].mean() for b in bins])
    weight = 1 / np.maximum(y, y.mean() * 0.1)
    slope, constant = np.polyfit(x, y, 1, w=weight) if np.ptp(x) > 0 else (0.0, y.mean())
    return (float(constant), float(slope)) if slope > 0 else (float(y.mean()), 0.0)


def _correlation(rest: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Correlation (2 r + 1, 2 r + 1) of the noise of pixels, from residuals of standard deviation 1 where `seen`.

    What a fit takes up of the noise makes residuals of a window correlate by a few hundredths below zero, so small and
    negative values count as none.
    """
    shape = [scipy.fft.next_fast_len(n + CORRELATED) for n in rest.shape]
    pairs = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(seen.astype(float), shape)) ** 2, shape)
    sums = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(rest, shape)) ** 2, shape)
    index = np.ix_(*[np.arange(-CORRELATED, CORRELATED + 1)] * 2)
    pairs, sums = np.maximum(pairs[index], 1.0), sums[index]
    result = sums / pairs
    result = result / result[CORRELATED, CORRELATED]
    return np.where(result > np.maximum(4 / np.sqrt(pairs), SMALLEST_CORRELATION), result, 0.0)
