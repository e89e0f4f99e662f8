"""What inelastic scattering and a dirty surface add to elastic diffraction patterns: plasmon background, amorphous layer.

Both redistribute a pattern: each electron that is scattered once more is deflected by an angle drawn from a known
distribution, so the new pattern is the old one convolved with it. The distributions of any number of such events add up to
one factor in the pattern's Fourier transform (Poisson statistics of independent events), which conserves electrons: what
leaves the camera is gone, and nothing comes back round the edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.fft

from edgetem_nodes.physics.electrons import AVOGADRO, ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT, lorentz_factor, wavelength
from edgetem_nodes.physics.optics import Annulus, Camera
from edgetem_nodes.physics.scattering_factors import annular_cross_section, scattering_factor

_FINE = 8
_HALO = 0.3
"""Largest angle [rad] of elastic scattering that is looked at."""


def characteristic_angle(energy_loss: float, high_tension: float) -> float:
    """theta_E [rad] = E / (gamma m v^2) of an energy loss [eV] (Egerton, EELS in the EM, 3rd ed., section 3.2).

    Raises
    ------
    ValueError : the energy loss is not positive, or more than the electron has.
    """
    if not 0 < energy_loss < high_tension:
        raise ValueError(f"energy loss {energy_loss} eV is not between 0 and the beam's {high_tension} eV")
    gamma = lorentz_factor(high_tension)
    rest = ELECTRON_MASS * SPEED_OF_LIGHT ** 2 / ELEMENTARY_CHARGE
    return energy_loss / (rest * (gamma - 1 / gamma))


def scattering_probabilities(relative_thickness: np.ndarray, events: int) -> np.ndarray:
    """Poisson probability (n, events + 1) of 0..events losses at thickness / mean free path (n,) (Egerton, 3.4.1)."""
    t = np.asarray(relative_thickness, float).reshape(-1, 1)
    order = np.arange(events + 1)
    return np.exp(-t) * t ** order / np.array([math.factorial(n) for n in order], float)


class PlasmonBackground:
    """Plasmon scattering: a Lorentzian 1 / (theta^2 + theta_E^2) up to theta_c (Egerton, 3.3.1)."""

    def __init__(self, camera: Camera, high_tension: float, plasmon_energy: float, cutoff_angle: float) -> None:
        """Prepare the distribution on a camera.

        Parameters
        ----------
        plasmon_energy : [eV]; cutoff_angle : theta_c, beyond which a plasmon decays at once [rad].

        Raises
        ------
        ValueError : the cut-off angle is not beyond theta_E, or the energy cannot be.
        """
        theta_e = characteristic_angle(plasmon_energy, high_tension)
        if not cutoff_angle > theta_e:
            raise ValueError(f"cut-off angle {cutoff_angle * 1e3:.4g} mrad is not beyond the characteristic angle, "
                             f"{theta_e * 1e3:.4g} mrad, of a plasmon of {plasmon_energy:.4g} eV")
        self.characteristic_angle, self.cutoff_angle = theta_e, cutoff_angle
        self._spread = Redistribution(camera, lambda angle: 1 / (angle ** 2 + theta_e ** 2), cutoff_angle)

    def add(self, patterns: np.ndarray, relative_thickness: np.ndarray, unscattered: bool = True) -> np.ndarray:
        """Patterns after inelastic scattering, float32 (n, ky, kx).

        Parameters
        ----------
        patterns : elastic, (n, ky, kx); relative_thickness : thickness over mean free path, (n,) or a number.
        unscattered : whether electrons that lost no energy are kept; without them, the pattern is an energy-filtered one.

        Raises
        ------
        ValueError : a thickness is negative.
        """
        result = self._spread(patterns, relative_thickness)
        if not unscattered:
            result -= patterns * np.exp(-_thicknesses(relative_thickness, len(patterns)))[:, None, None].astype(np.float32)
        return result


class AmorphousLayer:
    """A layer of carbon, e.g. contamination: elastic scattering by independent atoms into a diffuse halo.

    The cross-section of an atom is the integral of |f(k)|^2 over the solid angle, f the relativistic first Born scattering
    factor (Kirkland, chapter 5); the mean free path is 1 / (number density * cross-section). Rings of the short-range order
    are not modelled.
    """

    def __init__(self, camera: Camera, high_tension: float, density: float = 2.0e3, atomic_number: int = 6,
                 atomic_weight: float = 12.011) -> None:
        """Prepare the distribution on a camera.

        Parameters
        ----------
        density : [kg/m^3]; atomic_weight : [g/mol].

        Raises
        ------
        ValueError : the density is not positive.
        """
        if not density > 0:
            raise ValueError(f"density {density} kg/m^3 of the amorphous layer is not positive")
        length = wavelength(high_tension)
        self.mean_free_path = mean_free_path(Annulus(0.0, _HALO), high_tension, density, atomic_number, atomic_weight)
        """Elastic [m]."""
        self._spread = Redistribution(camera, lambda angle: scattering_factor(atomic_number, angle / length) ** 2, _HALO)

    def add(self, patterns: np.ndarray, thickness: np.ndarray) -> np.ndarray:
        """Patterns behind a layer of `thickness` [m], (n,) or a number: attenuated and with a halo, float32 (n, ky, kx).

        Raises
        ------
        ValueError : a thickness is negative.
        """
        return self._spread(patterns, np.asarray(thickness, float) / self.mean_free_path)


def mean_free_path(annulus: Annulus, high_tension: float, density: float = 2.0e3, atomic_number: int = 6,
                   atomic_weight: float = 12.011) -> float:
    """Mean free path [m] for elastic scattering into an annulus, by independent atoms; parameters as of `AmorphousLayer`."""
    cross_section = annular_cross_section(atomic_number, high_tension, annulus.inner, annulus.outer)
    return atomic_weight * 1e-3 / (AVOGADRO * density * cross_section)


class Redistribution:
    """Convolution of patterns with any number of independent deflections, Poisson distributed."""

    def __init__(self, camera: Camera, distribution: Callable[[np.ndarray], np.ndarray], largest_angle: float) -> None:
        """Sample a distribution per solid angle, of any scale, that ends at `largest_angle` [rad], on a camera's pixels."""
        self._pixels = camera.pixels
        self._padded = scipy.fft.next_fast_len(2 * camera.pixels, real=True)
        kernel = pixel_probabilities(distribution, camera.pixels, camera.pixel_angle, largest_angle)
        half = camera.pixels - 1
        board = np.zeros((self._padded, self._padded))
        order = np.arange(-half, half + 1)
        board[np.ix_(order, order)] = kernel
        self._transfer = scipy.fft.rfft2(board).real.astype(np.float32)

    def __call__(self, patterns: np.ndarray, events: np.ndarray) -> np.ndarray:
        """Patterns (n, ky, kx) after on average `events`, (n,) or a number, deflections an electron; float32."""
        patterns = np.asarray(patterns, np.float32)
        events = _thicknesses(events, len(patterns)).astype(np.float32)
        if patterns.shape[1:] != (self._pixels, self._pixels):
            raise ValueError(f"patterns of {patterns.shape[1:]} pixels do not come from a camera of {self._pixels} x "
                             f"{self._pixels}")
        result = np.empty_like(patterns)
        n = self._pixels
        for number, pattern in enumerate(patterns):
            rows = scipy.fft.rfft(pattern, n=self._padded, axis=1)
            spectrum = scipy.fft.fft(rows, n=self._padded, axis=0, overwrite_x=True)
            spectrum *= np.exp(events[number] * (self._transfer - np.float32(1)))
            rows = scipy.fft.ifft(spectrum, axis=0, overwrite_x=True)[:n]
            result[number] = scipy.fft.irfft(rows, n=self._padded, axis=1)[:, :n]
        return np.maximum(result, 0, out=result)


def pixel_probabilities(distribution: Callable[[np.ndarray], np.ndarray], pixels: int, pixel_angle: float,
                        largest_angle: float) -> np.ndarray:
    """Probability (2 pixels - 1, 2 pixels - 1) that a deflection goes to a pixel, the middle one being no pixel away.

    Sums to at most 1: the rest goes farther than the camera is wide. The middle pixel, where distributions peak, is
    integrated in polar coordinates.
    """
    half = pixels - 1
    middle = (np.arange(_FINE) + 0.5) / _FINE - 0.5
    quadrant = ((np.arange(pixels)[:, None] + middle) * pixel_angle).ravel()
    values = np.zeros((half + 1, half + 1))
    for row in range(half + 1):
        radius = np.hypot(quadrant[row * _FINE:(row + 1) * _FINE, None], quadrant[None, :])
        inside = (radius < largest_angle) * distribution(radius)
        values[row] = inside.reshape(_FINE, half + 1, _FINE).sum(axis=(0, 2)) * (pixel_angle / _FINE) ** 2
    values[0, 0] = _middle(distribution, pixel_angle / 2, largest_angle)
    whole = np.concatenate([values[:0:-1], values])
    whole = np.concatenate([whole[:, :0:-1], whole], axis=1)
    if largest_angle <= half * pixel_angle:
        return whole / whole.sum()
    return whole / _total(distribution, largest_angle)


def _middle(distribution: Callable[[np.ndarray], np.ndarray], half: float, largest_angle: float) -> float:
    """Integral over the square of half edge `half` [rad], in polar coordinates with logarithmic radii."""
    radius = np.concatenate([[0.0], np.geomspace(half * 1e-5, half * math.sqrt(2), 4001)])
    centre = (radius[1:] + radius[:-1]) / 2
    share = np.where(centre <= half, 1.0, 1 - 4 / np.pi * np.arccos(np.minimum(1.0, half / centre)))
    ring = np.pi * np.diff(radius ** 2) * share
    return float((ring * distribution(centre) * (centre < largest_angle)).sum())


def _total(distribution: Callable[[np.ndarray], np.ndarray], largest_angle: float) -> float:
    """Integral over all solid angle up to `largest_angle` [rad]."""
    radius = np.concatenate([[0.0], np.geomspace(largest_angle * 1e-6, largest_angle, 20001)])
    centre = (radius[1:] + radius[:-1]) / 2
    return float((np.pi * np.diff(radius ** 2) * distribution(centre)).sum())


def _thicknesses(values: np.ndarray, count: int) -> np.ndarray:
    """Thicknesses (count,) in mean free paths."""
    values = np.broadcast_to(np.asarray(values, float), (count,))
    if (values < 0).any():
        raise ValueError(f"thickness {values.min():.4g} mean free paths is negative: a layer has 0 or more")
    return values
