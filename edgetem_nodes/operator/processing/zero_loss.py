"""Energy-loss spectra on the axis of their own zero loss, by whole channels, and without spikes where that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.spectroscopy.alignment import zero_loss_shifts
from edgetem_nodes.featurizer.spectroscopy.spikes import remove_spikes
from edgetem_nodes.featurizer.spectroscopy.zero_loss import stands_out

FINE = 3.0
"""[eV] about the sample's zero loss, or `_FEWEST` channels, within which that of a spectrum is looked for."""
SPARE = 2
"""Channels that a zero loss may lie farther off than those of the sample."""
LEAST_PART = 0.5
"""Part of the sample's spectra that must show a zero loss."""
_FEWEST = 5
COMPARED = 40
"""Spectra of the sample, about, beside which one is judged."""
MOST_SPIKES = 2e-3
"""Part of all channels that may have spikes: X-rays and cosmic rays hit far fewer."""


class ZeroLossAxis:
    """Moves spectra so that their zero loss lies at zero.

    Spectra are moved by whole channels, which leaves counting statistics as they are; a zero loss is then at most half a
    channel off. Fits of losses take a spectrum's own zero loss as it lies.

    Attributes
    ----------
    energies : (channels,) [eV] of moved spectra: the file's axis less the sample's median shift and less `margin` channels at
        either end, where some spectra have no counts.
    offset, spread : median, and largest less least, of the sample's zero loss in the file's axis [eV].
    """

    def __init__(self, sample: np.ndarray, energies: np.ndarray, reach: float, noise: CountingNoise) -> None:
        """From a sample (spectra, channels) on the file's axis (channels,) [eV]; the zero loss lies within `reach` [eV].

        Raises
        ------
        ValueError : the sample shows no zero loss there; says why.
        """
        energies = np.asarray(energies, float)
        self._step, self._noise, self._file_energies = float(energies[1] - energies[0]), noise, energies
        if self._step <= 0 or not energies[0] < 0 < energies[-1]:
            raise ValueError(f"the axis, {energies[0]:g} to {energies[-1]:g} eV, does not hold zero loss")
        coarse = self._coarse(np.asarray(sample, float), reach)
        self._fine = min(max(FINE, _FEWEST * self._step), coarse - energies[0], energies[-1] - coarse)
        self._coarse_channels = round(coarse / self._step)
        whole = self._whole(sample)[0]
        found = np.isfinite(whole)
        if found.mean() < LEAST_PART:
            raise ValueError(f"{np.count_nonzero(found)} of {len(found)} spectra of the sample show a zero-loss peak within "
                             f"{self._fine:g} eV of {coarse:g} eV")
        self._median = int(np.median(whole[found]))
        self.margin = int(np.abs(whole[found] - self._median).max()) + SPARE
        if len(energies) <= 2 * self.margin + _FEWEST:
            raise ValueError(f"zero losses that lie {self.margin} channels apart leave nothing of {len(energies)} channels")
        self.offset = self._median * self._step
        self.spread = float(np.ptp(whole[found])) * self._step
        self.energies = (energies - self.offset)[self.margin:len(energies) - self.margin]

    def _coarse(self, sample: np.ndarray, reach: float) -> float:
        """Energy [eV] of the brightest channel of the mean spectrum within reach."""
        near = np.flatnonzero(np.abs(self._file_energies) <= reach)
        if len(near) < _FEWEST:
            raise ValueError(f"{len(near)} channels lie within {reach:g} eV of no loss, {_FEWEST} or more are needed")
        mean = sample.mean(axis=0)[near]
        place = int(mean.argmax())
        readout_noise = self._noise.readout_noise * len(sample)**0.5
        summed = mean[None] * len(sample)
        if place in (0, len(near) - 1) or not stands_out(summed, self._noise.counts_per_electron, readout_noise)[0]:
            raise ValueError(f"no zero-loss peak stands out within {reach:g} eV of no loss")
        return float(self._file_energies[near[place]])

    def _whole(self, spectra: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Whole channels (rows,) float by which spectra lie too high, NaN where there is no zero loss, and why."""
        about = self._file_energies - self._coarse_channels * self._step
        found = zero_loss_shifts(spectra, about, self._fine, self._noise)
        return np.rint(found.channels + self._coarse_channels), found.failures

    def __call__(self, spectra: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Moved spectra (rows, channels of `energies`) of the same type, and why a row was not moved; empty where it was."""
        spectra = np.asarray(spectra)
        whole, failures = self._whole(spectra)
        away = np.nan_to_num(whole - self._median).astype(int)
        for row in np.flatnonzero(np.abs(away) > self.margin):
            failures[row] = failures[row] or (f"its zero loss lies {away[row] * self._step:g} eV from that of the others, more "
                                              f"than {self.margin * self._step:g} eV")
        away = np.clip(away, -self.margin, self.margin)
        place = np.arange(self.margin, spectra.shape[1] - self.margin) + away[:, None]
        return np.take_along_axis(spectra, place, axis=1), failures

    def line(self) -> str:
        """For people."""
        return (f"zero loss lies at {self.offset:.4g} eV in the file's axis, over {self.spread:.3g} eV in the sample; spectra "
                f"are moved by whole channels of {self._step:.3g} eV")


def without_spikes(common: np.ndarray, energies: np.ndarray, noise: CountingNoise,
                   places: int) -> Callable[[np.ndarray], tuple[np.ndarray, int]]:
    """A function that replaces spikes in spectra (rows, channels), and says how many channels had one.

    Spectra are judged one at a time beside a sample `common` (spectra, channels) of the same file, so that what is removed
    does not depend on how they were read. Of `places` spectra in all, a tenth of a channel is replaced without cause. Within
    `FINE` of no loss nothing is: flanks of a zero loss that lies between channels rise as steeply as spikes.
    """
    # A spectrum of the sample would else stand beside its own spikes.
    common = remove_spikes(common[::max(1, len(common) // COMPARED)], noise).spectra
    false_alarms = 0.1 * (1 + len(common)) / max(places, 1)

    def clean(spectra: np.ndarray) -> tuple[np.ndarray, int]:
        result, count = np.array(spectra), 0
        for row in range(len(result)):
            found = remove_spikes(np.concatenate([result[row:row + 1], common]), noise, false_alarms=false_alarms)
            channels = found.channels[(found.rows == 0) & (np.abs(energies[found.channels]) > FINE)]
            result[row, channels] = found.spectra[0, channels]
            count += len(channels)
        return result, count
    return clean


def spikes_in(sample: np.ndarray, energies: np.ndarray, noise: CountingNoise) -> int:
    """Number of channels with a spike, farther than `FINE` from no loss, in a sample (spectra, channels).

    Raises
    ------
    ValueError : there are so many that counts merely scatter more than counting statistics allow, or the sample is too short.
    """
    found = int(np.count_nonzero(np.abs(energies[remove_spikes(sample, noise).channels]) > FINE))
    if found > MOST_SPIKES * sample.size:
        raise ValueError(f"{found} of {sample.size} channels of the sample lie higher than counting statistics of "
                         f"{noise.counts_per_electron:g} counts an electron allow, which is too many for spikes: state "
                         "--counts-per-electron and --readout-noise")
    return found
