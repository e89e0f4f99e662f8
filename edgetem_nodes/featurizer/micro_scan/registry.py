"""Where the lattice of a sheet lies: a honeycomb fitted to the network's map of sites, and refined by its offsets.

All lattices of known constants, directions and registries are tried on the map; the best few are refined; a rival that fits
nearly as well and puts its sites elsewhere makes the registry ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.hosts import honeycomb

_CONSTANTS = np.array([2.37, 2.46, 2.55, 3.03, 3.15, 3.28, 3.40]) * 1e-10
_TURNS = np.radians(np.arange(0, 60, 3.0))
_FEW = 6
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
        self._size, self._half = size, half
        self._candidates = []
        steps = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), axis=-1).reshape(-1, 2) / 6
        for constant in _CONSTANTS:
            for turn in _TURNS:
                vectors = honeycomb(constant)[0] @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                self._candidates.append((vectors, steps @ vectors))

    def __call__(self, there: np.ndarray, offsets: Offsets) -> Lattice | None:
        """The lattice on a map (m, m) of the probability of a site; None where no lattice has two sites to be fitted to.

        Parameters
        ----------
        offsets : of atoms from points (n, 2) [m]: mean (n, 2) and covariance (n, 2, 2) [m^2], by the network.
        """
        found = []
        for vectors, origins in self._candidates:
            scores = self._scores(there, vectors, origins)
            best = int(np.argmax(scores))
            found.append((float(scores[best]), vectors, origins[best]))
        found.sort(key=lambda one: -one[0])
        lattices = [self._refined(there, vectors, origin, offsets) for _, vectors, origin in found[:_FEW]]
        lattices = sorted((one for one in lattices if one is not None), key=lambda one: -one.score)
        if not lattices:
            return None
        best = lattices[0]
        rival = max([one.score for one in lattices[1:] if self._apart(best, one)]
                    + [score for score, vectors, origin in found[_FEW:]
                       if self._apart(best, Lattice(vectors, origin, score, 0.0, np.zeros((6, 6)), 0.0))][:1] + [0.0])
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
        for _ in range(6):
            sites, _ = Lattice(vectors, origin, 0.0, 0.0, covariance, 0.0).sites(self._half)
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
