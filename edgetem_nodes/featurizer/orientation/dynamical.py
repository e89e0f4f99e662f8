"""Orientation and thickness from dynamical intensities: Bloch waves of the beams that matter.

In a thick crystal the beams exchange electrons, and no excitation error alone says how bright a disk is. In a slab the beams
obey d psi_g / dz = 2 pi i (s_g psi_g + sum_h U_(g-h) psi_h / 2), with U_g = gamma lambda F_g / (pi V) (Howie & Whelan; e.g. De
Graef, Introduction to Conventional TEM, chapter 5), whose eigenvectors give the intensities at every thickness at once. No
absorption; atoms vibrate by Debye-Waller factors. Disks are taken as those of a parallel beam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.orientation.crystal import Crystal, excitation_errors
from edgetem_nodes.featurizer.orientation.library import BRIGHTEST, FAINTEST, FARTHEST, Library
from edgetem_nodes.featurizer.orientation.rotations import turned

_GRID_STEP = np.radians(0.7)
_GRID = _GRID_STEP * np.array([(y, x) for y in range(-3, 4) for x in range(-3, 4) if y * y + x * x <= 9], float)
"""Tilts about y and x [rad] from which the search starts."""
_AROUND = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)], float)
_LAST_STEP = np.radians(0.03)
_MOST_MOVES = 6
_PROBE = np.radians(0.1)
"""Tilt over which the curvature of the misfit is taken [rad]."""


@dataclass(frozen=True)
class Dynamical:
    """One orientation refined: matrix (3, 3), score 0 to 1, thickness [m], standard errors (3,) about z, y, x [rad]."""

    matrix: np.ndarray
    score: float
    thickness: float
    errors: np.ndarray


class BlochWaves:
    """Intensities of a crystal's beams in any orientation."""

    def __init__(self, crystal: Crystal, library: Library, most: int = 60) -> None:
        """Tabulate; `most` beams at a time take part."""
        self.library, self.most = library, most
        beam = library.wavelength, library.lorentz_factor
        self.indices, self.vectors, self.couplings = crystal.couplings(library.reach, *beam)
        # differences of two beams are up to twice as long
        wide, _, values = crystal.couplings(2.05 * library.reach, *beam)
        self._offset = np.abs(wide).max(axis=0)
        self._table = np.zeros(2 * self._offset + 1, complex)
        self._table[tuple((wide + self._offset).T)] = values

    def beams(self, matrix: np.ndarray) -> np.ndarray:
        """Numbers of the reflections that take part near an orientation, the strongest by two-beam intensity."""
        excitation = excitation_errors(self.vectors @ matrix.T, self.library.wavelength)
        coupling = np.abs(self.couplings) ** 2
        across = np.linalg.norm((self.vectors @ matrix.T)[:, 1:], axis=1)
        # a tilt of half a degree may bring a beam in that is out now
        nearest = np.maximum(np.abs(excitation) - across * _GRID_STEP / 2, 0.0)
        intensity = coupling / 2 / (nearest ** 2 + coupling + self.library.broadening ** 2)
        seen = (np.abs(excitation) < FARTHEST) & (across <= self.library.reach) & (intensity > self.library.weakest)
        chosen = np.flatnonzero(seen)
        return chosen[np.argsort(-intensity[chosen], kind="stable")[:self.most]]

    def intensities(self, matrix: np.ndarray, beams: np.ndarray, thicknesses: np.ndarray) -> np.ndarray:
        """Fraction of the beam (thicknesses, 1 + beams) in the direct beam and each of `beams`."""
        indices = np.concatenate([np.zeros((1, 3), int), self.indices[beams]])
        between = indices[:, None] - indices[None] + self._offset
        inside = ((between >= 0) & (between <= 2 * self._offset)).all(axis=2)
        between = np.where(inside[..., None], between, self._offset)
        structure = np.where(inside, self._table[tuple(np.moveaxis(between, 2, 0))], 0.0) / 2
        rotated = np.concatenate([np.zeros((1, 3)), self.vectors[beams] @ matrix.T])
        np.fill_diagonal(structure, excitation_errors(rotated, self.library.wavelength))
        values, waves = np.linalg.eigh(structure)
        phases = np.exp(2j * np.pi * np.outer(thicknesses, values)) * waves[0].conj()
        return np.abs(phases @ waves.T) ** 2


class DynamicalRefinement:
    """Tilt and thickness that fit a pattern's intensities best, from an orientation that is nearly right."""

    def __init__(self, library: Library, thicknesses: np.ndarray | None = None, most: int = 60) -> None:
        """Thicknesses [m] that come into question; if not given, 0.7 to 1.4 times the library's, in steps of 5 %.

        `most` beams are coupled at a time.
        """
        self.library = library
        self.thicknesses = library.thickness * np.arange(0.7, 1.41, 0.05) if thicknesses is None else np.asarray(thicknesses)
        self._waves = [BlochWaves(crystal, library, most) for crystal in library.crystals]

    def __call__(self, matrix: np.ndarray, phase: int, places: np.ndarray, intensities: np.ndarray) -> Dynamical:
        """Search about an orientation (3, 3): a coarse grid of tilts, then ever smaller steps from the best of it.

        Parameters
        ----------
        places : (peaks, 2) (y, x) [1/m] in the specimen's axes. intensities : (peaks,) fractions of the beam.
        """
        waves = self._waves[phase]
        trials = [turned(matrix, 0.0, y, x) for y, x in _GRID]
        scores = [self._score(waves, trial, waves.beams(trial), places, intensities)[0] for trial in trials]
        best = trials[int(np.argmax(scores))]
        step = _GRID_STEP / 2
        while step > _LAST_STEP:
            # the same beams for all steps of a size: scores of different beams do not compare
            beams = waves.beams(best)
            score, _ = self._score(waves, best, beams, places, intensities)
            for _ in range(_MOST_MOVES):
                around = [turned(best, 0.0, y, x) for y, x in step * _AROUND]
                scores = [self._score(waves, trial, beams, places, intensities)[0] for trial in around]
                if max(scores) <= score:
                    break
                best, score = around[int(np.argmax(scores))], max(scores)
            step /= 2
        return self._finished(waves, best, waves.beams(best), places, intensities)

    def _finished(self, waves: BlochWaves, matrix: np.ndarray, beams: np.ndarray, places: np.ndarray,
                  intensities: np.ndarray) -> Dynamical:
        """The in-plane rotation once more, and standard errors."""
        score, thickness = self._score(waves, matrix, beams, places, intensities)
        partner, spots = self._partners(waves, matrix, beams, places)
        found = np.flatnonzero(partner >= 0)
        angle, error = 0.0, np.inf
        if len(found) >= 3:
            # places scatter as 1 / sqrt(electrons), but no better than some floor: weights between the two
            angle, error = _in_plane(places[partner[found]], spots[found], np.sqrt(intensities[partner[found]]))
        matrix = turned(matrix, angle, 0.0, 0.0)
        errors = np.full(3, error)
        residuals = len(places) + np.count_nonzero(partner < 0)
        if residuals > 4:
            # what the model misses is common to many beams: no surer than one residual, nor than the last step
            one = self._tilt_errors(
                lambda y, x: self._score(waves, turned(matrix, 0.0, y, x), beams, places, intensities)[0])
            errors[1:] = np.hypot(one * np.sqrt(residuals / (residuals - 4)), _LAST_STEP)
        else:
            errors[1:] = np.inf
        return Dynamical(matrix, score, thickness, errors)

    def _tilt_errors(self, score: Callable[[float, float], float]) -> np.ndarray:
        """Standard errors about y and x of one residual [rad]: from the curvature of the misfit, 1 - score^2, and its size."""
        misfit = {(i, j): 1 - score(i * _PROBE, j * _PROBE) ** 2 for i in (-1, 0, 1) for j in (-1, 0, 1)}
        mixed = (misfit[1, 1] + misfit[-1, -1] - misfit[1, -1] - misfit[-1, 1]) / 4
        curvature = np.array([[misfit[1, 0] + misfit[-1, 0] - 2 * misfit[0, 0], mixed],
                              [mixed, misfit[0, 1] + misfit[0, -1] - 2 * misfit[0, 0]]]) / _PROBE ** 2
        if not (np.linalg.eigvalsh(curvature) > 0).all():
            return np.full(2, np.inf)
        return np.sqrt(np.diag(np.linalg.inv(curvature / 2)) * misfit[0, 0])

    def _partners(self, waves: BlochWaves, matrix: np.ndarray, beams: np.ndarray,
                  places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The peak of every beam (beams,), -1: none, and where the beams are (beams, 2) [1/m]."""
        spots = (waves.vectors[beams] @ matrix.T)[:, 1:]
        distance = np.hypot(spots[:, None, 0] - places[:, 0], spots[:, None, 1] - places[:, 1])
        nearest = distance.argmin(axis=1)
        return np.where(distance[np.arange(len(beams)), nearest] < self.library.capture, nearest, -1), spots

    def _score(self, waves: BlochWaves, matrix: np.ndarray, beams: np.ndarray, places: np.ndarray,
               intensities: np.ndarray) -> tuple[float, float]:
        """Largest cosine between the weights of peaks and beams, and the thickness where it is."""
        weakest = min(max(intensities.min() / 2, FAINTEST), BRIGHTEST)
        power = self.library.power
        if not len(beams):
            return 0.0, float(self.thicknesses[0])
        predicted = waves.intensities(matrix, beams, self.thicknesses)[:, 1:]
        model = np.maximum(predicted ** power - weakest ** power, 0.0)
        measured = np.maximum(intensities ** power - weakest ** power, 0.0)
        partner, _ = self._partners(waves, matrix, beams, places)
        shared = np.zeros((len(beams), len(places)))
        found = np.flatnonzero(partner >= 0)
        shared[found, partner[found]] = 1.0
        together = model @ shared
        square = (together ** 2).sum(axis=1) + (model[:, partner < 0] ** 2).sum(axis=1)
        cosine = together @ measured / np.sqrt(np.maximum(square, 1e-30) * (measured ** 2).sum())
        number = int(np.argmax(cosine))
        return float(cosine[number]), float(self.thicknesses[number])


def _in_plane(peaks: np.ndarray, model: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Turn [rad, x towards y] of a model (n, 2) that lays it best on peaks (n, 2), size and place free, and its error."""
    peaks, model = (part - np.average(part, axis=0, weights=weights) for part in (peaks, model))
    dot, spread = weights @ (peaks * model).sum(axis=1), weights @ (model ** 2).sum(axis=1)
    cross = weights @ (peaks[:, 0] * model[:, 1] - peaks[:, 1] * model[:, 0])
    rest = weights @ (peaks ** 2).sum(axis=1) - np.hypot(dot, cross) ** 2 / spread
    return float(np.arctan2(cross, dot)), float(np.sqrt(max(rest, 0.0) / max(2 * len(peaks) - 4, 1) / spread))
