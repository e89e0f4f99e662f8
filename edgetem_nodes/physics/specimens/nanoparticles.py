"""Gold nanoparticles on an amorphous carbon film, without end: a resolution standard, and many orientations."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition, packing, require_quantity, slab
from edgetem_nodes.physics.specimens.carbon_film import CarbonFilm
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.gold_particle import CIRCUMRADIUS, LATTICE, Particle, on_facet, random_rotation
from edgetem_nodes.physics.specimens.thermal import classical_displacement
from edgetem_nodes.physics.specimens.transition import holder_state

_RADII = (1.0e-9, 3.0e-9)
_GAP = 0.5e-9
_CELL = 7.5e-9
"""One candidate for a particle in a square of this size."""
_ON_FACET, _TWINNED = 0.4, 0.3
"""Fractions of particles: that lie on a {111} facet; that are twinned."""
_SEAT = 0.25e-9
"""Between the lowest gold and the topmost carbon [m]: near the sum of their van der Waals radii, less their attraction."""
_RIM = LATTICE / 2
"""Particles end half a plane outside their last atoms."""
_DISPLACEMENT_RMS = 8.9e-12
"""Of gold at room temperature along one axis [m]: B = 0.63 A^2 at 300 K, 0.62 at 293 K (Peng et al., Acta Cryst. A 52, 456,
1996)."""
_HEADROOM = 2 * CIRCUMRADIUS * _RADII[1] + _SEAT
_TRUTHS = {"particle": "", "thickness": "m", "orientation": "rad", "zone_axis_angle": "rad", "carbon_thickness": "m",
           "height": "m"}


class GoldOnCarbon:
    """Gold particles 2 to 6 nm in size on the entrance side of a carbon film."""

    crystalline = True

    def __init__(self, name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions) -> None:
        """Particles on a film of `options.film_thickness`; one of them is always near the middle of the field.

        Raises
        ------
        ValueError : the film is thinner than 0.3 nm.
        """
        if not options.film_thickness >= 0.3e-9:
            raise ValueError(f"a carbon film of {options.film_thickness} m is thinner than an atomic layer: set "
                             "film_thickness to 3e-10 m or more")
        self.name, self.seed, self.quantities = name, seed, dict(_TRUTHS)
        self._extent = np.asarray(extent, float)
        self.film = CarbonFilm(seed, _HEADROOM, options.film_thickness)
        self.thickness = _HEADROOM + options.film_thickness
        chance = site_noise.uniform(seed, np.arange(2), "middle")
        self._middle = self._extent / 2 + (chance - 0.5) * min(0.3 * self._extent.min(), 5e-9)
        self._seated = lru_cache(maxsize=32)(self._seat)

    def _candidates(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centres (n, 2), radii (n,) [m] and identities of what may become particles in and around a box."""
        cells = packing.cell_grid(low, high, np.array([_CELL, _CELL]))
        identity = site_noise.combined(cells[:, 0], cells[:, 1])
        chance = np.stack([site_noise.uniform(self.seed, identity, "particle", what) for what in ("y", "x", "size")], -1)
        centres = (cells + chance[:, :2]) * _CELL
        # the middle one is larger than the median, so that it is worth a look
        size = np.append(chance[:, 2], 0.5 + 0.4 * site_noise.uniform(self.seed, np.zeros(1, np.int64), "middle size"))
        return (np.concatenate([centres, self._middle[None]]), _RADII[0] + (_RADII[1] - _RADII[0]) * size,
                np.append(identity, np.uint64(0)))

    def particles(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, list[Particle]]:
        """Centres (n, 2), (y, x) [m], and shapes of all particles that reach into a box."""
        from scipy.spatial import cKDTree

        widest = 2 * CIRCUMRADIUS * _RADII[1] + _GAP
        reach = (2 * packing.ROUNDS + 0.5) * widest
        centres, radii, identity = self._candidates(np.asarray(low) - reach, np.asarray(high) + reach)
        pairs = cKDTree(centres).query_pairs(widest, output_type="ndarray")
        apart = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
        pairs = pairs[apart < CIRCUMRADIUS * radii[pairs].sum(axis=1) + _GAP]
        rank = site_noise.words(self.seed, identity, "particle rank")
        rank[-1] = 0
        stays = packing.kept(rank, pairs)
        outer = (CIRCUMRADIUS * radii + _RIM)[:, None]
        stays &= ((centres + outer >= low) & (centres - outer < high)).all(axis=1)
        return centres[stays], [self._particle(int(n), float(r)) for n, r in zip(identity[stays], radii[stays], strict=True)]

    def _particle(self, identity: int, radius: float) -> Particle:
        chance = site_noise.uniform(self.seed, site_noise.combined(np.uint64(identity), np.arange(5)), "orientation")
        orientation = on_facet(2 * np.pi * chance[0]) if chance[3] < _ON_FACET else random_rotation(chance[:3])
        return Particle(identity, radius, orientation, bool(chance[4] < _TWINNED))

    def _seat(self, identity: int, radius: float, alpha: float,
              beta: float) -> tuple[Particle, np.ndarray, np.ndarray, float]:
        """A particle as the stage turns it, its atoms (n, 3) about its centre, their identities, and its centre's z."""
        particle = self._particle(identity, radius)
        turned = replace(particle, orientation=slab.rotation(alpha, beta) @ particle.orientation)
        places, indices = turned.atoms()
        names = site_noise.combined(np.uint64(identity), *indices.T)
        return turned, places, names, _HEADROOM - _SEAT - places[:, 0].max()

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m]: carbon, then particle by particle, each in the order of identity."""
        film = self.film.atoms(low, high)
        positions, identities = [film.positions], [film.identity]
        for centre, particle in zip(*self.particles(low, high), strict=True):
            _, places, identity, depth = self._seated(particle.identity, particle.radius, condition.alpha, condition.beta)
            places = places + np.array([depth, *centre])
            inside = np.flatnonzero(((places[:, 1:] >= low) & (places[:, 1:] < high)).all(axis=1))
            inside = inside[np.argsort(identity[inside])]
            positions.append(places[inside])
            identities.append(identity[inside])
        gold = sum(map(len, identities)) - len(film.identity)
        thermal = np.append(film.displacement_rms, np.full(gold, _DISPLACEMENT_RMS))
        thermal *= classical_displacement(1.0, max(holder_state(condition)[0], 1.0))
        return Atoms(np.concatenate(positions), np.append(film.atomic_numbers, np.full(gold, 79)), thermal,
                     np.concatenate(identities))

    def _maps(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Gold's thickness and height above the film [m], and its orientation, at positions (n, 2)."""
        found = {name: np.zeros(len(positions)) for name in ("thickness", "height", "orientation", "zone_axis_angle")}
        if not len(positions):
            return found
        for centre, particle in zip(*self.particles(positions.min(axis=0), positions.max(axis=0) + 1e-12), strict=True):
            near = np.flatnonzero(((positions - centre) ** 2).sum(axis=1) < (CIRCUMRADIUS * particle.radius + _RIM) ** 2)
            if not len(near):
                continue
            turned, _, _, depth = self._seated(particle.identity, particle.radius, condition.alpha, condition.beta)
            chords = turned.chords(positions[near] - centre)
            each = chords[..., 1] - chords[..., 0]
            hit = each.sum(axis=0) > 0
            near, chords, each = near[hit], chords[:, hit], each[:, hit]
            found["thickness"][near] = each.sum(axis=0)
            top = np.where(each > 0, chords[..., 0], np.inf).min(axis=0)
            found["height"][near] = _HEADROOM - depth - top
            angles = np.array(turned.directions())[each.argmax(axis=0)]
            found["orientation"][near], found["zone_axis_angle"][near] = angles.T
        return found

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) of a quantity at positions (n, 2), (y, x) [m].

        `particle` is 1 over gold; `thickness` is gold's along the beam; `height` is that of the entrance surface above the
        exit surface of the film; `orientation` is the azimuth, in [0, pi) from x to y, of the <110> row that lies flattest
        in the plane, and `zone_axis_angle` the angle from the beam to the nearest <110> axis, of the lattice that the beam
        crosses most of, both 0 beside the particles.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        require_quantity(self, quantity)
        positions = np.asarray(positions, float).reshape(-1, 2)
        if quantity == "carbon_thickness":
            return np.full(len(positions), self.film.thickness)
        maps = self._maps(positions, condition)
        if quantity == "particle":
            return (maps["thickness"] > 0).astype(float)
        if quantity == "height":
            return maps["height"] + self.film.thickness
        return maps[quantity]

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of gold and carbon at positions (n, 2)."""
        positions = np.asarray(positions, float).reshape(-1, 2)
        return {"Au": self._maps(positions, condition)["thickness"],
                "carbon": np.full(len(positions), self.film.thickness)}

    def edge_distance(self, positions: np.ndarray) -> np.ndarray | None:
        """None: the film has no edge."""
        return None
