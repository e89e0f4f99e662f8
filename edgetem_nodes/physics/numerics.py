"""Numerical settings of diffraction: method, slices, and the quadrature of partial coherence. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics.optics import gaussian_quadrature

METHODS = ("auto", "single_slice", "multislice", "prism")
_THIN = 1e-9
_UNSEEN_PHASE = 0.15
_HEXAGON = 7


@dataclass(frozen=True)
class Slicing:
    """Equidistant planes into which atoms are projected, each into the nearest; one half-way goes to the one below it.

    Attributes
    ----------
    count : number of planes; distance : of two of them [m]; first : height of the first [m].
    thin : for a specimen so thin that what is scattered twice beyond the sampling's Nyquist angle does not matter.
    """

    count: int
    distance: float
    first: float
    thin: bool

    def numbers(self, heights: np.ndarray) -> np.ndarray:
        """Plane (n,) int of each height (n,) [m]."""
        if self.count == 1:
            return np.zeros(len(heights), np.int64)
        return np.clip(np.floor((heights - self.first) / self.distance + 0.5 + 1e-6), 0, self.count - 1).astype(np.int64)


def equal_slices(thickness: float, count: int) -> Slicing:
    """`count` slices of 0..thickness [m], each projected to its middle.

    Raises
    ------
    ValueError : there are no slices.
    """
    if count < 1:
        raise ValueError(f"a specimen cannot be cut into {count} slices: it needs at least 1")
    return Slicing(count, thickness / count, thickness / count / 2, False)


@dataclass(frozen=True)
class Numerics:
    """Numerical settings. Lengths [m], angles [rad].

    Attributes
    ----------
    method : one of `METHODS`; auto is for specimens of at most 1 nm a single slice, or a few where they would be seen, else
        multislice.
    slice_thickness : largest distance of two slices.
    phonon_configurations : frozen-phonon configurations of a crystalline specimen; 0: Debye-Waller factors instead.
    prism_tolerance : part of the incident amplitude that a scattering matrix may miss; R1 comes to about as much.
    device : "cpu" or "cuda", as torch names it.
    memory_mib : limit of what is kept of the specimen [MiB].
    source_points : probe positions that stand for an extended source: 7, or a square number.
    focus_points : defocus values that stand for a focal spread.
    sampling : coarsest sampling of the specimen in multislice.
    edge_blur : standard deviation of the Gaussian, in camera pixels, by which the edge of the probe-forming aperture is
        blurred, if that is less than a third of the aperture; 0: an edge one sample wide, whose probe has long tails.
    largest_shift : up to which descan shift a pattern is right to the camera's edge.

    Raises
    ------
    ValueError : a value that cannot be.
    """

    method: str = "auto"
    slice_thickness: float = 2e-10
    phonon_configurations: int = 8
    prism_tolerance: float = 0.006
    device: str = "cpu"
    memory_mib: int = 1024
    source_points: int = 7
    focus_points: int = 7
    sampling: float = 0.12e-10
    edge_blur: float = 0.6
    largest_shift: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        for name in ("slice_thickness", "sampling"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name) * 1e10:.4g} Angstrom is not positive")
        for name, least in (("phonon_configurations", 0), ("memory_mib", 1), ("focus_points", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} is less than {least}")
        if self.source_points != _HEXAGON and math.isqrt(max(self.source_points, 0)) ** 2 != self.source_points \
                or self.source_points < 1:
            raise ValueError(f"source_points {self.source_points} is neither 7 nor a square number")
        if not 0 <= self.edge_blur <= 3:
            raise ValueError(f"edge_blur {self.edge_blur:.4g} camera pixels is not between 0 and 3")
        if self.largest_shift < 0:
            raise ValueError(f"largest_shift {self.largest_shift * 1e3:.4g} mrad is negative")

    def slicing(self, thickness: float, wavelength: float, largest_angle: float) -> Slicing:
        """Slices of a specimen of `thickness` [m] that is watched up to `largest_angle` [rad].

        A thin specimen is one slice if propagation from its middle to its surfaces turns the phase by less than 0.15 rad
        there, so that waves from top and bottom interfere as if they were in one plane; else it has slices in its middle, on
        its surfaces and between, which hold the atomic planes of a sheet exactly.
        """
        if self.method == "single_slice":
            return Slicing(1, thickness, thickness / 2, True)
        if self.method == "auto" and thickness <= _THIN:
            if np.pi * largest_angle ** 2 * thickness / 2 / wavelength <= _UNSEEN_PHASE:
                return Slicing(1, thickness, thickness / 2, True)
            steps = 2 * max(1, math.ceil(thickness / 2 / self.slice_thickness - 1e-6))
            return Slicing(steps + 1, thickness / steps, 0.0, True)
        count = max(1, math.ceil(thickness / self.slice_thickness - 1e-6))
        return equal_slices(thickness, count)

    def blur(self, semi_convergence_angle: float, pixel_angle: float) -> float:
        """Standard deviation [rad] by which the aperture's edge is blurred."""
        return min(self.edge_blur * pixel_angle, semi_convergence_angle / 3)

    def source(self, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (points, 2) [m] and weights (points,) of a Gaussian source of standard deviation `sigma` [m].

        Seven points: a centre and a hexagon, right to the fifth degree (Stroud & Secrest, Math. Comp. 17, 105, 1963);
        otherwise Gauss-Hermite points along both axes.
        """
        if sigma == 0:
            return np.zeros((1, 2)), np.ones(1)
        if self.source_points == _HEXAGON:
            turn = np.arange(6) * np.pi / 3
            offsets = np.concatenate([np.zeros((1, 2)), 2 * np.stack([np.sin(turn), np.cos(turn)], axis=-1)])
            return sigma * offsets, np.array([6, 1, 1, 1, 1, 1, 1]) / 12
        points, weights = gaussian_quadrature(math.isqrt(self.source_points))
        y, x = np.meshgrid(points, points, indexing="ij")
        return sigma * np.stack([y.ravel(), x.ravel()], axis=-1), np.outer(weights, weights).ravel()

    def focus(self, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Changes of defocus (points,) [m] and weights (points,) of a focal spread of standard deviation `sigma` [m]."""
        if sigma == 0:
            return np.zeros(1), np.ones(1)
        points, weights = gaussian_quadrature(self.focus_points)
        return sigma * points, weights
