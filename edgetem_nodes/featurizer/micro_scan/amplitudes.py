"""How strongly each column of a known lattice scatters: a regularised least-squares fit of all columns together.

With the sites known, a micro-scan has far more signals than unknowns. Amplitudes are in units of the reference atom; their
prior is that all columns are alike, as widely as their own mean.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MARGIN, MicroScan
from edgetem_nodes.featurizer.micro_scan.linear_imaging import Spread, whitened
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT

FEATURES = 14
"""Numbers that describe a site, see `site_features`."""
_LEAST_NOISE = 0.02
"""Unexplained part of the dark field, over its mean."""


def fitted(design: torch.Tensor, data: torch.Tensor, noise: float, refine: bool) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Amplitudes (sites,), their standard errors and their prior mean.

    Parameters
    ----------
    design : (values, sites); data : (values,); noise : variance of a value, at least.
    refine : whether what is left unexplained is noise too.
    """
    together = design.sum(dim=1)
    mean = max(float(together @ data) / max(float(together @ together), 1e-30), 1e-3)
    normal, right = design.T @ design, design.T @ (data - mean * together)
    for _ in range(2 if refine else 1):
        hold = torch.eye(len(normal)) * noise / (_WIDTH * mean) ** 2
        inverse = torch.linalg.inv((normal + hold).double())
        amplitude = inverse @ right.double()
        left = data.double() - mean * together.double() - design.double() @ amplitude
        noise = max(noise, float((left ** 2).mean()))
    return (amplitude + mean).float(), (inverse.diagonal() * noise).sqrt().float(), mean


_WIDTH = 1.0
"""Standard deviation of the prior of a column's amplitude, over the mean."""


def site_features(spread: Spread, signals: torch.Tensor, electrons: float, scan: MicroScan, sites: np.ndarray,
                  sublattice: np.ndarray) -> np.ndarray:
    """Features (sites, FEATURES) float32: 0 for sites beyond the grid's reach.

    In order: amplitude in the phase, its error; logarithm of that in the dark field, its error over the mean; both over the
    mean of the own sublattice; means of both over the own and over the other sublattice; logarithms of the common amplitude in
    either; logarithm of the dose; distance from the scan's edge [Angstrom].
    """
    result = np.zeros((len(sites), FEATURES), np.float32)
    beyond = np.abs(sites).max(axis=1) - scan.span / 2 if len(sites) else np.zeros(0)
    near = np.flatnonzero(beyond < MARGIN)
    if len(near) < 3:
        return result
    design = spread.at(sites[near])
    vacuum = torch.from_numpy((spread.vacuum / spread.vacuum.sum()).astype(np.float32))[:, None, None]
    bright = design[:BRIGHT] / vacuum.sqrt()
    bright = (bright - bright.mean(dim=1, keepdim=True)).reshape(-1, len(near))
    data = whitened(spread, signals).reshape(BRIGHT, -1)
    data = (data - data.mean(dim=1, keepdim=True)).flatten()
    phase, phase_error, phase_mean = fitted(bright, data, 1 / electrons, True)
    values = signals[BRIGHT].flatten()
    level = max(float(values.mean()), 0.5 / electrons / len(values))
    dark, dark_error, dark_mean = fitted(design[BRIGHT], values, level / electrons + (_LEAST_NOISE * level) ** 2, True)
    log_dark = torch.log(dark.clamp(min=0.02 * dark_mean))
    weight = 1 / (phase_error / phase_mean) ** 2 / (1 + torch.from_numpy(np.maximum(beyond[near], 0) / 1e-10).float() ** 2)
    side = torch.from_numpy(sublattice[near] == 1)
    means = []
    for which in (side, ~side):
        part = weight * which
        total = part.sum().clamp(min=1e-9)
        means.append(((part * phase).sum() / total, (part * dark).sum() / total))
    own = [torch.where(side, means[0][k], means[1][k]) for k in (0, 1)]
    other = [torch.where(side, means[1][k], means[0][k]) for k in (0, 1)]
    safe = [torch.clamp(own[0], min=0.1 * phase_mean), torch.clamp(own[1], min=0.1 * dark_mean)]
    flat = torch.ones(len(near))
    columns = [phase, phase_error / phase_mean, log_dark, dark_error / dark_mean, phase / safe[0], dark / safe[1],
               own[0], torch.log(safe[1]), other[0], torch.log(other[1].clamp(min=0.05 * dark_mean)),
               flat * math.log(phase_mean), flat * math.log(dark_mean), flat * (math.log10(electrons) - 4.5),
               torch.from_numpy(beyond[near] * 1e10).float()]
    result[near] = torch.stack(columns, dim=1).clamp(-8, 12).numpy()
    return result
