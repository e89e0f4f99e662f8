"""Orientation between the templates: the in-plane rotation from where peaks are, the tilt from how strong they are.

A tilt by a fraction of a degree hardly moves a spot, but it moves the Ewald sphere through the reflections: their excitation
errors, and so their intensities, say where the zone axis is (as the Laue circle does by eye). Both are least-squares fits,
with standard errors from the scatter of their residuals. Places scatter independently, and their number makes the turn surer.
Intensities miss the model alike, for two beams are not all: the tilt is taken as no surer than one residual makes it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.orientation.library import FARTHEST
from edgetem_nodes.featurizer.orientation.rotations import turned

_LONGEST_STEP = math.radians(0.7)
LARGEST_STRETCH = 0.03
_SHORTER = 0.4
_NEGLIGIBLE = 0.02
"""Part of the strongest peak's model below which a peak counts as not predicted."""


@njit(cache=True, nogil=True, fastmath=True)
def _predict(turn, vectors, strengths, beam, weakest, spots, values, slopes):
    """Spots (n, 2) [1/m], weights (n,) and their derivatives (n, 2) by tilts about y and x [1/rad]; returns their number."""
    wavelength, broadening, reach, power = beam
    count, least, floor = 0, broadening * broadening, weakest ** power
    for i in range(len(vectors)):
        a, b, c = vectors[i, 0], vectors[i, 1], vectors[i, 2]
        z = turn[0, 0] * a + turn[0, 1] * b + turn[0, 2] * c
        y = turn[1, 0] * a + turn[1, 1] * b + turn[1, 2] * c
        x = turn[2, 0] * a + turn[2, 1] * b + turn[2, 2] * c
        square = y * y + x * x
        if square > reach * reach:
            continue
        excitation = -z - wavelength * square / (1 + math.sqrt(1 - wavelength * wavelength * square))
        if abs(excitation) > FARTHEST:
            continue
        coupling = strengths[i] * strengths[i]
        width = excitation * excitation + coupling + least
        intensity = coupling / 2 / width
        if intensity <= weakest:
            continue
        weight = math.exp(power * math.log(intensity))
        spots[count, 0], spots[count, 1], values[count] = y, x, weight - floor
        # a right-handed turn about y moves z by -x, about x by +y, and the excitation error by the opposite
        slope = -2 * power * weight * excitation / width
        slopes[count, 0], slopes[count, 1] = slope * x, -slope * y
        count += 1
    return count


@njit(cache=True, nogil=True, fastmath=True)
def _solve(normal, right):
    """Solution (3,) of a symmetric system, and the inverse (3, 3); zeros where it is singular."""
    inverse = np.zeros((3, 3))
    a, b, c = normal[0, 0], normal[0, 1], normal[0, 2]
    d, e, f = normal[1, 1], normal[1, 2], normal[2, 2]
    inverse[0, 0], inverse[0, 1], inverse[0, 2] = d * f - e * e, c * e - b * f, b * e - c * d
    inverse[1, 1], inverse[1, 2], inverse[2, 2] = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * inverse[0, 0] + b * inverse[0, 1] + c * inverse[0, 2]
    if determinant <= 1e-12 * a * d * f:
        inverse[:] = 0.0
        return np.zeros(3), inverse
    inverse /= determinant
    inverse[1, 0], inverse[2, 0], inverse[2, 1] = inverse[0, 1], inverse[0, 2], inverse[1, 2]
    return inverse @ right, inverse


@njit(cache=True, nogil=True, fastmath=True)
def _assign(peaks, count, spots, values, slopes, capture, pose, model, leans, places, normal):
    """Give every spot to the nearest peak within `capture`; spots of no peak say that nothing is there.

    model (peaks,), leans (peaks, 2) and places (peaks, 2) become the sums of values, of slopes, and the mean place of the spots
    of each peak; `normal` (3, 3) the normal matrix of amplitude and tilts about y and x, of all spots. Returns the part of the
    gradient by the tilts, and the square of the model and the number of residuals that belong to no peak.
    """
    scale, shift_y, shift_x = pose
    model[:], leans[:], places[:], normal[:] = 0.0, 0.0, 0.0, 0.0
    pull_y, pull_x, alone, empty = 0.0, 0.0, 0.0, 0
    strongest = 0.0
    for i in range(count):
        strongest = max(strongest, values[i])
    for i in range(count):
        y, x = scale * spots[i, 0] + shift_y, scale * spots[i, 1] + shift_x
        nearest, partner = capture * capture, -1
        for k in range(len(peaks)):
            distance = (peaks[k, 0] - y) ** 2 + (peaks[k, 1] - x) ** 2
            if distance < nearest:
                nearest, partner = distance, k
        value, lean_y, lean_x = values[i], slopes[i, 0], slopes[i, 1]
        if partner >= 0:
            model[partner] += value
            leans[partner, 0] += lean_y
            leans[partner, 1] += lean_x
            places[partner, 0] += value * spots[i, 0]
            places[partner, 1] += value * spots[i, 1]
            continue
        alone += value * value
        empty += value > 0.1 * strongest
        pull_y, pull_x = pull_y - lean_y * value, pull_x - lean_x * value
        _accumulate(normal, value, lean_y, lean_x)
    for k in range(len(peaks)):
        if model[k] > 0:
            places[k, 0], places[k, 1] = places[k, 0] / model[k], places[k, 1] / model[k]
            _accumulate(normal, model[k], leans[k, 0], leans[k, 1])
    return pull_y, pull_x, alone, empty


@njit(cache=True, nogil=True, fastmath=True)
def _accumulate(normal, value, lean_y, lean_x):
    normal[0, 0] += value * value
    normal[0, 1] += value * lean_y
    normal[0, 2] += value * lean_x
    normal[1, 1] += lean_y * lean_y
    normal[1, 2] += lean_y * lean_x
    normal[2, 2] += lean_x * lean_x


@njit(cache=True, nogil=True, fastmath=True)
def _similarity(peaks, weights, places, found, capture):
    """Least squares of peaks = stretch R(angle) places + shift over `found` (peaks,) bool, weighted.

    Returns angle [rad, x towards y], stretch, shift (y, x), the residual scatter of one coordinate, and the angle's error.
    """
    total, ky, kx, py, px, number = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for k in range(len(peaks)):
        if found[k]:
            w = weights[k]
            total, number = total + w, number + 1
            ky, kx = ky + w * peaks[k, 0], kx + w * peaks[k, 1]
            py, px = py + w * places[k, 0], px + w * places[k, 1]
    ky, kx, py, px = ky / total, kx / total, py / total, px / total
    dot, cross, spread = 0.0, 0.0, 0.0
    for k in range(len(peaks)):
        if found[k]:
            a, b, c, d = peaks[k, 0] - ky, peaks[k, 1] - kx, places[k, 0] - py, places[k, 1] - px
            dot += weights[k] * (a * c + b * d)
            cross += weights[k] * (a * d - b * c)
            spread += weights[k] * (c * c + d * d)
    angle, stretch = math.atan2(cross, dot), math.hypot(dot, cross) / max(spread, 1e-300)
    stretch = min(1 + LARGEST_STRETCH, max(1 - LARGEST_STRETCH, stretch))
    cosine, sine = stretch * math.cos(angle), stretch * math.sin(angle)
    shift_y, shift_x = ky - cosine * py - sine * px, kx - cosine * px + sine * py
    far = max(1.0, math.hypot(shift_y, shift_x) / capture)
    shift_y, shift_x = shift_y / far, shift_x / far
    remaining = 0.0
    for k in range(len(peaks)):
        if found[k]:
            dy = peaks[k, 0] - cosine * places[k, 0] - sine * places[k, 1] - shift_y
            dx = peaks[k, 1] - cosine * places[k, 1] + sine * places[k, 0] - shift_x
            remaining += weights[k] * (dy * dy + dx * dx)
    scatter = math.sqrt(remaining / total * number / max(2 * number - 4, 1))
    return angle, stretch, shift_y, shift_x, scatter, scatter / math.sqrt(max(spread / total * number, 1e-300))


@njit(cache=True, nogil=True, fastmath=True)
def _tilt(weights, model, leans, normal, gradient, alone, empty):
    """Gauss-Newton step of the tilts about y and x [rad], and their standard errors from the scatter of the residuals.

    Those of residuals that are all alike: sqrt(residuals) times those of independent ones.
    """
    amplitude = 0.0
    for k in range(len(weights)):
        amplitude += weights[k] * model[k]
    amplitude /= normal[0, 0]
    pull = np.zeros(3)
    pull[1], pull[2] = gradient
    chi, number = amplitude * amplitude * alone, empty
    for k in range(len(weights)):
        if model[k] > 0:
            miss = weights[k] - amplitude * model[k]
            chi, number = chi + miss * miss, number + 1
            pull[1] += leans[k, 0] * miss / amplitude
            pull[2] += leans[k, 1] * miss / amplitude
    step, inverse = _solve(normal, pull)
    if inverse[0, 0] <= 0 or number <= 3:
        return 0.0, 0.0, np.inf, np.inf
    variance = number * chi / (number - 3) / (amplitude * amplitude)
    return step[1], step[2], math.sqrt(variance * inverse[1, 1]), math.sqrt(variance * inverse[2, 2])


@njit(cache=True, nogil=True, fastmath=True)
def _overlap(peaks, weights, places, model, alone, pose, capture):
    """Cosine of the angle between peaks and model, peaks counting less the farther they are off."""
    scale, shift_y, shift_x = pose
    common, square = 0.0, alone
    for k in range(len(peaks)):
        if model[k] > 0:
            dy = peaks[k, 0] - scale * places[k, 0] - shift_y
            dx = peaks[k, 1] - scale * places[k, 1] - shift_x
            common += weights[k] * model[k] * max(0.0, 1 - (dy * dy + dx * dx) / (capture * capture))
            square += model[k] * model[k]
    return common / math.sqrt(square) if square > 0 else 0.0


@njit(cache=True, nogil=True)
def refine(turn, peaks, weights, vectors, strengths, beam, weakest, capture, rounds):
    """Refine one orientation.

    Parameters
    ----------
    turn : (3, 3) crystal to specimen. peaks : (peaks, 2), (y, x) [1/m]. weights : (peaks,), squares sum to 1.
    vectors, strengths : reflections of the phase, (n, 3) [1/m] and (n,) [1/m].
    beam : wavelength [m], broadening [1/m], reach [1/m] and power of the library.
    weakest : fraction of the beam in the weakest disk that would be seen.
    capture : [1/m] within which a peak is a reflection's.
    rounds : of refinement; 0: only the score.

    Returns
    -------
    turn : (3, 3). score : cosine of the angle between the weights of the peaks and of the model, 0 to 1.
    errors : (3,) standard errors about z, y, x [rad]; infinite where the fit does not determine it.
    matched : number of peaks that are reflections. scale : of the pattern over that of the model.
    """
    number = len(peaks)
    spots, values, slopes = np.empty((len(vectors), 2)), np.empty(len(vectors)), np.empty((len(vectors), 2))
    model, leans, places = np.empty(number), np.empty((number, 2)), np.empty((number, 2))
    normal, errors, found = np.empty((3, 3)), np.full(3, np.inf), np.zeros(number, np.bool_)
    best, best_score, best_matched, best_scale = turn, -1.0, 0, 1.0
    pose, step, trial = (1.0, 0.0, 0.0), np.zeros(3), np.full(3, np.inf)
    for _ in range(rounds + 1):
        count = _predict(turn, vectors, strengths, beam, weakest, spots, values, slopes)
        pull_y, pull_x, alone, empty = _assign(peaks, count, spots, values, slopes, capture, pose, model, leans, places,
                                               normal)
        strongest, matched = model.max(), 0
        for k in range(number):
            found[k] = model[k] > _NEGLIGIBLE * strongest
            matched += found[k]
        score = _overlap(peaks, weights, places, model, alone, pose, capture) if matched >= 3 else 0.0
        if score > best_score and matched >= 3:
            best, best_score, best_matched, best_scale = turn, score, matched, pose[0]
            step[0], stretch, shift_y, shift_x, _, trial[0] = _similarity(peaks, weights, places, found, capture)
            pull = (pull_y, pull_x)
            step[1], step[2], trial[1], trial[2] = _tilt(weights, model, leans, normal, pull, alone, empty)
            step[1:] /= max(1.0, math.hypot(step[1], step[2]) / _LONGEST_STEP)
            errors[:] = trial
            pose = (stretch, shift_y, shift_x)
        else:
            # the model is not linear, and peaks change their reflections: go back and less far
            step *= _SHORTER
        turn = turned(best, step[0], step[1], step[2])
    return best, max(best_score, 0.0), errors, best_matched, best_scale
