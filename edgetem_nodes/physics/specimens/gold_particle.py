"""One gold nanoparticle: a truncated octahedron cut from the fcc lattice, single or twinned, in any orientation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from edgetem_nodes.physics import site_noise

LATTICE = 4.0782e-10
"""Of gold at 293 K [m] (Maeland & Flanagan, Can. J. Phys. 42, 2364, 1964)."""
_TRUNCATION = 2 / np.sqrt(3)
"""Distance of {100} facets over that of {111}: of the truncated octahedron with equal edges, near gold's Wulff shape."""
CIRCUMRADIUS = 1.14
"""Distance of a corner over the nominal radius."""
_FACET = 0.88
"""Distance of {111} facets over the nominal radius: the volume is then that of the sphere, in the mean."""

_OCTAHEDRON = np.array(list(product((-1, 1), repeat=3))) / np.sqrt(3)
_CUBE = np.concatenate([np.eye(3), -np.eye(3)])
_TWIN = np.array([1.0, 1.0, -1.0]) / np.sqrt(3)
_MIRROR = np.eye(3) - 2 * np.outer(_TWIN, _TWIN)
_FACES = np.concatenate([_OCTAHEDRON, _CUBE])
_ROWS = np.array([(0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, 0), (1, -1, 0)]) / np.sqrt(2)


@dataclass(frozen=True)
class Particle:
    """A particle about its own centre. Vectors are (z, y, x).

    Attributes
    ----------
    identity : its number.
    radius : nominal [m]: of the sphere of the same volume.
    orientation : (3, 3), crystal axes to specimen axes.
    twinned : whether its upper half is the mirror image of the lower one in a {111} plane.
    """

    identity: int
    radius: float
    orientation: np.ndarray
    twinned: bool

    @cached_property
    def _cut(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The single crystal in its own axes: places (n, 3) [m], lattice indices (n, 3), and where its facets end up: half a
        spacing outside the last plane, distances (14,) [m]."""
        primitive = LATTICE / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        reach = int(np.ceil(self.radius * CIRCUMRADIUS / (LATTICE / np.sqrt(3)))) + 1
        steps = np.arange(-reach, reach + 1)
        indices = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        # a lattice point anywhere in the cell: the number of atoms is then that of the volume, in the mean
        shift = site_noise.uniform(0, site_noise.combined(np.uint64(self.identity), np.arange(3)), "origin") @ primitive
        if self.twinned:
            shift = shift - (shift @ _TWIN) * _TWIN
        places = indices @ primitive + shift
        wanted = self.radius * _FACET * np.where(np.arange(14) < 8, 1.0, _TRUNCATION)
        inside = (places @ _FACES.T <= wanted).all(axis=1)
        half_spacing = np.where(np.arange(14) < 8, LATTICE / np.sqrt(12), LATTICE / 4)
        return places[inside], indices[inside], (places[inside] @ _FACES.T).max(axis=0) + half_spacing

    def atoms(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 3) [m] about the centre, and lattice indices (n, 4): three of the primitive cell, and the half."""
        places, indices, _ = self._cut
        half = np.zeros(len(places), np.int64)
        if self.twinned:
            side = places @ _TWIN
            lower, below = side < 0.1 * LATTICE, side < -0.1 * LATTICE
            places = np.concatenate([places[lower], places[below] @ _MIRROR])
            half = np.repeat([0, 1], [lower.sum(), below.sum()])
            indices = np.concatenate([indices[lower], indices[below]])
        return places @ self.orientation.T, np.concatenate([indices, half[:, None]], axis=1)

    def _halves(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Convex pieces: outward normals (f, 3) in the specimen's axes, their distances (f,) [m], and the lattice's axes."""
        if not self.twinned:
            return [(_FACES @ self.orientation.T, self._cut[2], self.orientation)]
        distances = np.append(self._cut[2], 0.0)
        normals = np.concatenate([_FACES, _TWIN[None]])
        axes = (self.orientation, self.orientation @ _MIRROR)
        return [(normals @ turn.T, distances, turn) for turn in axes]

    def chords(self, offsets: np.ndarray) -> np.ndarray:
        """Where lines along z enter and leave the halves: (halves, n, 2) [m] about the centre, equal where they miss.

        Parameters
        ----------
        offsets : (n, 2), (y, x) [m] of the lines from the centre.
        """
        chords = []
        for normals, distances, _ in self._halves():
            left = distances - offsets @ normals[:, 1:].T
            slope = normals[:, 0]
            with np.errstate(divide="ignore", invalid="ignore"):
                bound = left / slope
            enter = np.where(slope < -1e-9, bound, -np.inf).max(axis=1)
            leave = np.where(slope > 1e-9, bound, np.inf).min(axis=1)
            missed = (leave <= enter) | ((np.abs(slope) <= 1e-9) & (left < 0)).any(axis=1)
            chords.append(np.where(missed[:, None], 0.0, np.stack([enter, leave], axis=-1)))
        return np.stack(chords)

    def directions(self) -> list[tuple[float, float]]:
        """For each half: azimuth in [0, pi), from x to y, of the <110> row that lies flattest, and the angle of the nearest
        <110> zone axis to the beam [rad]."""
        found = []
        for _, _, axes in self._halves():
            rows = _ROWS @ axes.T
            flat = rows[np.argmin(np.round(np.abs(rows[:, 0]), 9))]
            found.append((float(np.arctan2(flat[1], flat[2]) % np.pi), float(np.arccos(min(np.abs(rows[:, 0]).max(), 1.0)))))
        return found


def random_rotation(chance: np.ndarray) -> np.ndarray:
    """Rotation (3, 3), uniform over all if `chance` (3,) is in [0, 1)^3 (Shoemake, Graphics Gems III, 124, 1992)."""
    first, second = np.sqrt(1 - chance[0]), np.sqrt(chance[0])
    one, two = 2 * np.pi * chance[1:]
    a, b, c, d = first * np.sin(one), first * np.cos(one), second * np.sin(two), second * np.cos(two)
    return np.array([[1 - 2 * (b * b + c * c), 2 * (a * b - c * d), 2 * (a * c + b * d)],
                     [2 * (a * b + c * d), 1 - 2 * (a * a + c * c), 2 * (b * c - a * d)],
                     [2 * (a * c - b * d), 2 * (b * c + a * d), 1 - 2 * (a * a + b * b)]])


def on_facet(azimuth: float) -> np.ndarray:
    """Rotation (3, 3) that lays [111] along the beam, turned by `azimuth` [rad] in the plane."""
    beam = np.ones(3) / np.sqrt(3)
    row = np.array([0.0, 1.0, -1.0]) / np.sqrt(2)
    across = np.cross(beam, row)
    return np.stack([beam, np.cos(azimuth) * row + np.sin(azimuth) * across,
                     -np.sin(azimuth) * row + np.cos(azimuth) * across])
