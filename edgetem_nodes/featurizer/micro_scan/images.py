"""What the network sees of a micro-scan: phase and dark-field image, what is known of them where, and the noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.aberrations import AberrationFit
from edgetem_nodes.featurizer.micro_scan.amplitudes import site_features
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.linear_imaging import (REFERENCE, AtomSignals, LinearImaging, LinearModel, Spread,
                                                                atom_signals, dark_field, information, noise_ratio,
                                                                point_spread, whitened)
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT, DARK_EDGE
from edgetem_nodes.physics.scattering_factors import annular_cross_section


class Plane(IntEnum):
    """Planes of the network's input.

    PHASE, PHASE_KNOWN : phase image in standard deviations of the prior, and what part of the prior's variance is known.
    DARK, DARK_KNOWN : arcsinh(20 I) / 2 of the dark-field image, and the same.
    INFORMATION : a third of log10 of the Fisher information on a lone sulphur atom.
    NOISE : log10 of the ratio of noise to signal, shifted; LEVEL : log10 of the mean dark field over a sulphur sheet's.
    INSIDE : 1; 0 where images of different size are filled up.
    """

    PHASE = 0
    PHASE_KNOWN = 1
    DARK = 2
    DARK_KNOWN = 3
    INFORMATION = 4
    NOISE = 5
    LEVEL = 6
    INSIDE = 7


INPUTS = len(Plane)
DEFOCUS_STEPS = np.arange(-2, 3) * 1.25e-9
"""What is tried [m] about the defocus that is stated."""
_DENSITY = 0.4e20
_KEPT = 6 * len(DEFOCUS_STEPS)
"""Factors kept, of 4 MiB each for 8 x 8 patterns."""
_FINE = 0.2e-9
"""To what the likeliest defocus is rounded [m]."""


@dataclass(frozen=True)
class Images:
    """Inputs of the network for micro-scans under one beam.

    Attributes
    ----------
    planes : (rows, INPUTS, m, m) float32.
    defocus : (rows,) [m], likeliest of those tried.
    information : (rows, m, m) Fisher information on the amplitude of a lone sulphur atom, see `linear_imaging.information`.
    dark : (rows,) mean electrons in the dark field over those that a sheet of sulphur atoms with the prior's density gives.
    atoms : what an atom does in each row, at its defocus; fit : of aberrations, once the sites are known.
    """

    planes: np.ndarray
    defocus: np.ndarray
    information: np.ndarray
    dark: np.ndarray
    atoms: list[AtomSignals]
    fit: AberrationFit


class Imaging:
    """Makes images of micro-scans of one geometry; what depends on beam and noise alone is kept for the next."""

    def __init__(self, scan: MicroScan) -> None:
        self.scan = scan
        self._spreads: dict[int, Spread] = {}
        self._models: dict[int, LinearModel] = {}
        self._linear: dict[tuple[int, float], LinearImaging] = {}
        self._atoms: dict[float, AtomSignals] = {}
        self._fit = AberrationFit(scan, atom_signals)
        probe = scan.probe
        self._unit = _DENSITY * annular_cross_section(REFERENCE, probe.high_tension, DARK_EDGE * probe.semi_convergence_angle,
                                                      scan.outer_angle)

    def _spread(self, step: int) -> Spread:
        if step not in self._spreads:
            self._spreads[step] = point_spread(self.scan.with_defocus(self.scan.probe.defocus + DEFOCUS_STEPS[step]))
        return self._spreads[step]

    def _imaging(self, step: int, ratio: float) -> LinearImaging:
        if (step, ratio) not in self._linear:
            if len(self._linear) >= _KEPT:
                self._linear.clear()
            if step not in self._models:
                self._models[step] = LinearModel(self._spread(step))
            self._linear[step, ratio] = LinearImaging(self._models[step], ratio)
        return self._linear[step, ratio]

    def _atoms_at(self, defocus: float) -> AtomSignals:
        """At a defocus [m] that is rounded to `_FINE`."""
        if defocus not in self._atoms:
            self._atoms[defocus] = atom_signals(self.scan.with_defocus(defocus))
        return self._atoms[defocus]

    def __call__(self, signals: np.ndarray, electrons: np.ndarray) -> Images:
        """Images of signals (rows, channels, n, n) whose patterns have `electrons` (rows,). A row depends on itself alone."""
        planes, defocus, known, dark, atoms = [], [], [], [], []
        middle = len(DEFOCUS_STEPS) // 2
        for one, number in zip(torch.from_numpy(np.ascontiguousarray(signals, np.float32)), electrons, strict=True):
            ratio = noise_ratio(self._spread(middle), whitened(self._spread(middle), one), float(number))
            evidence = [self._imaging(step, ratio).evidence(whitened(self._spread(step), one))
                        for step in range(len(DEFOCUS_STEPS))]
            best = int(np.argmax(evidence))
            spread, linear = self._spread(best), self._imaging(best, ratio)
            image = linear.image(whitened(spread, one))
            shadow, shadow_known = dark_field(spread, one, float(number))
            facts = information(spread, float(number))
            level = float(one[BRIGHT].mean()) / self._unit
            flat = torch.ones_like(image)
            planes.append(torch.stack([
                image, linear.known, torch.asinh(20 * shadow) / 2, shadow_known,
                torch.from_numpy(np.log10(facts + 0.1).astype(np.float32)) / 3,
                flat * (np.log10(ratio) + 3.5), flat * float(np.log10(level + 1e-3)), flat]))
            defocus.append(round((self.scan.probe.defocus + _summit(evidence)) / _FINE) * _FINE)
            known.append(facts)
            dark.append(level)
            atoms.append(self._atoms_at(defocus[-1]))
        return Images(torch.stack(planes).numpy(), np.array(defocus), np.stack(known), np.array(dark), atoms,
                      self._fit)


def _summit(evidence: list[float]) -> float:
    """Where a parabola through the largest of `DEFOCUS_STEPS` and its neighbours is largest [m]."""
    best = int(np.argmax(evidence))
    if best in (0, len(evidence) - 1):
        return float(DEFOCUS_STEPS[best])
    low, middle, high = evidence[best - 1:best + 2]
    shift = 0.5 * (high - low) / max(2 * middle - high - low, 1e-9)
    return float(DEFOCUS_STEPS[best] + shift * (DEFOCUS_STEPS[1] - DEFOCUS_STEPS[0]))


def site_features_of(images: Images, row: int, signals: torch.Tensor, electrons: float, scan: MicroScan, sites: np.ndarray,
                     sublattice: np.ndarray) -> np.ndarray:
    """`amplitudes.site_features` of a row, with its aberrations fitted."""
    atoms = images.fit(images.atoms[row], float(images.defocus[row]), signals, electrons, sites)
    return site_features(atoms, signals, electrons, scan, sites, sublattice)
