"""Correlation of peaks with templates over all in-plane rotations.

In polar coordinates an in-plane rotation is a shift of the azimuth, and the best one maximises a correlation along it (Rauch &
Dupuy, Arch. Metall. Mater. 50, 87, 2005; Ophus et al., Microsc. Microanal. 28, 390, 2022, do it with Fourier transforms ring
by ring). A pattern and a template are a few dozen points, so the correlation is a sum over the pairs of about equal radius,
each of which votes for the difference of its azimuths: the same numbers with less work than transforms of mostly zeros.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SECTORS = 180
"""Of the azimuth; votes are shared between the two next."""


@njit(cache=True, nogil=True, fastmath=True)
def correlate(radii, azimuths, weights, starts, spot_radii, spot_azimuths, spot_weights, capture, scores, turns, opposite):
    """Best in-plane rotation of every template.

    Parameters
    ----------
    radii [1/m], azimuths [rad, 0 to 2 pi], weights : of the peaks (peaks,), by rising radius; squares of weights sum to 1.
    starts, spot_radii, spot_azimuths, spot_weights : see `Templates`.
    capture : [1/m] difference of radii at which a pair no longer counts.
    scores, turns, opposite : (templates,) results: correlation at the best rotation (1: all alike), that rotation [rad, from
        x towards y], and the correlation half a turn from it.
    """
    per_radian = SECTORS / (2 * math.pi)
    votes = np.empty(SECTORS)
    for template in range(len(starts) - 1):
        votes[:] = 0.0
        last = starts[template + 1]
        low = starts[template]
        for peak in range(len(radii)):
            radius = radii[peak]
            while low < last and spot_radii[low] < radius - capture:
                low += 1
            spot = low
            while spot < last and spot_radii[spot] < radius + capture:
                vote = weights[peak] * spot_weights[spot] * (1 - abs(spot_radii[spot] - radius) / capture)
                sector = (azimuths[peak] - spot_azimuths[spot]) * per_radian
                if sector < 0:
                    sector += SECTORS
                first = int(sector)
                share = sector - first
                if first >= SECTORS:
                    first -= SECTORS
                votes[first] += vote * (1 - share)
                votes[first + 1 if first + 1 < SECTORS else 0] += vote * share
                spot += 1
        best = 0
        for sector in range(1, SECTORS):
            if votes[sector] > votes[best]:
                best = sector
        before, after = votes[best - 1 if best else SECTORS - 1], votes[best + 1 if best + 1 < SECTORS else 0]
        total = before + votes[best] + after
        scores[template] = votes[best]
        turns[template] = (best + ((after - before) / total if total > 0 else 0.0)) / per_radian
        opposite[template] = votes[(best + SECTORS // 2) % SECTORS]
