"""Core-loss edges of whole spectrum images: net signals, ratios, and spectra without their background, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.parameters import EelsEdge
from edgetem_nodes.featurizer.spectroscopy.axes import energy_axis, rows_of
from edgetem_nodes.featurizer.spectroscopy.background import Background
from edgetem_nodes.featurizer.spectroscopy.spectra import EelsEdgeScalarizer

BLOCK = 4 << 20
"""Counts that are worked on at once."""


@dataclass(frozen=True)
class EdgeSignal:
    """Net signal of an edge in every spectrum; arrays (rows,), NaN where it failed.

    Attributes
    ----------
    counts, standard_errors : net signal [counts]; a negative one is a result.
    background, exponent, chi_square : under the signal [counts]; of the power law; reduced, of its fit.
    failures : why there is none; empty where there is.
    """

    counts: np.ndarray
    standard_errors: np.ndarray
    background: np.ndarray
    exponent: np.ndarray
    chi_square: np.ndarray
    failures: list[str]


def edge_signal(spectra: np.ndarray, energies: np.ndarray, background_eV: list[float], signal_eV: list[float],
                noise: CountingNoise | None = None) -> EdgeSignal:
    """Counts in a window less the power law fitted below it, as the scalarizer `eels_edge` measures them.

    Parameters
    ----------
    spectra : (rows, channels). energies : (channels,) [eV]. background_eV, signal_eV : first and last energy loss.

    Raises
    ------
    ValueError : shapes or windows do not fit the axis.
    """
    spectra = rows_of(spectra, len(energies))
    settings = EelsEdge(list(background_eV), list(signal_eV))
    edge = EelsEdgeScalarizer(settings, noise or CountingNoise(), (energy_axis(energies),))
    step = max(1, BLOCK // max(spectra.shape[1], 1))
    parts = [edge(spectra[first:first + step]) for first in range(0, max(len(spectra), 1), step)]
    values = np.concatenate([part.values for part in parts])
    errors = np.concatenate([part.standard_errors for part in parts])
    return EdgeSignal(values[:, 0], errors[:, 0], values[:, 1], values[:, 2], values[:, 3],
                      [failure for part in parts for failure in part.failures])


@dataclass(frozen=True)
class NetSpectra:
    """Spectra less their background.

    Attributes
    ----------
    energies : (channels,) [eV], from the first channel of the fit on.
    counts : (rows, channels); NaN where the background could not be fitted.
    standard_errors : (rows, channels) of a channel alone. Errors of neighbouring channels are tied by the background: take
        `edge_signal` for the error of a sum.
    failures : (rows,) why there is no background; empty where there is.
    """

    energies: np.ndarray
    counts: np.ndarray
    standard_errors: np.ndarray
    failures: list[str]


def subtract_background(spectra: np.ndarray, energies: np.ndarray, background_eV: list[float],
                        noise: CountingNoise | None = None, kind: str = "power_law") -> NetSpectra:
    """Spectra less a power law (or a constant) fitted to one window by maximum likelihood.

    Raises
    ------
    ValueError : shapes or window do not fit the axis, or the kind is not known.
    """
    noise = noise or CountingNoise()
    if kind not in ("power_law", "constant"):
        raise ValueError(f"background {kind!r} is not power_law or constant")
    spectra, energies = rows_of(spectra, len(energies)), np.asarray(energies, float)
    energy_axis(energies)
    background = Background(kind, list(background_eV), energies, noise, "edge")
    inside = energies >= energies[background.channels].min()
    failures = noise.failures(spectra[:, inside])
    usable = np.array([not failure for failure in failures], bool)
    counts = np.where(usable[:, None], np.nan_to_num(spectra), 0).astype(float)
    fitted = background.fit(counts[:, background.channels], energies[inside])
    failures = [failure or other for failure, other in zip(failures, fitted.failures, strict=True)]
    failed = np.array([bool(failure) for failure in failures], bool)[:, None]
    tied = np.einsum("rci,rij,rcj->rc", fitted.gradient, fitted.covariance, fitted.gradient)
    variance = noise.variance(counts[:, inside]) + tied
    return NetSpectra(energies[inside], np.where(failed, np.nan, counts[:, inside] - fitted.counts),
                      np.where(failed, np.nan, np.sqrt(variance)), failures)


def ratio(first: np.ndarray, first_errors: np.ndarray, second: np.ndarray, second_errors: np.ndarray,
          significance: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of two maps measured independently, and its standard error to first order; NaN where the second map is less than
    `significance` of its standard errors: such a ratio has no mean. Arrays of one shape."""
    first, first_errors, second, second_errors = (np.asarray(one, float) for one in
                                                  (first, first_errors, second, second_errors))
    with np.errstate(all="ignore"):
        known = second > significance * second_errors
        quotient = np.where(known, first / second, np.nan)
        error = np.sqrt(first_errors**2 + quotient**2 * second_errors**2) / second
    return quotient, np.where(known, error, np.nan)
