"""Domains of perovskite crystals as fields over the plane: displacement, polarisation, tilt. Endless; a function of a seed.

Places (y, x) [m] are those of the undistorted cubic lattice. Nothing here depends on z: a crystal is a bundle of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics import site_noise

_WALLS = 4096
"""Walls kept on either side of the centre: beyond them the last domain goes on (60 um at 15 nm)."""


@dataclass(frozen=True)
class Columns:
    """State of the material at n places.

    Attributes
    ----------
    displacement : (n, 2), (y, x) [m].
    lean : (n, 2) lateral shift (y, x) per height [rad]: the axis of the column against the mean zone axis.
    extension : (n,) strain along the column.
    polarization : (n, 2), (y, x), as a fraction of the spontaneous polarisation.
    domain : (n,) name of the domain, a number.
    transformed : (n,) fraction of the high-temperature phase.
    """

    displacement: np.ndarray
    lean: np.ndarray
    extension: np.ndarray
    polarization: np.ndarray
    domain: np.ndarray
    transformed: np.ndarray


class Walls:
    """Parallel walls at seeded distances across which a sign changes as tanh(s / width)."""

    def __init__(self, seed: int, spacing: float, width: float, stream: str) -> None:
        """Walls `spacing` [m] apart in the mean, from 0.6 to 1.4 of it; width [m] is the tanh's.

        Both signs take up the same space on the way, so that the integral of the sign stays within a domain's width.
        """
        number = np.arange(-_WALLS, _WALLS + 1)
        turn = spacing * (0.3 + 0.4 * site_noise.uniform(seed, number, "walls", stream))
        start = 2 * site_noise.uniform(seed, number[:1], "first wall", stream) - 1
        positions = np.concatenate([[0.0], np.cumsum(turn[:-1] + turn[1:])])
        self.positions = positions - positions[_WALLS] + start * spacing
        self.width, self._sign = width, np.where(number % 2, 1.0, -1.0)
        self._middles = (self.positions[1:] + self.positions[:-1]) / 2
        rise = self._sign[:-1] * self._primitive(self._middles - self.positions[:-1])
        fall = self._sign[1:] * self._primitive(self._middles - self.positions[1:])
        self._offsets = np.concatenate([[0.0], np.cumsum(rise - fall)])
        self._offsets -= self._offsets.mean()

    def _primitive(self, distance: np.ndarray) -> np.ndarray:
        """Integral of tanh(s / width) from 0 to a distance [m]; log cosh without overflow."""
        scaled = np.abs(distance) / self.width
        return self.width * (scaled + np.log1p(np.exp(-2 * scaled)) - np.log(2))

    def _nearest(self, place: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._middles, place)

    def sign(self, place: np.ndarray) -> np.ndarray:
        """Sign at places (n,) [m] across the walls, from -1 to 1, smooth in the walls."""
        wall = self._nearest(place)
        return self._sign[wall] * np.tanh((place - self.positions[wall]) / self.width)

    def integral(self, place: np.ndarray) -> np.ndarray:
        """Integral of the sign to places (n,) [m], about its mean."""
        wall = self._nearest(place)
        return self._offsets[wall] + self._sign[wall] * self._primitive(place - self.positions[wall])


class Mosaic:
    """Mosaic blocks, each leaning its own way, in a smooth field of strain and rotation.

    The displacement is the gradient of one random field plus the curl of another, sums of plane waves, so that its
    gradient is known exactly. Blocks are Voronoi cells of jittered points; the lean changes smoothly across their walls.
    """

    WAVES = 24

    def __init__(self, seed: int, extent: tuple[float, float], strain: float, size: float, lean: float,
                 wall: float, poisson_ratio: float) -> None:
        """Blocks of mean `size` [m] (0: one block) with root-mean-square `lean` [rad] about each axis, `wall` [m] (tanh).

        `strain` is the largest absolute normal strain in the field of `extent` (y, x) [m], whose centre is the origin, or in
        two blocks where the field is smaller.
        """
        self.seed, self.size, self._lean, self._wall = seed, size, lean, wall
        self._contraction = poisson_ratio / (1 - poisson_ratio)
        number = np.arange(self.WAVES)
        length = (size or min(extent)) * (1.2 + 1.6 * site_noise.uniform(seed, number, "wave length"))
        angle = np.pi * (number + site_noise.uniform(seed, number, "wave angle")) / self.WAVES * 5
        self._waves = 2 * np.pi / length[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        self._phases = 2 * np.pi * site_noise.uniform(seed, number, "wave phase")
        along = self._waves / np.linalg.norm(self._waves, axis=1, keepdims=True)
        across = np.stack([along[:, 1], -along[:, 0]], axis=-1)
        direction = np.where(number[:, None] % 2, along, across)
        self._amplitudes = direction * (length * site_noise.normal(seed, number, "wave"))[:, None]
        axes = [np.linspace(-0.5, 0.5, 64) * max(side, 2 * size) for side in extent]
        gradient = self.gradient(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
        self._amplitudes *= strain / np.abs(np.diagonal(gradient, axis1=1, axis2=2)).max()

    def _angles(self, places: np.ndarray) -> np.ndarray:
        return places @ self._waves.T + self._phases

    def displacement(self, places: np.ndarray) -> np.ndarray:
        """Displacement (n, 2) [m] at places (n, 2) [m] from the centre of the field."""
        return np.sin(self._angles(places)) @ self._amplitudes

    def gradient(self, places: np.ndarray) -> np.ndarray:
        """Displacement gradient (n, 2, 2), [i, j] = d u_i / d X_j, at places (n, 2) [m]."""
        return np.einsum("nw,wi,wj->nij", np.cos(self._angles(places)), self._amplitudes, self._waves, optimize=True)

    def _blocks(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (n, 9) of the blocks around places (n, 2), and the blocks' identities (n, 9)."""
        cells = np.floor(places / self.size).astype(np.int64)
        around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
        low = cells.min(axis=0) - 1
        shape = cells.max(axis=0) + 2 - low
        table = np.stack(np.meshgrid(*[low[i] + np.arange(shape[i]) for i in (0, 1)], indexing="ij"), axis=-1).reshape(-1, 2)
        names = site_noise.combined(table[:, 0], table[:, 1])
        jitter = np.stack([site_noise.uniform(self.seed, names, "block", axis) for axis in "yx"], axis=-1)
        seeds = (table + 0.2 + 0.6 * jitter) * self.size
        index = (cells[:, None] + around - low) @ np.array([shape[1], 1])
        square = ((seeds[index] - places[:, None]) ** 2).sum(axis=-1)
        weights = np.exp((square.min(axis=1, keepdims=True) - square) / (self.size * self._wall))
        return weights / weights.sum(axis=1, keepdims=True), names[index]

    def at(self, places: np.ndarray) -> Columns:
        """State at places (n, 2) [m] from the centre of the field."""
        none = np.zeros(len(places))
        dilation = np.trace(self.gradient(places), axis1=1, axis2=2)
        lean, domain = np.zeros((len(places), 2)), none
        if self.size > 0 and len(places):
            weights, names = self._blocks(places)
            each = self._lean * site_noise.normals(self.seed, names, 2, "lean")
            lean = (weights[..., None] * each).sum(axis=1)
            domain = site_noise.uniform(self.seed, names[np.arange(len(places)), weights.argmax(axis=1)], "domain")
        extension, polarization = -self._contraction * dilation, np.zeros((len(places), 2))
        return Columns(self.displacement(places), lean, extension, polarization, domain, none)


class Twins:
    """Ferroelectric domains of a tetragonal perovskite whose polar axes lie in the plane of the foil.

    Lamellae with the polar axis along y and along x alternate across {110} walls, the habit on which two tetragonal variants
    fit (Fousek & Janovec, J. Appl. Phys. 40, 135 (1969)), turned against each other by the clapping angle; the polarisation
    runs head to tail through them, and its sign changes across 180 degree walls that follow it, so that no wall is charged.
    """

    def __init__(self, seed: int, size: float, strains: tuple[float, float], widths: tuple[float, float]) -> None:
        """Domains of mean `size` [m] (0: a single one, polar axis along y).

        `strains` : along the polar axis and across it, against the cubic lattice; `widths` : of 90 and 180 degree walls [m].
        """
        self.size, (self.along, self.across) = size, strains
        hand = 1.0 if site_noise.uniform(seed, np.zeros(1, np.int64), "hand")[0] < 0.5 else -1.0
        self.normal = np.array([1.0, hand]) / np.sqrt(2)
        self.shear = np.array([1.0, -hand]) / np.sqrt(2)
        if size > 0:
            self.lamellae = Walls(seed, size, widths[0], "lamellae")
            # two 180 degree walls to three 90 degree walls keeps the pattern from looking like a chess board
            self.inversions = Walls(seed, 1.5 * size, widths[1], "inversions")

    def at(self, places: np.ndarray, transformed: np.ndarray, relaxed: np.ndarray, mean_transformed: float) -> Columns:
        """State at places (n, 2) [m] from the centre of the field.

        The lattice is coherent everywhere: the mean in-plane strain is that of both phases together, weighted by
        `mean_transformed`, the fraction of the field that is cubic. Polarisation vanishes where it is `transformed` (n,),
        and the strains of the variants where it is `relaxed` (n,): they reach into the cubic phase as far as half a domain.
        """
        ferroelectric, strained = 1 - transformed, 1 - relaxed
        if self.size == 0:
            displacement = places * np.array([self.along, self.across]) * (1 - mean_transformed)
            polarization = np.stack([ferroelectric, np.zeros(len(places))], axis=-1)
        else:
            across, along = places @ self.normal, places @ self.shear
            variant, path = self.lamellae.sign(across), self.lamellae.integral(across)
            mean = (self.along + self.across) / 2 * (1 - mean_transformed)
            zigzag = (self.along - self.across) * path * strained
            displacement = mean * places + zigzag[:, None] * self.shear
            sign = self.inversions.sign(along - path)
            direction = (self.normal + variant[:, None] * self.shear) / np.sqrt(2)
            polarization = (sign * ferroelectric)[:, None] * direction
        angle = np.arctan2(polarization[:, 0], polarization[:, 1])
        domain = np.where(transformed < 0.5, np.rint(angle / (np.pi / 2)) % 4, 4.0)
        lean = np.zeros((len(places), 2))
        return Columns(displacement, lean, self.across * strained, polarization, domain, transformed)
