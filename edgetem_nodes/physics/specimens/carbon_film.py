"""Amorphous carbon at the density of an evaporated film, without end in the plane.

Atoms are packed at random and then moved towards the distances of bonded and of second neighbours, so that the film has the
two shells, about three bonds an atom, and the halos of amorphous carbon rather than of a gas.
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, packing

DENSITY = 1.9e3
"""[kg/m^3], typical of evaporated films, which differ by a tenth; realistic models: Ricolleau et al., J. Appl. Phys. 114,
213504 (2013). The same as of the material "carbon" of energy losses."""
BOND, SECOND = 1.45e-10, 2.5e-10
"""Distances of bonded and of second neighbours [m], of graphite 1.42 and 2.46; in the film they spread by a tenth."""
_PACKED = 1.40e-10
"""Smallest distance of two atoms before they move [m]."""
_BONDED = 2.1e-10
"""Pairs nearer than this [m] become bonds: 2.9 an atom at this density, near the three of sp2 carbon."""
_MOVES, _PULL, _PUSH = 2, 0.45, 0.35
"""Steps, and part of the way that a pair goes in one, if bonded and if second neighbours."""
_NEIGHBOURS = 2.8e-10
_ROUNDING = 1e15
"""Positions are multiples of 1 fm: sums over neighbours depend on their order in the last bits."""
_DISPLACEMENT_RMS = 8.7e-12
"""[m] along one axis at room temperature, of graphite: B = 0.6 A^2, mean over directions (Trucano & Chen, Nature 258, 136,
1975)."""
_CELL = 0.5e-9
_CANDIDATES = 25
"""In a cell; thinned to DENSITY. A fixed number keeps the density even over more than a cell."""


class CarbonFilm:
    """A film between two depths, cut out of thicker carbon."""

    def __init__(self, seed: int, top: float, thickness: float) -> None:
        """The film from z = `top` to `top + thickness` [m]."""
        self.seed, self.top, self.thickness = seed, top, thickness

    def atoms(self, low: np.ndarray, high: np.ndarray) -> Atoms:
        """Every atom with low <= (y, x) < high [m], in the order of identity."""
        reach = _MOVES * _NEIGHBOURS
        low, high = np.array([0.0, *low]), np.array([self.thickness, *high])
        positions, identity = self._packed(low - reach, high + reach)
        positions = np.rint(_relaxed(positions) * _ROUNDING) / _ROUNDING
        inside = ((positions >= low) & (positions < high)).all(axis=1)
        positions, identity = positions[inside], identity[inside]
        order = np.argsort(identity)
        number = len(order)
        return Atoms(positions[order] + np.array([self.top, 0.0, 0.0]), np.full(number, 6),
                     np.full(number, _DISPLACEMENT_RMS), identity[order])

    def _packed(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Random packing in a box (3,), (z, y, x): positions (n, 3) [m] and identities (n,)."""
        from scipy.spatial import cKDTree

        # in depth the packing is that of a slab of whole cells: the same for every box
        reach = np.array([0.0, 1.0, 1.0]) * 2 * packing.ROUNDS * _PACKED
        cells = packing.cell_grid(low - reach, high + reach, np.full(3, _CELL))
        names = site_noise.combined(*cells.T)
        identity = site_noise.combined(names[:, None], np.arange(_CANDIDATES)).ravel()
        fractions = np.stack([site_noise.uniform(self.seed, identity, "carbon", axis) for axis in "zyx"], axis=-1)
        positions = (np.repeat(cells, _CANDIDATES, axis=0) + fractions) * _CELL
        near = ((positions[:, 1:] >= (low - reach)[1:]) & (positions[:, 1:] < (high + reach)[1:])).all(axis=1)
        identity, positions = identity[near], positions[near]
        pairs = cKDTree(positions, balanced_tree=False, compact_nodes=False).query_pairs(_PACKED, output_type="ndarray")
        stays = packing.kept(site_noise.words(self.seed, identity, "carbon rank"), pairs)
        stays &= ((positions[:, 1:] >= low[1:]) & (positions[:, 1:] < high[1:])).all(axis=1)
        return positions[stays], identity[stays]


def _relaxed(positions: np.ndarray) -> np.ndarray:
    """Positions (n, 3) [m] after moves of every pair towards the distance of bonded or of second neighbours."""
    from scipy.spatial import cKDTree

    tree = cKDTree(positions, balanced_tree=False, compact_nodes=False)
    first, second = tree.query_pairs(_NEIGHBOURS, output_type="ndarray").T
    for _ in range(_MOVES):
        offset = positions[second] - positions[first]
        length = np.sqrt((offset ** 2).sum(axis=1))
        excess = np.where(length < _BONDED, _PULL * (length - BOND), np.minimum(_PUSH * (length - SECOND), 0.0)) / 2
        moves = offset * (excess / length)[:, None]
        pulled = [np.bincount(first, move, len(positions)) - np.bincount(second, move, len(positions)) for move in moves.T]
        positions = positions + np.stack(pulled, axis=-1)
    return positions
