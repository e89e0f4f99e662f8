"""Inner loops of ptychography: pixels in, trotters out. Compiled by numba at first use."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def gather(frames, pixels, targets, indices, counts, totals, level, bad):
    """Add pixels (chosen,) of frames (n, size) to their targets (chosen,) in rows `indices` of counts; bad (n,) counts the
    saturated and the not finite."""
    for i in range(len(frames)):
        row = counts[indices[i]]
        row[:] = 0
        total, wrong = 0.0, 0
        for p in range(len(pixels)):
            value = frames[i, pixels[p]]
            if not value < level:
                wrong += 1
            else:
                row[targets[p]] += value
                total += value
        totals[indices[i]], bad[i] = total, wrong


@njit(cache=True, nogil=True)
def gather_shifted(frames, shape, pixels, targets, shifts, indices, counts, totals, level, bad):
    """As `gather`, from frames whose patterns lie off by shifts (positions, 2) [pixel]; bilinear between pixels."""
    for i in range(len(frames)):
        row = counts[indices[i]]
        row[:] = 0
        total, wrong = 0.0, 0
        down, right = shifts[indices[i]]
        top, left = math.floor(down), math.floor(right)
        fy, fx = down - top, right - left
        for p in range(len(pixels)):
            y, x = pixels[p] // shape[1] + int(top), pixels[p] % shape[1] + int(left)
            sum_ = 0.0
            for dy in range(2):
                for dx in range(2):
                    weight = (fy if dy else 1.0 - fy) * (fx if dx else 1.0 - fx)
                    if weight > 0.0 and 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
                        value = frames[i, (y + dy) * shape[1] + x + dx]
                        if not value < level:
                            wrong += 1
                        else:
                            sum_ += weight * value
            row[targets[p]] += sum_
            total += sum_
        totals[indices[i]], bad[i] = total, wrong


@njit(cache=True, nogil=True)
def gather_events(starts, pixels, slots, indices, counts, totals):
    """As `gather`, from electrons: starts (n + 1,), pixels (electrons,); slots (size,) is a pixel's target or -1."""
    for i in range(len(starts) - 1):
        row = counts[indices[i]]
        row[:] = 0
        total = 0
        for e in range(starts[i], starts[i + 1]):
            slot = slots[pixels[e]]
            if slot >= 0:
                row[slot] += 1
                total += 1
        totals[indices[i]] = total


@njit(cache=True, nogil=True)
def unfold(counts, first, means, good, images):
    """Transpose columns `first` and on of counts (positions, pixels) into images (pixels, positions), less the means."""
    block = 64
    for start in range(0, len(counts), block):
        stop = min(start + block, len(counts))
        for k in range(len(images)):
            mean = means[first + k]
            for position in range(start, stop):
                images[k, position] = np.float32(counts[position, first + k]) - mean if good[position] else np.float32(0)


@njit(cache=True, nogil=True, fastmath=True)
def trotter_norms(y, x, coverage, radius, qy, qx, positive, negative):
    """Add to positive and negative (rows, columns) the weights of the trotters of frequencies qy, qx, over pixels y, x."""
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        for i in range(len(qy)):
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(len(qx)):
                plus = min(max(edge - np.sqrt(before + (x[k] - qx[j]) ** 2), zero), one)
                minus = min(max(edge - np.sqrt(after + (x[k] + qx[j]) ** 2), zero), one)
                positive[i, j] += coverage[k] * plus if minus == zero else zero
                negative[i, j] += coverage[k] * minus if plus == zero else zero


@njit(cache=True, nogil=True, fastmath=True)
def trotter_power(y, x, coverage, radius, qy, qx, positive, negative, multiplicity, power):
    """Add to power (pixels,) the sum over frequencies of the squared weight of a pixel, each `multiplicity` (columns,)
    times."""
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        total = 0.0
        for i in range(len(qy)):
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(len(qx)):
                plus = min(max(edge - np.sqrt(before + (x[k] - qx[j]) ** 2), zero), one)
                minus = min(max(edge - np.sqrt(after + (x[k] + qx[j]) ** 2), zero), one)
                weight = coverage[k] * ((plus * positive[i, j] if minus == zero else zero)
                                        - (minus * negative[i, j] if plus == zero else zero))
                total += multiplicity[j] * weight * weight
        power[k] += total


@njit(cache=True, nogil=True, fastmath=True)
def add_trotters(spectra, y, x, coverage, radius, qy, qx, positive, negative, real, imaginary):
    """Add to real and imaginary (rows, columns) the weighted sum over pixels of their spectra (pixels, rows, all columns, 2).

    positive and negative (rows, columns) are half the reciprocal weight of the trotters; 0 leaves a frequency out.
    """
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        for i in range(len(qy)):
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(len(qx)):
                plus = min(max(edge - np.sqrt(before + (x[k] - qx[j]) ** 2), zero), one)
                minus = min(max(edge - np.sqrt(after + (x[k] + qx[j]) ** 2), zero), one)
                weight = coverage[k] * ((plus * positive[i, j] if minus == zero else zero)
                                        - (minus * negative[i, j] if plus == zero else zero))
                real[i, j] += weight * spectra[k, i, j, 0]
                imaginary[i, j] += weight * spectra[k, i, j, 1]


@njit(cache=True, nogil=True, inline="always")
def _aberration_phase(y, x, terms):
    square = y * y + x * x
    return (terms[0] * y * y + terms[1] * y * x + terms[2] * x * x + square * (terms[3] * y + terms[4] * x)
            + terms[5] * square * square)


@njit(cache=True, nogil=True, fastmath=True)
def add_aberrated_trotters(spectra, y, x, coverage, radius, qy, qx, positive, negative, terms, real, imaginary):
    """As `add_trotters`, each overlap turned back by the aberration phase between the beams that meet in it."""
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        own = _aberration_phase(np.float64(y[k]), np.float64(x[k]), terms)
        for i in range(len(qy)):
            before, after = y[k] - qy[i], y[k] + qy[i]
            for j in range(len(qx)):
                left, right = x[k] - qx[j], x[k] + qx[j]
                plus = min(max(edge - np.sqrt(before * before + left * left), zero), one)
                minus = min(max(edge - np.sqrt(after * after + right * right), zero), one)
                if plus > zero and minus == zero and positive[i, j] > zero:
                    weight = coverage[k] * plus * positive[i, j]
                    phase = _aberration_phase(np.float64(before), np.float64(left), terms) - own
                elif minus > zero and plus == zero and negative[i, j] > zero:
                    weight = -coverage[k] * minus * negative[i, j]
                    phase = own - _aberration_phase(np.float64(after), np.float64(right), terms)
                else:
                    continue
                cosine, sine = weight * np.float32(math.cos(phase)), weight * np.float32(math.sin(phase))
                real[i, j] += cosine * spectra[k, i, j, 0] - sine * spectra[k, i, j, 1]
                imaginary[i, j] += cosine * spectra[k, i, j, 1] + sine * spectra[k, i, j, 0]
