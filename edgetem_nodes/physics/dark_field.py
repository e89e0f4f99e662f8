"""Annular dark-field survey of a thin specimen: incoherent image of the atoms with the probe's intensity."""

from __future__ import annotations

import numpy as np
import scipy.fft

from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.phase_object import Probe
from edgetem_nodes.physics.scattering_factors import annular_cross_section

_SAMPLING = 1e-10
"""[m] of the grid on which atoms are gathered; the probe is ten times wider."""


def collected_fraction(positions: np.ndarray, atomic_numbers: np.ndarray, extent: tuple[float, float], places: np.ndarray,
                       probe: Probe, inner_angle: float, outer_angle: float) -> np.ndarray:
    """Fraction (n,) of the beam that reaches an annular detector at each probe position.

    Parameters
    ----------
    positions, atomic_numbers : the atoms, (atoms, 2), (y, x) [m], and (atoms,).
    extent : height and width of the field [m], corner at the origin; places : (n, 2) probe positions, (y, x) [m].
    inner_angle, outer_angle : of the detector [rad].

    Sum over atoms of cross-section times probe intensity: single scattering, for specimens a few atoms thick.
    """
    from scipy.ndimage import map_coordinates

    low, high = positions.min(axis=0), positions.max(axis=0)
    shape = [scipy.fft.next_fast_len(int(np.ceil(length / _SAMPLING)) + 1, real=True) for length in high - low]
    weights = np.zeros(len(positions))
    for number in np.unique(atomic_numbers):
        weights[atomic_numbers == number] = annular_cross_section(int(number), probe.high_tension, inner_angle, outer_angle)
    rows, columns = np.rint((positions - low) / _SAMPLING).astype(int).T
    density = np.bincount(rows % shape[0] * shape[1] + columns % shape[1], weights, minlength=shape[0] * shape[1])
    intensity = _probe_intensity(probe, tuple(shape))
    image = scipy.fft.irfft2(scipy.fft.rfft2(density.reshape(shape)) * scipy.fft.rfft2(intensity), s=shape)
    return np.maximum(map_coordinates(image, ((places - low) / _SAMPLING).T, order=1, mode="nearest"), 0.0)


def _probe_intensity(probe: Probe, shape: tuple[int, int]) -> np.ndarray:
    """Intensity of the probe [1/m^2] around element (0, 0) of a periodic grid."""
    length = wavelength(probe.high_tension)
    frequency = np.meshgrid(*[scipy.fft.fftfreq(n, _SAMPLING) for n in shape], indexing="ij")
    angle = np.hypot(*frequency) * length
    wave = (angle <= probe.semi_convergence_angle) * np.exp(-1j * np.pi * probe.defocus / length * angle ** 2)
    intensity = np.abs(scipy.fft.ifft2(wave)) ** 2
    return intensity / intensity.sum() / _SAMPLING ** 2
