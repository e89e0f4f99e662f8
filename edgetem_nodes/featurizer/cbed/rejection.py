"""Patterns that nothing is to be said of, and why; and materials that are none of those trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.stats import binom

from edgetem_nodes.featurizer.cbed.descriptors import UNKNOWN
from edgetem_nodes.featurizer.cbed.lattices import Lattices, tolerance
from edgetem_nodes.featurizer.cbed.phases import LARGEST_STRETCH
from edgetem_nodes.featurizer.cbed.reading import Exposures
from edgetem_nodes.featurizer.features import CountingNoise, mark

_TRIED, _CHANCE = 200, 1e-2
"""Lattices that are tried, and how many of them may by chance explain as much as an unknown one."""
_MOST_ELECTRONS = 1e12
_SEVERAL = "several crystals, or rings of a powder or film, with a probability of {:.2f}, above {:g}"
_NO_LATTICE = 2.0
"""Score where not even a lattice is found."""


@dataclass(frozen=True)
class Limits:
    """Beyond which a pattern is rejected, or its material counts as unknown.

    Attributes
    ----------
    electrons : fewest in a pattern.
    off_lattice : largest part of the clear disks that does not lie on the lattice.
    several : largest probability that a network gives to several crystals.
    second : standard errors by which a second lattice may stand out, the first one turned. ring : largest part of what stands
        out at reflections that stands out all along the circles on which they lie.
    chi_square : largest reduced, of the disks' places. misfit : standard errors by which the worst disk may be off.
    error : largest standard error of the lattice, relative.
    distance : largest distance of the pattern from those of its phase, of the last layer's features.
    stretch : largest strain.
    phase : least probability with which a phase is told. stated : odds of a material that a person states, before the pattern
        is seen.
    """

    electrons: float = 200.0
    off_lattice: float = 0.34
    several: float = 0.5
    second: float = 4.6
    ring: float = 0.03
    chi_square: float = 6.0
    error: float = 0.05
    distance: float = 3.0
    stretch: float = LARGEST_STRETCH
    phase: float = 0.95
    stated: float = 20.0

    @classmethod
    def of(cls, calibration: dict[str, np.ndarray]) -> Limits:
        """With those that training has measured."""
        return cls(chi_square=float(calibration["chi_square_limit"]), distance=float(calibration["distance_limit"]))


@dataclass(frozen=True)
class Judgement:
    """Of patterns, one a row.

    Attributes
    ----------
    phase : (rows,) the one that is told; `UNKNOWN`: none is. likeliest : (rows,) of those that are known.
    probability : (rows, phases + 1), the last that of none of them; a phase whose lattice does not fit has none.
    left : (rows, phases) bool, the phases that the pattern can be of: that which is told, or the likeliest that are probable
        enough together. None are left where it may as well be none of them.
    score, rejected, reasons : as in `Descriptors`.
    """

    phase: np.ndarray
    likeliest: np.ndarray
    probability: np.ndarray
    left: np.ndarray
    score: np.ndarray
    rejected: np.ndarray
    reasons: list[str]


@njit(cache=True, nogil=True)
def _scan(frames, level, total, least, suspect):
    """Sums and smallest values of rows, in place, and whether something in them is not finite or at `level`; of such a row no
    sum."""
    for row in range(len(frames)):
        whole, lowest, bad = 0.0, 0.0, False
        for value in frames[row]:
            one = np.float64(value)
            whole += one
            lowest = min(lowest, one)
            bad |= not one < level
        if bad or not np.isfinite(whole) or not np.isfinite(lowest):
            suspect[row] = True
        else:
            total[row], least[row] = whole, lowest


def plain(frames: np.ndarray) -> np.ndarray:
    """Frames in a type and order that numba knows: neither half precision nor the other order of bytes."""
    if frames.dtype.kind == "b":
        return np.ascontiguousarray(frames).view(np.uint8)
    return np.ascontiguousarray(frames, np.float32 if frames.dtype == np.float16 else frames.dtype.newbyteorder("="))


@njit(cache=True, nogil=True)
def electrons(frames, usable, gain):
    """Frames (rows, rows, columns) over the gain in single precision; zeros where they are not usable."""
    result = np.empty(frames.shape, np.float32)
    for row in range(len(frames)):
        if not usable[row]:
            result[row] = np.float32(0.0)
            continue
        for i in range(frames.shape[1]):
            for j in range(frames.shape[2]):
                result[row, i, j] = np.float32(frames[row, i, j]) / gain
    return result


def unusable(frames: np.ndarray, noise: CountingNoise, limits: Limits) -> list[str]:
    """Why frames (rows, rows, columns) cannot be read at all; empty where they can."""
    flat = plain(frames).reshape(len(frames), frames.shape[1] * frames.shape[2])
    total, least, suspect = np.zeros(len(flat)), np.zeros(len(flat)), np.zeros(len(flat), bool)
    _scan(flat, noise.saturation_level(frames.dtype), total, least, suspect)
    failures = [""] * len(flat)
    for row, reason in zip(np.flatnonzero(suspect), noise.failures(flat[suspect]), strict=True):
        failures[row] = reason
    whole = total / noise.counts_per_electron
    negative = least < -8 * noise.readout_noise - 1e-9
    mark(failures, negative, "pixels are below zero by more than readout noise: subtract the right dark signal")
    mark(failures, whole <= 0, "the pattern is empty")
    mark(failures, whole > _MOST_ELECTRONS, f"more than {_MOST_ELECTRONS:g} electrons in one pattern are no counts: check "
                                                "the frames, and instrument.counts_per_electron")
    for row in np.flatnonzero(whole < limits.electrons):
        failures[row] = failures[row] or (f"{whole[row]:.0f} electrons are fewer than the {limits.electrons:.0f} below "
                                          "which nothing was trained: dwell longer")
    return failures


def feature_distances(hidden: np.ndarray, phase: np.ndarray, calibration: dict[str, np.ndarray]) -> np.ndarray:
    """Root mean square Mahalanobis distance (rows,) of features (members, rows, n) from a phase's mean, per dimension."""
    centres, whitening = calibration["feature_centres"], calibration["feature_whitening"]
    total = np.zeros(hidden.shape[1])
    for member, features in enumerate(hidden.astype(float)):
        total += (((features - centres[member][phase]) @ whitening[member])**2).mean(axis=1)
    return np.sqrt(total / len(hidden))


def judge(lattices: Lattices, exposures: Exposures, log_probability: np.ndarray, hidden: np.ndarray, found: tuple,
          failures: list[str], calibration: dict[str, np.ndarray], limits: Limits, names: tuple[str, ...],
          forced: int | None) -> Judgement:
    """Phase and rejection of patterns.

    Parameters
    ----------
    log_probability : (rows, phases + 1 or 2), after the phases: none of them, several crystals. hidden : (members, rows,
        features).
    found : matrices and stretches of `phases.matches`.
    failures : reasons known before. names : of the phases. forced : the phase, where it is known.
    """
    reasons, count = list(failures), len(names)
    missing = ~np.isfinite(lattices.lattice).all(axis=1)
    score = np.where(missing, _NO_LATTICE, 0.0)
    mark(reasons, missing, "no lattice of disks stands out: amorphous, too few electrons, or disks that overlap")
    several = np.exp(log_probability[:, count + 1:]).sum(axis=1)
    for value, limit, reason in (*_figures(lattices, limits), (several, limits.several, _SEVERAL)):
        for row in np.flatnonzero((value > limit) & ~missing):
            reasons[row] = reasons[row] or reason.format(value[row], limit)
        score = np.where(missing, score, np.maximum(score, value / limit))
    rejected = np.array([bool(reason) for reason in reasons], bool)
    probability = _possible(log_probability, found[1], limits, forced, count)
    likeliest = np.argmax(probability[:, :count], axis=1)
    strangeness = _strangeness(probability, likeliest, hidden, found[1], calibration, limits)
    if forced is not None:
        strangeness = np.where(found[1][:, forced] <= limits.stretch, strangeness, np.maximum(strangeness, _NO_LATTICE))
    score = np.where(missing, score, np.maximum(score, strangeness))
    unknown = strangeness > 1.0
    chance = (by_chance(lattices, exposures.radii) > _CHANCE) & unknown & ~rejected
    for row in np.flatnonzero(chance):
        reasons[row] = (f"{lattices.peaks[row]} peaks lie on a lattice no better than by chance, and it is no known one: "
                        "amorphous, many crystals, or too few electrons")
    rejected |= chance
    score = np.where(chance, np.maximum(score, _NO_LATTICE), score)
    left = _left(probability, limits.phase) & ~(rejected | unknown)[:, None]
    told = left.sum(axis=1) == 1
    if forced is not None:
        told &= likeliest == forced
    for row in np.flatnonzero(~rejected & ~told):
        reasons[row] = (_why_unknown(found[1][row], limits, forced) if unknown[row]
                        else _ambiguous(probability[row], names, limits, forced))
    phase = np.where(told, likeliest, UNKNOWN)
    return Judgement(phase, likeliest, np.where(rejected[:, None], np.nan, probability), left, score, rejected, reasons)


def _figures(lattices: Lattices, limits: Limits) -> tuple[tuple[np.ndarray, float, str], ...]:
    """Values, limits, and reasons of a lattice that is not one."""
    missing = ~np.isfinite(lattices.lattice).all(axis=1)
    basis = np.where(missing[:, None], 1.0, lattices.lattice)[:, [1, 4]]
    error = np.sqrt(np.maximum(np.einsum("nii->n", np.nan_to_num(lattices.covariance)[:, [1, 4]][:, :, [1, 4]]), 0)
                    / np.maximum((basis**2).sum(axis=1), 1e-9))
    chi_square = np.where(lattices.freedom >= 4, np.nan_to_num(lattices.chi_square), 0.0)
    return ((lattices.second, limits.second, "a second lattice, the first one turned, stands out by {:.1f} standard errors, "
                                             "more than {:g}: several crystals"),
            (lattices.ring, limits.ring, "of what stands out at the lattice's reflections {:.0%} stands out all along their "
                                         "circles, more than {:.0%}: rings of a powder or film"),
            (1.0 - lattices.clear, limits.off_lattice, "{:.0%} of the clear disks do not lie on the lattice, more than {:.0%}: "
                                                       "several crystals"),
            (chi_square, limits.chi_square, "the places of the disks have a reduced chi-square of {:.3g}, above {:.3g}: no "
                                            "single lattice, or disks that overlap"),
            (error, limits.error, "the lattice is known to {:.2%} only, not to {:.0%}: too few electrons in the disks"))


def by_chance(lattices: Lattices, radii: np.ndarray) -> np.ndarray:
    """Expected number (rows,) of lattices that would explain as many of the peaks if these lay anywhere; NaN without a lattice.

    Three peaks determine a lattice, so that only the others are evidence; about `_TRIED` are tried.
    """
    a, b = lattices.lattice[:, [1, 4]], lattices.lattice[:, [2, 5]]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    near = np.clip(np.pi * tolerance(radii)**2 / area, 0.0, 1.0)
    on = np.rint(lattices.share * lattices.peaks)
    return _TRIED * binom.sf(on - 4, np.maximum(lattices.peaks - 3, 0), near)


def _possible(log_probability: np.ndarray, stretches: np.ndarray, limits: Limits, forced: int | None, count: int) -> np.ndarray:
    """Probabilities (rows, phases + 1) where phases whose lattice does not fit are none of them, and one that is stated was
    likelier from the beginning."""
    given = np.exp(log_probability)
    if forced is not None:
        given[:, forced] *= limits.stated
        given /= given.sum(axis=1, keepdims=True)
    possible = np.where(stretches <= limits.stretch, given[:, :count], 0.0)
    return np.concatenate([possible, np.clip(1.0 - possible.sum(axis=1, keepdims=True), 0.0, 1.0)], axis=1)


def _strangeness(probability: np.ndarray, phase: np.ndarray, hidden: np.ndarray, stretches: np.ndarray,
                 calibration: dict[str, np.ndarray], limits: Limits) -> np.ndarray:
    """How strange patterns (rows,) are for their phase, 1 being the limit."""
    strangeness = np.maximum(feature_distances(hidden, phase, calibration) / limits.distance, 2 * probability[:, -1])
    fits = stretches[np.arange(len(phase)), phase] <= limits.stretch
    return np.where(fits, strangeness, np.maximum(strangeness, 1.5))


def _left(probability: np.ndarray, enough: float) -> np.ndarray:
    """The likeliest phases (rows, phases) that together have a probability of `enough`; none where none of them is among
    these."""
    order = np.argsort(-probability, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(probability, order, axis=1), axis=1)
    taken = np.zeros(probability.shape, bool)
    np.put_along_axis(taken, order, np.concatenate([np.zeros((len(order), 1)), before[:, :-1]], axis=1) < enough, axis=1)
    return taken[:, :-1] & ~taken[:, -1:]


def _ambiguous(probability: np.ndarray, names: tuple[str, ...], limits: Limits, forced: int | None) -> str:
    order = [int(one) for one in np.argsort(-probability, kind="stable") if probability[one] >= 0.01]
    said = ", ".join(f"{names[one] if one < len(names) else 'none of those trained'} ({probability[one]:.2f})" for one in order)
    if forced is not None:
        return (f"the material is stated as {names[forced]}, but the pattern may be of another: {said}, after odds of "
                f"{limits.stated:g} for what is stated; {limits.phase:g} is asked for")
    return (f"the phase is not identifiable from this pattern: {said}, no one with {limits.phase:g}; state the material, or "
            "measure with more dose")


def _why_unknown(stretches: np.ndarray, limits: Limits, forced: int | None) -> str:
    if forced is not None and stretches[forced] > limits.stretch:
        return f"the lattice is not that of the stated material, which would be strained by {stretches[forced]:.0%}"
    if not (stretches <= limits.stretch).any():
        return "the lattice is that of none of the trained materials: name the reference lattice, or train on the material"
    return "the disks look like those of none of the trained materials: name the reference lattice, or train on the material"
