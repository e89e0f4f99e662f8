"""Aberrations of a micro-scan whose lattice is known: one Gauss-Newton step, columns' amplitudes fitted along.

With the sites known, bright-field segments hold far more than the columns' amplitudes. Signals are linear in amplitudes, and
nearly so in small aberrations; both are fitted together by regularised least squares about no aberrations but the defocus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.amplitudes import bright_design, bright_values, fitted
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.linear_imaging import AtomSignals
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT
from edgetem_nodes.physics.optics import Probe

_COARSE = 0.4e-9
"""To what the defocus is rounded at which derivatives are taken [m]."""
_SPREADS = np.array([0.6e-9, 0.5e-9, 0.5e-9, 21e-9, 21e-9, 3e-6])
"""Standard deviations that are expected [m]: defocus, two-fold astigmatism and coma (two each), spherical aberration."""
_STEP = 0.3
"""Of a derivative, in these."""
_STEPS = 1
_FEWEST = 8
"""Sites within the scan below which nothing is fitted."""
_MOST = 2.0
"""Standard deviations beyond which a fitted aberration is not believed."""


def _aberrated(probe: Probe, values: np.ndarray) -> Probe:
    """The probe with aberrations (6,), as `_SPREADS` has them, added to none but the defocus."""
    return replace(probe, defocus=probe.defocus + values[0], astigmatism=math.hypot(values[1], values[2]),
                   astigmatism_angle=math.atan2(values[2], values[1]) / 2, coma=math.hypot(values[3], values[4]),
                   coma_angle=math.atan2(values[4], values[3]), spherical_aberration=values[5])


@dataclass
class AberrationFit:
    """Fits for one beam and scan; what depends on the defocus alone is kept.

    Attributes
    ----------
    scan : as it is stated; signals_of : what an atom does under a scan, `linear_imaging.atom_signals`.
    """

    scan: MicroScan
    signals_of: Callable[[MicroScan], AtomSignals]

    def __post_init__(self) -> None:
        self._slopes: dict[float, torch.Tensor] = {}

    def _at(self, defocus: float, values: np.ndarray) -> AtomSignals:
        return self.signals_of(replace(self.scan, probe=_aberrated(self.scan.probe.refocused(defocus), values)))

    def _derivatives(self, defocus: float) -> torch.Tensor:
        """Of the segments' transforms, (6, segments, q, q) a standard deviation."""
        key = round(defocus / _COARSE) * _COARSE
        if key not in self._slopes:
            middle = self._at(key, np.zeros(6)).transforms[:BRIGHT]
            self._slopes[key] = torch.stack([(self._at(key, row).transforms[:BRIGHT] - middle) / _STEP
                                             for row in np.diag(_SPREADS) * _STEP])
        return self._slopes[key]

    def __call__(self, atoms: AtomSignals, defocus: float, signals: torch.Tensor, electrons: float,
                 sites: np.ndarray) -> AtomSignals:
        """What an atom does with the aberrations found; as it was where there are too few sites.

        Parameters
        ----------
        atoms : without aberrations but for the defocus [m].
        signals : (channels, n, n); electrons : in a pattern; sites : (n, 2) [m].
        """
        beyond = np.abs(sites).max(axis=1) - self.scan.span / 2 if len(sites) else np.zeros(0)
        near = sites[beyond < self.scan.margin]
        if (beyond < 0).sum() < _FEWEST:
            return atoms
        waves = [torch.from_numpy(np.exp(2j * np.pi * np.outer(near[:, axis], atoms.frequency)).astype(np.complex64))
                 for axis in (0, 1)]
        there = torch.from_numpy(np.exp(-2j * np.pi * np.outer(atoms.line, atoms.frequency)).astype(np.complex64))
        data, values = bright_values(atoms, signals), np.zeros(len(_SPREADS))
        for _ in range(_STEPS):
            design = bright_design(atoms, atoms.at(near))
            fit = fitted(design, data, 1 / electrons, False)
            amplitude, mean = fit.amplitudes, fit.mean
            structure = (waves[0] * amplitude[:, None]).T @ waves[1]
            slopes = (there @ (self._derivatives(defocus) * structure) @ there.T).real.flatten(-2)
            slopes = bright_design(atoms, slopes.permute(1, 2, 0))
            values = values + _step(design * mean, amplitude / mean - 1, slopes, torch.from_numpy(values),
                                    data - design @ amplitude, 1 / electrons)
            values = values.clip(-_MOST, _MOST)
            atoms = self._at(defocus, values * _SPREADS)
        return atoms


def _step(design: torch.Tensor, off: torch.Tensor, slopes: torch.Tensor, values: torch.Tensor, left: torch.Tensor,
          noise: float) -> np.ndarray:
    """Change of aberrations (6,) that, with one of amplitudes, explains what is left (values,): all have a standard deviation
    of 1 about 0, and are `off` and `values` from it."""
    noise = max(noise, float((left ** 2).mean()))
    both = torch.cat([design, slopes], dim=1).double()
    normal = both.T @ both + noise * torch.eye(both.shape[1], dtype=torch.float64)
    start = torch.cat([off.double(), values])
    return torch.linalg.solve(normal, both.T @ left.double() - noise * start)[len(off):].numpy()
