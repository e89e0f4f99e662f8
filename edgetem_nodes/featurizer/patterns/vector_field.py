"""Curl, divergence and integral of a vector field on a scan grid, with what noise does to them.

Fields are (rows, columns, 2), components (y, x) in the scan's axes, on a raster of `step` (y, x) [m]; NaN where nothing was
measured. Centre-of-mass deflections are the usual field; integrated, they give the object's phase (iCoM: Lazic, Bosch and
Lazar, Ultramicroscopy 160, 265, 2016).
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse.linalg import splu

BOUNDARIES = ("open", "periodic")


def checked(field: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """The field as float64 (rows, columns, 2).

    Raises
    ------
    ValueError : another shape, fewer than two rows or columns, or a step that is not positive.
    """
    field = np.asarray(field, float)
    if field.ndim != 3 or field.shape[2] != 2 or min(field.shape[:2]) < 2:
        raise ValueError(f"a field of shape {field.shape} is not (rows, columns, 2) with two rows and columns or more: "
                         "derivatives and integrals need a raster")
    if not (np.asarray(step, float) > 0).all():
        raise ValueError(f"a scan step of {step} m is not positive")
    return field


def divergence(field: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """d field_y / dy + d field_x / dx, (rows, columns) [unit of the field per m], by central differences."""
    field = checked(field, step)
    return np.gradient(field[..., 0], step[0], axis=0) + np.gradient(field[..., 1], step[1], axis=1)


def curl(field: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """d field_y / dx - d field_x / dy, (rows, columns) [unit of the field per m], by central differences.

    It is the component along y cross x; zero for the gradient of a potential, so what is left shows noise, magnetic fields
    along the beam's path, or a wrong scan rotation.
    """
    field = checked(field, step)
    return np.gradient(field[..., 0], step[1], axis=1) - np.gradient(field[..., 1], step[0], axis=0)


def divergence_errors(errors: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """Standard errors of `divergence` from those of the field, (rows, columns, 2), independent of place and component."""
    variances = checked(errors, step)**2
    return np.sqrt(_gradient_variance(variances[..., 0], step[0], 0) + _gradient_variance(variances[..., 1], step[1], 1))


def curl_errors(errors: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """Standard errors of `curl` from those of the field, (rows, columns, 2)."""
    variances = checked(errors, step)**2
    return np.sqrt(_gradient_variance(variances[..., 0], step[1], 1) + _gradient_variance(variances[..., 1], step[0], 0))


def _gradient_variance(variance: np.ndarray, step: float, axis: int) -> np.ndarray:
    """Of `numpy.gradient` along an axis: two neighbours 2 steps apart, at the ends 1 step."""
    v = np.moveaxis(variance, axis, 0)
    result = np.empty_like(v)
    result[1:-1] = (v[2:] + v[:-2]) / (2 * step)**2
    result[0], result[-1] = (v[0] + v[1]) / step**2, (v[-1] + v[-2]) / step**2
    return np.moveaxis(result, 0, axis)


def integrate(field: np.ndarray, step: tuple[float, float], boundary: str = "open") -> np.ndarray:
    """The scalar whose gradient is nearest to the field, (rows, columns) [unit of the field times m], of mean zero.

    Least squares. `open`: differences between neighbours are the mean of their field values times the step (trapezoid), and
    nothing is said about the world outside. Where the field is not finite the result is NaN, as it is at places without a
    neighbour; parts that touch nowhere are each of mean zero, for nothing measured says how they lie to each other.
    `periodic`: the raster repeats itself exactly, as of whole unit cells; derivatives are those of its Fourier series,
    without the trapezoid's error.

    Raises
    ------
    ValueError : the boundary is not known, or a periodic field has places that were not measured.
    """
    field = checked(field, step)
    measured = np.isfinite(field).all(axis=2)
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary {boundary!r} is not one of {', '.join(BOUNDARIES)}")
    if boundary == "periodic":
        if not measured.all():
            raise ValueError(f"{np.count_nonzero(~measured)} of {measured.size} positions were not measured: a periodic "
                             "field is integrated as a whole; use the open boundary")
        return _periodic(field, step)
    if not measured.all():
        return _pieces(field, measured, step)
    rows, columns = measured.shape
    rise_y, rise_x = (field[1:, :, 0] + field[:-1, :, 0]) / (2 * step[0]), (field[:, 1:, 1] + field[:, :-1, 1]) / (2 * step[1])
    right = np.zeros((rows, columns))
    right[1:] += rise_y
    right[:-1] -= rise_y
    right[:, 1:] += rise_x
    right[:, :-1] -= rise_x
    modes = _open_modes(rows)[:, None] / step[0]**2 + _open_modes(columns)[None, :] / step[1]**2
    modes[0, 0] = 1.0
    transformed = fft.dctn(right, norm="ortho") / modes
    transformed[0, 0] = 0.0
    return fft.idctn(transformed, norm="ortho")


def integral_error(error: float, shape: tuple[int, int], step: tuple[float, float], boundary: str = "open") -> float:
    """Standard error of `integrate`, the root mean square over the field, for independent noise of `error` in both components.

    Low frequencies hold most of it: noise of an integrated field is smooth.
    """
    if boundary == "periodic":
        ky, kx = (2 * np.pi * np.fft.fftfreq(n, d) for n, d in zip(shape, step, strict=True))
        square = ky[:, None]**2 + kx[None, :]**2
        square[0, 0] = np.inf
        return float(error * np.sqrt((1 / square).sum() / square.size))
    ky, kx = (np.pi * np.arange(n) / n for n in shape)
    mode_y, mode_x = _open_modes(shape[0]) / step[0]**2, _open_modes(shape[1]) / step[1]**2
    square = (mode_y[:, None] + mode_x[None, :])**2
    square[0, 0] = np.inf
    # What the mean of two neighbours passes on, times the difference of two neighbours.
    power = (mode_y * np.cos(ky / 2)**2)[:, None] + (mode_x * np.cos(kx / 2)**2)[None, :]
    return float(error * np.sqrt((power / square).sum() / square.size))


def _open_modes(samples: int) -> np.ndarray:
    """Eigenvalues of the second difference with free ends, which the cosine transform diagonalises."""
    return 2 - 2 * np.cos(np.pi * np.arange(samples) / samples)


def _periodic(field: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    shape = field.shape[:2]
    ky, kx = (2 * np.pi * np.fft.fftfreq(n, d) for n, d in zip(shape, step, strict=True))
    square = ky[:, None]**2 + kx[None, :]**2
    square[0, 0] = 1.0
    spectrum = (ky[:, None] * fft.fft2(field[..., 0]) + kx[None, :] * fft.fft2(field[..., 1])) / (1j * square)
    spectrum[0, 0] = 0.0
    return fft.ifft2(spectrum).real


def _pieces(field: np.ndarray, measured: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """`integrate` with an open boundary where not every position was measured: the sparse normal equations, solved directly."""
    result = np.full(measured.shape, np.nan)
    if not measured.any():
        return result
    number = np.full(measured.shape, -1)
    number[measured] = np.arange(np.count_nonzero(measured))
    ends, rises, weights = [], [], []
    for axis in (0, 1):
        before = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        after = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        both = measured[before] & measured[after]
        ends.append(np.stack([number[before][both], number[after][both]], axis=1))
        rises.append((field[before][both][:, axis] + field[after][both][:, axis]) / 2)
        weights.append(np.full(np.count_nonzero(both), 1 / step[axis]))
    ends, rises, weights = np.concatenate(ends), np.concatenate(rises), np.concatenate(weights)
    edges, count = np.arange(len(ends)), np.count_nonzero(measured)
    difference = sparse.csr_matrix((np.concatenate([-weights, weights]),
                                    (np.concatenate([edges, edges]), ends.T.ravel())), (len(ends), count))
    piece, pieces = ndimage.label(measured)
    piece = piece[measured] - 1
    first = np.unique(piece, return_index=True)[1]
    # One place of each piece is held at zero: without it the equations leave a constant open.
    held = sparse.csr_matrix((np.full(pieces, 1 / min(step)**2), (first, first)), (count, count))
    solved = splu((difference.T @ difference + held).tocsc()).solve(difference.T @ rises)
    size = np.bincount(piece)
    mean = np.where(size > 1, np.bincount(piece, solved) / size, np.nan)
    result[measured] = solved - mean[piece]
    return result
