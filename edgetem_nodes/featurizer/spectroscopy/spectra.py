"""Scalars of spectra: net signal of an EELS edge, counts of an X-ray line, total counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, channels, energy_axis, finished
from edgetem_nodes.featurizer.parameters import EdsWindow, EelsEdge
from edgetem_nodes.physics.scan import Axis

MOST_STEPS = 30
CONVERGED = 1e-9
STEEPEST = 60.0
"""Largest exponent of a power law that counts as a background: real ones are 2 to 6."""


@dataclass(frozen=True)
class PowerLaw:
    """Fitted backgrounds exp(level - exponent * x), x = log(E / pivot), one a row.

    Attributes
    ----------
    level, exponent : (rows,).
    covariance : (rows, 2, 2) of (level, -exponent).
    chi_square : (rows,) reduced, of the fit window.
    converged : (rows,) bool.
    pivot : [eV].
    """

    level: np.ndarray
    exponent: np.ndarray
    covariance: np.ndarray
    chi_square: np.ndarray
    converged: np.ndarray
    pivot: float

    def at(self, energies: np.ndarray) -> np.ndarray:
        """Background (rows, channels) [counts] at energies (channels,) [eV]."""
        exponent = self.level[:, None] - self.exponent[:, None] * np.log(energies / self.pivot)
        return np.exp(np.clip(exponent, -700.0, 700.0))


@np.errstate(all="ignore")
def fit_power_law(energies: np.ndarray, counts: np.ndarray, noise: CountingNoise) -> PowerLaw:
    """Fit A E^-r to every row by maximum likelihood.

    A straight line in log-log whose weights are the expected counts, iterated (iteratively reweighted least squares of a
    generalised linear model with logarithmic link). Unlike a line through the logarithms of the counts it takes zeros, and
    its bias stays a tenth of the standard error down to four electrons a channel. Rows do not influence each other.

    Parameters
    ----------
    energies : (channels,) [eV].
    counts : (rows, channels) float64.

    References
    ----------
    McCullagh & Nelder, Generalized Linear Models (1989), 2.5; Egerton, EELS in the Electron Microscope (2011), 4.4.
    """
    pivot = float(np.exp(np.log(energies).mean()))
    x = np.log(energies / pivot)
    total = counts.sum(axis=1)
    usable = total > 0
    counts = np.where(usable[:, None], counts, 1.0)
    mean = counts.mean(axis=1, keepdims=True)
    expected = np.maximum(counts, 0.0) * 0.9 + 0.1 * mean
    eta = np.log(expected)
    level, slope = np.zeros(len(counts)), np.zeros(len(counts))
    running = usable.copy()
    converged = np.zeros(len(counts), bool)
    for _ in range(MOST_STEPS):
        weight = _weight(expected, noise)
        response = eta + (counts - expected) / expected
        (s0, s1, s2), determinant = _moments(weight, x)
        r0, r1 = (weight * response).sum(axis=1), (weight * response * x).sum(axis=1)
        new_level, new_slope = (s2 * r0 - s1 * r1) / determinant, (s0 * r1 - s1 * r0) / determinant
        step = np.abs(new_level - level) + np.abs(new_slope - slope)
        level, slope = np.where(running, new_level, level), np.where(running, new_slope, slope)
        converged |= running & (step < CONVERGED * (1 + np.abs(new_slope)))
        running &= ~converged & (np.abs(slope) < STEEPEST) & np.isfinite(step)
        if not running.any():
            break
        eta = np.clip(level[:, None] + slope[:, None] * x, -30.0, 60.0)
        expected = np.exp(eta)
    expected = np.exp(np.clip(level[:, None] + slope[:, None] * x, -30.0, 60.0))
    weight = _weight(expected, noise)
    (s0, s1, s2), determinant = _moments(weight, x)
    covariance = np.stack([s2, -s1, -s1, s0], axis=-1).reshape(-1, 2, 2) / determinant[:, None, None]
    chi_square = (weight * ((counts - expected) / expected)**2).sum(axis=1) / (len(x) - 2)
    return PowerLaw(level, -slope, covariance, chi_square, converged & usable & (np.abs(slope) < STEEPEST), pivot)


def _weight(expected: np.ndarray, noise: CountingNoise) -> np.ndarray:
    return expected**2 / (noise.counts_per_electron * expected + noise.readout_noise**2)


def _moments(weight: np.ndarray, x: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    s0, s1, s2 = weight.sum(axis=1), (weight * x).sum(axis=1), (weight * x * x).sum(axis=1)
    return (s0, s1, s2), np.maximum(s0 * s2 - s1 * s1, 1e-300)


def background_of(frame: np.ndarray, axes: tuple[Axis, ...], settings: EelsEdge) -> np.ndarray:
    """The background under one spectrum (channels,), for a picture: from the first channel of the fit to the last of
    the signal, NaN elsewhere and where the fit failed.

    Raises
    ------
    ValueError : the settings do not fit the axes.
    """
    scalarizer = EelsEdgeScalarizer(settings, CountingNoise(), tuple(axes))
    counts = np.nan_to_num(np.asarray(frame, float))[None]
    law = fit_power_law(scalarizer.energies[scalarizer.fit], counts[:, scalarizer.fit], scalarizer.noise)
    both = np.concatenate([scalarizer.fit, scalarizer.signal])
    drawn = np.arange(both.min(), both.max() + 1)
    background = np.full(counts.shape[1], np.nan)
    if law.converged[0]:
        background[drawn] = law.at(scalarizer.energies[drawn])[0]
    return background


class EelsEdgeScalarizer:
    """Net counts of a core-loss edge: the signal window less the power-law background extrapolated into it.

    Columns: net signal, background under it, exponent of the power law, reduced chi-square of the background fit. The
    standard error of the net signal is that of the window's counts and of the extrapolation (Egerton 2011, 4.4.4). A
    negative net signal is a result: clipping it would bias the map.
    """

    names = ("net_signal", "background", "background_exponent", "background_chi_square")
    units = ("counts", "counts", "", "")

    def __init__(self, settings: EelsEdge, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eels_edge")
        self.fit = channels(energies, settings.background_eV, 4, "eels_edge.background_eV")
        self.signal = channels(energies, settings.signal_eV, 1, "eels_edge.signal_eV")
        if settings.background_eV[1] > settings.signal_eV[0]:
            raise ValueError(f"eels_edge.background_eV ends at {settings.background_eV[1]:g} eV, above the start of "
                             f"eels_edge.signal_eV, {settings.signal_eV[0]:g} eV: the background lies below the edge")
        if settings.background_eV[0] <= 0:
            raise ValueError(f"eels_edge.background_eV starts at {settings.background_eV[0]:g} eV: a power law needs "
                             "energy losses above zero")
        self.energies, self.noise = energies, noise

    def __call__(self, frames: np.ndarray) -> Features:
        background, signal = np.take(frames, self.fit, axis=1), np.take(frames, self.signal, axis=1)
        failures = self.noise.failures(np.concatenate([background, signal], axis=1))
        usable = np.array([not failure for failure in failures], bool)[:, None]
        background = np.where(usable, background, 0).astype(float)
        signal = np.where(usable, signal, 0).astype(float)
        law = fit_power_law(self.energies[self.fit], background, self.noise)
        under = law.at(self.energies[self.signal])
        x = np.log(self.energies[self.signal] / law.pivot)
        gradient = np.stack([under.sum(axis=1), (under * x).sum(axis=1)], axis=-1)
        extrapolation = (gradient[:, 0]**2 * law.covariance[:, 0, 0] + gradient[:, 1]**2 * law.covariance[:, 1, 1]
                         + 2 * gradient[:, 0] * gradient[:, 1] * law.covariance[:, 0, 1])
        total = signal.sum(axis=1)
        variances = np.stack([self.noise.variance(total, len(self.signal)) + extrapolation, extrapolation,
                              law.covariance[:, 1, 1], np.full(len(total), 2.0 / (len(self.fit) - 2))], axis=1)
        values = np.stack([total - gradient[:, 0], gradient[:, 0], law.exponent, law.chi_square], axis=1)
        for row in np.flatnonzero(~law.converged):
            failures[row] = failures[row] or (f"the power-law background could not be fitted to the "
                                              f"{background[row].sum():g} counts of its window")
        return finished(values, variances, failures)


class EdsWindowScalarizer:
    """Counts of an X-ray line in an energy window, less a background interpolated from side windows where given.

    Columns: net counts, background. The background is linear in the side windows' counts, so its variance is exact. A
    negative net count is a result.
    """

    names = ("net_counts", "background")
    units = ("counts", "counts")

    def __init__(self, settings: EdsWindow, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eds_window")
        self.window = channels(energies, settings.window_keV, 1, "eds_window.window_keV", "keV")
        sides = settings.background_keV
        if len(sides) not in (0, 2, 4):
            raise ValueError(f"eds_window.background_keV {sides} must hold no number, two (one side window) or four (two)")
        self.sides = [channels(energies, sides[i:i + 2], 1, "eds_window.background_keV", "keV")
                      for i in range(0, len(sides), 2)]
        self.noise = noise
        for side in self.sides:
            if set(side) & set(self.window):
                raise ValueError(f"eds_window.background_keV {sides} overlaps with eds_window.window_keV "
                                 f"{settings.window_keV}: move it beside the line")
        centres = [energies[side].mean() for side in self.sides]
        if len(self.sides) == 2:
            if np.isclose(centres[0], centres[1]):
                raise ValueError(f"eds_window.background_keV {sides}: the two side windows have the same centre")
            far = (energies[self.window].mean() - centres[0]) / (centres[1] - centres[0])
            shares = [1.0 - far, far]
        else:
            shares = [1.0] * len(self.sides)
        self.factors = [share * len(self.window) / len(side) for share, side in zip(shares, self.sides, strict=True)]

    def __call__(self, frames: np.ndarray) -> Features:
        failures = self.noise.failures(np.take(frames, np.concatenate([self.window, *self.sides]), axis=1))
        usable = np.array([not failure for failure in failures], bool)[:, None]

        def total(chosen: np.ndarray) -> np.ndarray:
            return np.where(usable, np.take(frames, chosen, axis=1), 0).sum(axis=1, dtype=float)

        inside = total(self.window)
        background, variance = np.zeros(len(frames)), np.zeros(len(frames))
        for factor, side in zip(self.factors, self.sides, strict=True):
            outside = total(side)
            background += factor * outside
            variance += factor**2 * self.noise.variance(outside, len(side))
        values = np.stack([inside - background, background], axis=1)
        variances = np.stack([self.noise.variance(inside, len(self.window)) + variance, variance], axis=1)
        return finished(values, variances, failures)


class TotalCountsScalarizer:
    """Sum of all counts of a frame or spectrum. An empty frame gives zero counts with the error of one electron."""

    names = ("total_counts",)
    units = ("counts",)

    def __init__(self, settings: object, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        self.noise = noise

    def __call__(self, frames: np.ndarray) -> Features:
        pixels = frames.reshape(len(frames), -1)
        failures = self.noise.failures(pixels)
        if pixels.dtype.kind == "f":
            pixels = np.where(np.isfinite(pixels), pixels, 0)
        total = pixels.sum(axis=1, dtype=float)
        return finished(total[:, None], self.noise.variance(total, pixels.shape[1])[:, None], failures)
