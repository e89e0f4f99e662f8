"""The angle of a detector pixel from a known lattice by its Bragg disks. Vectors (y, x). Rings of a powder: `rings`.

Angles are small: a reciprocal vector g lies at the angle wavelength * g.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.calibration.disk import Disk
from edgetem_nodes.featurizer.calibration.disk_positions import disks_near
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice, search
from edgetem_nodes.featurizer.deformation import fit_lattice
from edgetem_nodes.featurizer.features import CountingNoise

LEAST_DISKS = 4
_REFINEMENTS = 2


@dataclass(frozen=True)
class DetectorScale:
    """Angle of a pixel from a lattice.

    Attributes
    ----------
    pixel_angle, standard_error : [rad]; from counting statistics, times the root of chi-square where that is more than one.
    distortion, distortion_errors : (2, 2), as `DetectorGeometry` has it; None from rings, which do not tell it. A strain of the
        specimen cannot be told from it.
    center, center_errors : (y, x) [pixel], of the lattice; None from rings.
    rotation : of the lattice as it was given, from x towards y on the detector [rad]; NaN from rings.
    chi_square : reduced; NaN without a degree of freedom.
    used : number of disks or rings.
    """

    pixel_angle: float
    standard_error: float
    distortion: np.ndarray | None
    distortion_errors: np.ndarray | None
    center: np.ndarray | None
    center_errors: np.ndarray | None
    rotation: float
    chi_square: float
    used: int

    def line(self) -> str:
        """For people."""
        what = "rings" if self.center is None else "Bragg disks"
        return (f"pixel angle {self.pixel_angle * 1e3:.5f} +- {self.standard_error * 1e3:.5f} mrad from {self.used} {what}, "
                f"chi-square {self.chi_square:.2f}")


def fit_pixel_angle(places: np.ndarray, vectors: np.ndarray, wavelength: float, errors: np.ndarray) -> DetectorScale:
    """Weighted least squares of centre, scale, rotation and distortion through disks.

    With M the matrix that takes angles to pixels, M = distortion^-1 R / pixel angle (polar decomposition), so the pixel angle
    is det(M)^-1/2.

    Parameters
    ----------
    places : (disks, 2) measured [pixel]; NaN where a disk was not found.
    vectors : (disks, 2), their reciprocal vectors, in any rotation [1/m].
    wavelength : [m].
    errors : (disks,) or (disks, 2) standard errors of the places [pixel].

    Raises
    ------
    ValueError : too few disks, or all on a line.
    """
    places, vectors = np.asarray(places, float), np.asarray(vectors, float)
    variance = np.square(np.asarray(errors, float))
    variance = variance.mean(axis=1) if variance.ndim == 2 else variance
    variance = np.where(np.isfinite(places).all(axis=1) & np.isfinite(variance), variance, np.inf)
    used = int(np.isfinite(variance).sum())
    fit = fit_lattice(wavelength * vectors, places[None], variance[None])
    if used < LEAST_DISKS or not np.isfinite(fit.matrix).all():
        raise ValueError(f"{used} disks with a place {'are too few' if used < LEAST_DISKS else 'lie on a line'}: the pixel's "
                         f"angle needs {LEAST_DISKS} or more in two directions")
    matrix, chi_square = fit.matrix[0], float(fit.chi_square[0])
    enlarged = max(chi_square, 1.0) if np.isfinite(chi_square) else 1.0
    covariance = fit.covariance[0] * enlarged
    determinant = np.linalg.det(matrix)
    if determinant <= 0:
        raise ValueError("the lattice appears mirrored: the detector is flipped, or disks have wrong reciprocal vectors")
    pixel_angle = determinant**-0.5
    inverse = np.linalg.inv(matrix)
    relative = 0.5 * math.sqrt(sum(inverse[:, row] @ covariance[1:, 1:] @ inverse[:, row] for row in (0, 1)))
    distortion, rotation = _polar(matrix)
    deviations = _distortion_errors(matrix, covariance[1:, 1:])
    return DetectorScale(pixel_angle, pixel_angle * relative, distortion, deviations, fit.centre[0],
                         np.full(2, math.sqrt(covariance[0, 0])), rotation, chi_square, used)


def _polar(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Distortion (2, 2), of determinant 1, and rotation [rad] of matrix = distortion^-1 R / pixel angle."""
    left, values, right = np.linalg.svd(matrix)
    turn = left @ right
    stretch = left @ np.diag(math.sqrt(values[0] * values[1]) / values) @ left.T
    return stretch, math.atan2(turn[0, 1], turn[0, 0])


def _distortion_errors(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Standard errors (2, 2) of the distortion: derivatives by each element of the matrix, whose rows have this covariance."""
    step, variance = 1e-6 * np.abs(matrix).max(), np.zeros((2, 2))
    for row in (0, 1):
        slopes = []
        for column in (0, 1):
            moved = [matrix.copy(), matrix.copy()]
            moved[0][row, column] += step
            moved[1][row, column] -= step
            slopes.append((_polar(moved[0])[0] - _polar(moved[1])[0]) / (2 * step))
        variance += np.einsum("aij,ab,bij->ij", np.stack(slopes), covariance, np.stack(slopes))
    return np.sqrt(variance)


def pixel_angle_of_disks(pattern: np.ndarray, disk: Disk, lattice: PlaneLattice, wavelength: float, pixel_angle: float,
                         shells: int = 2, tolerance: float = 0.15, mask: np.ndarray | None = None,
                         noise: CountingNoise | None = None) -> DetectorScale:
    """Find the Bragg disks of a known lattice in a summed pattern, in any rotation, and fit the pixel's angle.

    Parameters
    ----------
    pattern : (rows, columns) counts.
    disk : the bright-field disk; Bragg disks are as large.
    wavelength : [m].
    pixel_angle : [rad], right to `tolerance`.
    shells : innermost reciprocal shells to be used.
    mask : (rows, columns) bool, True where a pixel may be used.

    Raises
    ------
    ValueError : the disks overlap, or fewer than four are found.
    """
    vectors = lattice.reciprocal(shells)
    back = np.linalg.inv(disk.distortion)
    expected = wavelength * vectors / pixel_angle
    nearest = np.linalg.norm(expected, axis=1).min()
    if 2 * disk.radius > 0.95 * nearest:
        raise ValueError(f"Bragg disks of {disk.radius:.1f} pixels, {nearest:.1f} pixels apart, overlap: lower the "
                         "semi-convergence angle, or calibrate the pixel by the known semi-convergence angle")
    shape = np.array(np.shape(pattern))
    margin = disk.radius * disk.axis_ratio + 2
    usable = np.isfinite(pattern) & (np.ones(tuple(shape), bool) if mask is None else np.asarray(mask, bool))
    likeness = _likeness(np.where(usable, pattern, 0.0), usable, disk.radius)

    def height(points: np.ndarray) -> np.ndarray:
        place = points @ back.T + disk.center
        index = np.clip(np.rint(place).astype(int), 0, shape - 1)
        on = ((place > margin) & (place < shape - 1 - margin)).all(axis=-1)
        return np.where(on, likeness[index[..., 0], index[..., 1]], 0.0)

    matrix = back @ search(height, expected, tolerance, 0.5 * disk.radius, False) / pixel_angle
    center = np.array(disk.center)
    for _ in range(_REFINEMENTS):
        places = center + wavelength * vectors @ matrix.T
        on = ((places > margin) & (places < shape - 1 - margin)).all(axis=1)
        found = disks_near(pattern, places[on], disk, usable, noise)
        fit = fit_pixel_angle(found.centers, vectors[on], wavelength, found.errors)
        matrix, center = np.linalg.inv(fit.distortion) @ _turn(fit.rotation) / fit.pixel_angle, fit.center
    return fit


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _likeness(pattern: np.ndarray, usable: np.ndarray, radius: float) -> np.ndarray:
    """How much brighter a disk about each pixel is than a ring around it, of square roots of counts; not below zero."""
    from scipy.signal import fftconvolve

    half = math.ceil(1.4 * radius)
    distance = np.hypot(*np.mgrid[-half:half + 1, -half:half + 1])
    image, weight = np.sqrt(np.maximum(pattern, 0.0)), usable.astype(float)
    means = []
    for kernel in (distance <= radius, (distance > radius) & (distance <= 1.4 * radius)):
        total = fftconvolve(image, kernel.astype(float), mode="same")
        means.append(total / np.maximum(fftconvolve(weight, kernel.astype(float), mode="same"), 1.0))
    return np.maximum(means[0] - means[1], 0.0)
