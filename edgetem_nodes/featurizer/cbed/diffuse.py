"""What lies between the disks: thermal diffuse scattering, an amorphous layer, plasmon losses; and a detector's point spread.

All are smooth. Sizes follow from the elastic deficit or are drawn; shapes are those of single scattering, so they are models:
Kikuchi lines and bands are not in them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import j0, ndtr

from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.physics.inelastic import characteristic_angle
from edgetem_nodes.physics.scattering_factors import scattering_factor

STEP = 0.0625e10
"""Of radial profiles [1/m]."""
_SIDE = 256
WIDTHS = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.6]) * 1e10
"""By how much (standard deviation along an axis [1/m]) a profile is broadened because beams other than the direct one scatter
too."""
_SOFT = 0.6
_CUT = 60.0
"""Largest over characteristic angle of a plasmon: 6 to 10 mrad at 200 kV (Egerton, EELS in the EM, 3rd ed., 3.3.1)."""


def _radial(intensity: np.ndarray, width: float) -> np.ndarray:
    """Profile (points,) of a function on the square grid, broadened, whose integral over the plane [1/m]^2 is 1."""
    frequency = np.fft.fftfreq(_SIDE)
    damping = np.exp(-2 * (np.pi * width / STEP) ** 2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(intensity) * damping).real
    return np.maximum(smooth[0, :_SIDE // 2], 0.0) / (smooth.sum() * STEP ** 2)


def _grid() -> np.ndarray:
    order = np.fft.fftfreq(_SIDE, 1 / _SIDE) * STEP
    return np.hypot(order[:, None], order[None, :])


@lru_cache(maxsize=64)
def _thermal(kinds: tuple[tuple[int, float], ...]) -> np.ndarray:
    length = _grid()
    total = np.zeros_like(length)
    for number, rms in kinds:
        total += scattering_factor(number, length) ** 2 * (1 - np.exp(-(2 * np.pi * rms * length) ** 2))
    return np.stack([_radial(total, width) for width in WIDTHS])


def thermal_profiles(material: Material) -> np.ndarray:
    """Thermal diffuse scattering (widths, points) of independent oscillators, f^2 (1 - exp(-2M)), in steps of `STEP` [m^2]."""
    return _thermal(tuple(zip(material.atomic_numbers.tolist(), material.displacement_rms.tolist(), strict=True)))


@lru_cache(maxsize=1)
def carbon_profiles() -> np.ndarray:
    """Halo (widths, points) of amorphous carbon without its rings, f^2, in steps of `STEP` [m^2]."""
    length = _grid()
    return np.stack([_radial(scattering_factor(6, length) ** 2, width) for width in WIDTHS])


@lru_cache(maxsize=1)
def _plasmon_transfer() -> tuple[np.ndarray, np.ndarray]:
    """Transform of the normalised Lorentzian 1 / (t^2 + 1), cut at `_CUT`, at spatial frequencies: both (points,)."""
    frequency = np.concatenate([[0.0], np.geomspace(1e-4, 10.0, 200)])
    angle = np.concatenate([np.linspace(0, 2, 401), np.geomspace(2, _CUT, 4000)[1:]])
    weight = angle / (angle ** 2 + 1)
    values = [np.trapezoid(weight * j0(2 * np.pi * one * angle), angle) for one in frequency]
    return frequency, np.array(values) / values[0]


def transfer(shape: tuple[int, int], pixel_angle: np.ndarray, point_spread: np.ndarray, losses: np.ndarray,
             loss_energy: np.ndarray, high_tension: np.ndarray) -> np.ndarray:
    """By what the real transform of a pattern is multiplied: detector and plasmons, float32 (n, rows, columns // 2 + 1).

    Parameters
    ----------
    pixel_angle : (n,) [rad]. point_spread : (n,) standard deviation [pixel].
    losses : (n,) mean number of plasmons an electron excites, their energy (n,) [eV]. high_tension : (n,) [V].
    """
    fy, fx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    radius = np.hypot(fy[:, None], fx[None, :])
    frequency, values = _plasmon_transfer()
    # pixels integrate: without it a narrow Lorentzian would ring
    softened = _spread_transfer(_SOFT, fy)[:, None] * _spread_transfer(_SOFT, fx)[None, :]
    result = np.empty((len(pixel_angle), *radius.shape), np.float32)
    for number in range(len(result)):
        total = _spread_transfer(point_spread[number], fy)[:, None] * _spread_transfer(point_spread[number], fx)[None, :]
        if losses[number] > 0:
            wide = characteristic_angle(loss_energy[number], high_tension[number]) / pixel_angle[number]
            total = total * np.exp(losses[number] * (np.interp(radius * wide, frequency, values) * softened - 1))
        result[number] = total
    return result


def _spread_transfer(sigma: float, frequency: np.ndarray) -> np.ndarray:
    """Transform (frequencies,) [1/pixel] of a Gaussian of `sigma` [pixel] that is integrated over pixels."""
    if sigma <= 0:
        return np.ones_like(frequency)
    reach = int(np.ceil(4 * sigma)) + 1
    shares = np.diff(ndtr((np.arange(-reach, reach + 2) - 0.5) / sigma))
    return np.cos(2 * np.pi * frequency[:, None] * np.arange(-reach, reach + 1)) @ (shares / shares.sum())
