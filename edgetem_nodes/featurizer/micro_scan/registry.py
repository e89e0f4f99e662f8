"""Where the lattice of a sheet lies: a honeycomb fitted to the network's map of sites, and refined by its offsets.

All lattices of known constants, directions and registries are tried on the map; the best few are refined; a rival that fits
nearly as well and puts its sites elsewhere makes the registry ambiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.hosts import honeycomb

_CONSTANTS = np.array([2.37, 2.46, 2.55, 3.03, 3.15, 3.28, 3.40]) * 1e-10
_TURNS = np.radians(np.arange(0, 60, 3.0))
_FEW = 6
_INNER = 7e-10
"""How far from the middle [m] lattices are tried: farther out a few per cent of strain would move sites off the map's."""
_GROWTH = 2e-10
"""By how much more of the map [m] each refinement takes in."""
_FINER = 2
_APART = 0.35e-10
"""Two lattices are rivals where their sites are this far from each other [m], root mean square."""
Offsets = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Lattice:
    """A honeycomb on the specimen.

    Attributes
    ----------
    vectors : (2, 2), rows (y, x) [m]; origin : (2,) [m], site 0 of the cell.
    score : mean of the map at sites less that at hollows; rival : score of the best other lattice.
    covariance : (6, 6) of vectors (4, row by row) and origin [m^2].
    misfit : root mean square distance of atoms from their sites, in standard errors.
    """

    vectors: np.ndarray
    origin: np.ndarray
    score: float
    rival: float
    covariance: np.ndarray
    misfit: float

    def sites(self, half: float) -> tuple[np.ndarray, np.ndarray]:
        """Sites (n, 2) [m] with |y|, |x| < half, and the sublattice (n,) of each."""
        nodes = _nodes(self.vectors, self.origin, half)
        basis = self.vectors.sum(axis=0) / 3
        sites = np.concatenate([nodes, nodes + basis])
        sublattice = np.repeat([0, 1], len(nodes))
        inside = (np.abs(sites) < half).all(axis=1)
        return sites[inside], sublattice[inside]

    def errors(self, sites: np.ndarray) -> np.ndarray:
        """Covariance (n, 2, 2) [m^2] of sites (n, 2)."""
        design = _design(_indices(sites, self.vectors, self.origin))
        return design @ self.covariance @ np.swapaxes(design, 1, 2)


def _nodes(vectors: np.ndarray, origin: np.ndarray, half: float) -> np.ndarray:
    inverse = np.linalg.inv(vectors)
    corners = (np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * half - origin) @ inverse
    low, high = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 1
    i, j = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    return np.stack([i.ravel(), j.ravel()], axis=1) @ vectors + origin


def _indices(sites: np.ndarray, vectors: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Coordinates (n, 2) of sites in lattice vectors, rounded to a third."""
    return np.rint((sites - origin) @ np.linalg.inv(vectors) * 3) / 3


def _design(indices: np.ndarray) -> np.ndarray:
    """(n, 2, 6): site = design @ (vectors row by row, origin)."""
    design = np.zeros((len(indices), 2, 6))
    for axis in (0, 1):
        design[:, axis, axis], design[:, axis, 2 + axis], design[:, axis, 4 + axis] = indices[:, 0], indices[:, 1], 1.0
    return design


class RegistryFinder:
    """Finds lattices on maps of one size."""

    def __init__(self, size: int, half: float) -> None:
        """Maps have `size` points an axis; only |y|, |x| < half [m] counts."""
        self._size, self._half, self._inner = size, half, min(half, _INNER)
        self._candidates, places, owners = [], [], []
        steps = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), axis=-1).reshape(-1, 2) / 6
        for constant in _CONSTANTS:
            for turn in _TURNS:
                vectors = honeycomb(constant)[0] @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                nodes, basis = _nodes(vectors, np.zeros(2), self._inner + 2e-10), vectors.sum(axis=0) / 3
                for origin in steps @ vectors:
                    for shift in (0.0, 1.0, 2.0):
                        points = nodes + origin + shift * basis
                        places.append(self._place(points[(np.abs(points) < self._inner).all(axis=1)]))
                    self._candidates.append((vectors, origin))
        counts = np.array([len(one) for one in places])
        self._places = np.concatenate(places)
        self._owners = np.repeat(np.arange(len(places)), counts)
        self._counts = np.maximum(counts, 1).reshape(-1, 3)

    def _place(self, points: np.ndarray) -> np.ndarray:
        """Index (n,) int32 of the nearest point of a map that is `_FINER` times finer."""
        fine = self._size * _FINER
        index = np.rint(points / PIXEL * _FINER + (fine - 1) / 2).astype(np.int32).clip(0, fine - 1)
        return (index[:, 0] * fine + index[:, 1]).astype(np.int32)

    def _tried(self, there: np.ndarray) -> np.ndarray:
        """Score of every candidate, origin by origin, at the nearest points of a finer map."""
        axis = (np.arange(self._size * _FINER) + 0.5) / _FINER - 0.5
        grid = np.meshgrid(axis, axis, indexing="ij")
        fine = map_coordinates(there, grid, order=1, mode="nearest").ravel()
        sums = np.bincount(self._owners, fine[self._places], self._counts.size).reshape(-1, 3)
        sites = (sums[:, 0] + sums[:, 1]) / (self._counts[:, 0] + self._counts[:, 1])
        return sites - sums[:, 2] / self._counts[:, 2]

    def __call__(self, there: np.ndarray, offsets: Offsets) -> Lattice | None:
        """The lattice on a map (m, m) of the probability of a site; None where no lattice has two sites to be fitted to.

        Parameters
        ----------
        offsets : of atoms from points (n, 2) [m]: mean (n, 2) and covariance (n, 2, 2) [m^2], by the network.
        """
        origins = 36
        scores = self._tried(there).reshape(-1, origins)
        best_origin = scores.argmax(axis=1)
        found = []
        for number in np.argsort(-scores.max(axis=1), kind="stable"):
            found.append((float(scores[number].max()), *self._candidates[number * origins + best_origin[number]]))
        lattices = [self._refined(there, vectors, origin, offsets) for _, vectors, origin in found[:_FEW]]
        lattices = sorted((one for one in lattices if one is not None), key=lambda one: -one.score)
        if not lattices:
            return None
        best = lattices[0]
        others = (score for score, vectors, origin in found[_FEW:]
                  if self._apart(best, Lattice(vectors, origin, score, 0.0, np.zeros((6, 6)), 0.0)))
        rival = max([one.score for one in lattices[1:] if self._apart(best, one)] + [next(others, 0.0)])
        return Lattice(best.vectors, best.origin, best.score, rival, best.covariance, best.misfit)

    def _at(self, there: np.ndarray, points: np.ndarray) -> np.ndarray:
        return map_coordinates(there, (points / PIXEL + (self._size - 1) / 2).T, order=1, mode="nearest")

    def _scores(self, there: np.ndarray, vectors: np.ndarray, origins: np.ndarray) -> np.ndarray:
        nodes, basis = _nodes(vectors, np.zeros(2), self._half + 2e-10), vectors.sum(axis=0) / 3
        values = []
        for shift in (0.0, 1.0, 2.0):
            points = nodes[None] + (origins + shift * basis)[:, None]
            inside = (np.abs(points) < self._half).all(axis=-1)
            counts = np.maximum(inside.sum(axis=1), 1)
            seen = np.zeros(inside.shape)
            seen[inside] = self._at(there, points[inside])
            values.append((seen.sum(axis=1), counts))
        sites = (values[0][0] + values[1][0]) / (values[0][1] + values[1][1])
        return sites - values[2][0] / values[2][1]

    def _refined(self, there: np.ndarray, vectors: np.ndarray, origin: np.ndarray, offsets: Offsets) -> Lattice | None:
        covariance, misfit = np.zeros((6, 6)), 0.0
        start = vectors
        rounds = max(6, math.ceil((self._half - self._inner) / _GROWTH) + 3)
        for number in range(rounds):
            sites, _ = Lattice(vectors, origin, 0.0, 0.0, covariance, 0.0).sites(
                min(self._half, self._inner + number * _GROWTH))
            if len(sites) < 6:
                return None
            shift, spread = offsets(sites)
            # a defect's neighbours and displaced atoms are off the lattice by more than the network's error
            spread = spread + (0.06e-10) ** 2 * np.eye(2)
            size = np.linalg.norm(shift, axis=1)
            weight = np.clip(self._at(there, sites), 0.02, 1) / (1 + (size / 0.5e-10) ** 2)
            inverse = np.linalg.inv(spread) * weight[:, None, None]
            design = _design(_indices(sites, vectors, origin))
            normal = np.einsum("nij,nik,nkl->jl", design, inverse, design)
            right = np.einsum("nij,nik,nk->j", design, inverse, shift)
            # a weak hold on the strain keeps a lattice of few sites what it is
            hold = np.diag([*[(0.05 * np.linalg.norm(start[0])) ** -2] * 4, 0.0, 0.0])
            held = np.concatenate([(start - vectors).ravel(), np.zeros(2)])
            covariance = np.linalg.inv(normal + hold)
            step = covariance @ (right + hold @ held)
            vectors, origin = vectors + step[:4].reshape(2, 2), origin + step[4:]
            misfit = float(np.sqrt(np.einsum("ni,nij,nj->n", shift, np.linalg.inv(spread), shift).mean() / 2))
        stretch = np.linalg.svd(np.linalg.solve(start, vectors), compute_uv=False)
        if not np.isfinite(stretch).all() or stretch.max() > 1.15 or stretch.min() < 0.87:
            return None
        origin = origin - np.rint(origin @ np.linalg.inv(vectors)) @ vectors
        return Lattice(vectors, origin, float(self._scores(there, vectors, origin[None])[0]), 0.0, covariance, misfit)

    def _apart(self, one: Lattice, other: Lattice) -> bool:
        """Whether the sites of one lattice lie off those of the other."""
        sites, _ = one.sites(self._half)
        basis = other.vectors.sum(axis=0) / 3
        nearest = np.full(len(sites), np.inf)
        for shift in (np.zeros(2), basis):
            off = (sites - other.origin - shift) @ np.linalg.inv(other.vectors)
            off = (off - np.rint(off)) @ other.vectors
            nearest = np.minimum(nearest, np.linalg.norm(off, axis=1))
        return bool(np.sqrt((nearest ** 2).mean()) > _APART)
