"""Knock-on displacement: the cross-section for an electron to give an atom more than its displacement energy."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics.electrons import ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT

ENERGIES = {6: 21.14, 8: 35.7, 14: 20.0, 16: 6.9, 22: 64.9, 38: 53.5, 42: 20.0, 79: 34.0}
"""Displacement energy [eV] by atomic number: C in graphene (Susi et al., Nature Communications 7, 13040 (2016)); S and Mo in
MoS2 (Komsa et al., Phys. Rev. Lett. 109, 035503 (2012)); O, Ti and Sr in SrTiO3, mean over directions, for Ti at least so
much (Liu et al., J. Phys.: Condens. Matter 25, 485003 (2013)); Au in bulk (Hobbs, in Introduction to Analytical Electron
Microscopy, Plenum, 1987, p. 399). Si in bulk is chosen: thresholds of 145 to 220 kV amount to 13 to 21 eV."""
VELOCITY_SQUARE = {6: 3.17e5}
"""Mean square velocity along the beam [m^2/s^2] at room temperature where zero-point motion makes it greater than kT/M:
graphene (Susi et al. 2016)."""

MASSES = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 14: 28.085, 15: 30.974, 16: 32.06, 22: 47.867, 25: 54.938, 34: 78.971,
          38: 87.62, 42: 95.95, 74: 183.84, 78: 195.084, 79: 196.967, 82: 207.2}
"""Standard atomic weights; others come from ASE."""

_REST = ELECTRON_MASS * SPEED_OF_LIGHT ** 2 / ELEMENTARY_CHARGE
_DALTON = 931494102.4
_RYDBERG, _BOHR, _FINE = 13.605693, 0.529177211e-10, 7.2973525693e-3
_BOLTZMANN = 1.380649e-23


def mass(atomic_number: int) -> float:
    """Rest energy [eV] of an atom of an element."""
    if atomic_number not in MASSES:
        from ase.data import atomic_masses

        return float(atomic_masses[atomic_number]) * _DALTON
    return MASSES[atomic_number] * _DALTON


def greatest_transfer(atomic_number: int, high_tension: float, velocity: float = 0.0) -> float:
    """Energy [eV] of an atom after a head-on collision, if it moved with `velocity` [m/s] along the beam before.

    Meyer et al., Phys. Rev. Lett. 108, 196102 (2012); at rest 2 E (E + 2 m c^2) / M c^2, less the small recoil.
    """
    heavy = mass(atomic_number)
    ratio = velocity / SPEED_OF_LIGHT
    kinetic = heavy * ratio ** 2 / 2
    before = math.sqrt(high_tension * (high_tension + 2 * _REST)) + heavy * ratio
    after = math.sqrt((high_tension + kinetic) * (high_tension + 2 * _REST + kinetic))
    return (before + after) ** 2 / (2 * heavy)


def static_cross_section(atomic_number: int, high_tension: float, displacement_energy: float, transfer: float) -> float:
    """Cross-section [m^2] to exceed `displacement_energy` [eV] where at most `transfer` [eV] is given.

    McKinley & Feshbach's approximation of Mott scattering, Phys. Rev. 74, 1759 (1948), integrated (Zobelli et al., Phys.
    Rev. B 75, 245402 (2007)): good for light elements, an underestimate for heavy ones (atomic number above 28).
    """
    if transfer <= displacement_energy:
        return 0.0
    beta2 = 1 - 1 / (1 + high_tension / _REST) ** 2
    beta, part = math.sqrt(beta2), displacement_energy / transfer
    spin = math.pi * atomic_number * _FINE * beta
    bracket = 1 + 2 * spin * math.sqrt(part) - part * (1 + 2 * spin + (beta2 + spin) * math.log(1 / part))
    prefactor = 4 * atomic_number ** 2 * (_RYDBERG / _REST) ** 2 * math.pi * _BOHR ** 2 * (1 - beta2) / beta2 ** 2
    return prefactor / part * bracket


@lru_cache(maxsize=256)
def cross_section(atomic_number: int, high_tension: float, displacement_energy: float, temperature: float = 293.15) -> float:
    """Cross-section [m^2] averaged over the thermal motion of the atom along the beam (Meyer et al. 2012).

    Parameters
    ----------
    atomic_number : of the element. high_tension : [V]. displacement_energy : [eV]. temperature : of the specimen [K].

    Raises
    ------
    ValueError : a value is not positive.
    """
    for name, value in (("high tension", high_tension), ("displacement energy", displacement_energy),
                        ("temperature", temperature)):
        if not value > 0:
            raise ValueError(f"{name} {value} is not positive")
    kilograms = mass(atomic_number) * ELEMENTARY_CHARGE / SPEED_OF_LIGHT ** 2
    square = max(_BOLTZMANN * temperature / kilograms, VELOCITY_SQUARE.get(atomic_number, 0.0))
    deviates = np.linspace(-6, 6, 241)
    weights = np.exp(-deviates ** 2 / 2)
    sections = [static_cross_section(atomic_number, high_tension, displacement_energy,
                                     greatest_transfer(atomic_number, high_tension, deviate * math.sqrt(square)))
                for deviate in deviates]
    return float(np.dot(weights, sections) / weights.sum())
