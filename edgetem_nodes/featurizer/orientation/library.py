"""Spot templates of one or several crystals over the zone axes that symmetry leaves apart.

A template is what a crystal with a zone axis along the beam diffracts. The intensity of a reflection, as a fraction of the
beam, is that of the two-beam case averaged over thickness, q^2/2 / (s^2 + q^2 + 1/(2 pi^2 t^2)), with the excitation error s,
the thickness t and q = 1 / extinction distance (Hirsch et al., Electron Microscopy of Thin Crystals, chapter 8): kinematic
where q is small, bounded where it is not. Templates hold powers of intensities (Ophus et al., Microsc. Microanal. 28, 390,
2022), by default to 0.2, less that of the weakest intensity that would be seen, so that neither a few bright disks nor
the many that are hardly there decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.orientation.crystal import Crystal, excitation_errors
from edgetem_nodes.featurizer.orientation.rotations import upright
from edgetem_nodes.physics.electrons import lorentz_factor, wavelength

FARTHEST = 0.8e9
"""Excitation error [1/m] beyond which a reflection is left out."""
FAINTEST, BRIGHTEST = 1e-5, 1e-2
"""Bounds of the fraction of the beam from which a disk is taken to be seen."""
BLUR = 0.25
"""Spread of the tilts that a template stands for, over the step."""
_LARGEST_CAPTURE = 0.4e9
"""[1/m]"""
_CAPTURE = 0.15
"""Distance within which a peak is a reflection's, over the shortest reciprocal vector."""


@dataclass(frozen=True)
class Templates:
    """Templates of all phases, one after the other; spots of a template in the order of their distance from the axis.

    Attributes
    ----------
    phases : (templates,) int, number of the crystal.
    references : (templates, 3, 3) orientation of each: its zone axis along the beam by the shortest turn.
    starts : (templates + 1,) int; spots of template i are starts[i] to starts[i + 1] - 1.
    radii [1/m], azimuths [rad, from x to y], weights : (spots,). The squares of a template's weights sum to 1.
    """

    phases: np.ndarray
    references: np.ndarray
    starts: np.ndarray
    radii: np.ndarray
    azimuths: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Reflections:
    """Of all phases, one after the other.

    Attributes
    ----------
    starts : (phases + 1,) int. vectors : (n, 3) [1/m] in the crystal's axes. strengths : (n,) 1 / extinction distance [1/m].
    """

    starts: np.ndarray
    vectors: np.ndarray
    strengths: np.ndarray


class Library:
    """Simulated templates of several phases for one high tension and one range of angles."""

    def __init__(self, crystals: Sequence[Crystal], high_tension: float, largest_angle: float, *,
                 step: float = np.radians(2.0), thickness: float = 10e-9, weakest: float = 1e-4,
                 power: float = 0.2) -> None:
        """Simulate.

        Parameters
        ----------
        high_tension : [V]. largest_angle : [rad] up to which patterns are matched; the detector must hold it all around.
        step : between neighbouring zone axes [rad]. Refinement goes on from the best of them.
        thickness : of the specimen along the beam [m], roughly.
        weakest : fraction of the beam in the weakest disk that templates hold. Refinement takes it from the pattern.
        power : of intensities, of templates and of measured peaks.

        Raises
        ------
        ValueError : no crystals, or a value that cannot be.
        """
        if not crystals:
            raise ValueError("a library needs at least one crystal")
        names = [crystal.name for crystal in crystals]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of the phases, {', '.join(names)}, must differ")
        if not 0 < largest_angle <= 0.3:
            raise ValueError(f"largest angle {largest_angle:.4g} rad is not between 0 and 0.3 rad")
        if not thickness > 0 or not 0 < weakest < 0.1 or not 0 < power <= 1:
            raise ValueError(f"thickness {thickness:.4g} m must be positive, weakest {weakest:g} between 0 and 0.1 and power "
                             f"{power:g} between 0 and 1")
        self.crystals, self.wavelength, self.step = tuple(crystals), wavelength(high_tension), step
        self.thickness, self.weakest, self.power = float(thickness), float(weakest), float(power)
        self.reach, self.broadening = largest_angle / self.wavelength, 1 / (np.sqrt(2) * np.pi * thickness)
        found = [crystal.reflections(self.reach * 1.001) for crystal in crystals]
        self.lorentz_factor = lorentz_factor(high_tension)
        scale = self.lorentz_factor * self.wavelength / np.pi
        self.reflections = Reflections(
            np.cumsum([0] + [len(vectors) for _, vectors, _ in found]), np.concatenate([vectors for _, vectors, _ in found]),
            np.concatenate([scale * part[2] / crystal.volume for crystal, part in zip(crystals, found, strict=True)]))
        self.shortest = np.array([np.linalg.norm(vectors, axis=1).min() for _, vectors, _ in found])
        self.capture = min(_LARGEST_CAPTURE, _CAPTURE * float(self.shortest.min()))
        self.templates = self._simulated()
        most = max(len(crystal.symmetry.rotations) for crystal in crystals)
        self.symmetries = np.tile(np.eye(3), (len(crystals), most, 1, 1))
        for number, crystal in enumerate(crystals):
            rotations = crystal.symmetry.rotations
            self.symmetries[number, :len(rotations)] = rotations

    def spots(self, phase: int, turn: np.ndarray, blur: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Spots (n, 2), (y, x) [1/m], of a phase in an orientation (3, 3), and their weights (n,).

        `blur` is the spread of the tilt [rad] over which they are taken.
        """
        part = slice(self.reflections.starts[phase], self.reflections.starts[phase + 1])
        vectors = self.reflections.vectors[part] @ np.asarray(turn).T
        excitation, strength = excitation_errors(vectors, self.wavelength), self.reflections.strengths[part]
        across = np.hypot(vectors[:, 1], vectors[:, 2])
        width = excitation ** 2 + strength ** 2 + self.broadening ** 2 + (blur * across) ** 2
        intensity = strength ** 2 / 2 / width
        seen = (intensity > self.weakest) & (np.abs(excitation) < FARTHEST) & (across <= self.reach)
        return vectors[seen, 1:], intensity[seen] ** self.power - self.weakest ** self.power

    def _simulated(self) -> Templates:
        phases, references, spots = [], [], []
        for number, crystal in enumerate(self.crystals):
            axes = crystal.symmetry.directions(self.step)
            for turn in upright(axes):
                places, weights = self.spots(number, turn, BLUR * self.step)
                radii = np.hypot(places[:, 0], places[:, 1])
                order = np.argsort(radii)
                norm = np.linalg.norm(weights)
                if norm > 0:
                    phases.append(number)
                    references.append(turn)
                    spots.append(np.stack([radii, np.arctan2(places[:, 0], places[:, 1]), weights / norm])[:, order])
        starts = np.cumsum([0] + [part.shape[1] for part in spots])
        radii, azimuths, weights = np.ascontiguousarray(np.concatenate(spots, axis=1))
        return Templates(np.array(phases), np.array(references), starts, radii, azimuths % (2 * np.pi), weights)
