"""Position of the zero-loss peak of energy-loss spectra."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, channels

PEAK_REACH = 2
"""Channels, or sums of some, on either side of the brightest one that give the position."""
PEAK_WIDTH = 3.2
"""Area over height of a peak in the channels, or sums of some, that give the position; 1.06 full widths at half maximum."""

NARROWEST = -2.3
"""Curvature of the logarithms of a Gaussian of 1.1 channels full width at half maximum."""
SIGNIFICANCE, CONTRAST = 5.0, 2.0
"""A zero-loss peak, three channels about the brightest, stands so many standard errors above the darkest two channels of either
side, and is so many times as bright as the darkest tenth of the channels around."""


def stands_out(counts: np.ndarray, gain: float, readout_noise: float = 0.0) -> np.ndarray:
    """Whether (rows,) the brightest place of counts (rows, channels) is a peak, and not the largest of noise or a slope's end.

    Parameters
    ----------
    gain : counts an electron. readout_noise : standard deviation of a channel [counts].
    """
    electrons = counts / gain
    three = electrons[:, :-2] + electrons[:, 1:-1] + electrons[:, 2:]
    place = three.argmax(axis=1)[:, None]
    brightest = np.take_along_axis(three, place, axis=1)[:, 0]
    # a slope, also a noisy one, has nothing darker on one side
    two = electrons[:, :-1] + electrons[:, 1:]
    left = np.minimum.accumulate(two, axis=1)
    right = np.minimum.accumulate(two[:, ::-1], axis=1)[:, ::-1]
    beside = 1.5 * np.maximum(np.take_along_axis(left, place, axis=1), np.take_along_axis(right, place + 1, axis=1))[:, 0]
    dark = 3 * np.maximum(np.quantile(electrons, 0.1, axis=1), 0.0)
    variance = np.maximum(brightest, 0) + np.maximum(beside, 0) + 1 + 6 * (readout_noise / gain)**2
    return (brightest - beside > SIGNIFICANCE * np.sqrt(variance)) & (brightest > CONTRAST * dark)


def no_zero_loss(counts: np.ndarray, energies: np.ndarray, end: float, gain: float, readout_noise: float = 0.0) -> np.ndarray:
    """Whether (rows,) spectra (rows, channels) have no peak within `end` [eV] of no loss, by what lies within twice that."""
    near = np.flatnonzero(np.abs(energies) <= 2 * end)
    if len(near) < 5:
        near = np.argsort(np.abs(energies), kind="stable")[:5]
        near.sort()
    inside = np.ascontiguousarray(counts[:, near])
    away = np.abs(energies[near][inside.argmax(axis=1)]) > max(end, abs(energies[1] - energies[0]))
    return away | ~stands_out(inside, gain, readout_noise)


class ZeroLossPeak:
    """Finds the zero-loss peak: the brightest channel within `reach` [eV] of no loss, and its neighbours.

    Parameters
    ----------
    energies : (channels,) [eV].
    key : name of the parameter `reach`, for messages.

    Raises
    ------
    ValueError : the energy axis does not reach so far, or the range holds too few channels.
    """

    def __init__(self, energies: np.ndarray, reach: float, noise: CountingNoise, key: str) -> None:
        within = channels(energies, [-reach, reach], 2 * PEAK_REACH + 1, key)
        self.search = np.arange(within.min(), within.max() + 1)
        self._origin, self._noise = energies[0] / float(energies[1] - energies[0]), noise

    def shift(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position of the peak less that of no loss, (rows,) [channels], and its variance; NaN without a peak.

        The maximum of a parabola through the logarithms of the counts, weighted with the counts: exact for a Gaussian. Channels
        of a peak that is wider than some five are summed first, lest noise chooses the brightest.

        Parameters
        ----------
        counts : (rows, channels) of whole spectra.
        """
        inside = counts[:, self.search]
        shift, variance = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        found = stands_out(inside, self._noise.counts_per_electron, self._noise.readout_noise)
        bins = np.where(found, self._bins(inside), 0)
        for width in range(1, int(bins.max(initial=0)) + 1):
            rows = np.flatnonzero(bins == width)
            if len(rows):
                shift[rows], variance[rows] = self._top(inside[rows], width)
        return shift, variance

    def _bins(self, inside: np.ndarray) -> np.ndarray:
        """Channels (rows,) that are taken together: a third of the peak's width, or five of them fill the range."""
        dark = np.maximum(np.quantile(inside, 0.1, axis=1), 0.0)
        height = (inside[:, :-2] + inside[:, 1:-1] + inside[:, 2:]).max(axis=1) / 3 - dark
        width = (inside - dark[:, None]).sum(axis=1) / np.maximum(height, 1e-300)
        return np.clip(np.rint(width / PEAK_WIDTH), 1, inside.shape[1] // (2 * PEAK_REACH + 1)).astype(int)

    def _top(self, inside: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `shift`, for peaks (rows, channels) of the range, by sums of `width` channels."""
        sums = np.add.reduce([inside[:, first:inside.shape[1] - width + 1 + first] for first in range(width)])
        reach = PEAK_REACH * width
        brightest = np.clip(sums.argmax(axis=1), reach, sums.shape[1] - reach - 1)
        x = np.arange(-PEAK_REACH, PEAK_REACH + 1.0)
        peak = np.maximum(np.take_along_axis(sums, brightest[:, None] + width * x.astype(int), axis=1), 0.0)
        powers = np.stack([np.ones_like(x), x, x ** 2])
        normal = np.einsum("rc,ic,jc->rij", peak, powers, powers)
        right = np.einsum("rc,rc,ic->ri", peak, np.log(np.maximum(peak, 1e-300)), powers)
        solvable = np.linalg.det(normal) > 1e-9 * np.maximum(peak.sum(axis=1), 1e-300) ** 3
        normal[~solvable] = np.eye(3)
        inverse = np.linalg.inv(normal)
        _, slope, curvature = np.einsum("rij,rj->ri", inverse, right).T
        found = solvable & (curvature < 0) & (np.abs(slope) < -2 * curvature * PEAK_REACH)
        curvature = np.where(found, curvature, np.nan)
        top = -slope / (2 * curvature)
        gradient = np.stack([np.zeros_like(top), np.ones_like(top), 2 * top], axis=-1) / (2 * curvature)[:, None]
        # of every channel's counts on the position, times those counts' variance
        pull = np.einsum("ri,rij,jc->rc", gradient, inverse, powers)
        variance = (pull**2 * (self._noise.counts_per_electron * peak + width * self._noise.readout_noise**2)).sum(axis=1)
        # a peak that lies within a channel could be anywhere in it
        variance += np.where(curvature < NARROWEST, 1 / 12, 0)
        place = self.search[0] + brightest + (width - 1) / 2 + width * top
        return place + self._origin, width**2 * variance
