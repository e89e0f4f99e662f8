"""What a scalarizer returns, the noise of the counts it works on, and the windows it cuts. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgetem_nodes.physics.scan import Axis

ELECTRONVOLT = 1.602176634e-19
"""[J], exact (SI)."""


@dataclass
class Features:
    """What frames became: one row a frame.

    Attributes
    ----------
    values : (rows, columns) float64; NaN where not valid. Column 0 is the scalar that the planner maps.
    standard_errors : (rows, columns) float64, from counting statistics; NaN where not valid.
    failures : why a row failed, (rows,); empty where it is valid.
    details : arrays with one entry a row, for what is derived later (an atomic structure); not published.
    """

    values: np.ndarray
    standard_errors: np.ndarray
    failures: list[str]
    details: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def valid(self) -> np.ndarray:
        """(rows,) bool."""
        return np.array([not failure for failure in self.failures], bool)


class Scalarizer(Protocol):
    """Turns frames into rows. Made by a factory `(settings, noise, axes)` that checks the settings against the axes."""

    names: tuple[str, ...]
    units: tuple[str, ...]

    def __call__(self, frames: np.ndarray) -> Features:
        """Rows of frames (rows, *signal). A row depends on its own frame alone."""


def finished(values: np.ndarray, variances: np.ndarray, failures: list[str],
             details: dict[str, np.ndarray] | None = None) -> Features:
    """Features from values (rows, columns) and their variances; what is not a finite number is a failure, never a value."""
    values, errors = np.array(values, float), np.sqrt(np.maximum(variances, 0.0))
    lost = ~(np.isfinite(values[:, 0]) & np.isfinite(errors[:, 0]))
    failures = [failure or ("the result is not a finite number" if bad else "")
                for failure, bad in zip(failures, lost, strict=True)]
    failed = np.array([bool(failure) for failure in failures], bool)
    values[failed], errors[failed] = np.nan, np.nan
    return Features(values, errors, failures, details or {})


def failed(rows: int, columns: int, reason: str) -> Features:
    """`rows` marked failures, all for one reason."""
    return Features(np.full((rows, columns), np.nan), np.full((rows, columns), np.nan), [reason] * rows)


def mark(failures: list[str], bad: np.ndarray, reason: str) -> None:
    """Enter a reason (in place) where a row (rows,) bool is bad and has none yet."""
    for row in np.flatnonzero(bad):
        failures[row] = failures[row] or reason


@dataclass(frozen=True)
class CountingNoise:
    """Noise of detector counts: Poisson in electrons, times the gain, plus readout noise.

    Attributes
    ----------
    counts_per_electron : detector counts that one electron or X-ray makes.
    readout_noise : standard deviation of a pixel without signal [counts].
    saturation : counts at which a pixel is saturated; 0: the largest value of an integer type, signed or not.
    """

    counts_per_electron: float = 1.0
    readout_noise: float = 0.0
    saturation: float = 0.0

    def variance(self, counts: np.ndarray, pixels: float = 1) -> np.ndarray:
        """Variance of a sum of `counts` over `pixels` pixels. At least one electron's: a zero is not known exactly."""
        gain = self.counts_per_electron
        return gain * np.maximum(counts, gain) + pixels * self.readout_noise**2

    def saturation_level(self, dtype: np.dtype) -> float:
        """Counts at which pixels of this type are saturated; infinite: never."""
        return self.saturation or (float(np.iinfo(dtype).max) if dtype.kind in "ui" else np.inf)

    def failures(self, pixels: np.ndarray) -> list[str]:
        """Why frames cannot be used, given the pixels in use (rows, pixels): not finite, or saturated. Empty: usable."""
        reasons = [""] * len(pixels)
        if not len(pixels):
            return reasons
        if pixels.dtype.kind == "f":
            bad = np.count_nonzero(~np.isfinite(pixels), axis=1)
            for row in np.flatnonzero(bad):
                reasons[row] = f"{bad[row]} of the {pixels.shape[1]} pixels in use are not finite numbers"
        level = self.saturation_level(pixels.dtype)
        if level < np.inf:
            bad = np.count_nonzero(pixels >= level, axis=1)
            for row in np.flatnonzero(bad):
                reasons[row] = reasons[row] or (f"{bad[row]} of the {pixels.shape[1]} pixels in use are saturated, "
                                                f"at {level:g} counts or more")
        return reasons


def energy_axis(axes: tuple[Axis, ...], scalarizer: str) -> np.ndarray:
    """Energy of every channel (channels,) [eV] of spectra.

    Raises
    ------
    ValueError : the frames are not spectra with a calibrated energy axis.
    """
    if len(axes) != 1 or axes[0].unit != "J":
        shown = ", ".join(f"{axis.name} [{axis.unit or 'uncalibrated'}]" for axis in axes)
        raise ValueError(f"{scalarizer} needs spectra with one axis in J; the frames have the axes {shown}: choose a "
                         "scalarizer for such frames, or calibrate the energy axis")
    return axes[0].values() / ELECTRONVOLT


def channels(energies: np.ndarray, window: list[float], fewest: int, key: str, unit: str = "eV") -> np.ndarray:
    """Indices of the channels whose energy lies in a window, both ends included.

    Parameters
    ----------
    energies : (channels,) [eV], ascending or descending.
    window : first and last energy, in `unit` ("eV" or "keV").
    fewest : channels that are needed.
    key : name of the parameter, for messages.

    Raises
    ------
    ValueError : the window is not two ascending numbers, reaches outside the axis or holds too few channels.
    """
    scale = 1000.0 if unit == "keV" else 1.0
    energies = energies / scale
    if len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"{key} {window} must be two numbers, the smaller first [{unit}]")
    tolerance = 1e-6 * abs(energies[-1] - energies[0]) / max(len(energies) - 1, 1) + 1e-12
    half = 0.5 * abs(energies[-1] - energies[0]) / max(len(energies) - 1, 1) + tolerance
    low, high = energies.min(), energies.max()
    if window[0] < low - half or window[1] > high + half:
        raise ValueError(f"{key} {window[0]:g} to {window[1]:g} {unit} reaches outside the energy axis, {low:g} to {high:g} "
                         f"{unit}: choose a window within it")
    chosen = np.flatnonzero((energies >= window[0] - tolerance) & (energies <= window[1] + tolerance))
    if len(chosen) < fewest:
        raise ValueError(f"{key} {window[0]:g} to {window[1]:g} {unit} holds {len(chosen)} channels of the energy axis; "
                         f"{fewest} or more are needed: widen it")
    return chosen


def angles(axes: tuple[Axis, ...], scalarizer: str) -> tuple[np.ndarray, np.ndarray]:
    """Angle of every detector row and column (rows,), (columns,) [mrad] of diffraction patterns.

    Raises
    ------
    ValueError : the frames are not patterns with two axes calibrated in radians.
    """
    if len(axes) != 2 or any(axis.unit != "rad" for axis in axes):
        shown = ", ".join(f"{axis.name} [{axis.unit or 'uncalibrated'}]" for axis in axes)
        raise ValueError(f"{scalarizer} needs patterns with two axes in rad; the frames have the axes {shown}: choose a "
                         "scalarizer for such frames, or calibrate the detector")
    return axes[0].values() * 1e3, axes[1].values() * 1e3


def centre(value: list[float], key: str) -> tuple[float, float]:
    """A centre (y, x) [mrad]; raises ValueError where it is not two numbers."""
    if len(value) != 2:
        raise ValueError(f"{key} {value} must be two numbers, (y, x) [mrad]")
    return float(value[0]), float(value[1])
