"""The sites of an endless two-dimensional lattice, of one grain or of many. Lengths in m, (y, x).

Grains are Voronoi cells of seeds, one at random in every square of a grid, each with a lattice turned by an angle of its own
about its seed. A site is known by lattice indices and grain, so it is the same however the plane is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics import site_noise

SMALLEST_GRAIN = 2e-9
"""[m]"""
_AROUND = np.array([(a, b) for a in range(-2, 3) for b in range(-2, 3) if (a, b) != (0, 0)])
"""Squares whose seeds can bound the cell of a seed in the middle one."""


@dataclass(frozen=True)
class Crystal:
    """Perfect sheet: `cell` (2, 2) rows are lattice vectors (y, x) [m]; `basis` (atoms, 2) fractional; `heights` (atoms,)
    along the beam from the lowest atom [m]; atomic numbers."""

    cell: np.ndarray
    basis: np.ndarray
    heights: np.ndarray
    atomic_numbers: np.ndarray

    @property
    def area(self) -> float:
        """Of the cell [m^2]."""
        return abs(float(np.linalg.det(self.cell)))


@dataclass(frozen=True)
class Sites:
    """Places for atoms: positions (n, 2) [m], cell indices (n, 2), number of the basis atom (n,), turn of the lattice (n,)
    [rad, from x towards y], identity (n,) uint64, ascending."""

    positions: np.ndarray
    cells: np.ndarray
    basis: np.ndarray
    turn: np.ndarray
    identity: np.ndarray

    def chosen(self, which: np.ndarray) -> Sites:
        """Some of them: a mask or indices."""
        return Sites(self.positions[which], self.cells[which], self.basis[which], self.turn[which], self.identity[which])


class SingleCrystal:
    """One grain without end, a lattice point at the origin."""

    def __init__(self, unit: Crystal) -> None:
        self._unit = unit

    def sites(self, low: np.ndarray, high: np.ndarray) -> Sites:
        """Every site with low <= (y, x) < high."""
        positions, cells, basis = lattice(self._unit, np.zeros(2), 0.0, low, high)
        identity = _packed(cells, basis, 30)
        return Sites(positions, cells, basis, np.zeros(len(basis)), identity)

    def orientation(self, positions: np.ndarray) -> np.ndarray:
        """Turn of the lattice (n,) [rad]: none."""
        return np.zeros(len(positions))


class Polycrystal:
    """Grains of random orientation; atoms that come too near to one of another grain are missing."""

    def __init__(self, unit: Crystal, size: float, largest_turn: float, closest: float, seed: int) -> None:
        """Name what decides about the grains.

        Parameters
        ----------
        size : distance of the seeds' squares [m].
        largest_turn : grains are turned by up to this, either way [rad].
        closest : distance of two atoms of different grains at which one is removed [m].

        Raises
        ------
        ValueError : the grains are smaller than a few unit cells.
        """
        if not size >= SMALLEST_GRAIN:
            raise ValueError(f"grain size {size * 1e9:g} nm is below {SMALLEST_GRAIN * 1e9:g} nm: there a lattice means "
                             "little; set 0 for a single grain")
        self._unit, self._size, self._largest_turn, self._closest, self._seed = unit, size, largest_turn, closest, seed

    def _seeds(self, squares: np.ndarray) -> np.ndarray:
        """Seeds (n, 2) [m] of squares (n, 2)."""
        identity = site_noise.combined(squares[:, 0], squares[:, 1])
        within = np.stack([site_noise.uniform(self._seed, identity, "grain", axis) for axis in "yx"], axis=-1)
        return (squares + within) * self._size

    def _turns(self, squares: np.ndarray) -> np.ndarray:
        """Turn (n,) [rad] of the grains of squares (n, 2)."""
        identity = site_noise.combined(squares[:, 0], squares[:, 1])
        return self._largest_turn * (2 * site_noise.uniform(self._seed, identity, "turn") - 1)

    def _squares(self, low: np.ndarray, high: np.ndarray, around: int) -> np.ndarray:
        """Squares (n, 2) that touch a rectangle or lie up to `around` squares from it."""
        first, last = np.floor(low / self._size).astype(int) - around, np.floor(high / self._size).astype(int) + around
        return np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(first, last, strict=True)], indexing="ij"),
                        axis=-1).reshape(-1, 2)

    def sites(self, low: np.ndarray, high: np.ndarray) -> Sites:
        """Every site with low <= (y, x) < high."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        wide_low, wide_high = low - self._closest, high + self._closest
        parts, rank = [], []
        squares = self._squares(wide_low, wide_high, 2)
        seeds = self._seeds(squares)
        # a cell ends within the diagonal of a square from its seed, for every square has a seed
        apart = np.maximum(np.maximum(wide_low - seeds, seeds - wide_high), 0.0)
        squares = squares[(apart ** 2).sum(axis=1) < 2 * self._size ** 2]
        order = np.argsort(_square_number(squares), kind="stable")
        for square, seed, turn in zip(squares[order], self._seeds(squares)[order], self._turns(squares)[order], strict=True):
            part = self._grain(square, seed, turn, wide_low, wide_high)
            if part is not None:
                parts.append(part)
                rank.append(np.full(len(part[0].basis), len(rank)))
        if not parts:
            return SingleCrystal(self._unit).sites(low, low)
        every = Sites(*(np.concatenate([getattr(part, name) for part, _ in parts])
                        for name in ("positions", "cells", "basis", "turn", "identity")))
        kept = ~self._crowded(every, np.concatenate(rank), np.concatenate([distance for _, distance in parts]))
        kept &= ((every.positions >= low) & (every.positions < high)).all(axis=1)
        return every.chosen(kept)

    def _grain(self, square: np.ndarray, seed: np.ndarray, turn: float, low: np.ndarray, high: np.ndarray
               ) -> tuple[Sites, np.ndarray] | None:
        """Sites of one grain in a rectangle, and their distance from its boundary [m]; None where it does not reach."""
        corners, normals, distances = self._cell(int(square[0]), int(square[1]))
        first, last = np.maximum(low, seed + corners.min(axis=0)), np.minimum(high, seed + corners.max(axis=0))
        if (first >= last).any():
            return None
        positions, cells, basis = lattice(self._unit, seed, turn, first, last)
        inward = np.full(len(basis), np.inf)
        for normal, distance in zip(normals, distances, strict=True):
            apart = distance - ((positions[:, 0] - seed[0]) * normal[0] + (positions[:, 1] - seed[1]) * normal[1])
            np.minimum(inward, apart, out=inward)
        identity = _packed(cells, basis, 18) | _square_number(square[None])
        sites = Sites(positions, cells, basis, np.full(len(basis), turn), identity)
        return sites.chosen(inward >= 0), inward[inward >= 0]

    def _cell(self, row: int, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corners (m, 2) [m] of the Voronoi cell around a square's seed, from the seed; normals, distances of its sides."""
        square = np.array([[row, column]])
        offsets = self._seeds(square + _AROUND) - self._seeds(square)
        lengths = np.sqrt((offsets ** 2).sum(axis=1))
        normals, distances = offsets / lengths[:, None], lengths / 2
        corners, sides = _clipped(2.5 * self._size, normals, distances)
        return corners, normals[sides], distances[sides]

    def _crowded(self, sites: Sites, rank: np.ndarray, inward: np.ndarray) -> np.ndarray:
        """Which sites have a neighbour too near in a stronger grain."""
        from scipy.spatial import cKDTree

        crowded = np.zeros(len(rank), bool)
        edge = np.flatnonzero(inward < self._closest)
        if len(edge):
            places = np.column_stack([sites.positions[edge], self._unit.heights[sites.basis[edge]]])
            pairs = edge[cKDTree(places).query_pairs(self._closest, output_type="ndarray")]
            # by the seed's hash, not by number: a grain has no side on which it always loses
            strength = site_noise.words(self._seed, sites.identity >> np.uint64(40), "strength")
            pairs = pairs[rank[pairs[:, 0]] != rank[pairs[:, 1]]]
            crowded[np.where(strength[pairs[:, 0]] < strength[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
        return crowded

    def _nearest(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squares and seeds around positions, and the numbers (n, 12) of the nearest ones."""
        from scipy.spatial import cKDTree

        squares = self._squares(positions.min(axis=0), positions.max(axis=0), 3)
        seeds = self._seeds(squares)
        return squares, seeds, cKDTree(seeds).query(positions, 12)[1]

    def orientation(self, positions: np.ndarray) -> np.ndarray:
        """Turn of the lattice (n,) [rad] in the grain at each position."""
        squares, _, nearest = self._nearest(positions)
        return self._turns(squares)[nearest[:, 0]]

    def boundary_distance(self, positions: np.ndarray) -> np.ndarray:
        """Distance (n,) [m] of positions from the nearest grain boundary."""
        _, seeds, nearest = self._nearest(positions)
        own, others = seeds[nearest[:, :1]], seeds[nearest[:, 1:]]
        between = np.linalg.norm(others - own, axis=-1)
        apart = ((positions[:, None] - others) ** 2).sum(axis=-1) - ((positions[:, None] - own) ** 2).sum(axis=-1)
        return (apart / (2 * between)).min(axis=1)


def lattice(unit: Crystal, origin: np.ndarray, turn: float, low: np.ndarray, high: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (n, 2) [m], cells (n, 2) and basis atoms (n,) of a turned lattice in a rectangle, cell by cell.

    Each coordinate is made of the same products whatever the rectangle, so it is the same to the last bit.
    """
    cell = turned(unit.cell, turn)
    corners = np.array([[y, x] for y in (low[0], high[0]) for x in (low[1], high[1])]) - origin
    corners = corners @ np.linalg.inv(cell)
    margin = np.abs(unit.basis).max(axis=0) + 1e-6
    (i, j), (k, m) = np.floor(corners.min(axis=0) - margin).astype(int), np.ceil(corners.max(axis=0) + margin).astype(int)
    rows, columns = np.arange(i, k + 1)[:, None, None], np.arange(j, m + 1)[None, :, None]
    first, second = rows + unit.basis[:, 0], columns + unit.basis[:, 1]
    y, x = (origin[axis] + (first * cell[0, axis] + second * cell[1, axis]) for axis in (0, 1))
    chosen = np.nonzero((y >= low[0]) & (y < high[0]) & (x >= low[1]) & (x < high[1]))
    return np.stack([y[chosen], x[chosen]], axis=-1), np.stack([chosen[0] + i, chosen[1] + j], axis=-1), chosen[2]


def turned(vectors: np.ndarray, turn: float | np.ndarray) -> np.ndarray:
    """Vectors (..., 2), (y, x), turned from x towards y by an angle (...) [rad]."""
    cosine, sine = np.cos(turn), np.sin(turn)
    y, x = vectors[..., 0], vectors[..., 1]
    return np.stack([cosine * y + sine * x, cosine * x - sine * y], axis=-1)


def _packed(cells: np.ndarray, basis: np.ndarray, bits: int) -> np.ndarray:
    """One number of cell indices and basis atom, growing with them in this order: `bits` for an index, 4 for the atom."""
    indices = (cells + (1 << (bits - 1))) & ((1 << bits) - 1)
    return ((indices[:, 0] << (bits + 4)) | (indices[:, 1] << 4) | basis).astype(np.uint64)


def _square_number(squares: np.ndarray) -> np.ndarray:
    """The upper 24 bits of the identity of a grain's sites, from its square (n, 2)."""
    indices = ((squares + 2048) & 4095).astype(np.uint64)
    return (indices[:, 0] << np.uint64(52)) | (indices[:, 1] << np.uint64(40))


def _clipped(reach: float, normals: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 2) of a square of half-width `reach` cut by half-planes normal . r <= distance; those that bound it."""
    corners = reach * np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    for index in np.argsort(distances):
        if distances[index] ** 2 > (corners ** 2).sum(axis=1).max():
            break
        apart = corners @ normals[index] - distances[index]
        if (apart <= 0).all():
            continue
        following, beyond = np.roll(corners, -1, axis=0), np.roll(apart, -1)
        crossing = (apart <= 0) != (beyond <= 0)
        share = np.where(crossing, apart / np.where(crossing, apart - beyond, 1.0), 0.0)[:, None]
        points = np.stack([corners, corners + share * (following - corners)], axis=1)
        corners = points[np.stack([apart <= 0, crossing], axis=1)]
    touching = np.abs(corners @ normals.T - distances).min(axis=0) < 1e-9 * reach
    return corners, np.flatnonzero(touching)
