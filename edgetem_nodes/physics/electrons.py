"""The fast electron: wavelength, relativistic mass, interaction with a potential, electrons in a beam. SI units."""

from __future__ import annotations

import math

PLANCK = 6.62607015e-34
"""[J s], exact (SI 2019)."""
SPEED_OF_LIGHT = 299792458.0
"""[m/s], exact."""
ELEMENTARY_CHARGE = 1.602176634e-19
"""[C], exact."""
AVOGADRO = 6.02214076e23
"""[1/mol], exact."""
ELECTRON_MASS = 9.1093837139e-31
"""[kg], CODATA 2022."""

_REST_ENERGY = ELECTRON_MASS * SPEED_OF_LIGHT ** 2


def lorentz_factor(high_tension: float) -> float:
    """Mass of the fast electron over its rest mass, for a high tension [V].

    Raises
    ------
    ValueError : the high tension is not positive.
    """
    if not high_tension > 0:
        raise ValueError(f"high tension {high_tension} V is not positive: set high_tension_kV")
    return 1.0 + ELEMENTARY_CHARGE * high_tension / _REST_ENERGY


def wavelength(high_tension: float) -> float:
    """Relativistic de Broglie wavelength [m] of an electron accelerated by `high_tension` [V]."""
    energy = ELEMENTARY_CHARGE * high_tension
    lorentz_factor(high_tension)
    return PLANCK * SPEED_OF_LIGHT / math.sqrt(energy * (energy + 2 * _REST_ENERGY))


def interaction_constant(high_tension: float) -> float:
    """Phase [rad] per projected potential [V m]: 2 pi m e wavelength / h^2 (Kirkland, Advanced Computing in EM, 5.6)."""
    mass = lorentz_factor(high_tension) * ELECTRON_MASS
    return 2 * math.pi * mass * ELEMENTARY_CHARGE * wavelength(high_tension) / PLANCK ** 2


def electrons(current: float, duration: float) -> float:
    """Number of electrons that a beam of `current` [A] carries in `duration` [s]."""
    return current * duration / ELEMENTARY_CHARGE
