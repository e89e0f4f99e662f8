"""Phase and dark-field images of a micro-scan on a fine grid, with what is known of them where.

For a weak phase the signal of a segment is linear in the phase: behind a point of phase integral F [rad m^2] at u from the
probe's centre it changes by -(2 F / L^2) Im(psi(u) psi_k*(u)), where psi is the probe, psi_k that part of it which goes
through the segment, and L the edge of the window (first Born approximation; Rose, Ultramicroscopy 2, 251, 1977). The image
is the posterior mean of independent atoms on every point of the grid (a Gaussian process), so it needs no periodicity, takes
probes farther apart than the image's resolution, and fades where no probe has been. The evidence of the same model tells the
defocus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy.fft
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL, SOURCE_SIZE, MicroScan
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT, DARK_EDGE, sampled_detectors
from edgetem_nodes.physics.electrons import interaction_constant
from edgetem_nodes.physics.optics import FWHM
from edgetem_nodes.physics.scattering_factors import annular_cross_section, potential_spectrum

REFERENCE = 16
"""Atomic number of the atom that is the unit of both images."""
_DENSITY = 0.4e20
"""Atoms [1/m^2] that the prior expects."""
_SCALE = PIXEL * math.sqrt(_DENSITY)
_UNEXPLAINED = 0.5
"""What part of the signal's variance the linear model leaves unexplained: strong phases, aberrations, misplaced probes."""
_DARK_FLOOR = 0.02
"""The same over the mean of the dark field."""
_OFFSET = 0.05
"""By how much a segment's constant may be wrong, over its signal: misaligned detectors."""
_DISPLACEMENT = 0.07e-10
_SAMPLING = 0.27e-10


@dataclass(frozen=True)
class AtomSignals:
    """What an atom of the reference element adds to every signal, wherever it is.

    Attributes
    ----------
    vacuum : (segments,) signals without specimen.
    transforms : (segments + 1, q, q) complex64, of bright and dark, at frequencies (q,) [1/m].
    line : (n,) coordinate of the probes [m].
    source_size : full width at half maximum of the source's image [m].
    """

    vacuum: np.ndarray
    transforms: torch.Tensor
    frequency: np.ndarray
    line: np.ndarray
    source_size: float

    def with_source(self, size: float) -> AtomSignals:
        """The same with another size of the source's image [m]."""
        return replace(self, transforms=self.transforms * self._wider(size), source_size=size)

    def dark(self, sizes: Sequence[float]) -> AtomSignals:
        """Of the dark field alone, (sizes, ...), with these sizes of the source's image [m]."""
        return replace(self, transforms=torch.stack([self.transforms[-1] * self._wider(size) for size in sizes]))

    def _wider(self, size: float) -> torch.Tensor:
        more = (size ** 2 - self.source_size ** 2) / FWHM ** 2
        square = torch.from_numpy((self.frequency[:, None] ** 2 + self.frequency ** 2).astype(np.float32))
        return torch.exp(-2 * np.pi ** 2 * more * square)

    def at(self, places: np.ndarray) -> torch.Tensor:
        """Of atoms at places (sites, 2) [m]: (segments + 1, n * n, sites) float32."""
        probes = _phases(-self.line, self.frequency)
        waves = [_phases(places[:, axis], self.frequency)[:, None] * probes for axis in (0, 1)]
        half = torch.einsum("syq,cqr->csyr", waves[0], self.transforms)
        values = torch.einsum("csyr,sxr->cyxs", half, waves[1]).real
        return values.reshape(len(self.transforms), len(self.line) ** 2, len(places))


def _phases(places: np.ndarray, frequency: np.ndarray) -> torch.Tensor:
    """exp(2 pi i x q), complex64 (places, q)."""
    return torch.from_numpy(np.exp(2j * np.pi * np.outer(places, frequency)).astype(np.complex64))


@dataclass(frozen=True)
class Spread:
    """Point-spread functions of an atom of the reference element on the grid.

    Attributes
    ----------
    bright, dark : at every point of the grid, (channels, n, m, n, m) float32: probe y, grid y, probe x, grid x.
    atoms : the same anywhere.
    """

    bright: torch.Tensor
    dark: torch.Tensor
    atoms: AtomSignals

    @property
    def vacuum(self) -> np.ndarray:
        """Signals (segments,) without specimen."""
        return self.atoms.vacuum

    @cached_property
    def power(self) -> torch.Tensor:
        """Squares of `bright` summed over the probes, over the signal without specimen, (channels, m, m)."""
        return (self.bright ** 2).sum(dim=(1, 3)) / torch.from_numpy(self.vacuum.astype(np.float32))[:, None, None]

    @cached_property
    def shadows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`dark` as a matrix (n n, m m) in units of the prior, and its product with its transpose."""
        atoms = _columns(self.dark) * (math.sqrt(_DENSITY) * PIXEL)
        return atoms, atoms @ atoms.T


def atom_signals(scan: MicroScan) -> AtomSignals:
    """How an atom of the reference element changes every signal, and the signals without it."""
    probe, line = scan.probe, scan.line()
    length = max(20e-10, 2 * _farthest(scan) + 2e-10)
    step = probe.wavelength / length
    reach = probe.reach(step, 0.4 * step)
    aperture = probe.aperture(step, 0.4 * step)
    samples = max(4 * reach + 4, math.ceil(length / _SAMPLING))
    samples += samples % 2
    masks = _segments(step, reach, probe.semi_convergence_angle, scan.outer_angle)
    order = np.arange(-reach, reach + 1) % samples
    spectra = np.zeros((BRIGHT + 1, samples, samples), np.complex64)
    spectra[:, order[:, None], order] = np.concatenate([masks * aperture, aperture[None]])
    waves = scipy.fft.ifft2(spectra) * samples ** 2
    whole = waves[-1]
    bright = -2 / length ** 2 * np.imag(whole * np.conj(waves[:-1]))
    dark = np.abs(whole) ** 2 / length ** 2
    frequency = np.fft.fftfreq(samples, length / samples)
    kept = np.abs(frequency) <= 2.05 * probe.semi_convergence_angle / probe.wavelength + 1 / length
    radius = np.hypot(frequency[kept][:, None], frequency[kept][None, :])
    source = probe.source_size or SOURCE_SIZE
    blur = np.exp(-2 * (np.pi * radius) ** 2 * ((source / FWHM) ** 2 + _DISPLACEMENT ** 2)) / samples ** 2
    phase = interaction_constant(probe.high_tension) * potential_spectrum(REFERENCE, radius)
    cross_section = annular_cross_section(REFERENCE, probe.high_tension, DARK_EDGE * probe.semi_convergence_angle,
                                          scan.outer_angle)
    changes = scipy.fft.fft2(np.concatenate([bright, dark[None]]))[:, kept][:, :, kept]
    changes[:-1] *= blur * phase
    changes[-1] *= blur * cross_section
    vacuum = (masks * np.abs(aperture) ** 2).sum(axis=(1, 2))
    return AtomSignals(vacuum, torch.from_numpy(changes.astype(np.complex64)), frequency[kept], line, source)


@lru_cache(maxsize=4)
def _segments(step: float, reach: int, semi_convergence_angle: float, outer_angle: float) -> np.ndarray:
    return sampled_detectors(step, reach, semi_convergence_angle, outer_angle)[:BRIGHT]


def _farthest(scan: MicroScan) -> float:
    """Of a point of the grid from a probe, along an axis [m]."""
    return float(scan.grid()[-1] - scan.line()[0])


def point_spread(scan: MicroScan) -> Spread:
    """How an atom of the reference element at every point of the grid changes every signal."""
    atoms, grid = atom_signals(scan), scan.grid()
    offsets = (grid[None, :] - atoms.line[:, None]).ravel()
    waves = torch.from_numpy(np.exp(2j * np.pi * np.outer(offsets, atoms.frequency)).astype(np.complex64))
    half = waves @ atoms.transforms
    # the real part alone, without the imaginary one
    values = half.real @ waves.real.T - half.imag @ waves.imag.T
    values = values.reshape(-1, scan.points, len(grid), scan.points, len(grid))
    return Spread(values[:-1], values[-1], atoms)


def _columns(values: torch.Tensor) -> torch.Tensor:
    """(..., n, m, n, m) as a matrix (... n n, m m)."""
    channels = values.reshape(-1, *values.shape[-4:]).permute(0, 1, 3, 2, 4)
    return channels.reshape(-1, values.shape[-1] ** 2).contiguous()


class LinearModel:
    """Covariance of micro-scans' signals under one beam, by the prior: what all ratios of noise to signal have in common."""

    def __init__(self, spread: Spread) -> None:
        points = spread.bright.shape[1]
        vacuum = spread.vacuum.astype(np.float32)
        self.size = spread.bright.shape[-1]
        self.prior = _columns(spread.bright) * torch.from_numpy(np.repeat(_SCALE / np.sqrt(vacuum), points ** 2))[:, None]
        self.covariance = self.prior @ self.prior.T
        for channel in range(BRIGHT):
            part = slice(channel * points ** 2, (channel + 1) * points ** 2)
            self.covariance[part, part] += _OFFSET ** 2 * float(vacuum[channel])


class LinearImaging:
    """Images of micro-scans under one beam, for one ratio of noise to signal; see the module's description."""

    def __init__(self, model: LinearModel, ratio: float) -> None:
        """Prepare; `ratio` is the variance of noise over that of the prior, both of signals in units of counting noise."""
        self._model = model
        covariance = model.covariance.clone()
        covariance.diagonal().add_(ratio)
        self._factor = torch.linalg.cholesky(covariance)
        self._log_determinant = 2 * float(torch.log(self._factor.diagonal()).sum())

    @cached_property
    def known(self) -> torch.Tensor:
        """Part of the prior's variance that the data takes away, (m, m)."""
        solved = torch.linalg.solve_triangular(self._factor, self._model.prior, upper=False)
        return (solved ** 2).sum(dim=0).clamp(0, 1).reshape(self._model.size, self._model.size)

    def image(self, data: torch.Tensor) -> torch.Tensor:
        """Phase image (m, m), in standard deviations of the prior, of whitened signals (values,)."""
        solved = torch.cholesky_solve(data[:, None], self._factor)[:, 0]
        return (solved @ self._model.prior).reshape(self._model.size, self._model.size)

    def evidence(self, data: torch.Tensor) -> float:
        """Log evidence of whitened signals (values,), but for a constant, with the prior's scale at its likeliest."""
        residual = torch.linalg.solve_triangular(self._factor, data[:, None], upper=False)
        return -0.5 * len(data) * math.log(float((residual ** 2).sum())) - 0.5 * self._log_determinant


def whitened(spread: Spread | AtomSignals, signals: torch.Tensor) -> torch.Tensor:
    """What bright-field signals (channels, n, n) differ from those without specimen, in counting noise of one electron."""
    bright = signals[:BRIGHT] / signals[:BRIGHT].sum(dim=0).mean()
    vacuum = torch.from_numpy((spread.vacuum / spread.vacuum.sum()).astype(np.float32))[:, None, None]
    return ((bright - vacuum) / vacuum.sqrt()).flatten()


def noise_ratio(spread: Spread, data: torch.Tensor, electrons: float) -> float:
    """Variance of noise over that of the prior, of whitened signals, rounded to a power of four: what `LinearImaging` takes."""
    by_channel = data.reshape(BRIGHT, -1)
    variance = float(((by_channel - by_channel.mean(dim=1, keepdim=True)) ** 2).mean())
    points = by_channel.shape[1]
    noise = (1 - 1 / points) / electrons
    signal = max(variance - noise, 0.02 * noise)
    power = float(spread.power.sum()) / points / BRIGHT * _SCALE ** 2
    return 4.0 ** round(math.log(noise / signal * power + _UNEXPLAINED * power, 4))


def dark_field(spread: Spread, signals: torch.Tensor, electrons: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark-field image and what part of it is known, both (m, m), of signals (channels, n, n)."""
    (atoms, squares), size = spread.shadows, spread.dark.shape[-1]
    values = signals[BRIGHT].flatten()
    mean = max(float(values.mean()), 0.5 / electrons / len(values))
    noise = mean / electrons + (_DARK_FLOOR * mean) ** 2
    covariance = squares / noise + (2 * mean) ** 2 / noise
    covariance.diagonal().add_(1.0)
    factor = torch.linalg.cholesky(covariance)
    solved = torch.linalg.solve_triangular(factor, atoms / math.sqrt(noise), upper=False)
    data = torch.linalg.solve_triangular(factor, (values[:, None] - mean) / math.sqrt(noise), upper=False)
    return (solved.T @ data).reshape(size, size), (solved ** 2).sum(dim=0).clamp(0, 1).reshape(size, size)


def information(spread: Spread, electrons: float) -> np.ndarray:
    """Fisher information (m, m) on the amplitude of a reference atom alone, from the bright field's counting noise."""
    return (spread.power.sum(dim=0) * electrons).numpy()
