"""Thickness in mean free paths from low-loss spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, mark
from edgetem_nodes.featurizer.spectroscopy.axes import energy_axis, rows_of
from edgetem_nodes.featurizer.spectroscopy.zero_loss import no_zero_loss


@dataclass(frozen=True)
class Thickness:
    """Thickness over mean free path of every spectrum.

    Attributes
    ----------
    mean_free_paths, standard_errors : (rows,); the error is that of counting alone. Where there are no losses, noise about a
        subtracted dark reference makes it negative as often as positive; beyond three errors that is a failure.
    elastic : (rows,) counts of the zero loss.
    failures : (rows,) why there is none; empty where there is.
    """

    mean_free_paths: np.ndarray
    standard_errors: np.ndarray
    elastic: np.ndarray
    failures: list[str]


class LogRatio:
    """t / lambda = ln(I / I0), all counts over those of the zero loss (Egerton, EELS in the Electron Microscope (2011), 5.1).

    The zero loss is all below an energy; its tail above, and losses below, trade places. Losses beyond the end of the axis are
    missing: at 100 eV, one to a few percent.

    Parameters
    ----------
    energies : (channels,) [eV], from below zero. split_eV : where the zero loss ends, see `elastic_end`.

    Raises
    ------
    ValueError : the axis does not hold the zero loss and losses above it.
    """

    def __init__(self, energies: np.ndarray, split_eV: float, noise: CountingNoise | None = None) -> None:
        energies = np.asarray(energies, float)
        energy_axis(energies)
        self.noise, self.length = noise or CountingNoise(), len(energies)
        if not energies.min() < 0 < split_eV < energies.max():
            raise ValueError(f"the zero loss, up to {split_eV:g} eV, and losses above it are not all on the energy axis, "
                             f"{energies.min():g} to {energies.max():g} eV")
        self.below, self.energies, self.split = energies < split_eV, energies, float(split_eV)

    def __call__(self, spectra: np.ndarray) -> Thickness:
        """Of spectra (rows, channels); failures: not finite, saturated, no zero-loss peak, losses three errors below zero."""
        spectra = rows_of(spectra, self.length)
        failures = self.noise.failures(spectra)
        usable = np.array([not failure for failure in failures], bool)[:, None]
        counts = np.where(usable, np.nan_to_num(spectra), 0).astype(float)
        # Contiguous rows: then a row's sum does not depend on how many there are.
        elastic, lost = (np.compress(part, counts, axis=1).sum(axis=1) for part in (self.below, ~self.below))
        mark(failures, ~(elastic > 0), "there are no counts in the zero loss")
        mark(failures, no_zero_loss(counts, self.energies, self.split, self.noise.counts_per_electron,
                                    self.noise.readout_noise),
             f"there is no zero-loss peak within {self.split:g} eV of no loss")
        mark(failures, lost < -3 * np.sqrt(self.noise.variance(lost, int((~self.below).sum()))),
             "the losses hold fewer counts than none: the dark reference is wrong")
        mark(failures, ~(elastic + lost > 0), "there are fewer counts than none: the dark reference is wrong")
        failed = np.array([bool(failure) for failure in failures], bool)
        elastic = np.where(failed, np.nan, elastic)
        total = elastic + lost
        variance = (self.noise.variance(lost, int((~self.below).sum()))
                    + (lost / elastic)**2 * self.noise.variance(elastic, int(self.below.sum()))) / total**2
        return Thickness(np.log(total / elastic), np.sqrt(variance), elastic, failures)


def elastic_end(spectra: np.ndarray, energies: np.ndarray, window_eV: float = 10.0) -> float:
    """Energy [eV] at which the zero loss ends: the least of the mean spectrum up to `window_eV`, after a running mean of three.

    Raises
    ------
    ValueError : the mean spectrum falls all the way: give an energy by hand.
    """
    energies = np.asarray(energies, float)
    spectra = rows_of(spectra, len(energies))
    mean = np.nanmean(np.where(np.isfinite(spectra), spectra, np.nan), axis=0)
    smooth = np.convolve(mean, np.ones(3) / 3, mode="same")
    inside = np.flatnonzero((energies > 0) & (energies <= window_eV))
    if len(inside) < 3:
        raise ValueError(f"fewer than three channels lie within 0 to {window_eV:g} eV: widen window_eV")
    lowest = inside[smooth[inside].argmin()]
    if lowest in (inside[0], inside[-1]):
        raise ValueError(f"the mean spectrum has no minimum between 0 and {window_eV:g} eV, where the zero loss would end: "
                         "give the energy, or widen window_eV")
    return float(energies[lowest])
