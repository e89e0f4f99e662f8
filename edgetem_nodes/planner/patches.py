"""Survey-image patches: what the surrogates see of the surroundings of each candidate position."""

from __future__ import annotations

import math

import numpy as np

CHUNK = 4096
"""Patches worked on at once; also the number that principal components are found from: bounds memory and time."""


class Windows:
    """The size x size neighbourhoods of a survey's grid points, mirrored at the edges.

    A patch of even size reaches one pixel further before its position than behind it.

    Parameters
    ----------
    survey : (channels, rows, columns) float64 [counts].
    size : edge length [pixel].

    Raises
    ------
    ValueError : the size is larger than the survey can mirror.
    """

    def __init__(self, survey: np.ndarray, size: int) -> None:
        channels, rows, columns = survey.shape
        before = size // 2
        if before >= min(rows, columns):
            raise ValueError(f"patch size {size} does not fit a survey of {rows} x {columns} pixels: take at most "
                             f"{2 * min(rows, columns) - 1}")
        padded = np.pad(survey, ((0, 0), (before, size - 1 - before), (before, size - 1 - before)), mode="reflect")
        views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        self._views, self._columns, self._values = views.transpose(1, 2, 0, 3, 4), columns, channels * size * size

    def at(self, candidates: np.ndarray) -> np.ndarray:
        """(count, channels * size * size) patches of grid indices (count,): channel, then (y, x)."""
        rows, columns = np.divmod(np.asarray(candidates, np.int64), self._columns)
        return self._views[rows, columns].reshape(len(rows), self._values)


def patches(survey: np.ndarray, size: int) -> np.ndarray:
    """The neighbourhood of every grid point, row-major in (row, column): (rows * columns, channels * size * size)."""
    return Windows(survey, size).at(np.arange(survey.shape[1] * survey.shape[2]))


def patch_components(survey: np.ndarray, size: int, components: int) -> np.ndarray:
    """Principal components of the patches, in units of the first one's standard deviation.

    Each channel is standardised over the field first. The components keep their relative variance, so that the noise
    in the last ones stays small. A sign convention (largest loading positive) makes the result unique. Of a field with
    more than CHUNK positions the components are those of CHUNK patches spread evenly over it.

    Returns
    -------
    (rows * columns, min(components, channels * size * size)) float64; zeros for a survey without contrast.
    """
    survey = np.asarray(survey, np.float64)
    level = survey.mean(axis=(1, 2), keepdims=True)
    contrast = survey.std(axis=(1, 2), keepdims=True)
    survey = (survey - level) / np.where(contrast > 0, contrast, 1.0)
    positions = survey.shape[1] * survey.shape[2]
    stride = max(1, -(-positions // CHUNK))
    while stride > 1 and math.gcd(stride, survey.shape[2]) > 1:
        stride += 1  # one that shares a factor with the columns would keep to some of them
    windows = Windows(survey, size)
    sample = windows.at(np.arange(0, positions, stride))
    centre = sample.mean(axis=0)
    loadings = _loadings(sample - centre, components)
    scores = np.concatenate([(windows.at(np.arange(start, min(start + CHUNK, positions))) - centre) @ loadings
                             for start in range(0, positions, CHUNK)])
    spread = scores[:, 0].std()
    return scores / spread if spread > 0 else np.zeros_like(scores)


def _loadings(centred: np.ndarray, components: int) -> np.ndarray:
    """Directions (values, components) of largest variance of centred patches (count, values), signs fixed."""
    count, values = centred.shape
    kept = min(components, values)
    if values <= count:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        loadings = vectors[:, ::-1][:, :kept]
    else:
        # Fewer patches than values: the same directions from the smaller matrix, and the rest are zero.
        variances, vectors = np.linalg.eigh(centred @ centred.T)
        inner = min(kept, count)
        variances, vectors = variances[::-1][:inner], vectors[:, ::-1][:, :inner]
        size = np.sqrt(np.maximum(variances, 0.0))
        loadings = np.zeros((values, kept))
        loadings[:, :inner] = np.where(size > 1e-12 * size.max(), centred.T @ vectors / np.where(size > 0, size, 1.0), 0.0)
    largest = np.abs(loadings).argmax(axis=0)
    return loadings * np.where(loadings[largest, np.arange(kept)] < 0, -1.0, 1.0)


def grid_coordinates(shape: tuple[int, int], step: tuple[float, float]) -> np.ndarray:
    """Position of every grid point, (rows * columns, 2), (y, x), in units of the longer side of the field."""
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    metres = np.stack([rows * abs(step[0]), columns * abs(step[1])], axis=-1)
    longest = metres.max()
    return metres / longest if longest > 0 else metres
