"""Inner-shell losses from tabulated photoabsorption: edges, their power-law background, fine structure, cross-sections.

In the dipole region the energy-loss function of inner shells is the imaginary part of the permittivity, and that is
photoabsorption: eps2 = E_p1^2 f2 / E^2 with the plasma energy E_p1 of one electron an atom (Egerton, EELS in the EM, 3rd
ed., 3.2 and 4.2). So the edges of an element and the background under them (the tail of its shallower shells) come from
one table. f2: Henke, Gullikson & Davis, At. Data Nucl. Data Tables 54, 181 (1993), thinned to 1 % in log-log.
Energies in eV, angles in rad, areas in m^2.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np

from edgetem_nodes.physics.electrons import ELECTRON_MASS, ELEMENTARY_CHARGE, lorentz_factor
from edgetem_nodes.physics.energy_loss.materials import BOHR_RADIUS, Material, plasma_energy_squared, speed

ELEMENTS = ("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
            "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
            "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U").split()
SMALLEST_JUMP = 1.2
"""Ratio of f2 above and below that counts as an edge."""
STEP_WIDTH = 1.2
"""[eV] by which a sharp edge's step begins earlier and ends later: lifetime of the core hole and band structure."""


@cache
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(Path(__file__).with_name("photoabsorption.npz")) as data:
        return data["energy"].astype(float), data["f2"].astype(float), data["start"]


def _element(symbol: str) -> tuple[np.ndarray, np.ndarray]:
    if symbol not in ELEMENTS:
        raise ValueError(f"element {symbol!r} is not in the photoabsorption table, H to U")
    energy, f2, start = _table()
    index = ELEMENTS.index(symbol)
    return energy[start[index]:start[index + 1]], f2[start[index]:start[index + 1]]


def edges(symbol: str, lowest: float = 60.0) -> dict[float, float]:
    """Tabulated edges of an element above `lowest` [eV]: energy [eV] -> f2 above the step less f2 below it.

    Raises
    ------
    ValueError : there is no such element.
    """
    energy, f2 = _element(symbol)
    near = np.diff(energy) < 0.02 * energy[:-1]
    steps = np.flatnonzero((f2[1:] > SMALLEST_JUMP * f2[:-1]) & near & (energy[:-1] > lowest))
    return {float(energy[step]): float(f2[step + 1] - f2[step]) for step in steps}


def scattering_factor(symbol: str, energies: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Imaginary part f2 of the atomic scattering factor at `energies` [eV], of their shape.

    Parameters
    ----------
    shift : moves the element's first sharp edge above 80 eV, and all above it, by so much [eV]: solid less free atom.
    """
    tabulated, f2 = _element(symbol)
    energies = np.asarray(energies, float)
    sharp = [edge for edge, jump in edges(symbol, 80.0).items() if jump > 2.0]
    if sharp:
        step = np.isin(tabulated, sharp)
        widened = tabulated - STEP_WIDTH * step
        widened[1:] += STEP_WIDTH * step[:-1]
        tabulated = np.maximum.accumulate(widened) + shift * (tabulated > 0.8 * sharp[0])
    return np.exp(np.interp(np.log(energies), np.log(tabulated), np.log(f2)))


def inner_shell_loss(material: Material, energies: np.ndarray) -> np.ndarray:
    """Energy-loss function Im(-1/eps) of inner shells with fine structure, at `energies` [eV] > 0, of their shape."""
    total = np.zeros(np.shape(energies))
    for symbol, density in material.number_densities.items():
        f2 = scattering_factor(symbol, energies, material.chemical_shift.get(symbol, 0.0))
        for peak in material.fine_structure:
            if peak.element == symbol:
                f2 = f2 + _height(symbol, peak.edge) * peak.area * _lorentzian(energies, peak.energy, peak.width)
        total += plasma_energy_squared(density) * f2 / energies ** 2
    return total


def _height(symbol: str, edge: float) -> float:
    steps = edges(symbol)
    nearest = min(steps, key=lambda energy: abs(energy - edge), default=None)
    if nearest is None or abs(nearest - edge) > 0.02 * edge:
        raise ValueError(f"{symbol} has no tabulated edge at {edge} eV; it has {', '.join(f'{e:g}' for e in steps)}")
    return steps[nearest]


def _lorentzian(energies: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Of unit area; its tails, which white lines do not have, are cut by a squared denominator."""
    half = 0.5 * width / math.sqrt(math.sqrt(2) - 1)
    return 2 / (math.pi * half) / (1 + ((energies - centre) / half) ** 2) ** 2


def angular_factor(energies: np.ndarray, high_tension: float, collection_angle: float) -> np.ndarray:
    """ln(1 + beta^2 / theta_E^2) at `energies` [eV] > 0, beta cut smoothly at the Bethe ridge (E / E_0)^(1/2).

    (Egerton, EELS in the EM, 3rd ed., sections 3.2 and 3.6.)
    """
    energies = np.asarray(energies, float)
    characteristic = energies / characteristic_energy(high_tension)
    ridge = energies / high_tension
    return np.log1p(collection_angle ** 2 * ridge / (collection_angle ** 2 + ridge) / characteristic ** 2)


def characteristic_energy(high_tension: float) -> float:
    """gamma m v^2 [eV]: the energy loss over it is the characteristic angle theta_E of inelastic scattering."""
    return lorentz_factor(high_tension) * ELECTRON_MASS * speed(high_tension) ** 2 / ELEMENTARY_CHARGE


def scattering_rate(high_tension: float) -> float:
    """1 / (pi a_0 m v^2) [1/(m eV)]: probability a length, energy and unit of loss function times angular factor."""
    return ELEMENTARY_CHARGE / (math.pi * BOHR_RADIUS * ELECTRON_MASS * speed(high_tension) ** 2)


def cross_section(symbol: str, window: tuple[float, float], high_tension: float, collection_angle: float,
                  background: bool = False) -> float:
    """Partial cross-section [m^2] of an atom for losses in a window [eV] that begins at or just below an edge.

    Parameters
    ----------
    background : leave in what shallower shells lose; else their f2 is extrapolated from below the window as a power law and
        taken off.

    Raises
    ------
    ValueError : the window is not two ascending positive energies, or there is no such element.
    """
    if not 0 < window[0] < window[1]:
        raise ValueError(f"window {window} must be two ascending energies above 0 eV")
    energies = np.linspace(*window, 2000)
    f2 = scattering_factor(symbol, energies)
    if not background:
        below = np.geomspace(0.75 * window[0], 0.98 * window[0], 20)
        slope, level = np.polyfit(np.log(below), np.log(scattering_factor(symbol, below)), 1)
        f2 = np.maximum(f2 - np.exp(level + slope * np.log(energies)), 0.0)
    loss = plasma_energy_squared(1.0) * f2 / energies ** 2
    density = scattering_rate(high_tension) * loss * angular_factor(energies, high_tension, collection_angle)
    return float(np.trapezoid(density, energies))


def areal_densities(thicknesses: dict[str, np.ndarray], materials: dict[str, Material]) -> dict[str, np.ndarray]:
    """Atoms an area (n,) [1/m^2] of every element, from the thickness (n,) [m] of every material."""
    result: dict[str, np.ndarray] = {}
    for name, thickness in thicknesses.items():
        for element, density in materials[name].number_densities.items():
            result[element] = result.get(element, 0.0) + density * np.asarray(thickness, float)
    return result
