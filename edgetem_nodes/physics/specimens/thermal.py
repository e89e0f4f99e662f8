"""Thermal displacement of atoms from the Debye model. Temperatures in K, displacements in m along one axis (rms)."""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.physics.specimens import ROOM_TEMPERATURE

_HBAR_SQUARED_OVER_BOLTZMANN = 1.054571817e-34 ** 2 / 1.380649e-23
"""[m^2 kg K]"""
_ATOMIC_MASS = 1.66053906892e-27
"""[kg], CODATA 2022."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)

TYPICAL = math.sqrt(0.5e-20 / (8 * math.pi ** 2))
"""[m] at room temperature for B = 0.5 A^2, as of many inorganic crystals; for want of a measured one."""


def crystal_displacement(mass: float, debye_temperature: float, temperature: float) -> float:
    """Of an atom in a three-dimensional crystal [m].

    <u^2> = 3 hbar^2 / (M k D) [1/4 + (T/D)^2 integral_0^(D/T) x / (e^x - 1) dx] (Willis & Pryor, Thermal Vibrations in
    Crystallography, 1975, section 4.4).

    Parameters
    ----------
    mass : of the atom, in unified atomic mass units.
    """
    ratio = debye_temperature / temperature
    # x / (e^x - 1) is below 1e-15 beyond 40
    upper = min(ratio, 40.0)
    x = upper * (_NODES + 1) / 2
    integral = float((_WEIGHTS * x / np.expm1(x)).sum() * upper / 2)
    square = 3 * _HBAR_SQUARED_OVER_BOLTZMANN / (mass * _ATOMIC_MASS * debye_temperature) * (0.25 + integral / ratio ** 2)
    return math.sqrt(square)


def sheet_displacement(mass: float, debye_temperature: float, temperature: float, atom_area: float, size: float) -> float:
    """Of an atom in the plane of a two-dimensional crystal [m], finite because the crystal is.

    <u^2> = hbar^2 / (M k D) [1 + 2 T/D ln((1 - exp(-D/T)) / (1 - exp(-S/T)))], S = D k_s / k_D, k_s = 2 pi / size,
    k_D^2 = 4 pi / area (Debye's integral in two dimensions, cut at the longest phonon; Shevitski et al., Phys. Rev. B 87,
    045417, 2013).

    Parameters
    ----------
    mass : of the atom, in unified atomic mass units.
    atom_area : area of the sheet per atom [m^2].
    size : of the sheet, the longest wavelength of a phonon [m].
    """
    longest = debye_temperature * 2 * math.pi / size / math.sqrt(4 * math.pi / atom_area)
    logarithm = math.log(math.expm1(-debye_temperature / temperature) / math.expm1(-longest / temperature))
    bracket = 1 + 2 * temperature / debye_temperature * logarithm
    return math.sqrt(_HBAR_SQUARED_OVER_BOLTZMANN / (mass * _ATOMIC_MASS * debye_temperature) * bracket)


def classical_displacement(at_room_temperature: float, temperature: float) -> float:
    """A displacement known at room temperature [m], at another temperature, well above the quantum limit: ~ sqrt(T)."""
    return at_room_temperature * math.sqrt(temperature / ROOM_TEMPERATURE)
