"""Ideal nanobeam patterns: uniform disks with an edge blurred by a Gaussian, integrated over pixels by brute force."""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from edgetem_nodes.featurizer.bragg.cramer_rao import Pattern
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

SHAPE = (96, 96)
RADIUS, EDGE = 4.0, 0.5
CENTRE = np.array([47.6, 48.2])
BASIS = np.array([[13.8, -2.1], [1.4, 13.5]])
INDICES = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if 0 < h * h + k * k <= 5])
GEOMETRY = DetectorGeometry((48.0, 48.0), 1e-3, 4.05e-3)
_SUB = 8


def profile(dy: np.ndarray, dx: np.ndarray, radius: float = RADIUS, edge: float = EDGE) -> np.ndarray:
    """A disk's fraction in pixels at these distances from its centre; the integral over the plane is pi (R^2 + s^2)."""
    result, near = np.zeros(dy.shape), np.hypot(dy, dx) < radius + 5 * edge + 1
    parts = (np.arange(_SUB) + 0.5) / _SUB - 0.5
    distance = np.hypot(dy[near][:, None, None] + parts[:, None], dx[near][:, None, None] + parts)
    result[near] = 0.5 * erfc((distance - radius) / (np.sqrt(2) * edge)).mean(axis=(1, 2))
    return result / (np.pi * (radius**2 + edge**2))


def ideal(electrons: float, deformation: np.ndarray | None = None, *, shift=(0.0, 0.0), background: float = 0.2,
          weights: np.ndarray | None = None, indices: np.ndarray = INDICES, basis: np.ndarray = BASIS) -> Pattern:
    """Disks that fall off with the angle, and a part of the electrons as a flat background. F acts in the detector's axes."""
    moved = basis if deformation is None else np.linalg.inv(deformation).T @ basis
    weights = np.exp(-0.15 * (indices**2).sum(axis=1)) if weights is None else weights
    return Pattern(SHAPE, profile, CENTRE + np.asarray(shift), moved, indices,
                   electrons * (1 - background) * weights / weights.sum(), electrons * background / (SHAPE[0] * SHAPE[1]))


def counted(pattern: Pattern, rows: int, rng: np.random.Generator, central: float = 1.0, stop: float = 0.0) -> np.ndarray:
    """Poisson counts (rows, *shape) uint16, with a central disk of `central` times all others, behind a stop of some radius."""
    y, x = np.indices(pattern.shape)
    expected = pattern.expected() + central * pattern.electrons.sum() * pattern.disk(pattern.centre)
    expected[np.hypot(y - pattern.centre[0], x - pattern.centre[1]) < stop] = 0.0
    return rng.poisson(expected, (rows, *pattern.shape)).astype(np.uint16)
