"""A domain of a sheet and the elastic field around its rim. Lengths in m, (y, x), the field's corner at the origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST = 4e-9
"""A field narrower than this still gets a domain as if it were as wide [m]."""
_GRID = 512
"""Samples along each axis of the displacement."""


@dataclass(frozen=True)
class Rim:
    """Outline of the domain: radius(angle) around a centre, its eigenstrained arcs and their width. Lengths in m."""

    centre: np.ndarray
    radius: float
    amplitudes: np.ndarray
    phases: np.ndarray
    arcs: np.ndarray
    width: float

    @classmethod
    def drawn(cls, extent: np.ndarray, generator: np.random.Generator, width: float = 0.0) -> Rim:
        """A random outline in the middle of a field of this height and width [m]; 0: the rim's width follows the field."""
        size = max(float(extent.min()), SMALLEST)
        centre = extent * (0.5 + generator.uniform(-0.06, 0.06, 2))
        first = generator.uniform(0, 2 * np.pi)
        arcs = np.array([first, first + generator.uniform(2.0, 3.6)])
        amplitudes, phases = generator.uniform(0.04, 0.09, 3), generator.uniform(0, 2 * np.pi, 3)
        return cls(centre, 0.27 * size, amplitudes, phases, arcs, width or size / 18)

    def _distance_and_angle(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance from the outline (inside negative, first order) [m] and polar angle [rad]."""
        offset = positions - self.centre
        angle = np.arctan2(offset[..., 0], offset[..., 1])
        outline, slope = np.ones(angle.shape), np.zeros(angle.shape)
        for order, amplitude, phase in zip((2, 3, 4), self.amplitudes, self.phases, strict=True):
            outline += amplitude * np.cos(order * angle + phase)
            slope -= order * amplitude * np.sin(order * angle + phase)
        apart = np.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2)
        return (apart - self.radius * outline) / np.sqrt(1 + (slope / outline) ** 2), angle

    def fraction(self, positions: np.ndarray) -> np.ndarray:
        """Expected fraction of substituted atoms, 0.01 outside, 0.96 inside, over a rim 0.4 nm wide."""
        distance, _ = self._distance_and_angle(positions)
        return 0.01 + 0.475 * (1 - np.tanh(distance / 0.4e-9))

    def eigenstrain(self, positions: np.ndarray) -> np.ndarray:
        """Stress-free strain in arbitrary units, largest about 1: positive on the first arc, negative on the second."""
        distance, angle = self._distance_and_angle(positions)
        arcs = [np.exp(3.5 * (np.cos(angle - centre) - 1)) for centre in self.arcs]
        return np.exp(-0.5 * (distance / self.width) ** 2) * (arcs[0] - 0.8 * arcs[1])


class ElasticField:
    """Displacement of an endless sheet in plane stress around an eigenstrained rim; a smooth cut-off ends it far outside."""

    def __init__(self, rim: Rim, poisson_ratio: float, strain: float) -> None:
        """Displacement u = grad(phi), laplacian(phi) = (1 + nu) eigenstrain.

        After Goodier, Phil. Mag. 23, 1017 (1937), for thermal stress. The displacement is multiplied by a window that is 1
        up to 3.7 radii of the rim from its centre, along y and x, and 0 from 5.4 on; the strain is the gradient of the
        product.

        Parameters
        ----------
        strain : largest absolute normal strain component; 0 gives a perfect lattice.
        """
        width = rim.radius / 0.27
        self._low, self._step = rim.centre - 1.5 * width, 3 * width / _GRID
        offset = np.arange(_GRID) * self._step - 1.5 * width
        eigenstrain = rim.eigenstrain(rim.centre + np.stack(np.meshgrid(offset, offset, indexing="ij"), axis=-1))
        shape = (_GRID, _GRID)
        wave = (2 * np.pi * np.fft.fftfreq(_GRID, self._step)[:, None], 2 * np.pi * np.fft.rfftfreq(_GRID, self._step)[None, :])
        square = wave[0] ** 2 + wave[1] ** 2
        square[0, 0] = 1.0
        phi = -(1 + poisson_ratio) * np.fft.rfft2(eigenstrain) / square
        phi[0, 0] = 0.0
        taper = np.cos(np.pi / 2 * np.clip((np.abs(offset) / width - 1) / 0.45, 0, 1)) ** 2
        window = taper[:, None] * taper
        displacement = [window * np.fft.irfft2(1j * phi * k, shape) for k in wave]
        spectra = [np.fft.rfft2(component) for component in displacement]
        yy, xx = (np.fft.irfft2(1j * spectra[i] * wave[i], shape) for i in (0, 1))
        xy = np.fft.irfft2(1j * (spectra[0] * wave[1] + spectra[1] * wave[0]) / 2, shape)
        scale = strain / max(np.abs(yy).max(), np.abs(xx).max())
        self._strain = [_spline(scale * component) for component in (yy, xx, xy)]
        self._displacement = [_spline(scale * component) for component in displacement]
        self.reach = 1.01 * abs(scale) * float(np.sqrt(displacement[0] ** 2 + displacement[1] ** 2).max())
        """No atom is displaced farther than this [m]."""

    def _interpolate(self, maps: list[np.ndarray], positions: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        coordinates = ((positions - self._low) / self._step).T
        return np.stack([map_coordinates(layer, coordinates, order=3, mode="constant", prefilter=False) for layer in maps],
                        axis=-1)

    def displacement(self, material: np.ndarray) -> np.ndarray:
        """Displacement (n, 2), (y, x) [m], of material points given by their place in the perfect lattice (n, 2) [m]."""
        return self._interpolate(self._displacement, material)

    def strain(self, material: np.ndarray) -> np.ndarray:
        """Components yy, xx, xy (n, 3) of the symmetric displacement gradient at material points (n, 2) [m]."""
        return self._interpolate(self._strain, material)

    def material(self, positions: np.ndarray) -> np.ndarray:
        """Where the material now at `positions` sits in the perfect lattice; three fixed-point steps reach 1e-5 of |u|."""
        lattice = positions
        for _ in range(3):
            lattice = positions - self.displacement(lattice)
        return lattice


def _spline(values: np.ndarray) -> np.ndarray:
    """Coefficients of the cubic spline through values that vanish at the border."""
    from scipy.ndimage import spline_filter

    return spline_filter(values, order=3, mode="mirror")
