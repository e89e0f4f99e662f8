"""Scalars of the largest feature in a band of a spectrum: energy of a peak, and the largest intensity."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, channels, energy_axis, finished, mark
from edgetem_nodes.featurizer.parameters import EelsBandMaximum, EelsPeak
from edgetem_nodes.featurizer.spectroscopy.background import Background, Fitted
from edgetem_nodes.featurizer.spectroscopy.zero_loss import ZeroLossPeak
from edgetem_nodes.physics.scan import Axis

RECENTRINGS = 3


class EelsPeakScalarizer:
    """Energy and height of the peak in a window, from a parabola fitted to the net counts about its top.

    The fit is unweighted least squares over `fit_eV`, first where a running mean of that width is largest, then moved onto the
    top; it is linear in the counts (Savitzky and Golay, Anal. Chem. 36, 1627, 1964), so that their noise does not bias it. The
    top is where the fitted slope, as a function of where the fit is centred, goes through zero; how fast it does is taken
    from slopes a third of the range apart, which is right for peaks that are no parabola too. Standard errors by first-order
    propagation of the counts' and the background's. Columns: peak energy, less the zero-loss peak's where that is followed;
    peak height above the background; shift of the zero-loss peak.

    Marked failures: no maximum, a maximum at the window's edge, height or fall of the slope less than
    `smallest_significance` standard errors.
    """

    names = ("peak_energy", "peak_height", "zero_loss_shift")
    units = ("eV", "counts", "eV")

    def __init__(self, settings: EelsPeak, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eels_peak")
        self.energies, self.noise, self.step = energies, noise, float(energies[1] - energies[0])
        self.half = max(2, round(settings.fit_eV / abs(self.step) / 2))
        self.filters = _top_filters(self.half)
        self.reach = self.filters.shape[1] // 2
        self.window = channels(energies, settings.window_eV, 2 * self.reach + 3, "eels_peak.window_eV")
        self.background = Background(settings.background, settings.background_eV, energies, noise, "eels_peak")
        if len(np.intersect1d(self.background.channels, self.window)):
            raise ValueError(f"eels_peak.background_eV {settings.background_eV} overlaps with eels_peak.window_eV "
                             f"{settings.window_eV}: move it beside the peak")
        self.significance = settings.smallest_significance
        self.zero_loss = (ZeroLossPeak(energies, settings.zero_loss_search_eV, noise, "eels_peak.zero_loss_search_eV")
                          if settings.align_zero_loss else None)

    def __call__(self, frames: np.ndarray) -> Features:
        used = np.concatenate([self.window, self.background.channels, *([self.zero_loss.search] if self.zero_loss else [])])
        failures = self.noise.failures(np.take(frames, used, axis=1))
        usable = np.array([not failure for failure in failures], bool)[:, None]
        counts = np.where(usable, np.nan_to_num(frames), 0).astype(float)
        shift, shift_variance = np.zeros(len(counts)), np.zeros(len(counts))
        if self.zero_loss:
            shift, shift_variance = self.zero_loss.shift(counts)
            mark(failures, ~np.isfinite(shift), "there is no zero-loss peak within eels_peak.zero_loss_search_eV")
        moved = np.rint(np.nan_to_num(shift)).astype(int)[:, None]
        low, high = (edge(np.concatenate([self.window, self.background.channels])) for edge in (np.min, np.max))
        off = ((low + moved < 0) | (high + moved >= counts.shape[1]))[:, 0]
        mark(failures, off, "the zero-loss peak lies so far off that a window leaves the energy axis")
        moved = np.where(off[:, None], 0, moved)
        inside = np.take_along_axis(counts, self.window + moved, axis=1)
        fitted = self.background.fit(np.take_along_axis(counts, self.background.channels + moved, axis=1),
                                     self.energies[self.window])
        failures = [failure or other for failure, other in zip(failures, fitted.failures, strict=True)]
        values, variances = self._top(inside, fitted, failures)
        energy = self.energies[self.window[0]] + (values[:, 0] + moved[:, 0] - shift) * self.step
        energy_variance = (variances[:, 0] + shift_variance) * self.step**2
        return finished(np.stack([energy, values[:, 1], shift * self.step], axis=1),
                        np.stack([energy_variance, variances[:, 1], shift_variance * self.step**2], axis=1), failures)

    def _top(self, inside: np.ndarray, fitted: Fitted, failures: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Place [channel of the window] and height (rows, 2) of the peak, and their variances."""
        net, reach = inside - fitted.counts, self.reach
        last = net.shape[1] - 1 - reach
        span = np.arange(-reach, reach + 1)
        width = 2 * self.half + 1
        running = np.stack([net[:, start + reach - width // 2:start + reach + width // 2 + 1].sum(axis=1)
                            for start in range(last - reach + 1)], axis=1)
        middle = reach + running.argmax(axis=1)
        for _ in range(RECENTRINGS):
            _, slope, _, fall = self._filtered(net, middle)
            step = np.clip(slope / np.where(fall > 0, fall, np.inf), -reach, reach)
            middle = np.clip(middle + np.rint(step).astype(int), reach, last)
        level, slope, curvature, fall = self._filtered(net, middle)
        mark(failures, ~(fall > 0), "there is no maximum in eels_peak.window_eV")
        fall = np.where(fall > 0, fall, 1.0)
        top = slope / fall
        height = level + slope * top + curvature * top**2
        nothing = np.zeros_like(top)
        gradients = np.stack([np.stack([nothing, 1 / fall, nothing, -top / fall], axis=-1),
                              np.stack([nothing + 1, top, top**2, nothing], axis=-1),
                              np.stack([nothing, nothing, nothing, nothing + 1], axis=-1)], axis=1)
        # Noise of the smooth curve, not of each channel: one that fluctuated down would seem to be known better.
        under = np.take_along_axis(fitted.counts, middle[:, None] + span, axis=1)
        smooth = level[:, None] + slope[:, None] * span + curvature[:, None] * span**2
        weights = gradients @ self.filters
        spread = self.noise.variance(np.maximum(under + np.maximum(smooth, 0.0), 0.0))
        placed = np.zeros((len(net), 3, net.shape[1]))
        np.put_along_axis(placed, np.broadcast_to((middle[:, None] + span)[:, None], weights.shape), weights, axis=2)
        shared = fitted.covariance_of(placed)
        variances = (weights**2 * spread[:, None]).sum(axis=2) + np.diagonal(shared, axis1=1, axis2=2)
        mark(failures, np.abs(top) > 1, "the largest intensity lies at the edge of eels_peak.window_eV: no peak in it")
        with np.errstate(all="ignore"):
            strong = np.minimum(fall / np.sqrt(variances[:, 2]), height / np.sqrt(variances[:, 1]))
        for row in np.flatnonzero(~(strong >= self.significance)):
            failures[row] = failures[row] or (f"the peak is {strong[row]:.2g} standard errors strong; "
                                              f"eels_peak.smallest_significance is {self.significance:g}")
        return np.stack([middle + top, height], axis=1), variances[:, :2]

    def _filtered(self, net: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Level, slope, curvature, and fall of the slope a channel, (4, rows), about the channels `middle`."""
        around = np.take_along_axis(net, middle[:, None] + np.arange(-self.reach, self.reach + 1), axis=1)
        return (around[:, None] * self.filters).sum(axis=2).T


def _top_filters(half: int) -> np.ndarray:
    """Weights (4, channels) that give a, b, c of the parabola a + b x + c x^2 fitted to 2 `half` + 1 channels, and by how much
    b falls when the fit moves by one channel, the mean over two thirds of `half`."""
    x = np.arange(-half, half + 1.0)
    fit = np.linalg.pinv(np.stack([np.ones_like(x), x, x**2], axis=1))
    apart = max(1, half // 3)
    filters = np.zeros((4, 2 * (half + apart) + 1))
    filters[:3, apart:apart + len(x)] = fit
    filters[3, :len(x)] += fit[1] / (2 * apart)
    filters[3, 2 * apart:] -= fit[1] / (2 * apart)
    return filters


class EelsBandMaximumScalarizer:
    """Largest intensity in a band, the mean of `smoothing_channels` consecutive channels, less a background.

    The largest of many noisy numbers is too large on average. The even and the odd channels are therefore taken apart: each
    half says where the largest intensity lies, and the other half how large it is there; the value is the mean of both. Where
    the noise of neighbouring channels is independent its expectation never exceeds the true largest intensity: it equals it
    where the maximum stands out, and falls below where the halves choose different places. Columns: intensity a channel;
    energy of the largest intensity of all channels, with an error from the disagreement of the halves; the naive maximum,
    with its bias, to compare.
    """

    names = ("band_maximum", "maximum_energy", "largest_smoothed")
    units = ("counts", "eV", "counts")

    def __init__(self, settings: EelsBandMaximum, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eels_band_maximum")
        self.width, self.noise, self.energies = settings.smoothing_channels, noise, energies
        if self.width < 2 or self.width % 2:
            raise ValueError(f"eels_band_maximum.smoothing_channels {self.width} must be even, 2 or more: half of them say "
                             "where the maximum is, half how large")
        self.band = channels(energies, settings.band_eV, self.width + 1, "eels_band_maximum.band_eV")
        self.background = Background(settings.background, settings.background_eV, energies, noise, "eels_band_maximum")
        if len(np.intersect1d(self.background.channels, self.band)):
            raise ValueError(f"eels_band_maximum.background_eV {settings.background_eV} overlaps with "
                             f"eels_band_maximum.band_eV {settings.band_eV}: move it beside the band")

    def __call__(self, frames: np.ndarray) -> Features:
        failures = self.noise.failures(np.take(frames, np.concatenate([self.band, self.background.channels]), axis=1))
        usable = np.array([not failure for failure in failures], bool)[:, None]
        counts = np.where(usable, np.take(frames, self.band, axis=1), 0).astype(float)
        beside = np.where(usable, np.take(frames, self.background.channels, axis=1), 0).astype(float)
        fitted = self.background.fit(beside, self.energies[self.band])
        failures = [failure or other for failure, other in zip(failures, fitted.failures, strict=True)]
        net, every = counts - fitted.counts, np.arange(counts.shape[1])
        halves = [self._means(np.where(every % 2 == parity, net, 0.0)) * 2 for parity in (0, 1)]
        whole = self._means(net)
        starts = [half.argmax(axis=1) for half in halves]
        best = whole.argmax(axis=1)
        energies = [self._energy(start) for start in starts]
        weights = 0.5 * sum(self._weights(starts[1 - parity], parity, len(every)) for parity in (0, 1))
        value, variance = self._sum(weights, counts, net, fitted)
        naive, naive_variance = self._sum(self._weights(best, None, len(every)), counts, net, fitted)
        step = self.energies[1] - self.energies[0]
        apart = (energies[0] - energies[1])**2 / 4 + step**2 / 12
        return finished(np.stack([value, self._energy(best), naive], axis=1),
                        np.stack([variance, apart, naive_variance], axis=1), failures)

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Mean of `width` consecutive channels, (rows, places)."""
        return np.stack([values[:, start:start + self.width].sum(axis=1)
                         for start in range(values.shape[1] - self.width + 1)], axis=1) / self.width

    def _weights(self, start: np.ndarray, parity: int | None, length: int) -> np.ndarray:
        """Of the channels (rows, channels) in a mean from `start`, over the channels of one parity or over all."""
        every = np.arange(length)
        inside = (every >= start[:, None]) & (every < start[:, None] + self.width)
        if parity is None:
            return inside / self.width
        return (inside & (every % 2 == parity)) * (2.0 / self.width)

    def _sum(self, weights: np.ndarray, counts: np.ndarray, net: np.ndarray, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
        mean = (weights * counts).sum(axis=1)[:, None]
        variance = (weights**2 * self.noise.variance(mean)).sum(axis=1)
        return (weights * net).sum(axis=1), variance + fitted.covariance_of(weights[:, None])[:, 0, 0]

    def _energy(self, start: np.ndarray) -> np.ndarray:
        first, last = self.energies[self.band[start]], self.energies[self.band[start + self.width - 1]]
        return (first + last) / 2
