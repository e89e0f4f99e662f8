"""Which sheet it is, from how strongly its two sublattices scatter: normal distributions with wide tails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from edgetem_nodes.featurizer.micro_scan.conditions import MARGIN, MicroScan
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, CLASSES, HOSTS, OTHERS, Host
from edgetem_nodes.featurizer.micro_scan.linear_imaging import REFERENCE
from edgetem_nodes.featurizer.micro_scan.reduction import DARK_EDGE
from edgetem_nodes.physics.scattering_factors import potential_spectrum

_FREEDOM = 6.0
"""Degrees of freedom of the tails."""


@lru_cache(maxsize=512)
def column_amplitudes(scan: MicroScan) -> np.ndarray:
    """Amplitudes (K, 2), in phase and dark field, of weak columns of every class, in units of the reference atom.

    The atoms of a column scatter in phase. In the phase an atom counts as what a least-squares fit of the reference's shape
    finds, through the transfer of an incoherent image's square; in the dark field as its intensity on the camera. "other" is
    the geometric mean of `hosts.OTHERS`, a vacancy 0. Of the scan high tension, angles and nothing else matter.
    """
    probe = scan.probe
    angles = np.linspace(DARK_EDGE * probe.semi_convergence_angle, scan.outer_angle, 64)
    spatial = np.linspace(0, 2 * probe.semi_convergence_angle / probe.wavelength, 64)
    ratio = spatial / spatial[-1]
    transfer = 2 / np.pi * (np.arccos(ratio) - ratio * np.sqrt(1 - ratio ** 2))
    weight = transfer ** 2 * spatial
    reference = potential_spectrum(REFERENCE, spatial)
    unit = np.trapezoid(weight * reference ** 2, spatial)
    dark_unit = np.trapezoid(potential_spectrum(REFERENCE, angles / probe.wavelength) ** 2 * angles, angles)

    def column(numbers: Sequence[int]) -> tuple[float, float]:
        phase = sum(potential_spectrum(number, spatial) for number in numbers)
        dark = sum(potential_spectrum(number, angles / probe.wavelength) for number in numbers)
        return (float(np.trapezoid(weight * reference * phase, spatial) / unit),
                float(np.trapezoid(dark ** 2 * angles, angles) / dark_unit))

    result = np.zeros((len(CLASSES), 2))
    for index, (_, numbers) in enumerate(CLASSES):
        if numbers == (-1,):
            result[index] = np.exp(np.mean([np.log(column((number,))) for number in OTHERS], axis=0))
        elif numbers:
            result[index] = column(numbers)
    return result


def theory(name: str, amplitudes: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """What `amplitudes.InContext.sheet` would be of weak columns, (4,), sublattice 0 its first.

    Parameters
    ----------
    amplitudes : of `column_amplitudes`; contrast : of `amplitudes.InContext`, what part of a difference is found.
    """
    phase, dark = np.log(amplitudes[BY_NAME[name].classes()]).T
    true = np.array([dark[0] - dark[1], phase[0] - phase[1]])
    return np.array([*(2 * np.arctanh(contrast * np.tanh(true / 2))), np.mean(dark), np.mean(phase)])


@dataclass(frozen=True)
class Seen:
    """What a micro-scan of a sheet looks like: `sheet`, `sheet_errors` and `contrast` of `amplitudes.InContext`."""

    sheet: np.ndarray
    errors: np.ndarray
    contrast: np.ndarray

    def turned(self) -> Seen:
        """With the sublattices in the other order."""
        return Seen(self.sheet * np.array([-1.0, -1.0, 1.0, 1.0]), self.errors, self.contrast)


@dataclass(frozen=True)
class Sheets:
    """How far sheets of the training set look from theory, beyond their sites' scatter: normal distributions, by name.

    Attributes
    ----------
    means : (4,); covariances : (4, 4), flattened.
    """

    means: dict[str, list[float]]
    covariances: dict[str, list[float]]

    @classmethod
    def of(cls, micro_scans: Sequence[tuple[tuple[int, int], Seen, np.ndarray]]) -> Sheets:
        """From micro-scans: classes on sublattices 0 and 1, what they look like, and `column_amplitudes` (K, 2)."""
        means, covariances = {}, {}
        for host in HOSTS:
            first, second = host.classes()
            seen = [(one if pair == (first, second) else one.turned(), amplitudes)
                    for pair, one, amplitudes in micro_scans if pair in ((first, second), (second, first))]
            if first == second:
                seen = seen + [(one.turned(), amplitudes) for one, amplitudes in seen]
            if len(seen) < 8:
                continue
            values = np.array([one.sheet - theory(host.name, amplitudes, one.contrast) for one, amplitudes in seen])
            errors = np.array([one.errors for one, _ in seen])
            # medians, and the half that shows most: a scan of few sites has outliers, and its errors hide what theory lacks
            contrast = np.array([one.contrast[0] for one, _ in seen])
            better = contrast >= np.median(contrast)
            mean = np.median(values[better], axis=0)
            off = values[better] - mean
            size = np.sqrt((off ** 2 / (1.48 * np.median(np.abs(off), axis=0) + 1e-3) ** 2).mean(axis=1))
            kept = size < np.quantile(size, 0.95)
            covariance = np.cov(off[kept].T) - np.diag((errors[better][kept] ** 2).mean(axis=0))
            means[host.name], covariances[host.name] = mean.tolist(), _positive(covariance).ravel().tolist()
        return cls(means, covariances)

    def log_density(self, host: Host, seen: Seen, scan: MicroScan) -> float:
        """Of what was seen, sublattice 0 of the lattice being the sheet's first; -inf where no like sheet was trained on."""
        like = self._like(host)
        if like is None or not np.isfinite(seen.sheet).all():
            return -np.inf
        distance = self.distance(host, seen, scan)
        volume = float(np.linalg.slogdet(self._covariance(like, seen.errors))[1])
        return -0.5 * volume - 0.5 * (_FREEDOM + 4) * float(np.log1p(4 * distance ** 2 / _FREEDOM))

    def distance(self, host: Host, seen: Seen, scan: MicroScan) -> float:
        """Mahalanobis distance of what was seen from the sheet's mean, over that of a normal distribution: about 1."""
        like = self._like(host)
        off = seen.sheet - theory(host.name, column_amplitudes(alike(scan)), seen.contrast) - np.array(self.means[like])
        return float(np.sqrt(off @ np.linalg.solve(self._covariance(like, seen.errors), off) / 4))

    def _covariance(self, like: str, errors: np.ndarray) -> np.ndarray:
        return np.array(self.covariances[like]).reshape(4, 4) + np.diag(errors ** 2)

    def _like(self, host: Host) -> str | None:
        """The sheet itself, or one with as many atoms a column that was trained on and has the same first element."""
        if host.name in self.means:
            return host.name
        atoms = [[len(CLASSES[index][1]) for index in one.classes()] for one in HOSTS]
        own = atoms[HOSTS.index(host)]
        return next((one.name for one, count in zip(HOSTS, atoms, strict=True)
                     if one.name in self.means and count == own and one.sites[0] == host.sites[0]), None)


def _positive(covariance: np.ndarray) -> np.ndarray:
    """The nearest matrix without standard deviations below 0.02: theory is no better."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0.02 ** 2)) @ vectors.T


def alike(scan: MicroScan) -> MicroScan:
    """With what theory does not depend on left out, so that it is computed once."""
    return replace(scan, electrons=1.0, margin=MARGIN, probe=scan.probe.refocused(0.0))
