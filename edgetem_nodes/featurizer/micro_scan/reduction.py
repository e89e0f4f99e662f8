"""From patterns to a few detectors: two rings of eight bright-field segments, and a dark field.

Segments of the bright-field disk hold the phase of a thin specimen (Rose, Ultramicroscopy 2, 251, 1977), the dark field its
atomic numbers. Sixteen segments let probes lie farther apart than an image alone would allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

SECTORS = 8
INNER_RING = 0.62
"""Outer radius of the inner ring, over the semi-convergence angle: about half of the disk's area lies above it."""
DISK_EDGE, DARK_EDGE = 1.08, 1.14
"""Where bright-field segments end and the dark field begins, over the semi-convergence angle: the disk's edge is blurred."""
BRIGHT = 2 * SECTORS
CHANNELS = BRIGHT + 1
LEAST_OUTER = 1.3
"""Least radius that the camera must see, over the semi-convergence angle."""
_SUBPIXELS = 4


def detectors(angle_y: np.ndarray, angle_x: np.ndarray, semi_convergence_angle: float, outer_angle: float) -> np.ndarray:
    """Which detector each point of the diffraction plane belongs to, (channels, *shape) bool.

    Parameters
    ----------
    angle_y, angle_x : [rad], in the scan's axes.
    outer_angle : where the dark field ends [rad].
    """
    radius = np.hypot(angle_y, angle_x) / semi_convergence_angle
    sector = np.floor(np.arctan2(angle_y, angle_x) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    ring = np.where(radius < INNER_RING, 0, np.where(radius < DISK_EDGE, 1, -1))
    inside = [(ring == r) & (sector == s) for r in range(2) for s in range(SECTORS)]
    return np.stack([*inside, (radius >= DARK_EDGE) & (radius * semi_convergence_angle < outer_angle)])


def sampled_detectors(step: float, reach: int, semi_convergence_angle: float, outer_angle: float,
                      centre: tuple[float, float] = (0.0, 0.0), turn: float = 0.0, subsamples: int = _SUBPIXELS) -> np.ndarray:
    """What part of the cell about each angle (-reach..reach) * step [rad] every detector covers, float32 (channels, k, k).

    Parameters
    ----------
    centre : of the detectors, (y, x) [rad]; turn : of the detectors, from x towards y [rad].
    """
    order = (np.arange(-reach, reach + 1)[:, None] + (np.arange(subsamples) - (subsamples - 1) / 2) / subsamples).ravel() * step
    y, x = np.meshgrid(order - centre[0], order - centre[1], indexing="ij")
    cosine, sine = np.cos(turn), np.sin(turn)
    y, x = y * cosine - x * sine, x * cosine + y * sine
    inside = detectors(y, x, semi_convergence_angle, outer_angle)
    size = 2 * reach + 1
    return inside.reshape(len(inside), size, subsamples, size, subsamples).mean(axis=(2, 4)).astype(np.float32)


@dataclass(frozen=True)
class Reduced:
    """Micro-scans as detector signals.

    Attributes
    ----------
    signals : (rows, channels, n, n) fractions of the electrons that fell on the camera.
    electrons : (rows,) mean number in a pattern.
    mean : (rows, ky, kx) mean pattern, counts.
    """

    signals: np.ndarray
    electrons: np.ndarray
    mean: np.ndarray


class Reduction:
    """Sums patterns over detectors that are laid about each micro-scan's own beam centre.

    The centre is that of the mean pattern's bright disk: a specimen moves the disk's inside from pattern to pattern, and in
    the mean over a unit cell not at all.
    """

    def __init__(self, geometry: DetectorGeometry, shape: tuple[int, int], semi_convergence_angle: float) -> None:
        """Prepare for patterns of `shape`; raises ValueError where the camera does not see enough beyond the disk."""
        self._geometry, self._shape, self._alpha = geometry, shape, semi_convergence_angle
        self._to_scan = geometry.to_scan()
        y, x = geometry.center
        self.outer_angle = min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) * geometry.pixel_angle
        if self.outer_angle < LEAST_OUTER * semi_convergence_angle:
            raise ValueError(f"the camera sees {self.outer_angle * 1e3:.3g} mrad about the beam, and a micro-scan at "
                             f"{semi_convergence_angle * 1e3:.3g} mrad needs {LEAST_OUTER * semi_convergence_angle * 1e3:.3g} "
                             "mrad or more: use a shorter camera length")
        self._masks: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, frames: np.ndarray, counts_per_electron: float = 1.0) -> Reduced:
        """Reduce micro-scans (rows, n, n, ky, kx) [counts], all finite and with counts."""
        rows, n = frames.shape[:2]
        mean = frames.reshape(rows, n * n, *self._shape).mean(axis=1, dtype=float)
        signals = np.empty((rows, CHANNELS, n, n), np.float32)
        for row, frame in enumerate(frames):
            masks = self._detectors(self.beam_centre(mean[row]))
            flat = frame.reshape(n * n, -1).astype(np.float32)
            total = np.maximum(flat.sum(axis=1, keepdims=True), 1e-9)
            signals[row] = (flat @ masks.T / total).T.reshape(CHANNELS, n, n)
        return Reduced(signals, mean.sum(axis=(1, 2)) / counts_per_electron, mean)

    def beam_centre(self, mean: np.ndarray) -> np.ndarray:
        """Centre (y, x) [pixel] of the bright disk in a mean pattern, by its centre of mass within a circle that follows it."""
        y, x = np.meshgrid(np.arange(self._shape[0]), np.arange(self._shape[1]), indexing="ij")
        centre = np.array(self._geometry.center, float)
        radius = 1.1 * self._alpha / self._geometry.pixel_angle
        for _ in range(4):
            weight = mean * np.clip(radius + 0.5 - np.hypot(y - centre[0], x - centre[1]), 0, 1)
            total = weight.sum()
            if not total > 0:
                break
            centre = np.array([(weight * y).sum(), (weight * x).sum()]) / total
        return centre

    def disk_fraction(self, reduced: Reduced) -> np.ndarray:
        """Part of the electrons within the bright-field disk, (rows,)."""
        return reduced.signals[:, :BRIGHT].sum(axis=1).mean(axis=(1, 2))

    def _detectors(self, centre: np.ndarray) -> np.ndarray:
        """Weights (channels, pixels) float32 about a centre, which is rounded to a sixteenth of a pixel."""
        key = tuple(np.rint(np.asarray(centre) * 16).astype(int).tolist())
        if key not in self._masks:
            if len(self._masks) > 256:
                self._masks.clear()
            parts = (np.arange(_SUBPIXELS) - (_SUBPIXELS - 1) / 2) / _SUBPIXELS
            y = ((np.arange(self._shape[0])[:, None] + parts).ravel() - key[0] / 16) * self._geometry.pixel_angle
            x = ((np.arange(self._shape[1])[:, None] + parts).ravel() - key[1] / 16) * self._geometry.pixel_angle
            grid = np.stack(np.meshgrid(y, x, indexing="ij"))
            turned = np.tensordot(self._to_scan @ np.asarray(self._geometry.distortion), grid, axes=1)
            inside = detectors(turned[0], turned[1], self._alpha, self.outer_angle)
            split = inside.reshape(CHANNELS, self._shape[0], _SUBPIXELS, self._shape[1], _SUBPIXELS)
            self._masks[key] = split.mean(axis=(2, 4)).astype(np.float32).reshape(CHANNELS, -1)
        return self._masks[key]
