"""Energy that a fast electron leaves in a thin layer: Landau's distribution (Landau, J. Phys. USSR 8, 201 (1944))."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.cameras import silicon

MODE = -0.22278
"""Most probable value of the standard Landau distribution."""


def standard(count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers (count,) with Landau's standard distribution, exactly.

    It is the stable law with alpha = beta = 1 and scale pi/2 (Chambers, Mallows & Stuck, JASA 71, 340 (1976)).
    """
    angle = np.pi * (rng.random(count) - 0.5)
    wait = rng.standard_exponential(count)
    across = np.pi / 2 + angle
    return across * np.tan(angle) - np.log(np.maximum(wait * np.cos(angle), 1e-300) / np.maximum(across, 1e-300))


def width(high_tension: float, thickness: float) -> float:
    """Landau's xi [eV] of a layer of silicon of `thickness` [m]: 0.1535 MeV cm^2/g Z/A density thickness / beta^2."""
    beta2, _ = silicon.relativistic(high_tension)
    return 0.153537e6 * silicon.ATOMIC_NUMBER / silicon.ATOMIC_MASS * silicon.DENSITY * thickness * 100 / beta2


def most_probable(high_tension: float, thickness: float) -> float:
    """Most probable loss [eV] without density effect (Bichsel, Rev. Mod. Phys. 60, 663 (1988); Review of Particle Physics).

    xi [ln(2 m c^2 beta^2 gamma^2 / I) + ln(xi / I) + 0.200 - beta^2].
    """
    beta2, tau = silicon.relativistic(high_tension)
    xi = width(high_tension, thickness)
    momentum2 = tau * (tau + 2)
    excitation = silicon.MEAN_EXCITATION
    return xi * (np.log(2 * 510998.95 * momentum2 / excitation) + np.log(xi / excitation) + 0.2 - beta2)


def check_thin(high_tension: float, thickness: float) -> None:
    """Refuse a layer of silicon that is not thin for the electrons.

    Raises
    ------
    ValueError : the most probable loss is more than half of the electron's energy, where Landau's law does not hold.
    """
    peak = most_probable(high_tension, thickness)
    if peak > high_tension / 2:
        raise ValueError(f"{thickness * 1e6:.3g} um of silicon are not thin for electrons of {high_tension / 1e3:.4g} kV: "
                         f"they lose {peak / 1e3:.3g} keV there, and at most half of their energy, "
                         f"{high_tension / 2e3:.4g} keV, is modelled: use a thinner sensitive layer, a higher "
                         "high tension or another camera")


def losses(high_tension: float, thickness: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Energies (count,) [eV] left in a layer of silicon.

    Landau's law about the most probable loss, drawn again where the loss would be negative or more than half of the
    electron's energy, the most that one of two indistinguishable electrons can lose.

    Raises
    ------
    ValueError : the layer is not thin for such electrons: they would most probably lose more than that.
    """
    check_thin(high_tension, thickness)
    xi, peak = width(high_tension, thickness), most_probable(high_tension, thickness)
    drawn = peak + xi * (standard(count, rng) - MODE)
    while True:
        wrong = np.flatnonzero((drawn <= 0) | (drawn > high_tension / 2))
        if not len(wrong):
            return drawn
        drawn[wrong] = peak + xi * (standard(len(wrong), rng) - MODE)
