"""Orientation of every pattern: peaks to reciprocal space, templates, refinement, and what is not indexed, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.orientation.disks import DiskSearch, Peaks
from edgetem_nodes.featurizer.orientation.dynamical import DynamicalRefinement
from edgetem_nodes.featurizer.orientation.library import BRIGHTEST, FAINTEST, Library
from edgetem_nodes.featurizer.orientation.matching import correlate
from edgetem_nodes.featurizer.orientation.orientations import Orientations, not_indexed
from edgetem_nodes.featurizer.orientation.refinement import LARGEST_STRETCH, refine
from edgetem_nodes.featurizer.orientation.rotations import about_beam, apart
from edgetem_nodes.featurizer.patterns.events import Frames
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

_FLATTEST = 0.15
"""Spread of the spots across their longest line, over that along it, below which they lie on one line."""
_DIRECT = 0.5
"""Radius around the direct beam, over the shortest reciprocal vector, within which peaks are not reflections."""
_PINNED = 0.95
"""Of the largest stretch: a pattern whose size is at its bound has not been fitted."""
_SAME = math.radians(0.5)
"""Candidates closer than this are refined once."""
_COARSE_ROUNDS, _FINE_ROUNDS = 2, 8


@dataclass(frozen=True)
class Settings:
    """How patterns are indexed.

    Attributes
    ----------
    candidates : templates of each phase that are refined a little; finalists : of all those, refined to the end.
    fewest_spots : reflections that an indexed pattern has at least.
    least_explained : a pattern is not indexed where less than this part of its spots are reflections, and the square of the
        score, the part of the squares of their weights that the model holds, is below it as well.
    lowest_score : below which a pattern is not indexed.
    distinct : [rad] orientations closer than this are one, for the second-best score.
    """

    candidates: int = 40
    finalists: int = 8
    fewest_spots: int = 5
    least_explained: float = 0.5
    lowest_score: float = 0.4
    distinct: float = float(np.radians(5.0))

    def __post_init__(self) -> None:
        if not 1 <= self.finalists <= self.candidates:
            raise ValueError(f"finalists {self.finalists} must be 1 to candidates, {self.candidates}")
        if self.fewest_spots < 3:
            raise ValueError(f"fewest_spots {self.fewest_spots} is below 3: fewer spots determine no orientation")
        for name in ("lowest_score", "least_explained"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name):g} is not in [0, 1)")


class OrientationMapper:
    """Indexes patterns against a library."""

    def __init__(self, library: Library, geometry: DetectorGeometry, settings: Settings | None = None,
                 dynamical: DynamicalRefinement | None = None) -> None:
        """Set up; the detector's flip and rotation are taken off before matching, so orientations are in the scan's axes.

        With `dynamical` the finalists are refined by Bloch waves, and the best of those is the orientation.
        """
        self.dynamical = dynamical
        self.library, self.geometry, self.settings = library, geometry, settings or Settings()
        self._to_reciprocal = geometry.to_scan() @ np.asarray(geometry.distortion) * (geometry.pixel_angle
                                                                                      / library.wavelength)

    def __call__(self, frames: Frames, search: DiskSearch, positions: np.ndarray | None = None) -> Orientations:
        """Orientations of frames or events, by the disks that a search finds; `positions` as in `of_peaks`."""
        return self.of_peaks(search(frames), positions)

    def of_peaks(self, peaks: Peaks, positions: np.ndarray | None = None) -> Orientations:
        """Orientations of patterns given as peaks.

        Parameters
        ----------
        positions : (frames, 2), (y, x) [m], of the probe, for the geometry's descan.

        Raises
        ------
        ValueError : the geometry has a descan and there are no positions, or not one a pattern.
        """
        result = not_indexed(len(peaks))
        result.failures[:] = peaks.failures
        shifts = self._shifts(len(peaks), positions)
        for frame in range(len(peaks)):
            if not result.failures[frame]:
                part = slice(peaks.starts[frame], peaks.starts[frame + 1])
                offsets = peaks.positions[part] - np.asarray(self.geometry.center) - shifts[frame]
                result.failures[frame] = self._index(offsets @ self._to_reciprocal.T, peaks.intensities[part], result, frame)
        return result

    def _shifts(self, frames: int, positions: np.ndarray | None) -> np.ndarray:
        if positions is None:
            if np.any(self.geometry.descan):
                raise ValueError("the geometry has a descan: give the scan position of every pattern")
            return np.zeros((frames, 2))
        shifts = self.geometry.shifts(positions)
        if len(shifts) != frames:
            raise ValueError(f"{len(shifts)} scan positions do not fit {frames} patterns: give one a pattern")
        return shifts

    def _index(self, places: np.ndarray, intensities: np.ndarray, result: Orientations, frame: int) -> str:
        """Enter the orientation of one pattern, spots at places (n, 2) [1/m]; returns why there is none, or nothing."""
        library, settings = self.library, self.settings
        radii = np.hypot(places[:, 0], places[:, 1])
        beam = float(np.maximum(intensities, 0).sum())
        used = (radii > _DIRECT * library.shortest.min()) & (radii <= library.reach) & (intensities > 0)
        if np.count_nonzero(used) < settings.fewest_spots:
            return (f"{np.count_nonzero(used)} spots beside the direct beam; {settings.fewest_spots} or more are needed: more "
                    "electrons, a thicker place, or no crystal")
        order = np.flatnonzero(used)[np.argsort(radii[used], kind="stable")]
        places, radii, intensities = places[order], radii[order], intensities[order] / beam
        spread = np.linalg.eigvalsh(places.T @ places)
        if spread[0] < _FLATTEST ** 2 * spread[1]:
            return "the spots lie on one line: the orientation about it is open"
        weakest = min(max(intensities.min() / 2, FAINTEST), BRIGHTEST)
        weights = np.maximum(intensities ** library.power - weakest ** library.power, 0.0)
        phases, matrices, scores, errors, matched, scale = _match(
            places, radii, np.arctan2(places[:, 0], places[:, 1]) % (2 * np.pi), weights / np.linalg.norm(weights), weakest,
            *_arrays(library), settings.candidates, settings.finalists, settings.distinct)
        thickness = np.nan
        if self.dynamical is not None:
            refined = [self.dynamical(*finalist, places, intensities) for finalist in zip(matrices, phases, strict=True)]
            matrices, scores = np.array([one.matrix for one in refined]), np.array([one.score for one in refined])
            chosen = refined[int(np.argmax(scores))]
            errors, thickness = chosen.errors, chosen.thickness
        best = self._rank(phases, matrices, scores, result, frame)
        result.matched[frame] = matched
        if matched < settings.fewest_spots:
            return f"{matched} spots fit the best orientation; {settings.fewest_spots} or more are needed"
        if scores[best] < settings.lowest_score:
            return f"the best score, {scores[best]:.2f}, is below lowest_score, {settings.lowest_score:g}: no phase fits"
        if max(matched / len(places), scores[best] ** 2) < settings.least_explained:
            # a lattice of the wrong size still meets some spots by chance, at a size within the bound
            return (f"{matched} of {len(places)} spots fit the best orientation, with a score of {scores[best]:.2f}: too few "
                    "are explained; check camera length, high tension and structure, or crystals overlap")
        result.scales[frame] = scale
        if abs(scale - 1) > _PINNED * LARGEST_STRETCH:
            return (f"the pattern is {abs(scale - 1):.1%} {'larger' if scale > 1 else 'smaller'} than the library says, the "
                    "most that is allowed: check camera length and high tension")
        result.phases[frame], result.matrices[frame] = phases[best], matrices[best]
        result.standard_errors[frame], result.thicknesses[frame] = errors, thickness
        return ""

    def _rank(self, phases: np.ndarray, matrices: np.ndarray, scores: np.ndarray, result: Orientations, frame: int) -> int:
        """Enter the scores of the best finalist and of its rivals; returns its number."""
        best = int(np.argmax(scores))
        symmetry = self.library.symmetries[phases[best]]
        far = np.array([phase != phases[best] or apart(matrices[best], matrix, symmetry) > self.settings.distinct
                        for phase, matrix in zip(phases, matrices, strict=True)])
        result.scores[frame], result.second_scores[frame] = scores[best], 0.0
        if far.any():
            second = int(np.argmax(np.where(far, scores, -1.0)))
            result.second_scores[frame], result.second_matrices[frame] = scores[second], matrices[second]
            result.second_phases[frame] = phases[second]
        if len(self.library.crystals) > 1:
            result.other_phase_scores[frame] = scores[phases != phases[best]].max(initial=0.0)
        return best


def _arrays(library: Library) -> tuple:
    templates, reflections = library.templates, library.reflections
    return (templates.phases, templates.references, templates.starts, templates.radii, templates.azimuths, templates.weights,
            reflections.starts, reflections.vectors, reflections.strengths, library.symmetries,
            (library.wavelength, library.broadening, library.reach, library.power), library.capture)


@njit(cache=True, nogil=True)
def _match(places, radii, azimuths, weights, weakest, phases, references, starts, spot_radii, spot_azimuths, spot_weights,
           reflection_starts, vectors, strengths, symmetries, beam, capture, candidates, finalists, distinct):
    """Finalists of one pattern: phases, orientations, scores; errors, matched peaks and scale of the best.

    The last finalist is the best orientation that is another one than the best.
    """
    number = len(phases)
    scores, turns, opposite = np.empty(number), np.empty(number), np.empty(number)
    correlate(radii, azimuths, weights, starts, spot_radii, spot_azimuths, spot_weights, capture, scores, turns, opposite)
    order, tried, matrices = _candidates(phases, references, scores, turns, opposite, candidates)
    final = np.empty(len(tried))
    for i in range(len(tried)):
        part = slice(reflection_starts[tried[i]], reflection_starts[tried[i] + 1])
        matrices[i], final[i], _, _, _ = refine(matrices[i], places, weights, vectors[part], strengths[part], beam, weakest,
                                                capture, _COARSE_ROUNDS)
    kept = _distinct(tried, matrices, final, symmetries, finalists)
    best_score, errors, matched, scale = -1.0, np.full(3, np.inf), 0, 1.0
    for i in kept:
        part = slice(reflection_starts[tried[i]], reflection_starts[tried[i] + 1])
        matrices[i], final[i], its_errors, its_matched, its_scale = refine(
            matrices[i], places, weights, vectors[part], strengths[part], beam, weakest, capture, _FINE_ROUNDS)
        if final[i] > best_score:
            best_score, errors, matched, scale = final[i], its_errors, its_matched, its_scale
    best = kept[np.argmax(final[kept])]
    # where every finalist came to the same orientation, the best template elsewhere is the rival
    rival = order[0]
    for k in order:
        if phases[k % number] != tried[best] \
                or apart(matrices[best], _template(references, turns, k), symmetries[tried[best]]) > distinct:
            rival = k
            break
    phase, last = phases[rival % number], np.empty((1, 3, 3))
    part = slice(reflection_starts[phase], reflection_starts[phase + 1])
    last[0], last_score, _, _, _ = refine(_template(references, turns, rival), places, weights, vectors[part], strengths[part],
                                          beam, weakest, capture, _COARSE_ROUNDS)
    if phase == tried[best] and apart(matrices[best], last[0], symmetries[phase]) <= distinct:
        # refinement led it to the best: what it is worth where it stands
        last[0], last_score, _, _, _ = refine(_template(references, turns, rival), places, weights, vectors[part],
                                              strengths[part], beam, weakest, capture, 0)
    return (np.append(tried[kept], phase), np.concatenate((matrices[kept], last)), np.append(final[kept], last_score), errors,
            matched, scale)


@njit(cache=True, nogil=True)
def _distinct(tried, matrices, scores, symmetries, most):
    """Numbers of the best candidates, none of them within `_SAME` of a better one."""
    kept = np.empty(most, np.int64)
    count = 0
    for i in np.argsort(-scores):
        new = True
        for k in kept[:count]:
            if tried[k] == tried[i] and apart(matrices[k], matrices[i], symmetries[tried[i]]) < _SAME:
                new = False
        if new:
            kept[count] = i
            count += 1
            if count == most:
                break
    return kept[:count]


@njit(cache=True, nogil=True)
def _candidates(phases, references, scores, turns, opposite, candidates):
    """Order of all templates, as they are and half a turn on; phase and orientation of the best of each phase."""
    number = len(phases)
    # patterns of one zone look alike after half a turn; only refinement tells the two apart
    order = np.argsort(-np.concatenate((scores, opposite)))
    kinds = phases.max() + 1
    taken, chosen = np.zeros(kinds, np.int64), np.empty(kinds * candidates, np.int64)
    count = 0
    for k in order:
        phase = phases[k % number]
        if taken[phase] < candidates:
            taken[phase] += 1
            chosen[count] = k
            count += 1
            if count == len(chosen):
                break
    matrices = np.empty((count, 3, 3))
    for i in range(count):
        matrices[i] = _template(references, turns, chosen[i])
    return order, phases[chosen[:count] % number], matrices


@njit(cache=True, nogil=True)
def _template(references, turns, k):
    """Orientation of template k, which is half a turn on from the number of templates."""
    number = len(turns)
    return about_beam(references[k % number], turns[k % number] + (math.pi if k >= number else 0.0))
