"""A first-order phase transition that nucleates and grows, as a function of a seed and the holder's programme.

Nuclei lie at random in the plane (a Poisson process without end), each with an overdrive of its own that wakes it:
heterogeneous, site-saturated nucleation. A new grain is a disc whose front moves at a speed proportional to the driving
force, beyond a hysteresis that pins it; below the critical temperature it shrinks again; once gone it must be woken anew.
Kinetics of Avrami, J. Chem. Phys. 7, 1103 (1939) and 8, 212 (1940); interface-controlled growth after Christian, The Theory
of Transformations in Metals and Alloys (2002). Lengths in m, (y, x) in the plane of the specimen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import ROOM_TEMPERATURE, Condition

_COVERED = 3.0
"""Radius, in mean free distances of the woken nuclei, at which growth stops: the parent phase is left to exp(-9)."""
_SPARSEST = 0.02
"""Least woken fraction of nuclei for which that holds."""


@dataclass(frozen=True)
class Kinetics:
    """What drives a transition and how fast it goes.

    Attributes
    ----------
    critical_temperature : [K] at which both phases are in equilibrium, without bias.
    bias_shift : change of the critical temperature with bias [K/V].
    mobility : speed of the front per kelvin of overdrive beyond the hysteresis [m/(s K)].
    hysteresis : half-width of the overdrive [K] in which the front does not move.
    wake : overdrive beyond the hysteresis [K] that wakes 63 % of the nuclei.
    spread : Weibull exponent of the nuclei's overdrives; the larger, the more alike they are.
    nucleus_density : possible nuclei [1/m^2].
    """

    critical_temperature: float
    bias_shift: float = 0.0
    mobility: float = 2e-11
    hysteresis: float = 5.0
    wake: float = 20.0
    spread: float = 2.0
    nucleus_density: float = 4e15

    def __post_init__(self) -> None:
        for name in ("critical_temperature", "mobility", "wake", "spread", "nucleus_density"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} of a transition is not positive")
        if self.hysteresis < 0:
            raise ValueError(f"hysteresis {self.hysteresis} K of a transition is negative")

    def overdrive(self, temperature: float, bias: float) -> float:
        """Temperature above the critical one at this bias [K]."""
        return temperature - self.critical_temperature - self.bias_shift * bias

    def speed(self, overdrive: float) -> float:
        """Of the front [m/s]; negative where the new phase shrinks."""
        return self.mobility * np.sign(overdrive) * max(abs(overdrive) - self.hysteresis, 0.0)

    def woken(self, overdrive: float) -> float:
        """Fraction of nuclei that this overdrive [K] wakes."""
        return -np.expm1(-(max(overdrive - self.hysteresis, 0.0) / self.wake) ** self.spread)


def programme(condition: Condition) -> list[tuple[float, float, float]]:
    """Steps (duration [s], temperature [K], bias [V]) of the holder up to the condition's time; a row holds until the next.

    Raises
    ------
    ValueError : the rows are not in order of time.
    """
    rows = np.asarray(condition.holder, float).reshape(-1, 3)
    if (np.diff(rows[:, 0]) < 0).any():
        raise ValueError(f"the holder's programme goes back in time: {rows[:, 0].tolist()} s")
    rows = rows[rows[:, 0] <= condition.elapsed]
    starts = np.concatenate([[min(0.0, *rows[:1, 0])] if len(rows) else [0.0], rows[:, 0], [condition.elapsed]])
    values = np.concatenate([[[ROOM_TEMPERATURE, 0.0]], rows[:, 1:]])
    durations = np.maximum(np.diff(starts), 0.0)
    return [(float(duration), float(t), float(v)) for duration, (t, v) in zip(durations, values, strict=True)]


def holder_state(condition: Condition) -> tuple[float, float]:
    """Temperature [K] and bias [V] of the holder now."""
    _, temperature, bias = programme(condition)[-1]
    return temperature, bias


class Transition:
    """The front between two phases; a pure function of kinetics, seed and condition."""

    def __init__(self, kinetics: Kinetics, seed: int) -> None:
        self.kinetics, self.seed = kinetics, seed
        self._cell = 2.0 / np.sqrt(kinetics.nucleus_density)

    def nuclei(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Possible nuclei in (at least) a rectangle: positions (n, 2) [m], thresholds (n,) of overdrive [K], identity."""
        first = np.floor(np.asarray(low) / self._cell).astype(np.int64)
        last = np.floor(np.asarray(high) / self._cell).astype(np.int64)
        cells = np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(first, last, strict=True)], indexing="ij"), -1)
        cells = cells.reshape(-1, 2)
        number = self._poisson(site_noise.uniform(self.seed, site_noise.combined(*cells.T), "nuclei"))
        cell = np.repeat(cells, number, axis=0)
        running = np.arange(len(cell)) - np.repeat(np.cumsum(number) - number, number)
        identity = site_noise.combined(cell[:, 0], cell[:, 1], running)
        within = np.stack([site_noise.uniform(self.seed, identity, "nucleus", axis) for axis in "yx"], axis=-1)
        chance = site_noise.uniform(self.seed, identity, "overdrive")
        kinetics = self.kinetics
        thresholds = kinetics.hysteresis + kinetics.wake * (-np.log1p(-chance)) ** (1 / kinetics.spread)
        return (cell + within) * self._cell, thresholds, identity

    def _poisson(self, chance: np.ndarray) -> np.ndarray:
        """Poisson numbers of nuclei in a cell, by inversion."""
        mean = self.kinetics.nucleus_density * self._cell ** 2
        terms = np.exp(-mean) * np.cumprod(np.concatenate([[1.0], mean / np.arange(1, 40)]))
        return np.searchsorted(np.cumsum(terms), chance, side="right")

    def radii(self, thresholds: np.ndarray, condition: Condition) -> np.ndarray:
        """Radius (n,) [m] of the grains of nuclei with these thresholds [K]; 0 where one sleeps."""
        kinetics = self.kinetics
        radius, awake, strongest = np.zeros(len(thresholds)), np.zeros(len(thresholds), bool), 0.0
        for duration, temperature, bias in programme(condition):
            overdrive = kinetics.overdrive(temperature, bias)
            advance = kinetics.speed(overdrive) * duration
            if overdrive > 0:
                strongest = max(strongest, overdrive) if duration else strongest
                awake |= (overdrive > thresholds) & (duration > 0)
                radius = np.where(awake, np.maximum(radius, np.minimum(radius + advance, self._largest(strongest))), 0.0)
            else:
                radius = np.maximum(radius + advance, 0.0)
                awake &= radius > 0
        return radius

    def _largest(self, overdrive: float) -> float:
        """Radius [m] at which the grains woken by an overdrive [K] have met everywhere, and stop."""
        woken = max(self.kinetics.woken(overdrive), _SPARSEST)
        return _COVERED / np.sqrt(np.pi * self.kinetics.nucleus_density * woken)

    def front(self, positions: np.ndarray, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance from the front and the grain that it belongs to.

        Parameters
        ----------
        positions : (n, 2), (y, x) [m], of the material, before it is strained.

        Returns
        -------
        distance : (n,) [m], negative in the new phase; nowhere more than the mean distance of two nuclei.
        grain : (n,) uint64 identity of the nucleus whose grain is nearest, e.g. to choose a variant; 0 for none.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        limit = 1 / np.sqrt(self.kinetics.nucleus_density)
        distance, grain = np.full(len(positions), limit), np.zeros(len(positions), np.uint64)
        reach = float(self.radii(np.zeros(1), condition)[0])
        if reach == 0 or len(positions) == 0:
            return distance, grain
        low, high = positions.min(axis=0), positions.max(axis=0)
        places, thresholds, identity = self.nuclei(low - reach - limit, high + reach + limit)
        radius = self.radii(thresholds, condition)
        outside = np.maximum(np.maximum(low - places, places - high), 0.0)
        near = (radius > 0) & (np.sqrt((outside ** 2).sum(axis=1)) < radius + limit)
        # one grain after the other: memory does not grow with the number of grains
        for place, size, name in zip(places[near], radius[near], identity[near], strict=True):
            offset = positions - place
            apart = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2) - size
            nearer = apart < distance
            distance[nearer], grain[nearer] = apart[nearer], name
        return distance, grain

    def transformed(self, positions: np.ndarray, condition: Condition, width: float = 0.0) -> np.ndarray:
        """Fraction (n,) of the new phase at positions (n, 2) [m]: 0 or 1, or a front of this width [m] (tanh profile)."""
        distance, _ = self.front(positions, condition)
        if width <= 0:
            return (distance < 0).astype(float)
        return 0.5 * (1 - np.tanh(2 * distance / width))
