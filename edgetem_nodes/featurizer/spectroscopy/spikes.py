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
CROWDED = 0.05
"""Part of the rows, and more than three of them, that are hit within `reach` channels: a feature of the specimen or of the
camera, for spikes fall anywhere."""
NARROW = 5.0
"""What spectra have in common has a narrow peak where its maximum is so many times its median within 2 `reach` channels."""
OWN_PEAK = 0.1
"""What holds this part of a row's counts beside a narrow peak of the others is the row's own peak, displaced."""


@dataclass(frozen=True)
class Despiked:
    """Spectra without spikes, and the spikes.

    Attributes
    ----------
    spectra : (rows, channels) of the input's type.
    rows, channels : (spikes,) where they were.
    removed : (spikes,) counts that were taken away: adding them back restores the input.
    doubtful : (channels, 2) row and channel of what looked like a spike and was left: too many rows have it, or it is a narrow
        peak that lies elsewhere in other rows. Align spectra first where that is a zero loss.
    """

    spectra: np.ndarray
    rows: np.ndarray
    channels: np.ndarray
    removed: np.ndarray
    doubtful: np.ndarray


def remove_spikes(spectra: np.ndarray, noise: CountingNoise | None = None, *, reach: int = 5, false_alarms: float = 0.1,
                  widest: int = 3) -> Despiked:
    """Replace channels that counting noise cannot explain by what their neighbours let expect.

    Expected is the median of the channel's neighbours, each over what all rows have in common there, times that of the channel:
    edges and zero-loss peaks that spectra have in common are no spikes. A spike is a channel whose counts have, as Poisson
    counts of that expectation and twice its error, a probability that makes `false_alarms` in all spectra, and which no more
    than `widest` channels in a row share: what is broader is a feature of the specimen. So is what many rows have in nearly the
    same place (`CROWDED`), and a narrow peak that in other rows lies a few channels off (`NARROW`, `OWN_PEAK`): these are left,
    and told.

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
    hit = clean != spectra
    few = len(spectra) < FEWEST_ROWS
    doubtful = _most_of_all(spectra, clean, hit, reach) if few else (
        _crowded(hit, reach) | _own_peaks(spectra, clean, hit, common, reach))
    clean[doubtful] = spectra[doubtful]
    rows, channels = np.nonzero(hit & ~doubtful)
    removed = spectra[rows, channels].astype(float) - clean[rows, channels].astype(float)
    return Despiked(clean, rows, channels, removed, np.argwhere(doubtful))


def _most_of_all(spectra: np.ndarray, clean: np.ndarray, hit: np.ndarray, reach: int) -> np.ndarray:
    """Which of the hit channels (rows, channels) hold, with those near, half of their spectrum, as a narrow zero loss does."""
    from scipy.ndimage import uniform_filter1d

    whole = np.maximum(spectra.astype(float), 0).sum(axis=1, keepdims=True)
    taken = uniform_filter1d(spectra.astype(float) - clean, 2 * reach + 1, axis=1, mode="constant") * (2 * reach + 1)
    return hit & (taken > whole / 2)


def _crowded(hit: np.ndarray, reach: int) -> np.ndarray:
    """Which of the hit channels (rows, channels) lie where many rows are hit."""
    from scipy.ndimage import maximum_filter1d

    near = np.zeros(hit.shape[1])
    for row in np.flatnonzero(hit.any(axis=1)):
        near += maximum_filter1d(hit[row].astype(np.uint8), 2 * reach + 1, mode="constant")
    crowded = (near > max(3, CROWDED * len(hit))).astype(np.uint8)
    return hit & maximum_filter1d(crowded, 2 * reach + 1, mode="constant").astype(bool)


def _own_peaks(spectra: np.ndarray, clean: np.ndarray, hit: np.ndarray, common: np.ndarray, reach: int) -> np.ndarray:
    """Which of the hit channels (rows, channels) are a row's own narrow peak, which others have a few channels off."""
    result = np.zeros_like(hit)
    for row, channel in np.argwhere(hit):
        about = slice(max(channel - 2 * reach, 0), channel + 2 * reach + 1)
        if common[about].max() < NARROW * np.median(common[about]):
            continue
        whole, left = (np.maximum(one[row, about].astype(float), 0).sum() for one in (spectra, clean))
        result[row, channel] = whole - left > OWN_PEAK * whole
    return result


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
