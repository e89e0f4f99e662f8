"""What the network sees of a micro-scan: phase and dark-field image, what is known of them where, and the noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.linear_imaging import (REFERENCE, LinearImaging, Spread, dark_field, information,
                                                                noise_ratio, point_spread, whitened)
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
_KEPT = 4 * len(DEFOCUS_STEPS)
"""Linear maps kept, of 10 MiB each for 8 x 8 patterns."""


@dataclass(frozen=True)
class Images:
    """Inputs of the network for micro-scans under one beam.

    Attributes
    ----------
    planes : (rows, INPUTS, m, m) float32.
    defocus : (rows,) [m], likeliest of those tried.
    information : (rows, m, m) Fisher information on the amplitude of a lone sulphur atom, see `linear_imaging.information`.
    dark : (rows,) mean electrons in the dark field over those that a sheet of sulphur atoms with the prior's density gives.
    spreads : of each row, at its defocus.
    """

    planes: np.ndarray
    defocus: np.ndarray
    information: np.ndarray
    dark: np.ndarray
    spreads: list[Spread]


class Imaging:
    """Makes images of micro-scans of one geometry; what depends on beam and noise alone is kept for the next."""

    def __init__(self, scan: MicroScan) -> None:
        self.scan = scan
        self._spreads: dict[int, Spread] = {}
        self._linear: dict[tuple[int, float], LinearImaging] = {}
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
            self._linear[step, ratio] = LinearImaging(self._spread(step), ratio)
        return self._linear[step, ratio]

    def __call__(self, signals: np.ndarray, electrons: np.ndarray) -> Images:
        """Images of signals (rows, channels, n, n) whose patterns have `electrons` (rows,). A row depends on itself alone."""
        planes, defocus, known, dark, spreads = [], [], [], [], []
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
            defocus.append(self.scan.probe.defocus + DEFOCUS_STEPS[best])
            known.append(facts)
            dark.append(level)
            spreads.append(spread)
        return Images(torch.stack(planes).numpy(), np.array(defocus), np.stack(known), np.array(dark), spreads)
