"""Electron scattering factors of free atoms (Lobato & Van Dyck, Acta Cryst. A70, 636, 2014; doi 10.1107/S205327331401643X).

f(k) = sum_i a_i (2 + b_i k^2) / (1 + b_i k^2)^2, k = 2 sin(theta/2) / wavelength, first Born approximation with the rest
mass; a in Angstrom, b in Angstrom^2. For large k it has the Rutherford form, so it is good for HAADF angles too. The table
of all elements is the one that comes with abTEM; it is read as data, abTEM itself is not imported.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgetem_nodes.physics.electrons import ELECTRON_MASS, ELEMENTARY_CHARGE, PLANCK, lorentz_factor, wavelength

_ANGSTROM = 1e-10


@lru_cache(maxsize=1)
def _table() -> list[np.ndarray]:
    """Parameters (2, 5) of the elements, hydrogen first: the table is in the order of the periodic system.

    Raises
    ------
    ModuleNotFoundError : abTEM, whose table it is, is not installed.
    """
    package = find_spec("abtem")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("scattering factors are read from abTEM's table, and abTEM is not installed: "
                                  "pip install abtem", name="abtem")
    file = Path(package.origin).parent / "parametrizations" / "data" / "lobato.json"
    return [np.array(parameters) for parameters in json.loads(file.read_text(encoding="utf-8")).values()]


def largest_atomic_number() -> int:
    """The elements from hydrogen to this one have scattering factors."""
    return len(_table())


def scattering_factor(atomic_number: int, spatial_frequency: np.ndarray) -> np.ndarray:
    """Electron scattering factor [m] at spatial frequencies [1/m], same shape, float64.

    Raises
    ------
    ValueError : the element is not in the table.
    """
    if not 1 <= atomic_number <= largest_atomic_number():
        raise ValueError(f"no scattering factor for atomic number {atomic_number}: the table goes from 1 to "
                         f"{largest_atomic_number()}")
    square = (np.asarray(spatial_frequency, float) * _ANGSTROM) ** 2
    total = np.zeros_like(square)
    for a, b in zip(*_table()[atomic_number - 1], strict=True):
        total += a * (2 + b * square) / (1 + b * square) ** 2
    return total * _ANGSTROM


def potential_spectrum(atomic_number: int, spatial_frequency: np.ndarray) -> np.ndarray:
    """Fourier transform of an atom's projected potential [V m^3] at spatial frequencies [1/m]: h^2 / (2 pi m0 e) f(k)."""
    constant = PLANCK ** 2 / (2 * np.pi * ELECTRON_MASS * ELEMENTARY_CHARGE)
    return constant * scattering_factor(atomic_number, spatial_frequency)


def annular_cross_section(atomic_number: int, high_tension: float, inner_angle: float, outer_angle: float) -> float:
    """Elastic cross-section [m^2] into an annulus between two scattering angles [rad], high tension [V].

    The integral of |gamma f|^2 over the solid angle: the incoherent signal of one atom in an annular dark-field detector.
    """
    angles = np.linspace(inner_angle, outer_angle, 513)
    amplitude = lorentz_factor(high_tension) * scattering_factor(
        atomic_number, 2 * np.sin(angles / 2) / wavelength(high_tension))
    return float(np.trapezoid(amplitude ** 2 * 2 * np.pi * np.sin(angles), angles))
