"""The angle of a detector pixel from the rings of a powder or a polycrystal of known lattice spacings."""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.featurizer.calibration.detector_scale import DetectorScale
from edgetem_nodes.featurizer.features import CountingNoise

LEAST_SIGNIFICANCE = 5.0
_BIN = 0.5
"""Width of the bins of the radial profile [pixel]."""
_BACKGROUND = 4
_ITERATIONS = 15


def pixel_angle_of_rings(pattern: np.ndarray, center: tuple[float, float], spacings: np.ndarray, wavelength: float,
                         pixel_angle: float, distortion: np.ndarray | None = None, tolerance: float = 0.05,
                         mask: np.ndarray | None = None, noise: CountingNoise | None = None) -> DetectorScale:
    """One scale and one width for all rings, each with its own height, on a background of the third degree.

    Weighted least squares of the radial profile with the variance of the fitted counts. A ring of disks of radius R has its
    peak about R^2 / 8 r farther in than r; use a small convergence angle.

    Parameters
    ----------
    pattern : (rows, columns) counts.
    center : (y, x) [pixel], and distortion (2, 2), as the bright-field disk has them.
    spacings : (rings,) of lattice planes [m], all whose rings are seen.
    wavelength : [m]; pixel_angle : [rad], right to `tolerance`.
    mask : (rows, columns) bool, True where a pixel may be used.

    Raises
    ------
    ValueError : the rings do not lie on the detector, or none stands out.
    """
    noise, spacings = noise or CountingNoise(), np.asarray(spacings, float).ravel()
    usable = np.isfinite(pattern) & (np.ones(np.shape(pattern), bool) if mask is None else np.asarray(mask, bool))
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in np.shape(pattern)), indexing="ij"))[:, usable]
    distance = np.hypot(*((np.eye(2) if distortion is None else distortion) @ (grid - np.array(center)[:, None])))
    rings = wavelength / (spacings * pixel_angle)
    near = (distance > rings.min() * (1 - 2 * tolerance) - 3) & (distance < rings.max() * (1 + 2 * tolerance) + 3)
    profile = _Profile(distance[near], np.asarray(pattern, float)[usable][near], rings, noise)
    shift, error, heights, chi_square = profile.fit(tolerance)
    if not heights.max() > LEAST_SIGNIFICANCE:
        raise ValueError(f"none of {len(rings)} rings stands out of its background within {100 * tolerance:g} % of its place "
                         f"(the highest is {heights.max():.1f} standard errors): check spacings, pixel angle and centre, or "
                         "sum more frames")
    if abs(shift) > tolerance:
        raise ValueError(f"the rings lie {100 * shift:+.1f} % off their expected radii, more than {100 * tolerance:g} %")
    scale = pixel_angle / (1 + shift)
    return DetectorScale(scale, scale / (1 + shift) * error * math.sqrt(max(chi_square, 1.0)), None, None, None, None, math.nan,
                         chi_square, int((heights > LEAST_SIGNIFICANCE).sum()))


class _Profile:
    """Counts by distance from the centre, and rings at `rings` times one plus a shift."""

    def __init__(self, distance: np.ndarray, counts: np.ndarray, rings: np.ndarray, noise: CountingNoise) -> None:
        index = np.floor(distance / _BIN).astype(int)
        size = np.bincount(index)
        kept = size >= 8
        if np.count_nonzero(kept) < 2 * (len(rings) + _BACKGROUND + 2):
            raise ValueError(f"rings at {', '.join(f'{ring:.1f}' for ring in rings)} pixels do not lie on the detector: check "
                             "the pixel's angle, or lower the camera length")
        self.size, self.counts = size[kept].astype(float), np.bincount(index, counts)[kept]
        self.distance = np.bincount(index, distance)[kept] / self.size
        self.rings, self.noise = rings, noise
        far = self.distance.max() - self.distance.min()
        self.background = np.stack([((self.distance - self.distance.mean()) / far) ** power for power in range(_BACKGROUND)])

    def _design(self, shift: float, width: float) -> np.ndarray:
        """Rings and background (bins, coefficients)."""
        peaks = np.exp(-0.5 * ((self.distance - self.rings[:, None] * (1 + shift)) / width) ** 2)
        return (np.concatenate([peaks, self.background]) * self.size).T

    def _linear(self, design: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(design * weight[:, None], self.counts * weight, rcond=None)[0]

    def fit(self, tolerance: float) -> tuple[float, float, np.ndarray, float]:
        """Shift, its standard error, heights of the rings in standard errors, and reduced chi-square."""
        weight = 1 / np.sqrt(self.noise.variance(self.counts, self.size))
        fine = np.arange(-tolerance, tolerance + 1e-9, 0.4 / self.rings.max())
        values = np.array(min(((shift, width) for shift in fine for width in (1.0, 2.0, 4.0)), key=lambda one: self._misfit(
            *one, weight)))
        for _ in range(_ITERATIONS):
            design = self._design(*values)
            linear = self._linear(design, weight)
            weight = 1 / np.sqrt(self.noise.variance(np.maximum(design @ linear, 0.0), self.size))
            columns = [(self._design(*(values + step)) - self._design(*(values - step))) @ linear / (2 * step.max())
                       for step in (np.array([1e-6, 0.0]), np.array([0.0, 1e-5]))]
            jacobian = np.concatenate([np.stack(columns, axis=1), design], axis=1) * weight[:, None]
            residual = (self.counts - design @ linear) * weight
            change = np.linalg.lstsq(jacobian, residual, rcond=None)[0][:2]
            values = values + np.clip(change, [-1 / self.rings.max(), -0.3], [1 / self.rings.max(), 0.3])
            values[1] = np.clip(values[1], 0.4, self.rings.min())
        covariance = np.linalg.pinv(jacobian.T @ jacobian)
        heights = linear[:len(self.rings)] / np.sqrt(np.diag(covariance)[2:2 + len(self.rings)])
        return (float(values[0]), math.sqrt(covariance[0, 0]), heights,
                float(residual @ residual / max(len(residual) - len(covariance), 1)))

    def _misfit(self, shift: float, width: float, weight: np.ndarray) -> float:
        design = self._design(shift, width)
        return float((((self.counts - design @ self._linear(design, weight)) * weight) ** 2).sum())
