"""Survey-image patches: what the surrogates see of the surroundings of each candidate position."""

from __future__ import annotations

import numpy as np


def patches(survey: np.ndarray, size: int) -> np.ndarray:
    """The size x size neighbourhood of every grid point, mirrored at the edges.

    Parameters
    ----------
    survey : (channels, rows, columns) float64 [counts].
    size : edge length [pixel], odd.

    Returns
    -------
    (rows * columns, channels * size * size) float64, row-major in (row, column), then channel, then (y, x).

    Raises
    ------
    ValueError : the size is even, or larger than the survey can mirror.
    """
    channels, rows, columns = survey.shape
    if size % 2 == 0:
        raise ValueError(f"patch size {size} is even: a patch is centred on a position, take an odd number of pixels")
    half = size // 2
    if half >= min(rows, columns):
        raise ValueError(f"patch size {size} does not fit a survey of {rows} x {columns} pixels: take at most "
                         f"{2 * min(rows, columns) - 1}")
    padded = np.pad(survey, ((0, 0), (half, half), (half, half)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return windows.transpose(1, 2, 0, 3, 4).reshape(rows * columns, channels * size * size)


def patch_components(survey: np.ndarray, size: int, components: int) -> np.ndarray:
    """Principal components of the patches, in units of the first one's standard deviation.

    Each channel is standardised over the field first. The components keep their relative variance, so that the noise
    in the last ones stays small. A sign convention (largest loading positive) makes the result unique.

    Returns
    -------
    (rows * columns, min(components, channels * size * size)) float64; zeros for a survey without contrast.
    """
    survey = np.asarray(survey, np.float64)
    level = survey.mean(axis=(1, 2), keepdims=True)
    contrast = survey.std(axis=(1, 2), keepdims=True)
    flat = patches((survey - level) / np.where(contrast > 0, contrast, 1.0), size)
    centred = flat - flat.mean(axis=0)
    variances, loadings = np.linalg.eigh(centred.T @ centred)
    loadings = loadings[:, np.argsort(variances)[::-1][:components]]
    largest = np.abs(loadings).argmax(axis=0)
    loadings = loadings * np.sign(loadings[largest, np.arange(loadings.shape[1])])
    scores = centred @ loadings
    spread = scores[:, 0].std()
    return scores / spread if spread > 0 else np.zeros_like(scores)


def grid_coordinates(shape: tuple[int, int], step: tuple[float, float]) -> np.ndarray:
    """Position of every grid point, (rows * columns, 2), (y, x), in units of the longer side of the field."""
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    metres = np.stack([rows * abs(step[0]), columns * abs(step[1])], axis=-1)
    longest = metres.max()
    return metres / longest if longest > 0 else metres
