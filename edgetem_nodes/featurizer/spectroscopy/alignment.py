"""Aligns the spectra of a map: by their zero-loss peaks, or by what they have in common where there is no zero loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, mark
from edgetem_nodes.featurizer.spectroscopy.axes import rows_of
from edgetem_nodes.featurizer.spectroscopy.zero_loss import ZeroLossPeak

if TYPE_CHECKING:
    from scipy.interpolate import UnivariateSpline

STEPS = 4
"""Of the refinement of a shift between two spectra."""


@dataclass(frozen=True)
class Shifts:
    """How far spectra are displaced towards higher channels.

    Attributes
    ----------
    channels, standard_errors : (rows,) [channels]; NaN where there is none.
    failures : (rows,) why there is none; empty where there is.
    """

    channels: np.ndarray
    standard_errors: np.ndarray
    failures: list[str]


def zero_loss_shifts(spectra: np.ndarray, energies: np.ndarray, reach: float = 3.0,
                     noise: CountingNoise | None = None) -> Shifts:
    """Displacement of the zero-loss peak of every spectrum from zero loss.

    Parameters
    ----------
    spectra : (rows, channels). energies : (channels,) [eV]. reach : the peak lies within this energy of no loss [eV].

    Raises
    ------
    ValueError : the axis does not reach so far, or the range holds too few channels.
    """
    noise = noise or CountingNoise()
    spectra = rows_of(spectra, len(energies))
    peak = ZeroLossPeak(np.asarray(energies, float), reach, noise, "reach")
    failures = noise.failures(np.take(spectra, peak.search, axis=1))
    usable = np.array([not failure for failure in failures], bool)
    shift, variance = peak.shift(np.where(usable[:, None], np.nan_to_num(spectra), 0).astype(float))
    mark(failures, ~np.isfinite(shift), f"there is no zero-loss peak within {reach:g} eV of no loss")
    return _marked(shift, np.sqrt(variance), failures)


def common_shifts(spectra: np.ndarray, most: int, noise: CountingNoise | None = None, rounds: int = 3) -> Shifts:
    """Displacement of spectra without a zero loss, from their mean spectrum; its mean over all is zero.

    Every spectrum is compared with the mean of all, smoothed as its noise allows, displaced and multiplied by a straight line
    (thickness and background of places differ): first by whole channels, where the weighted squared difference is least, then
    between channels by Gauss-Newton steps. Aligned spectra make the next mean. The standard error is the Cramer-Rao bound of
    counting noise; to it comes the noise of the mean, small for many spectra.

    Parameters
    ----------
    spectra : (rows, channels), some ten or more of the same kind. most : greatest displacement that is looked for [channels].

    Raises
    ------
    ValueError : there are fewer than four channels that all displacements have in common.
    """
    noise = noise or CountingNoise()
    spectra = np.asarray(spectra)
    spectra = rows_of(spectra, spectra.shape[-1])
    if not 1 <= most or spectra.shape[1] - 2 * (most + 2) < 4:
        raise ValueError(f"a displacement of up to {most} channels leaves too few of {spectra.shape[1]} channels to compare, "
                         "or is less than 1")
    failures = noise.failures(spectra)
    usable = np.array([not failure for failure in failures], bool)
    mark(failures, usable & (np.nan_to_num(spectra).sum(axis=1) <= 0), "there are no counts")
    usable = np.array([not failure for failure in failures], bool)
    shift, error = np.full(len(spectra), np.nan), np.full(len(spectra), np.nan)
    if usable.any():
        counts = spectra[usable].astype(float)
        found, errors = np.zeros(len(counts)), np.zeros(len(counts))
        for _ in range(rounds):
            aligned = shifted(counts, found)
            reference = aligned.mean(axis=0)
            reference = np.where(np.isfinite(reference), reference, counts.mean(axis=0))
            found, errors = _against(counts, _smooth(reference, counts, noise), most, noise)
            found -= np.median(found)
        shift[usable], error[usable] = found - found.mean(), errors
    edge = np.abs(np.nan_to_num(shift)) > most
    mark(failures, edge | (np.nan_to_num(error, nan=0.0) > most),
         f"no displacement within {most} channels stands out of the noise")
    mark(failures, ~np.isfinite(shift) | ~np.isfinite(error), "the spectrum has no structure to align by")
    return _marked(shift, error, failures)


def shifted(spectra: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Spectra (rows, channels) float64 moved back by `shift` (rows,) [channels], linearly between channels.

    Counts are kept but where a spectrum leaves the axis; channels that nothing has moved to are NaN, as are rows whose shift
    is. Interpolation ties the noise of neighbouring channels: windows that follow the zero loss (align_zero_loss of the
    scalarizers) do not.
    """
    spectra = np.asarray(spectra, float)
    shift = np.asarray(shift, float)
    known = np.isfinite(shift)
    whole = np.floor(np.where(known, shift, 0)).astype(int)
    part = np.where(known, shift, np.nan) - whole
    place = np.arange(spectra.shape[1]) + whole[:, None]
    last = spectra.shape[1] - 1
    below = np.take_along_axis(spectra, np.clip(place, 0, last), axis=1)
    above = np.take_along_axis(spectra, np.clip(place + 1, 0, last), axis=1)
    moved = (1 - part[:, None]) * below + part[:, None] * np.where(part[:, None] > 0, above, 0)
    return np.where((place < 0) | (place + (part[:, None] > 0) > last), np.nan, moved)


def _marked(shift: np.ndarray, error: np.ndarray, failures: list[str]) -> Shifts:
    bad = np.array([bool(failure) for failure in failures], bool)
    return Shifts(np.where(bad, np.nan, shift), np.where(bad, np.nan, error), failures)


def _smooth(reference: np.ndarray, counts: np.ndarray, noise: CountingNoise) -> UnivariateSpline:
    """A mean spectrum (channels,) as a curve that follows it as closely as its noise allows: the slopes of noise would pass for
    structure."""
    from scipy.interpolate import UnivariateSpline

    length = len(reference)
    error = np.sqrt(noise.variance(np.maximum(counts.mean(axis=0), 0)) / len(counts))
    return UnivariateSpline(np.arange(length), reference, w=1 / error, k=3, s=length - np.sqrt(2 * length))


def _against(counts: np.ndarray, curve: UnivariateSpline, most: int, noise: CountingNoise) -> tuple[np.ndarray, np.ndarray]:
    """Shift of every spectrum from a curve over the channels, and its standard error, (rows,) [channels]."""
    margin = most + 2
    inner = np.arange(margin, counts.shape[1] - margin)
    own, tilt = counts[:, inner], np.linspace(-1, 1, len(inner))
    reference, falling = curve(np.arange(counts.shape[1])), curve.derivative()
    level = counts.sum(axis=1, keepdims=True) / max(reference.sum(), 1e-300)
    weight = 1 / noise.variance(np.maximum(level * reference[inner], 0))
    lags = np.arange(-most, most + 1)
    squares = np.stack([_misfit(own, weight, reference[inner - lag], tilt) for lag in lags])
    shift = lags[np.nan_to_num(squares, nan=np.inf).argmin(axis=0)].astype(float)
    for _ in range(STEPS):
        at = inner - shift[:, None]
        model, slope = curve(at), -falling(at)
        level = _scale(own, weight, model, tilt)
        line = level[:, :1] + level[:, 1:] * tilt
        # by level, tilt and shift
        jacobian = np.stack([model, model * tilt, line * slope], axis=-1)
        normal = np.einsum("rci,rc,rcj->rij", jacobian, weight, jacobian)
        right = np.einsum("rci,rc,rc->ri", jacobian, weight, own - line * model)
        scale = np.sqrt(np.maximum(np.einsum("rii->ri", normal), 1e-300))
        scales = scale[:, :, None] * scale[:, None]
        inverse = np.linalg.pinv(normal / scales, hermitian=True) / scales
        shift = np.clip(shift + np.clip(np.einsum("rj,rj->r", inverse[:, 2], right), -1, 1), -most, most)
    return shift, np.sqrt(np.maximum(inverse[:, 2, 2], 0)) + np.where(np.abs(shift) >= most, np.inf, 0)


def _scale(own: np.ndarray, weight: np.ndarray, model: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Level and tilt (rows, 2) of the line that fits own = line * model best."""
    tilted = model * tilt
    s0, s1, s2 = (weight * model**2).sum(axis=1), (weight * model * tilted).sum(axis=1), (weight * tilted**2).sum(axis=1)
    r0, r1 = (weight * own * model).sum(axis=1), (weight * own * tilted).sum(axis=1)
    determinant = np.maximum(s0 * s2 - s1 * s1, 1e-300)
    return np.stack([(s2 * r0 - s1 * r1) / determinant, (s0 * r1 - s1 * r0) / determinant], axis=1)


def _misfit(own: np.ndarray, weight: np.ndarray, model: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Weighted squared difference (rows,) after the best line."""
    scale = _scale(own, weight, np.broadcast_to(model, own.shape), tilt)
    return (weight * (own - (scale[:, :1] + scale[:, 1:] * tilt) * model)**2).sum(axis=1)
