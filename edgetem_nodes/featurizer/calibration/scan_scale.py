"""The scan's step from a known lattice in a real-space image: frequencies of its peaks, to a small part of a Fourier pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.calibration.deflection import levelled
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice, search

LEAST_SIGNIFICANCE = 5.0
LEAST_PERIODS = 3.0
_ITERATIONS = 12


@dataclass(frozen=True)
class ScanScale:
    """Steps of a scan.

    Attributes
    ----------
    steps : (2,), (y, x) [m]; errors : standard errors.
    rotation : of the lattice as it was given, from x towards y, in the scan's axes [rad]; modulo the lattice's symmetry.
    shear : by which the scan's axes are off a right angle, as the lattice shows it [rad]; shear_error : standard error.
    chi_square : reduced, of the peaks' frequencies about the lattice; NaN without a degree of freedom. More than one: the scan
        or the lattice is distorted; the errors contain it.
    peaks : number of peaks that were used.
    """

    steps: np.ndarray
    errors: np.ndarray
    rotation: float
    shear: float
    shear_error: float
    chi_square: float
    peaks: int

    def line(self) -> str:
        """For people."""
        y, x, dy, dx = (value * 1e12 for value in (*self.steps, *self.errors))
        return (f"scan steps ({y:.3f} +- {dy:.3f}, {x:.3f} +- {dx:.3f}) pm from {self.peaks} peaks of the lattice, axes "
                f"{math.degrees(self.shear):+.2f} +- {math.degrees(self.shear_error):.2f} deg off a right angle")


def fit_scan_steps(image: np.ndarray, lattice: PlaneLattice, steps: tuple[float, float], shells: int = 2,
                   errors: np.ndarray | None = None, tolerance: float = 0.1) -> ScanScale:
    """Steps of a raster scan from an image of a known lattice.

    Each peak is the frequency at which the windowed transform is largest. Its error is what the pixels' noise does to that
    place to first order (for one sinusoid in white noise the bound of Rife & Boorstyn, IEEE Trans. IT 20, 591, 1974, times the
    window's loss); errors of different peaks are correlated where the noise follows the lattice.

    Parameters
    ----------
    image : (rows, columns), e.g. annular dark field; NaN in at most a tenth.
    steps : (y, x) [m], right to `tolerance`.
    shells : innermost reciprocal shells that are looked for; those that do not stand out of the noise are not used.
    errors : standard errors of the pixels, same shape; None: the noise is that of most frequencies.

    Raises
    ------
    ValueError : fewer than two peaks that are not on a line stand out, or the field holds too few periods.
    """
    image = levelled(image)
    shape = np.array(image.shape)
    vectors = lattice.reciprocal(shells)
    vectors = vectors[(vectors[:, 0] > 1e-9 * np.abs(vectors).max()) | (
        (np.abs(vectors[:, 0]) <= 1e-9 * np.abs(vectors).max()) & (vectors[:, 1] > 0))]
    expected = vectors * np.asarray(steps)
    periods = np.linalg.norm(vectors, axis=1).min() * (shape * steps).min()
    if periods < LEAST_PERIODS:
        raise ValueError(f"the image holds {periods:.1f} periods of the lattice, fewer than {LEAST_PERIODS:g}: scan a larger "
                         "field")
    seen = np.linalg.norm(expected, axis=1) * (1 + tolerance) < 0.5
    if not seen.any():
        raise ValueError("the step is too large for the lattice, fewer than two positions a period: scan with a finer step")
    peaks = _Peaks(image, errors)
    turned = _search(peaks, vectors[seen], steps, tolerance)
    frequency, covariance, significance = peaks.refined(vectors[seen] @ turned.T)
    near = np.abs(frequency - vectors[seen] @ turned.T).max(axis=1) < 2 / shape.min()
    kept = near & (significance > LEAST_SIGNIFICANCE)
    return _lattice(vectors[seen][kept], frequency[kept], covariance[:, kept][:, :, kept], int(kept.sum()))


def _search(peaks: _Peaks, vectors: np.ndarray, steps: tuple[float, float], tolerance: float) -> np.ndarray:
    """Matrix (2, 2) that takes reciprocal vectors [1/m] to frequencies [1/pixel]."""
    mean = math.sqrt(steps[0] * steps[1])
    aspect = np.asarray(steps) / mean
    matrix = search(lambda points: peaks.height(points * aspect), vectors * mean, tolerance, 1 / max(peaks.shape), True)
    return np.diag(aspect) @ matrix * mean


def _lattice(vectors: np.ndarray, frequency: np.ndarray, noise: np.ndarray, count: int) -> ScanScale:
    """Least squares, by the peaks' covariance (2, count, count) along y and x, of the matrix that takes reciprocal vectors to
    frequencies; its rows are the steps."""
    if count < 2 or np.linalg.svd(vectors / np.abs(vectors).max(), compute_uv=False)[-1] < 0.1:
        raise ValueError(f"{count} peaks of the lattice stand out of the noise, which do not span it: sum more frames, or "
                         "check lattice constant and step")
    scale, rows, covariances, squares = np.abs(vectors).max(), [], [], 0.0
    for axis in (0, 1):
        weight, design = np.linalg.inv(noise[axis]), vectors / scale
        covariance = np.linalg.inv(design.T @ weight @ design)
        row = covariance @ (design.T @ (weight @ frequency[:, axis]))
        residual = frequency[:, axis] - design @ row
        squares += float(residual @ weight @ residual)
        rows.append(row / scale)
        covariances.append(covariance / scale**2)
    freedom = 2 * count - 4
    chi_square = squares / freedom if freedom else math.nan
    enlarged = max(chi_square, 1.0) if freedom else 1.0
    steps = np.array([np.linalg.norm(row) for row in rows])
    along = [row / step for row, step in zip(rows, steps, strict=True)]
    errors = np.array([math.sqrt(a @ c @ a * enlarged) for a, c in zip(along, covariances, strict=True)])
    across = [np.array([-a[1], a[0]]) for a in along]
    turns = [math.sqrt(a @ c @ a * enlarged) / step for a, c, step in zip(across, covariances, steps, strict=True)]
    angle_y, angle_x = math.atan2(rows[0][1], rows[0][0]), math.atan2(-rows[1][0], rows[1][1])
    shear = (angle_x - angle_y + math.pi) % (2 * math.pi) - math.pi
    return ScanScale(steps, errors, angle_y + shear / 2, shear, math.hypot(*turns), chi_square, count)


class _Peaks:
    """The windowed transform of an image at any frequency (y, x) [1/pixel]."""

    def __init__(self, image: np.ndarray, errors: np.ndarray | None) -> None:
        self.shape = image.shape
        self.window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in image.shape))
        self.image = image * self.window
        self.place = [np.arange(n) - (n - 1) / 2 for n in image.shape]
        padded = tuple(4 * n for n in image.shape)
        self.map = np.sqrt(np.abs(np.fft.fft2(self.image, padded)))
        if errors is None:
            self.variance = np.full(image.shape, np.median(np.abs(np.fft.fft2(self.image)) ** 2) / math.log(2)
                                    / (self.window**2).sum())
        else:
            variance = np.square(np.asarray(errors, float))
            self.variance = np.where(np.isfinite(variance), variance, np.nanmean(variance))
        self.spread = [float((self.window * place**2).sum() / self.window.sum())
                       for place in (self.place[0][:, None], self.place[1][None, :])]

    def height(self, points: np.ndarray) -> np.ndarray:
        """Square root of the modulus at the nearest sample to points (..., 2)."""
        index = np.rint(points * self.map.shape).astype(int)
        return self.map[index[..., 0] % self.map.shape[0], index[..., 1] % self.map.shape[1]]

    def refined(self, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frequencies (count, 2) of the maxima nearest, covariance along y and x (2, count, count), heights in errors."""
        frequency = frequency.copy()
        for _ in range(_ITERATIONS):
            for one in frequency:
                value, slopes = self._at(one)
                change = [(slope / value).real / spread / (2 * math.pi) for slope, spread in
                          zip(slopes, self.spread, strict=True)]
                one += np.clip(change, -0.3 / np.array(self.shape), 0.3 / np.array(self.shape))
        values = np.array([self._at(one)[0] for one in frequency])
        waves = [np.outer(*(np.exp(-2j * np.pi * f * place) for f, place in zip(one, self.place, strict=True))) / value
                 for one, value in zip(frequency, values, strict=True)]
        covariance = np.empty((2, len(frequency), len(frequency)))
        for axis, place in enumerate((self.place[0][:, None], self.place[1][None, :])):
            effect = np.stack([(self.window * place * wave.imag).ravel() for wave in waves]) / (2 * np.pi * self.spread[axis])
            covariance[axis] = (effect * self.variance.ravel()) @ effect.T
        return frequency, covariance, np.abs(values) / math.sqrt(float((self.window**2 * self.variance).sum()))

    def _at(self, frequency: np.ndarray) -> tuple[complex, list[complex]]:
        """Transform, and its derivatives by the angular frequency along y and x."""
        y, x = (np.exp(-2j * np.pi * f * place) for f, place in zip(frequency, self.place, strict=True))
        half, moved = self.image @ x, self.image @ (-1j * self.place[1] * x)
        return complex(y @ half), [complex((-1j * self.place[0] * y) @ half), complex(y @ moved)]
