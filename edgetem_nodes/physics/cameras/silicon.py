"""Fast electrons in silicon: stopping, straggling tracks, the charge that reaches each pixel. Energies [eV], lengths [m].

A Monte Carlo simulation with condensed history: the electron slows down continuously and is deflected once a step. Every
detector below samples a library of tracks made here once for a high tension, so point spread, double counting and what
backscattering loses follow from the energy and the geometry, not from fitted curves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.electrons import AVOGADRO

ATOMIC_NUMBER, ATOMIC_MASS, DENSITY = 14, 28.085, 2.329
"""Silicon; density [g/cm^3]."""
MEAN_EXCITATION = 173.0
"""[eV], ICRU report 37 (1984)."""
PAIR_ENERGY = 3.66
"""[eV] for an electron-hole pair at room temperature (Scholze et al., Nucl. Instrum. Methods A 439, 208 (2000))."""
THERMAL_VOLTAGE = 0.02526
"""[V], kT/e at 293 K."""

_REST = 510998.95
_STEPS = 48
_LOWEST = 1000.0


def relativistic(high_tension: float) -> tuple[float, float]:
    """(beta^2, kinetic energy over rest energy) of an electron accelerated by `high_tension` [V]."""
    tau = high_tension / _REST
    return 1 - 1 / (1 + tau) ** 2, tau


def stopping_power(energy: np.ndarray) -> np.ndarray:
    """Collision stopping power [eV/m] of silicon for electrons of `energy` [eV], at least 1 keV.

    Bethe's formula for electrons without density effect (ICRU report 37, 1984).
    """
    energy = np.asarray(energy, float)
    tau = energy / _REST
    beta2 = 1 - 1 / (1 + tau) ** 2
    term = 1 - beta2 + (tau ** 2 / 8 - (2 * tau + 1) * np.log(2)) / (tau + 1) ** 2
    number = np.log(tau ** 2 * (tau + 2) / (2 * (MEAN_EXCITATION / _REST) ** 2)) + term
    return 0.153537e6 * ATOMIC_NUMBER / ATOMIC_MASS * DENSITY * 100 / beta2 * number


@lru_cache(maxsize=8)
def _slowing_down(high_tension: float, steps: int) -> tuple[float, np.ndarray]:
    """Length of a step [m] and energies (steps + 1,) [eV] on the way from the high tension to 1 keV."""
    energy = np.geomspace(_LOWEST, high_tension, 400)
    inverse = 1 / stopping_power(energy)
    path = np.concatenate([[0], np.cumsum(np.diff(energy) * (inverse[1:] + inverse[:-1]) / 2)])
    energies = np.interp(np.linspace(path[-1], 0, steps + 1), path, energy)
    energies[-1] = 0
    return path[-1] / steps, energies


def csda_range(high_tension: float) -> float:
    """Length of the path [m] of an electron in silicon in the continuous slowing down approximation, down to 1 keV."""
    return _slowing_down(high_tension, _STEPS)[0] * _STEPS


def _transport_rate(energy: np.ndarray) -> np.ndarray:
    """Inverse transport mean free path [1/m]: screened Rutherford scattering (Joy, Monte Carlo Modeling, 1995, ch. 3)."""
    kilo = energy / 1000
    screening = 3.4e-3 * ATOMIC_NUMBER ** 0.67 / kilo
    total = 5.21e-21 * (ATOMIC_NUMBER / kilo) ** 2 * 4 * np.pi / (screening * (1 + screening))
    total *= ((kilo + 511) / (kilo + 1024)) ** 2
    atoms = DENSITY * AVOGADRO / ATOMIC_MASS
    return total * atoms * 100 * _mean_deflection(screening)


def _mean_deflection(screening: np.ndarray) -> np.ndarray:
    """Mean of 1 - cos of the deflection of a screened Rutherford distribution."""
    return 2 * screening * ((1 + screening) * np.log1p(1 / screening) - 1)


def tracks(high_tension: float, thickness: float, count: int, rng: np.random.Generator,
           steps: int = _STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Where electrons that enter a slab of silicon at the origin, along z, leave their energy.

    The deflection of a step follows a screened Rutherford law with the first moment that multiple scattering over the step
    has, exp(-step / transport mean free path) (Goudsmit & Saunderson 1940), at a point drawn uniformly along the step (the
    random hinge of PENELOPE, Baro et al., NIM B 100, 31 (1995)).

    Parameters
    ----------
    high_tension : [V]. thickness : of the slab [m]. count : electrons. rng : makes the tracks.
    steps : equal lengths into which a range is cut.

    Returns
    -------
    energies : (count, steps) [eV] left in each step; 0 after the electron has left through a face of the slab.
    positions : (count, steps, 3) [m], (z, y, x).
    """
    step, levels = _slowing_down(high_tension, steps)
    grid = np.geomspace(1e-7, 1e3, 400)
    moments = 1 - np.exp(-step * _transport_rate(np.maximum(levels[:-1], _LOWEST)))
    screenings = np.interp(moments, _mean_deflection(grid), grid)
    place, direction = np.zeros((count, 3)), np.tile([1.0, 0.0, 0.0], (count, 1))
    inside = np.ones(count, bool)
    energies, positions = np.zeros((count, steps)), np.zeros((count, steps, 3))
    for number in range(steps):
        hinge = rng.random((count, 1)) * step
        place += hinge * direction
        inside &= (place[:, 0] >= 0) & (place[:, 0] <= thickness)
        energies[:, number] = (levels[number] - levels[number + 1]) * inside
        positions[:, number] = place
        direction = _deflected(direction, screenings[number], rng)
        place += (step - hinge) * direction
        inside &= (place[:, 0] >= 0) & (place[:, 0] <= thickness)
    return energies, positions


def _deflected(direction: np.ndarray, screening: float, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (n, 3) turned by a screened Rutherford deflection about a random azimuth."""
    drawn = rng.random(len(direction))
    cosine = 1 - 2 * screening * drawn / (1 + screening - drawn)
    sine = np.sqrt(np.clip(1 - cosine ** 2, 0, None))
    azimuth = 2 * np.pi * rng.random(len(direction))
    reference = np.where(np.abs(direction[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(direction, reference)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    across = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
    return cosine[:, None] * direction + sine[:, None] * across


@lru_cache(maxsize=8)
def deposits(high_tension: float, pitch: float, thickness: float, bias: float,
             count: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """What electrons that enter a pixel leave in it and its neighbours.

    The entry points fill the pixel evenly. Charge from depth z spreads on its way to the pixels by diffusion in a uniform
    field, sigma^2 = 2 kT/e (thickness - z) thickness / bias (Spieler, Semiconductor Detector Systems, 2005, ch. 2).

    Parameters
    ----------
    high_tension : [V]. pitch : of the pixels [m]. thickness : of the sensor [m]. bias : across the sensor [V].
    count : tracks.

    Returns
    -------
    energies : (count, side, side) float32 [eV], the pixel of entry in the middle.
    entry : (count, 2), (y, x), where in the pixel the electron enters, as a part of it.
    """
    from scipy.special import ndtr

    rng = counting.generator(0x51, 0x51C0, count)
    energies, positions = tracks(high_tension, thickness, count, rng)
    entry = even_points(count, rng)
    reach = np.abs(positions[..., 1:] * (energies > 0)[..., None]).max(axis=-1)
    radius = int(np.clip(np.ceil(np.quantile(reach, 0.995) / pitch), 1, 6))
    edges = np.arange(2 * radius + 2) - radius
    depth = np.clip(positions[..., :1], 0, thickness)
    sigma = np.sqrt(2 * THERMAL_VOLTAGE * (thickness - depth) * thickness / bias + 1e-14) / pitch
    shares = []
    for axis in (0, 1):
        place = entry[:, None, axis] + positions[..., axis + 1] / pitch
        # what leaves the window is kept in its outermost pixels: the energy is conserved
        integral = ndtr((edges[None, None, 1:-1] - place[..., None]) / sigma)
        shares.append(np.diff(integral, axis=-1, prepend=0, append=1))
    window = np.matmul(np.swapaxes(shares[0] * energies[..., None], 1, 2), shares[1]).astype(np.float32)
    window.setflags(write=False)
    entry.setflags(write=False)
    return window, entry


def even_points(count: int, rng: np.random.Generator) -> np.ndarray:
    """Points (count, 2) in the unit square, one or two at random in each cell of a square grid, in random order."""
    side = int(np.sqrt(count))
    cells = np.resize(np.stack(np.divmod(np.arange(side * side), side), axis=1), (count, 2))
    return rng.permutation((cells + rng.random((count, 2))) / side)
