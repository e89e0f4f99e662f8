"""What the beam has done to the specimen: the dose that every place has received, atoms knocked out, carbon deposited.

Dose is areal, electrons per square metre. All of it is a pure function of the exposures: neither their order nor how they
are cut changes a bit, and an atom that a dose has removed stays removed by any greater one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.physics import displacement, site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition, Specimen

_TILE = 64
_QUANTUM = 2.0 ** -16
"""Electrons are accounted in whole multiples of this, so that sums do not depend on their order."""
_NEGLIGIBLE = 4.0
"""Standard deviations beyond which the tail of a probe is cut."""
_BOX = 1 << 20
"""Cells that are summed at once."""


class DoseHistory:
    """Electrons that each cell of the specimen has received. Memory grows with the exposed area alone.

    Parameters
    ----------
    cell : edge of a cell [m]; finer than this a dose is not resolved.
    """

    def __init__(self, cell: float = 0.5e-9) -> None:
        if not cell > 0:
            raise ValueError(f"cell of the dose history, {cell} m, is not positive")
        self.cell = cell
        self.uniform = 0.0
        self._tiles: dict[tuple[int, int], np.ndarray] = {}

    def copy(self) -> DoseHistory:
        """The history as it is now; what is exposed later does not change it."""
        other = DoseHistory(self.cell)
        other.uniform = self.uniform
        other._tiles = {key: tile.copy() for key, tile in self._tiles.items()}
        return other

    @property
    def memory(self) -> int:
        """Bytes of the tiles."""
        return sum(tile.nbytes for tile in self._tiles.values())

    @property
    def electrons(self) -> float:
        """Electrons of all exposures, the uniform dose apart."""
        return float(sum(int(tile.sum()) for tile in self._tiles.values())) * _QUANTUM

    def add_uniform(self, dose: float) -> None:
        """Add a dose [1/m^2] that the whole field receives, such as a survey's.

        Raises
        ------
        ValueError : it is negative or not finite.
        """
        if not 0 <= dose < np.inf:
            raise ValueError(f"dose {dose} per square metre is not finite and positive")
        self.uniform += dose

    def add_rectangle(self, corner: np.ndarray, extent: np.ndarray, dose: float) -> None:
        """Add a dose [1/m^2] to the area from `corner` on, (y, x) [m], `extent` (y, x) [m] large: each cell its part of it.

        Raises
        ------
        ValueError : corner or extent are not finite, or extent or dose are negative.
        """
        begin = np.asarray(corner, float) / self.cell
        end = begin + np.asarray(extent, float) / self.cell
        if not (np.isfinite(begin).all() and np.isfinite(end).all() and (end >= begin).all() and 0 <= dose < np.inf):
            raise ValueError(f"a rectangle at {corner} m, {extent} m large, with dose {dose} per square metre: all must be "
                             "finite, extent and dose not negative")
        low, high = np.floor(begin).astype(np.int64), np.ceil(end).astype(np.int64)
        rows, columns = (np.minimum(np.arange(a, b) + 1, last) - np.maximum(np.arange(a, b), first)
                         for a, b, first, last in zip(low, high, begin, end, strict=True))
        quanta = np.rint(np.outer(rows, columns) * (dose * self.cell ** 2 / _QUANTUM)).astype(np.int64)
        self._deposit(quanta, low)

    def expose(self, positions: np.ndarray, electrons: np.ndarray | float, probe_radius: float = 0.0) -> None:
        """Add exposures.

        Parameters
        ----------
        positions : (n, 2), (y, x) [m] on the specimen.
        electrons : (n,) or one number for all, electrons at each position.
        probe_radius : root-mean-square radius of the probe [m], taken to be a Gaussian.

        Raises
        ------
        ValueError : positions are not finite, or electrons or the radius are negative.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        electrons = np.broadcast_to(np.asarray(electrons, float), (len(positions),))
        if not np.isfinite(positions).all():
            raise ValueError("a position of an exposure is not finite")
        if not ((electrons >= 0) & np.isfinite(electrons)).all() or not 0 <= probe_radius < np.inf:
            raise ValueError(f"an exposure of {electrons.min(initial=np.inf)} electrons, probe radius {probe_radius} m: "
                             "both must be finite and not negative")
        sigma = probe_radius / np.sqrt(2) / self.cell
        reach = int(np.ceil(_NEGLIGIBLE * sigma))
        batch = max(1, 2_000_000 // (2 * reach + 1) ** 2)
        for start in range(0, len(positions), batch):
            self._add(positions[start:start + batch] / self.cell, electrons[start:start + batch], sigma, reach)

    def _add(self, places: np.ndarray, electrons: np.ndarray, sigma: float, reach: int) -> None:
        """Spread electrons of probes at `places` (n, 2) [cells] over the cells within `reach`."""
        home = np.floor(places).astype(np.int64)
        low, high = home.min(axis=0) - reach, home.max(axis=0) + reach + 1
        height, width = high - low
        if height * width > _BOX and len(places) > 1:
            # far apart: halves, so that what is summed at once stays small
            order = np.argsort(home[:, np.argmax(high - low)], kind="stable")
            for half in np.array_split(order, 2):
                self._add(places[half], electrons[half], sigma, reach)
            return
        quanta = np.rint(electrons / _QUANTUM).astype(np.int64)
        shares = [_shares(places[:, axis] - home[:, axis], sigma, reach) for axis in (0, 1)]
        parts = np.floor(quanta[:, None, None] * shares[0][:, :, None] * shares[1][:, None, :])
        parts[:, reach, reach] += quanta - parts.sum(axis=(1, 2))
        offsets = np.arange(-reach, reach + 1)
        rows, columns = ((home[:, axis] - low[axis])[:, None] + offsets for axis in (0, 1))
        cells = rows[:, :, None] * width + columns[:, None, :]
        # whole numbers far below 2^53: their sum in floating point is exact
        summed = np.bincount(cells.ravel(), parts.ravel(), minlength=height * width)
        self._deposit(summed.astype(np.int64).reshape(height, width), low)

    def _deposit(self, box: np.ndarray, low: np.ndarray) -> None:
        """Add the quanta of a box of cells whose first cell is `low`."""
        high = low + box.shape
        for row in range(low[0] // _TILE, (high[0] - 1) // _TILE + 1):
            for column in range(low[1] // _TILE, (high[1] - 1) // _TILE + 1):
                corner = np.array([row, column]) * _TILE
                first, last = np.maximum(corner, low), np.minimum(corner + _TILE, high)
                part = box[first[0] - low[0]:last[0] - low[0], first[1] - low[1]:last[1] - low[1]]
                if part.any():
                    tile = self._tiles.setdefault((row, column), np.zeros((_TILE, _TILE), np.int64))
                    (top, left), (bottom, right) = first - corner, last - corner
                    tile[top:bottom, left:right] += part

    def dose_at(self, positions: np.ndarray) -> np.ndarray:
        """Dose (n,) [1/m^2] at positions (n, 2), (y, x) [m]: that of their cell, and the uniform dose."""
        home = np.floor(np.asarray(positions, float).reshape(-1, 2) / self.cell).astype(np.int64)
        quanta = np.zeros(len(home), np.int64)
        if self._tiles and len(home):
            tile = home // _TILE
            # one number a tile: sorting numbers is far quicker than sorting pairs
            keys, first, which = np.unique((tile[:, 0] << 32) + tile[:, 1], return_index=True, return_inverse=True)
            within = (home % _TILE) @ [_TILE, 1]
            for number, key in enumerate(map(tuple, tile[first].tolist())):
                if key in self._tiles:
                    chosen = np.flatnonzero(which == number) if len(keys) > 1 else slice(None)
                    quanta[chosen] = self._tiles[key].ravel()[within[chosen]]
        return quanta * (_QUANTUM / self.cell ** 2) + self.uniform


def _shares(places: np.ndarray, sigma: float, reach: int) -> np.ndarray:
    """Parts (n, 2 reach + 1) of Gaussians at `places` (n,) in their cell that fall into the cells around, along one axis."""
    if reach == 0:
        return np.ones((len(places), 1))
    from scipy.special import ndtr

    edges = np.arange(1 - reach, reach + 1) - places[:, None]
    # the tails beyond the reach stay in the outermost cells: no electron is lost
    return np.diff(ndtr(edges / sigma), axis=1, prepend=0, append=1)


@dataclass(frozen=True)
class Damage:
    """What beam damage is simulated; nothing by default.

    Attributes
    ----------
    displacement : atoms are knocked out, with the cross-sections of `displacement.cross_section` at `temperature`.
    displacement_energies : atomic number: energy [eV] that takes the atom out; an element that is not listed stays.
    cross_sections : atomic number: cross-section [m^2] in place of the calculated one, e.g. a measured one with radiolysis.
    temperature : of the specimen [K], which moves the threshold.
    contamination : carbon grows where the beam stands.
    contamination_growth : thickness per dose [m^3] on a clean surface; vacuum and specimen decide: the default is chosen.
    contamination_saturation : thickness [m] at which diffusion brings no more molecules to the beam; the layer ends there.
        Chosen too.
    """

    displacement: bool = False
    displacement_energies: Mapping[int, float] = field(default_factory=lambda: dict(displacement.ENERGIES))
    cross_sections: Mapping[int, float] = field(default_factory=dict)
    temperature: float = 293.15
    contamination: bool = False
    contamination_growth: float = 1e-34
    contamination_saturation: float = 10e-9

    def __post_init__(self) -> None:
        for name in ("contamination_growth", "contamination_saturation", "temperature"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} {getattr(self, name)} is not positive and finite")
        for number, value in self.cross_sections.items():
            if not 0 <= value < 1e-18:
                raise ValueError(f"cross-section {value} m^2 of element {number} is not between 0 and 1e-18 m^2: 1 barn is "
                                 "1e-28 m^2")
        for number, value in self.displacement_energies.items():
            if not 0 < value < 1000:
                raise ValueError(f"displacement energy {value} eV of element {number} is not between 0 and 1000 eV")

    def cross_section(self, atomic_number: int, high_tension: float) -> float:
        """Cross-section [m^2] for the loss of an atom of an element in a beam of `high_tension` [V]."""
        if atomic_number in self.cross_sections:
            return float(self.cross_sections[atomic_number])
        if atomic_number not in self.displacement_energies:
            return 0.0
        return displacement.cross_section(atomic_number, high_tension, float(self.displacement_energies[atomic_number]),
                                          self.temperature)


def damaged(atoms: Atoms, history: DoseHistory, damage: Damage, high_tension: float, seed: int) -> Atoms:
    """The atoms that are left: each is lost with probability 1 - exp(-cross-section dose).

    An atom's fate hangs on a number drawn from its identity: it is lost once and for all when the dose passes a value of its
    own, whatever the piece of specimen it is asked for in.

    Parameters
    ----------
    atoms : of a piece of specimen. history : dose so far. damage : which, and how fast.
    high_tension : [V]. seed : of the experiment.
    """
    if not damage.displacement or not len(atoms.identity):
        return atoms
    numbers, which = np.unique(atoms.atomic_numbers, return_inverse=True)
    sections = np.array([damage.cross_section(int(number), high_tension) for number in numbers])[which]
    if not sections.any():
        return atoms
    survival = np.exp(-sections * history.dose_at(atoms.positions[:, 1:]))
    kept = site_noise.uniform(seed, atoms.identity, "beam damage") < survival
    return Atoms(atoms.positions[kept], atoms.atomic_numbers[kept], atoms.displacement_rms[kept], atoms.identity[kept])


def contamination(positions: np.ndarray, history: DoseHistory, damage: Damage) -> np.ndarray:
    """Thickness (n,) [m] of the carbon layer at positions (n, 2), (y, x) [m].

    It grows in proportion to the dose and levels off as molecules arrive by diffusion only (Egerton, Li & Malac, Micron 35,
    399 (2004)): saturation (1 - exp(-growth dose / saturation)).
    """
    if not damage.contamination:
        return np.zeros(len(positions))
    limit = damage.contamination_saturation
    return -limit * np.expm1(-damage.contamination_growth * history.dose_at(positions) / limit)


class CoatedSpecimen:
    """A specimen as energy losses see it: with the carbon that has grown on it.

    Parameters
    ----------
    layers : thickness (n,) [m] of each material at positions (n, 2) [m] under a condition, the carbon included.
    """

    def __init__(self, specimen: Specimen, layers: Callable[[np.ndarray, Condition], dict[str, np.ndarray]]) -> None:
        self.layers, self.edge_distance = layers, specimen.edge_distance
        self.edge_mode = getattr(specimen, "edge_mode", False)
