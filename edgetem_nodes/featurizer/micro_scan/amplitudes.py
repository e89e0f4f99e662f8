"""How strongly each column of a known lattice scatters: a regularised least-squares fit of all columns together.

With the sites known, a micro-scan has far more signals than unknowns. Amplitudes are in units of the reference atom; their
prior is that all columns are alike, as widely as their own mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.linear_imaging import AtomSignals, whitened
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT

FEATURES = 16
"""Numbers that describe a site, see `site_features`."""
CONTEXT = 11
"""Numbers that describe it beside the others, see `InContext`."""
_LEAST_NOISE = 0.02
"""Unexplained part of the dark field, over its mean."""


@dataclass(frozen=True)
class Fit:
    """Amplitudes of all columns.

    Attributes
    ----------
    amplitudes, errors : (sites,) with standard errors; mean : of the prior.
    inverse : (sites, sites) of the normal equations; hold : what the prior adds to their diagonal.
    """

    amplitudes: torch.Tensor
    errors: torch.Tensor
    mean: float
    inverse: torch.Tensor
    hold: float

    def response(self, pattern: torch.Tensor) -> torch.Tensor:
        """What is found (sites,) of a pattern (sites,) of amplitudes about the mean: the prior makes it less."""
        return pattern - self.hold * (self.inverse @ pattern.double()).float()


def fitted(design: torch.Tensor, data: torch.Tensor, noise: float, refine: bool) -> Fit:
    """Amplitudes by regularised least squares.

    Parameters
    ----------
    design : (values, sites); data : (values,); noise : variance of a value, at least.
    refine : whether what is left unexplained is noise too.
    """
    together = design.sum(dim=1)
    mean = max(float(together @ data) / max(float(together @ together), 1e-30), 1e-3)
    normal, right = design.T @ design, design.T @ (data - mean * together)
    for _ in range(2 if refine else 1):
        hold = noise / (_WIDTH * mean) ** 2
        inverse = torch.linalg.inv((normal + hold * torch.eye(len(normal))).double())
        amplitude = inverse @ right.double()
        left = data.double() - mean * together.double() - design.double() @ amplitude
        noise = max(noise, float((left ** 2).mean()))
    return Fit((amplitude + mean).float(), (inverse.diagonal() * noise).sqrt().float(), mean, inverse, hold)


_SOURCES = (0.1e-10, 0.3e-10, 0.45e-10, 0.6e-10, 0.75e-10, 0.9e-10)
_ALIKE = 0.7
"""Deviation of a column's dark field from the mean, over the mean, where the source is sought."""
_WIDTH = 1.0
"""Standard deviation of the prior of a column's amplitude, over the mean."""


def bright_design(atoms: AtomSignals, changes: torch.Tensor) -> torch.Tensor:
    """Changes (channels, n n, unknowns) of the segments' signals in units of one electron's counting noise, less their means
    over the probes: (segments n n, unknowns)."""
    vacuum = torch.from_numpy((atoms.vacuum / atoms.vacuum.sum()).astype(np.float32))[:, None, None]
    bright = changes[:BRIGHT] / vacuum.sqrt()
    return (bright - bright.mean(dim=1, keepdim=True)).flatten(0, 1)


def bright_values(atoms: AtomSignals, signals: torch.Tensor) -> torch.Tensor:
    """Signals (channels, n, n) in the same units, (segments n n,)."""
    data = whitened(atoms, signals).reshape(BRIGHT, -1)
    return (data - data.mean(dim=1, keepdim=True)).flatten()


def likeliest_source(atoms: AtomSignals, dark: torch.Tensor, noise: float, sites: np.ndarray) -> float:
    """Size of the source's image [m] by the dark field (values,): root of the mean square under the evidence of columns alike.

    Parameters
    ----------
    noise : variance of a value; sites : (n, 2) [m].
    """
    widths, evidence = np.array(_SOURCES), []
    for design in atoms.dark(_SOURCES).at(sites).double():
        together = design.sum(dim=1)
        mean = max(float(together @ dark.double()) / max(float(together @ together), 1e-30), 1e-3)
        covariance = (_WIDTH * mean * _ALIKE) ** 2 * design @ design.T
        covariance.diagonal().add_(noise)
        left = (dark.double() - mean * together)[:, None]
        factor = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(factor, left, upper=False)
        evidence.append(float(-0.5 * (solved ** 2).sum() - torch.log(factor.diagonal()).sum()))
    weight = np.exp(np.array(evidence) - max(evidence))
    return float(np.sqrt((weight * widths ** 2).sum() / weight.sum()))


def site_features(atoms: AtomSignals, signals: torch.Tensor, electrons: float, scan: MicroScan, sites: np.ndarray,
                  sublattice: np.ndarray) -> np.ndarray:
    """Features (sites, FEATURES) float32: 0 for sites beyond the grid's reach.

    In order: amplitude in the phase, its error; logarithm of that in the dark field, its error over the mean; both over the
    mean of the own sublattice; means of both over the own and over the other sublattice; logarithms of the common amplitude in
    either; logarithm of the dose; distance from the scan's edge [Angstrom]; what part of a difference between the sublattices
    is found, in the phase and in the dark field.
    """
    result = np.zeros((len(sites), FEATURES), np.float32)
    beyond = np.abs(sites).max(axis=1) - scan.span / 2 if len(sites) else np.zeros(0)
    near = np.flatnonzero(beyond < scan.margin)
    if len(near) < 3:
        return result
    values = signals[BRIGHT].flatten()
    level = max(float(values.mean()), 0.5 / electrons / len(values))
    noise = level / electrons + (_LEAST_NOISE * level) ** 2
    if not scan.probe.source_size:
        atoms = atoms.with_source(likeliest_source(atoms, values, noise, sites[near]))
    design = atoms.at(sites[near])
    by_phase = fitted(bright_design(atoms, design), bright_values(atoms, signals), 1 / electrons, True)
    phase, phase_error, phase_mean = by_phase.amplitudes, by_phase.errors, by_phase.mean
    by_dark = fitted(design[BRIGHT], values, noise, True)
    dark, dark_error, dark_mean = by_dark.amplitudes, by_dark.errors, by_dark.mean
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
    contrast = torch.where(side, 1.0, -1.0)
    columns = [phase, phase_error / phase_mean, log_dark, dark_error / dark_mean, phase / safe[0], dark / safe[1],
               own[0], torch.log(safe[1]), other[0], torch.log(other[1].clamp(min=0.05 * dark_mean)),
               flat * math.log(phase_mean), flat * math.log(dark_mean), flat * (math.log10(electrons) - 4.5),
               torch.from_numpy(beyond[near] * 1e10).float(),
               *(contrast * fit.response(contrast) for fit in (by_phase, by_dark))]
    result[near] = torch.stack(columns, dim=1).clamp(-8, 12).numpy()
    return result


def phase_precision(features: np.ndarray) -> np.ndarray:
    """One over the variance (n,) of amplitudes in the phase that the data alone leave, of `site_features`; 0: none."""
    features = features.astype(float)
    mean = np.exp(features[:, 10])
    error = features[:, 1] * mean
    known = error > 0
    return np.where(known, np.maximum(1 / np.where(known, error, 1.0) ** 2 - 1 / (_WIDTH * mean) ** 2, 0.0), 0.0)


@dataclass(frozen=True)
class InContext:
    """Sites of one micro-scan beside each other.

    Attributes
    ----------
    sites : (n, CONTEXT) float32, how each differs from its sublattice; 0 where there are no features.
    side : (n,) 0 or 1, the sublattice; the first site with features is on 0.
    sheet : (4,) logarithms: of sublattice 0 over 1 in the dark field and in the phase, and their geometric means;
        sheet_errors : (4,) standard errors of medians, from the scatter of the sites.
    contrast : (2,) what part of a difference between the sublattices is found, in the dark field and in the phase.
    """

    sites: np.ndarray
    side: np.ndarray
    sheet: np.ndarray
    sheet_errors: np.ndarray
    contrast: np.ndarray


def in_context(features: np.ndarray) -> InContext:
    """Compare the sites of one micro-scan with each other.

    A site is its amplitudes over the medians of its sublattice, how many errors that is from 1, both errors, the scatter of all
    amplitudes about their medians, its distance from the scan's edge and the dose. Nothing in it tells one micro-scan from
    another, which a network would learn by heart.

    Parameters
    ----------
    features : (n, FEATURES) of `site_features`. Sites of a sublattice share its means, by which they are told apart.
    """
    result, side = np.zeros((len(features), CONTEXT), np.float32), np.zeros(len(features), int)
    there = np.flatnonzero((features != 0).any(axis=1))
    if not len(there):
        return InContext(result, side, np.full(4, np.nan), np.full(4, np.nan), np.full(2, np.nan))
    features = features[there].astype(np.float32)
    phase, dark, beyond = features[:, 0], np.exp(features[:, 2]), features[:, 13]
    other = ~(np.isclose(features[:, 6], features[0, 6], rtol=2e-3) & np.isclose(features[:, 7], features[0, 7], atol=4e-3))
    well = beyond < max(0.3, float(np.quantile(beyond, 0.3)))
    medians, off, counts = np.zeros((2, 2)), [[], []], np.zeros(2)
    for number in (0, 1):
        here = other == bool(number)
        chosen = here & well if (here & well).any() else here if here.any() else np.ones(len(here), bool)
        counts[number] = chosen.sum()
        for kind, values in enumerate((phase, dark)):
            medians[number, kind] = max(float(np.median(values[chosen])), 1e-3)
            off[kind].append(np.abs(values[chosen] / medians[number, kind] - 1))
    # of a normal distribution, and never less than a few sites can tell
    scatter = np.array([max(1.48 * float(np.median(np.concatenate(off[kind]))), least)
                        for kind, least in ((0, 0.03), (1, 0.04))])
    ratio = np.stack([phase, dark], axis=1) / medians[other.astype(int)]
    own = np.clip(features[:, [1, 3]], 0.0, 5.0)
    result[there] = np.concatenate([
        np.clip(ratio, -1, 6), np.log(np.clip(ratio[:, 1:], 0.05, 20)),
        np.clip((ratio - 1) / np.hypot(scatter, 0.7 * own), -12, 20), own,
        np.broadcast_to(scatter.clip(0, 2), ratio.shape), features[:, 12:14]], axis=1)
    side[there] = other
    asymmetry, mean = np.log(medians[0] / medians[1]), np.log(medians).mean(axis=0)
    # of a normal distribution's median
    errors = 1.25 * scatter * np.sqrt((1 / np.maximum(counts, 1)).sum())
    return InContext(result, side, np.array([asymmetry[1], asymmetry[0], mean[1], mean[0]]),
                     np.array([errors[1], errors[0], errors[1] / 2, errors[0] / 2]),
                     np.median(features[well] if well.any() else features, axis=0)[[15, 14]].clip(0.02, 1.0))
