"""Backgrounds under windows of spectra: none, a constant, or a power law, with what they do to the errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, channels
from edgetem_nodes.featurizer.spectroscopy.spectra import fit_power_law

KINDS = ("none", "constant", "power_law")


@dataclass(frozen=True)
class Fitted:
    """Backgrounds under the same channels of several spectra.

    Attributes
    ----------
    counts : (rows, channels).
    gradient : (rows, channels, parameters) of the counts by what was fitted.
    covariance : (rows, parameters, parameters) of what was fitted.
    failures : (rows,) why there is none; empty where there is.
    """

    counts: np.ndarray
    gradient: np.ndarray
    covariance: np.ndarray
    failures: list[str]

    def covariance_of(self, weights: np.ndarray) -> np.ndarray:
        """Covariance (rows, sums, sums) that the background gives to weighted sums, weights (rows or 1, sums, channels)."""
        part = weights @ self.gradient
        return part @ self.covariance @ np.swapaxes(part, 1, 2)


class Background:
    """The background of spectra, fitted in a window of its own.

    Parameters
    ----------
    kind : one of `KINDS`. window : first and last energy [eV]; empty for none.
    energies : (channels,) [eV].
    group : of the parameters, for messages.

    Raises
    ------
    ValueError : kind and window do not go together, or the window does not fit the axis.
    """

    def __init__(self, kind: str, window: list[float], energies: np.ndarray, noise: CountingNoise, group: str) -> None:
        if kind == "none" and window:
            raise ValueError(f"{group}.background_eV {window} is given and {group}.background is none: leave the window empty, "
                             "or choose constant or power_law")
        if kind != "none" and not window:
            raise ValueError(f"{group}.background {kind} needs a window, {group}.background_eV")
        if kind == "power_law" and window[0] <= 0:
            raise ValueError(f"{group}.background_eV starts at {window[0]:g} eV: a power law needs energy losses above zero")
        self.kind, self._noise, self._energies = kind, noise, energies
        fewest = {"none": 0, "constant": 1, "power_law": 4}[kind]
        self.channels = channels(energies, window, fewest, f"{group}.background_eV") if window else np.empty(0, int)

    def fit(self, counts: np.ndarray, under: np.ndarray) -> Fitted:
        """Fit to the counts of the background's own channels, and extrapolate to others.

        Parameters
        ----------
        counts : (rows, own channels) float64. under : (channels,) [eV].
        """
        rows, length = len(counts), len(under)
        failures = [""] * rows
        if self.kind == "none":
            return Fitted(np.zeros((rows, length)), np.zeros((rows, length, 0)), np.zeros((rows, 0, 0)), failures)
        if self.kind == "constant":
            own = len(self.channels)
            total = counts.sum(axis=1)
            variance = self._noise.variance(total, own) / own**2
            return Fitted(np.repeat(total[:, None] / own, length, axis=1), np.ones((rows, length, 1)),
                          variance[:, None, None], failures)
        law = fit_power_law(self._energies[self.channels], counts, self._noise)
        background = law.at(under)
        for row in np.flatnonzero(~law.converged):
            failures[row] = (f"the power-law background could not be fitted to the {counts[row].sum():g} counts of its "
                             "window")
        x = np.broadcast_to(np.log(under / law.pivot), background.shape)
        return Fitted(background, np.stack([background, background * x], axis=-1), law.covariance, failures)
