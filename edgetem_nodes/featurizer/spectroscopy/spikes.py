"""Spikes: X-rays and cosmic rays that hit the camera during a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.spectroscopy.axes import rows_of

FEWEST_ROWS = 5
"""That tell what spectra have in common."""
BLOCK = 1 << 20
"""Counts that are worked on at once."""
ROUNDS = 3
"""A spike hides its neighbours: after it is removed they are looked at again."""


@dataclass(frozen=True)
class Despiked:
    """Spectra without spikes, and the spikes.

    Attributes
    ----------
    spectra : (rows, channels) of the input's type.
    rows, channels : (spikes,) where they were.
    removed : (spikes,) counts that were taken away: adding them back restores the input.
    """

    spectra: np.ndarray
    rows: np.ndarray
    channels: np.ndarray
    removed: np.ndarray


def remove_spikes(spectra: np.ndarray, noise: CountingNoise | None = None, *, reach: int = 5, false_alarms: float = 0.1,
                  widest: int = 3) -> Despiked:
    """Replace channels that counting noise cannot explain by what their neighbours let expect.

    Expected is the median of the channel's neighbours, each over what all rows have in common there, times that of the channel:
    edges and zero-loss peaks that spectra have in common are no spikes. A spike is a channel whose counts have, as Poisson
    counts of that expectation and twice its error, a probability that makes `false_alarms` in all spectra, and which no more
    than `widest` channels in a row share: what is broader is a feature of the specimen.

    Parameters
    ----------
    spectra : (rows, channels) of one specimen: a feature of `widest` channels or fewer, in few rows, is taken for spikes.
    reach : neighbours on either side. false_alarms : expected number of channels of the whole that are replaced without cause.

    Raises
    ------
    ValueError : shape, type, reach or widest do not fit; values are not finite.
    """
    spectra = np.asarray(spectra)
    spectra = rows_of(spectra, spectra.shape[-1] if spectra.ndim else 0)
    if not 1 <= widest < reach or spectra.shape[1] < 2 * reach + 1:
        raise ValueError(f"{spectra.shape[1]} channels, reach {reach} and widest {widest}: widest must be less than reach, and "
                         "a spectrum longer than twice the reach")
    if not np.isfinite(spectra).all():
        raise ValueError("spectra hold values that are not finite numbers: leave those rows out")
    noise = noise or CountingNoise()
    clean = spectra.copy()
    common, probability = _common(spectra), false_alarms / max(clean.size, 1)
    step = max(1, BLOCK // spectra.shape[1])
    for first in range(0, len(clean), step):
        _clean(clean[first:first + step], common, probability, noise, reach, widest)
    rows, channels = np.nonzero(clean != spectra)
    removed = spectra[rows, channels].astype(float) - clean[rows, channels].astype(float)
    return Despiked(clean, rows, channels, removed)


def _clean(spectra: np.ndarray, common: np.ndarray, probability: float, noise: CountingNoise, reach: int, widest: int) -> None:
    """Replace spikes in place."""
    for _ in range(ROUNDS):
        expected, error = _expected(spectra.astype(float), common, reach, noise)
        beyond = _improbable(spectra, expected + 2 * error, noise, probability)
        beyond &= ~_broad(beyond, widest)
        if not beyond.any():
            break
        replacement = np.maximum(expected, 0)
        if spectra.dtype.kind in "ui":
            replacement = np.rint(replacement)
        spectra[beyond] = replacement[beyond].astype(spectra.dtype)


def _common(spectra: np.ndarray) -> np.ndarray:
    """What spectra have in common (channels,) > 0: the mean of each channel without its highest twentieth; 1 for a few rows."""
    if len(spectra) < FEWEST_ROWS:
        return np.ones(spectra.shape[1])
    kept = len(spectra) - -(-len(spectra) // 20)
    common = np.partition(spectra, kept - 1, axis=0)[:kept].mean(axis=0)
    # where there is next to nothing a channel is compared with its neighbours as they are
    return np.maximum(common, max(1e-3 * float(common.max()), 1e-12))


def _expected(counts: np.ndarray, common: np.ndarray, reach: int, noise: CountingNoise) -> tuple[np.ndarray, np.ndarray]:
    """Expected counts (rows, channels) and standard errors, from `reach` neighbours on either side, mirrored at the ends."""
    padded = np.pad(counts / common, ((0, 0), (reach, reach)), mode="reflect")
    length = counts.shape[1]
    around = [padded[:, reach + step:reach + step + length] for step in range(-reach, reach + 1) if step]
    ratio = np.median(around, axis=0)
    expected = ratio * common
    # of a median of normal values; the neighbours' counts, carried to this channel by the common spectrum
    near = np.pad(common, reach, mode="reflect")
    least = np.min([near[reach + step:reach + step + length] for step in range(-reach, reach + 1) if step], axis=0)
    spread = noise.variance(np.maximum(ratio * least, 0)) * (common / least)**2
    return expected, np.sqrt(np.pi / 2 * spread / (2 * reach))


def _improbable(counts: np.ndarray, expected: np.ndarray, noise: CountingNoise, probability: float) -> np.ndarray:
    """Whether counts (rows, channels) are so many that Poisson noise in electrons and readout noise give them so rarely."""
    from scipy.special import gammainc

    gain, readout = noise.counts_per_electron, (noise.readout_noise / noise.counts_per_electron)**2
    mean = np.maximum(expected / gain, 0.05) + readout
    electrons = np.maximum(counts / gain + readout, 1e-9)
    # the probability of k or more at a mean is the regularised incomplete gamma function P(k, mean)
    return (electrons > mean) & (gammainc(electrons, mean) < probability)


def _broad(marked: np.ndarray, widest: int) -> np.ndarray:
    """Marked channels (rows, channels) that stand in a row of more than `widest`."""
    length = widest + 1
    padded = np.pad(marked, ((0, 0), (length, length)))
    runs = np.all([padded[:, start:start + padded.shape[1] - length] for start in range(length)], axis=0)
    covered = np.zeros_like(padded)
    for start in range(length):
        covered[:, start:start + runs.shape[1]] |= runs
    return covered[:, length:-length]
