"""Scalar of a spectrum: the ratio of two energy windows."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, channels, energy_axis, finished
from edgetem_nodes.featurizer.parameters import EelsBandRatio
from edgetem_nodes.featurizer.spectroscopy.zero_loss import ZeroLossPeak
from edgetem_nodes.physics.scan import Axis


class EelsBandRatioScalarizer:
    """(low + r) / (high + r) of the counts in two windows, with a fixed r [counts].

    The regularisation keeps the ratio finite and its error bounded where there is no material; it is a setting, never taken
    from data, so a value does not change when more is measured. Columns: ratio, counts in the low and in the high window,
    shift of the zero-loss peak. The standard error of the ratio is first-order propagation of the windows' counting errors.

    With `align_zero_loss` the windows move with the zero-loss peak of the same spectrum, the brightest channel within
    `zero_loss_search_eV` of no loss and its neighbours. A window then begins and ends between channels and takes a share of
    those at its ends.
    """

    names = ("band_ratio", "low_counts", "high_counts", "zero_loss_shift")
    units = ("", "counts", "counts", "eV")

    def __init__(self, settings: EelsBandRatio, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eels_band_ratio")
        self.low = channels(energies, settings.low_eV, 1, "eels_band_ratio.low_eV")
        self.high = channels(energies, settings.high_eV, 1, "eels_band_ratio.high_eV")
        common = np.intersect1d(self.low, self.high)
        if len(common):
            raise ValueError(f"eels_band_ratio.low_eV {settings.low_eV} and high_eV {settings.high_eV} share "
                             f"{len(common)} channels: the windows of a ratio do not overlap")
        if not settings.regularisation_counts > 0:
            raise ValueError(f"eels_band_ratio.regularisation_counts {settings.regularisation_counts} is not positive: an "
                             "empty window would have no ratio")
        self.aligned, self.regularisation = settings.align_zero_loss, settings.regularisation_counts
        self.energies, self.noise, self.step = energies, noise, float(energies[1] - energies[0])
        if self.aligned:
            self.zero_loss = ZeroLossPeak(energies, settings.zero_loss_search_eV, noise, "eels_band_ratio.zero_loss_search_eV")

    def __call__(self, frames: np.ndarray) -> Features:
        parts = [self.low, self.high, *([self.zero_loss.search] if self.aligned else [])]
        failures = self.noise.failures(np.take(frames, np.concatenate(parts), axis=1))
        usable = np.array([not failure for failure in failures], bool)[:, None]
        if self.aligned:
            counts = np.where(usable, np.nan_to_num(frames), 0).astype(float)
            shift, variance = self.zero_loss.shift(counts)
            low, high = self._moved(counts, self.low, shift), self._moved(counts, self.high, shift)
            for row in np.flatnonzero(~np.isfinite(shift)):
                failures[row] = failures[row] or "there is no zero-loss peak within eels_band_ratio.zero_loss_search_eV"
            for row in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):
                failures[row] = failures[row] or (f"the zero-loss peak lies at {shift[row] * self.step:.4g} eV, which moves "
                                                  "a window off the energy axis")
        else:
            shift = variance = np.zeros(len(frames))
            low, high = (np.where(usable, np.take(frames, part, axis=1), 0).sum(axis=1, dtype=float)
                         for part in (self.low, self.high))
        return self._features(low, high, shift * self.step, variance * self.step ** 2, failures)

    def _features(self, low: np.ndarray, high: np.ndarray, shift: np.ndarray, shift_variance: np.ndarray,
                  failures: list[str]) -> Features:
        below = high + self.regularisation
        for row in np.flatnonzero(below <= 0):
            failures[row] = failures[row] or (f"{high[row]:g} counts in the high window and a regularisation of "
                                              f"{self.regularisation:g} counts: a ratio needs a positive denominator")
        below = np.where(below > 0, below, np.nan)
        ratio = (low + self.regularisation) / below
        low_variance = self.noise.variance(low, len(self.low))
        high_variance = self.noise.variance(high, len(self.high))
        values = np.stack([ratio, low, high, shift], axis=1)
        variances = np.stack([(low_variance + ratio ** 2 * high_variance) / below ** 2, low_variance, high_variance,
                              shift_variance], axis=1)
        return finished(values, variances, failures)

    def _moved(self, counts: np.ndarray, window: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Counts in a window moved by (rows,) channels; NaN where it leaves the axis."""
        cumulative = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)], axis=1)

        def up_to(edge: np.ndarray) -> np.ndarray:
            outside = (edge < 0) | (edge > counts.shape[1])
            whole = np.clip(np.floor(np.nan_to_num(edge)).astype(int), 0, counts.shape[1] - 1)
            start, end = (np.take_along_axis(cumulative, (whole + step)[:, None], axis=1)[:, 0] for step in (0, 1))
            return np.where(outside, np.nan, start + (edge - whole) * (end - start))

        return up_to(window.max() + 1 + shift) - up_to(window.min() + shift)
