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
def sums(counts, good, total):
    """Add to total (pixels,) the counts (positions, pixels) of the good positions."""
    for position in range(len(counts)):
        if good[position]:
            for k in range(len(total)):
                total[k] += counts[position, k]


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


@njit(cache=True, nogil=True, inline="always")
def _overlapping(y, x, row, edge, columns):
    """First and last column, the latter excluded, in which frequency row `row` can shift the disk over pixel (y, x)."""
    first, last = len(columns), 0
    pitch = columns[1] - columns[0] if len(columns) > 1 else np.float32(1)
    for sign in (1, -1):
        off = y - sign * row
        square = edge * edge - off * off
        if square > 0:
            reach = math.sqrt(square)
            first = min(first, max(0, int(math.floor((sign * x - reach) / pitch))))
            last = max(last, min(len(columns), int(math.ceil((sign * x + reach) / pitch)) + 1))
    return first, last


@njit(cache=True, nogil=True, fastmath=True)
def trotter_norms(y, x, coverage, radius, qy, qx, positive, negative):
    """Add to positive and negative (rows, columns) the weights of the trotters of frequencies qy, qx, over pixels y, x."""
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        for i in range(len(qy)):
            first, last = _overlapping(y[k], x[k], qy[i], edge, qx)
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(first, last):
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
            first, last = _overlapping(y[k], x[k], qy[i], edge, qx)
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(first, last):
                plus = min(max(edge - np.sqrt(before + (x[k] - qx[j]) ** 2), zero), one)
                minus = min(max(edge - np.sqrt(after + (x[k] + qx[j]) ** 2), zero), one)
                weight = coverage[k] * ((plus * positive[i, j] if minus == zero else zero)
                                        - (minus * negative[i, j] if plus == zero else zero))
                total += multiplicity[j] * weight * weight
        power[k] += total


@njit(cache=True, nogil=True, fastmath=True)
def add_trotters(spectra, y, x, coverage, radius, qy, qx, positive, negative, limit, real, imaginary):
    """Add to real and imaginary (rows, columns) the weighted sum over pixels of their spectra (pixels, rows, all columns, 2).

    positive and negative (rows, columns) weigh the two overlaps; a pixel counts for one only where its part in the other is at
    most `limit`: 0 keeps to the trotters, 1 takes all of the overlaps.
    """
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        for i in range(len(qy)):
            first, last = _overlapping(y[k], x[k], qy[i], edge, qx)
            before, after = (y[k] - qy[i]) ** 2, (y[k] + qy[i]) ** 2
            for j in range(first, last):
                plus = min(max(edge - np.sqrt(before + (x[k] - qx[j]) ** 2), zero), one)
                minus = min(max(edge - np.sqrt(after + (x[k] + qx[j]) ** 2), zero), one)
                weight = coverage[k] * ((plus * positive[i, j] if minus <= limit else zero)
                                        - (minus * negative[i, j] if plus <= limit else zero))
                real[i, j] += weight * spectra[k, i, j, 0]
                imaginary[i, j] += weight * spectra[k, i, j, 1]


@njit(cache=True, nogil=True, inline="always")
def _aberration_phase(y, x, terms):
    square = y * y + x * x
    return (terms[0] * y * y + terms[1] * y * x + terms[2] * x * x + square * (terms[3] * y + terms[4] * x)
            + terms[5] * square * square)


@njit(cache=True, nogil=True, fastmath=True)
def add_aberrated_trotters(spectra, y, x, coverage, radius, qy, qx, positive, negative, limit, terms, real, imaginary):
    """As `add_trotters`, each overlap turned back by the aberration phase between the beams that meet in it."""
    edge = np.float32(radius + 0.5)
    zero, one = np.float32(0), np.float32(1)
    for k in range(len(y)):
        own = _aberration_phase(np.float64(y[k]), np.float64(x[k]), terms)
        for i in range(len(qy)):
            first, last = _overlapping(y[k], x[k], qy[i], edge, qx)
            before, after = y[k] - qy[i], y[k] + qy[i]
            for j in range(first, last):
                if positive[i, j] == zero:
                    continue
                left, right = x[k] - qx[j], x[k] + qx[j]
                plus = min(max(edge - np.sqrt(before * before + left * left), zero), one)
                minus = min(max(edge - np.sqrt(after * after + right * right), zero), one)
                cosine, sine = 0.0, 0.0
                if plus > zero and minus <= limit:
                    weight = coverage[k] * plus * positive[i, j]
                    phase = _aberration_phase(np.float64(before), np.float64(left), terms) - own
                    cosine += weight * math.cos(phase)
                    sine += weight * math.sin(phase)
                if minus > zero and plus <= limit:
                    weight = coverage[k] * minus * negative[i, j]
                    phase = own - _aberration_phase(np.float64(after), np.float64(right), terms)
                    cosine -= weight * math.cos(phase)
                    sine -= weight * math.sin(phase)
                real[i, j] += np.float32(cosine) * spectra[k, i, j, 0] - np.float32(sine) * spectra[k, i, j, 1]
                imaginary[i, j] += np.float32(cosine) * spectra[k, i, j, 1] + np.float32(sine) * spectra[k, i, j, 0]


@njit(cache=True, nogil=True, fastmath=True, inline="always")
def _transfer(y, x, coverage, own, qy, qx, edge, terms):
    """Real and imaginary part of A*(k) A(k - Q) - A(k) A*(k + Q), A the wave in the aperture."""
    real, imaginary = 0.0, 0.0
    for sign in (1, -1):
        beside_y, beside_x = y - sign * qy, x - sign * qx
        overlap = coverage * min(max(edge - math.sqrt(beside_y * beside_y + beside_x * beside_x), 0.0), 1.0)
        if overlap > 0.0:
            phase = sign * (own - _aberration_phase(beside_y, beside_x, terms))
            real += sign * overlap * math.cos(phase)
            imaginary += sign * overlap * math.sin(phase)
    return real, imaginary


@njit(cache=True, nogil=True, fastmath=True)
def transfer_norms(y, x, coverage, radius, qy, qx, terms, norm):
    """Add to norm (rows, columns) the squared transfer of each frequency, over pixels."""
    edge = radius + 0.5
    for k in range(len(y)):
        own = _aberration_phase(y[k], x[k], terms)
        for i in range(len(qy)):
            first, last = _overlapping(np.float32(y[k]), np.float32(x[k]), np.float32(qy[i]), np.float32(edge), qx)
            for j in range(first, last):
                a, b = _transfer(y[k], x[k], coverage[k], own, qy[i], qx[j], edge, terms)
                norm[i, j] += a * a + b * b


@njit(cache=True, nogil=True, fastmath=True)
def transfer_power(y, x, coverage, radius, qy, qx, terms, weight, multiplicity, power):
    """Add to power (pixels,) the sum over frequencies of the squared transfer times weight (rows, columns), each frequency
    `multiplicity` (columns,) times."""
    edge = radius + 0.5
    for k in range(len(y)):
        own = _aberration_phase(y[k], x[k], terms)
        for i in range(len(qy)):
            first, last = _overlapping(np.float32(y[k]), np.float32(x[k]), np.float32(qy[i]), np.float32(edge), qx)
            for j in range(first, last):
                a, b = _transfer(y[k], x[k], coverage[k], own, qy[i], qx[j], edge, terms)
                power[k] += multiplicity[j] * (a * a + b * b) * weight[i, j] ** 2


@njit(cache=True, nogil=True, fastmath=True)
def explained_power(spectra, y, x, coverage, variance, radius, qy, qx, terms):
    """Sum over frequencies (chosen,) of the squared projection of spectra (chosen, pixels) complex on the transfer of a weak
    phase object, over its norm; pixels count by the reciprocal of their variance."""
    edge = radius + 0.5
    own = np.empty(len(y))
    for k in range(len(y)):
        own[k] = _aberration_phase(y[k], x[k], terms)
    total = 0.0
    for q in range(len(qy)):
        real, imaginary, norm = 0.0, 0.0, 0.0
        for k in range(len(y)):
            a, b = _transfer(y[k], x[k], coverage[k], own[k], qy[q], qx[q], edge, terms)
            value = spectra[q, k]
            real += (a * value.real + b * value.imag) / variance[k]
            imaginary += (a * value.imag - b * value.real) / variance[k]
            norm += (a * a + b * b) / variance[k]
        if norm > 0.0:
            total += (real * real + imaginary * imaginary) / norm
    return total


@njit(cache=True, nogil=True, fastmath=True)
def unit_transfer(y, x, coverage, variance, radius, qy, qx, terms, spectra):
    """Write into spectra (chosen, pixels) complex the transfer of frequencies (chosen,), so that each explains a power of 1."""
    edge = radius + 0.5
    for q in range(len(qy)):
        norm = 0.0
        for k in range(len(y)):
            own = _aberration_phase(y[k], x[k], terms)
            a, b = _transfer(y[k], x[k], coverage[k], own, qy[q], qx[q], edge, terms)
            spectra[q, k] = complex(a, b)
            norm += (a * a + b * b) / variance[k]
        if norm > 0.0:
            spectra[q] /= math.sqrt(norm)


@njit(cache=True, nogil=True, inline="always")
def _at(spectrum, row, column, columns):
    """Value of a spectrum (rows, columns // 2 + 1, 2) of a real image at any frequency: it repeats beyond the raster's."""
    row, column = row % len(spectrum), column % columns
    if 2 * column <= columns:
        return spectrum[row, column, 0], spectrum[row, column, 1]
    return spectrum[-row % len(spectrum), columns - column, 0], -spectrum[-row % len(spectrum), columns - column, 1]


@njit(cache=True, nogil=True, fastmath=True)
def add_matched(spectra, columns, y, x, coverage, weight, variance, radius, row, qy, qx, terms, real, imaginary, norm, noise):
    """Add to real and imaginary the projection of spectra (pixels, rows, half, 2) on the transfer, to norm its square, to noise
    the variance of the projection; pixels count by `weight`, and their counts have `variance`.

    row : (rows,) int, frequencies [1/field] of qy; columns of qx count from 0.
    """
    edge = radius + 0.5
    for k in range(len(y)):
        own = _aberration_phase(y[k], x[k], terms)
        for i in range(len(qy)):
            for j in range(len(qx)):
                a, b = _transfer(y[k], x[k], coverage[k], own, qy[i], qx[j], edge, terms)
                re, im = _at(spectra[k], row[i], j, columns)
                real[i, j] += (a * re + b * im) * weight[k]
                imaginary[i, j] += (a * im - b * re) * weight[k]
                square = (a * a + b * b) * weight[k]
                norm[i, j] += square
                noise[i, j] += square * weight[k] * variance[k]


@njit(cache=True, nogil=True, fastmath=True)
def add_aligned(spectra, columns, shift_y, shift_x, weight, row, qy, qx, real, imaginary):
    """Add to real and imaginary the spectra (pixels, rows, half, 2), each shifted by exp(-i (qy shift_y + qx shift_x))."""
    for k in range(len(weight)):
        for i in range(len(qy)):
            for j in range(len(qx)):
                phase = -(qy[i] * shift_y[k] + qx[j] * shift_x[k])
                cosine, sine = weight[k] * math.cos(phase), weight[k] * math.sin(phase)
                re, im = _at(spectra[k], row[i], j, columns)
                real[i, j] += cosine * re - sine * im
                imaginary[i, j] += cosine * im + sine * re
