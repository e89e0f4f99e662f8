"""Compiled fits of rows: the coarse lattice by correlation in windows, and the lattice of greatest likelihood."""

from __future__ import annotations

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.bragg.kernels import WORK, disk_normal, eliminate, solve

CONVERGED, SLOW, UNDETERMINED = 0, 1, 2
"""Outcomes of a fit: step below 3 % of the standard error; not so after the most steps; no unique lattice."""
_MOST_STEPS = 40
_STEP = 1e-3
_PATIENCE = 8
"""Steps after which they are halved, and again: information that a strong contrast makes too small lets full ones overshoot."""
_LARGEST_STEP = 0.4
_STEADY = 3
"""Steps after which the pixels of every disk stay the same: one that comes and goes would keep a fit from ending."""


@njit(cache=True, nogil=True)
def _window_sum(frame, background, offsets, y, x):
    """Counts and background under a flat disk at a whole pixel."""
    counts, below = 0.0, 0.0
    for o in range(len(offsets)):
        row, column = y + offsets[o, 0], x + offsets[o, 1]
        if 0 <= row < frame.shape[0] and 0 <= column < frame.shape[1]:
            level = background[row, column]
            if level > 0.0:
                counts += frame[row, column]
                below += level
    return counts, below


@njit(cache=True, nogil=True)
def _vertex(low, middle, high):
    """Place of a parabola's maximum between three samples, -0.5 to 0.5."""
    bend = low - 2 * middle + high
    return min(max(0.5 * (low - high) / bend, -0.5), 0.5) if bend < 0 else 0.0


@njit(cache=True, nogil=True)
def _peak(correlation, search, middle_y, middle_x):
    """Maximum (y, x) [pixel] of a correlation map, refined by parabolas; the nearest to the middle of equals."""
    best, place_y, place_x = -np.inf, middle_y, middle_x
    for i in range(2 * search + 1):
        for j in range(2 * search + 1):
            value = correlation[i, j] - 1e-9 * abs(correlation[i, j]) * ((i - middle_y)**2 + (j - middle_x)**2)
            if value > best:
                best, place_y, place_x = value, i, j
    fine_y, fine_x = float(place_y), float(place_x)
    if 0 < place_y < 2 * search:
        fine_y += _vertex(correlation[place_y - 1, place_x], correlation[place_y, place_x], correlation[place_y + 1, place_x])
    if 0 < place_x < 2 * search:
        fine_x += _vertex(correlation[place_y, place_x - 1], correlation[place_y, place_x], correlation[place_y, place_x + 1])
    return fine_y - search, fine_x - search, place_y, place_x


@njit(cache=True, nogil=True)
def coarse_lattice(frame, background, level, offsets, indices, start, search, lattice):
    """Lattice from the disks' correlation maxima in windows of +-`search` pixels about `start`.

    First all disks together say how far the pattern as a whole has moved; then each disk that stands out of its noise says
    where it is, against a weak belief that the lattice is `start`'s. Sets lattice (6,): centre, then basis row by row.
    """
    count, across = len(indices), 2 * search + 1
    maps, joint = np.zeros((count, across, across)), np.zeros((across, across))
    for k in range(count):
        y = start[0] + start[2] * indices[k, 0] + start[3] * indices[k, 1]
        x = start[1] + start[4] * indices[k, 0] + start[5] * indices[k, 1]
        for i in range(across):
            for j in range(across):
                row, column = int(np.rint(y)) + i - search, int(np.rint(x)) + j - search
                counts, below = _window_sum(frame, background, offsets, row, column)
                maps[k, i, j] = counts - level * below
                joint[i, j] += maps[k, i, j]
    moved_y, moved_x, middle_y, middle_x = _peak(joint, search, search, search)
    normal, right = np.zeros((3, 3)), np.zeros((3, 2))
    area = float(len(offsets))
    spread = 0.0
    for k in range(count):
        spread = max(spread, indices[k, 0]**2 + indices[k, 1]**2)
    for _ in range(2):
        kept = _ == 1
        previous = right.copy()
        normal[:], right[:] = 0.0, 0.0
        for k in range(count):
            h, l = indices[k, 0], indices[k, 1]
            y, x = start[0] + start[2] * h + start[3] * l, start[1] + start[4] * h + start[5] * l
            dy, dx, i, j = _peak(maps[k], search, middle_y, middle_x)
            net = maps[k, i, j]
            if net < 4.0 * np.sqrt(max(net, 0.0) + level * area + 1.0):
                continue
            ry, rx = np.rint(y) + dy - y, np.rint(x) + dx - x
            if kept:
                off_y = ry - (previous[0, 0] + previous[1, 0] * h + previous[2, 0] * l)
                off_x = rx - (previous[0, 1] + previous[1, 1] * h + previous[2, 1] * l)
                if off_y**2 + off_x**2 > max(2.25, 0.08 * area):
                    continue
            weight = 4 * net / area
            design = (1.0, h, l)
            for a in range(3):
                right[a, 0] += weight * design[a] * ry
                right[a, 1] += weight * design[a] * rx
                for b in range(3):
                    normal[a, b] += weight * design[a] * design[b]
        believed = 1.0 / max(search / 2.0, 1.0)**2
        normal[0, 0] += believed
        right[0, 0] += believed * moved_y
        right[0, 1] += believed * moved_x
        normal[1, 1] += believed * spread
        normal[2, 2] += believed * spread
        factor = normal.copy()
        solve(factor, 3, right, 2)
    lattice[0], lattice[1] = start[0] + right[0, 0], start[1] + right[0, 1]
    lattice[2], lattice[3] = start[2] + right[1, 0], start[3] + right[2, 0]
    lattice[4], lattice[5] = start[4] + right[1, 1], start[5] + right[2, 1]


@njit(cache=True, nogil=True)
def _place(lattice, h, k):
    return lattice[0] + lattice[2] * h + lattice[3] * k, lattice[1] + lattice[4] * h + lattice[5] * k


@njit(cache=True, nogil=True)
def _add(total, right, effective, pull, h, k):
    """Add a disk's information to the lattice's: place = centre + basis @ (h, k)."""
    design = (1.0, h, k)
    index = ((0, 2, 3), (1, 4, 5))
    for i in range(2):
        for a in range(3):
            row = index[i][a]
            right[row, 0] += pull[i] * design[a]
            for j in range(2):
                for b in range(3):
                    total[row, index[j][b]] += effective[i, j] * design[a] * design[b]


@njit(cache=True, nogil=True)
def likeliest_lattice(frame, background, level, phases, reach, radius, window, indices, prior_mean, prior_weight, strength,
                      local, scatter, gain, readout, lattice, amplitudes, levels, covariance, spread, information, shift, sums):
    """Fisher scoring from `lattice` (6,) to the lattice of greatest likelihood; sets what it is given to set.

    Parameters
    ----------
    prior_mean, prior_weight : (disks, terms) of each amplitude over `strength`; weight is 1 / variance, 0: not known.
    local : standard deviation of a disk's background about the pattern's `level`, relative to it.
    scatter : variance of disks about the lattice [pixel^2].
    amplitudes, levels : (disks, terms), (disks,) start values, and the result.
    covariance : (6, 6) of the lattice; spread : (disks, terms) variance of the amplitudes.
    information : (disks, 3) of each disk's own place, yy, yx, xx, with the scatter; shift : (disks, 2) from the lattice to it.
    sums : (4,) set: log-likelihood ratio, chi-square of pixels, pixels, chi-square of the disks' places.
    """
    count, terms = amplitudes.shape
    size = terms + 3
    work, middles = np.zeros((WORK, (2 * reach + 1) * (2 * reach + 3)), np.float32), np.zeros((count, 2))
    normal, score = np.zeros((size, size)), np.zeros(size)
    effective, pull = np.zeros((2, 2)), np.zeros(2)
    tails = np.zeros((count, terms + 1, terms + 4))
    total, right = np.zeros((6, 6)), np.zeros((6, 7))
    outcome, weight_level = SLOW, 1.0 / (local * level)**2
    final = False
    for step in range(_MOST_STEPS + 1):
        total[:], right[:], sums[:] = 0.0, 0.0, 0.0
        final = final or step == _MOST_STEPS
        for k in range(count):
            y, x = _place(lattice, indices[k, 0], indices[k, 1])
            if step < _STEADY:
                middles[k, 0], middles[k, 1] = y, x
            disk_normal(frame, background, phases, reach, radius, window, middles[k], y, x, amplitudes[k], terms, levels[k],
                        level, gain, readout, work, normal, score, sums, final)
            for t in range(terms):
                weight = prior_weight[k, t] / strength**2
                normal[2 + t, 2 + t] += weight + 1e-12
                score[2 + t] += weight * (prior_mean[k, t] * strength - amplitudes[k, t])
            normal[size - 1, size - 1] += weight_level
            score[size - 1] += weight_level * (level - levels[k])
            square = eliminate(normal, score, terms, scatter, effective, pull, tails[k])
            _add(total, right, effective, pull, indices[k, 0], indices[k, 1])
            if final:
                information[k, 0], information[k, 1], information[k, 2] = effective[0, 0], effective[0, 1], effective[1, 1]
                volume = max(effective[0, 0] * effective[1, 1] - effective[0, 1]**2, 1e-300)
                shift[k, 0] = (effective[1, 1] * pull[0] - effective[0, 1] * pull[1]) / volume
                shift[k, 1] = (effective[0, 0] * pull[1] - effective[0, 1] * pull[0]) / volume
                sums[3] += max(square, 0.0)
        for i in range(6):
            for j in range(6):
                right[i, 1 + j] = 1.0 if i == j else 0.0
        gradient = right[:, 0].copy()
        if not solve(total, 6, right, 7):
            return UNDETERMINED
        if final:
            for i in range(6):
                for j in range(6):
                    covariance[i, j] = right[i, 1 + j]
            for k in range(count):
                for t in range(terms):
                    spread[k, t] = tails[k, t, 3 + t]
            return outcome
        gain_of_step = 0.0
        for i in range(6):
            gain_of_step += gradient[i] * right[i, 0]
        largest = 0.0
        for k in range(count):
            dy, dx = _place(right[:, 0], indices[k, 0], indices[k, 1])
            largest = max(largest, np.hypot(dy, dx))
        if not largest < 1e6:
            return UNDETERMINED
        shorter = min(1.0, _LARGEST_STEP * radius / max(largest, 1e-12))
        damped = 1.0 if step < _PATIENCE else 0.5 if step < 2 * _PATIENCE else 0.25
        changed = _amend(amplitudes, levels, tails, right[:, 0], indices, shorter, damped, level)
        for i in range(6):
            lattice[i] += damped * shorter * right[i, 0]
        if shorter == 1.0 and gain_of_step < _STEP and changed < 0.1:
            outcome, final = CONVERGED, True
    return outcome


@njit(cache=True, nogil=True)
def _amend(amplitudes, levels, tails, step, indices, shorter, damped, level):
    """Take the amplitudes' step that belongs to the lattice's; the largest change over its standard error."""
    changed = 0.0
    count, terms = amplitudes.shape
    for k in range(count):
        dy, dx = _place(step, indices[k, 0], indices[k, 1])
        for t in range(terms):
            change = tails[k, t, 2] - shorter * (tails[k, t, 0] * dy + tails[k, t, 1] * dx)
            before = amplitudes[k, t]
            amplitudes[k, t] = before + damped * change
            if t == 0 and amplitudes[k, t] < 0.3 * before:
                amplitudes[k, t] = 0.3 * before
            error = np.sqrt(max(tails[k, t, 3 + t], 1e-30))
            changed = max(changed, abs(amplitudes[k, t] - before) / (error + 0.01 * abs(before)))
        change = tails[k, terms, 2] - shorter * (tails[k, terms, 0] * dy + tails[k, terms, 1] * dx)
        levels[k] = min(max(levels[k] + damped * change, 0.3 * levels[k]), 10.0 * level)
    return changed
