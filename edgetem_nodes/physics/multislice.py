"""Multislice: probe waves, transmission functions, Fresnel propagation (Kirkland, Advanced Computing in EM, chapter 6).

Waves are complex64 tensors (..., rows, columns) on a periodic grid with element (0, 0) at its corner, and sum of |wave|^2 is
the fraction of the beam in either space, since all transforms are unitary. Angles are wavelength times spatial frequency.
"""

from __future__ import annotations

import numpy as np
import torch

from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.fourier import fft2, ifft, ifft2
from edgetem_nodes.physics.optics import Probe

CUTOFF, TAPER = 2 / 3, 0.01
"""Band limit over the Nyquist frequency, and width of its edge over the sampling frequency: those of abTEM."""
_FEW = 12
"""Up to this reach of the aperture, in samples, a sum of plane waves is faster than a transform."""


def clear_angle(step: float, high_tension: float) -> float:
    """Largest angle [rad] that the band limit leaves as it is on a grid of `step` [m]."""
    return (CUTOFF / 2 - TAPER) * wavelength(high_tension) / step


def frequencies(samples: int, step: float) -> np.ndarray:
    """Spatial frequencies (samples,) [1/m] of a grid in the order of the transform."""
    return np.fft.fftfreq(samples, step)


def band_limit(shape: tuple[int, int], step: float, device: str | torch.device = "cpu") -> torch.Tensor:
    """Aperture at two thirds of the Nyquist frequency with a cosine edge, float32 `shape`, order of the transform."""
    radius = np.hypot(frequencies(shape[0], step)[:, None], frequencies(shape[1], step)[None, :]) * step
    edge = 0.5 * (1 + np.cos(np.pi * (radius - CUTOFF / 2 + TAPER) / TAPER))
    aperture = np.where(radius > CUTOFF / 2, 0.0, np.where(radius > CUTOFF / 2 - TAPER, edge, 1.0))
    return torch.from_numpy(aperture.astype(np.float32)).to(device)


def transmission(potential: torch.Tensor, step: float, high_tension: float) -> torch.Tensor:
    """Band-limited exp(i sigma V), complex64, of projected potentials [V m], float32 (..., rows, columns)."""
    phase = potential * interaction_constant(high_tension)
    wave = torch.polar(torch.ones_like(phase), phase)
    return ifft2(fft2(wave) * band_limit(tuple(potential.shape[-2:]), step, potential.device))


def propagator(shape: tuple[int, int], step: float, distance: float, high_tension: float,
               device: str | torch.device = "cpu", limited: bool = True) -> torch.Tensor:
    """Fresnel propagator over `distance` [m], times the band limit if `limited`, complex64 `shape`, transform's order."""
    square = frequencies(shape[0], step)[:, None] ** 2 + frequencies(shape[1], step)[None, :] ** 2
    wave = np.exp(-1j * np.pi * wavelength(high_tension) * distance * square)
    result = torch.from_numpy(wave.astype(np.complex64)).to(device)
    return result * band_limit(shape, step, device) if limited else result


class ProbeWaves:
    """Probe waves on a square window at any sub-pixel position: the aperture is computed once, and only its columns are."""

    def __init__(self, probe: Probe, samples: int, step: float, device: str | torch.device = "cpu",
                 blur: float = 0.0) -> None:
        """Prepare a window of `samples` by `samples` of `step` [m]; `blur` [rad] is of the aperture's edge.

        Raises
        ------
        ValueError : the sampling is not positive, or the aperture is beyond its Nyquist limit.
        """
        if not step > 0:
            raise ValueError(f"sampling {step * 1e10:.4g} Angstrom is not positive")
        angle_step = probe.wavelength / (samples * step)
        self.samples, self.step, self.reach = samples, step, probe.reach(angle_step, blur)
        if 2 * self.reach >= samples:
            raise ValueError(f"semi-convergence angle {probe.semi_convergence_angle * 1e3:.4g} mrad is beyond the Nyquist "
                             f"limit of the sampling, {samples // 2 * angle_step * 1e3:.4g} mrad: sample more finely")
        self._order = np.arange(-self.reach, self.reach + 1)
        # (x, y), so that every transform below runs along the last axis.
        self._wave = torch.from_numpy(np.ascontiguousarray(probe.aperture(angle_step, blur).T.astype(np.complex64))).to(device)
        self._plane_waves = None
        if self.reach <= _FEW:
            waves = np.exp(2j * np.pi / samples * np.arange(samples)[:, None] * self._order) / np.sqrt(samples)
            self._plane_waves = torch.from_numpy(waves.astype(np.complex64)).to(device)

    def __call__(self, centre: np.ndarray) -> torch.Tensor:
        """Waves (n, samples, samples) of probes centred at (n, 2) samples, (y, x), from the window's corner."""
        centre = np.asarray(centre, float).reshape(-1, 2)
        ramp = np.exp(-2j * np.pi / self.samples * self._order * centre[:, :, None]).astype(np.complex64)
        ramp = torch.from_numpy(ramp).to(self._wave.device)
        shifted = self._wave * ramp[:, 1, :, None] * ramp[:, 0, None, :]
        if self._plane_waves is not None:
            return self._plane_waves @ (self._plane_waves @ shifted).mT
        columns = ifft(self._padded(shifted), -1)
        return ifft(self._padded(columns.mT), -1)

    def _padded(self, values: torch.Tensor) -> torch.Tensor:
        """Frequencies -reach..reach along the last axis among zeros, in the order of the transform."""
        n, reach = self.samples, self.reach
        padded = torch.zeros((*values.shape[:-1], n), dtype=values.dtype, device=values.device)
        padded[..., :reach + 1], padded[..., n - reach:] = values[..., reach:], values[..., :reach]
        return padded


def probe_waves(probe: Probe, samples: int, step: float, centre: np.ndarray,
                device: str | torch.device = "cpu") -> torch.Tensor:
    """Waves (n, samples, samples) of probes centred at (n, 2) [samples], (y, x): `ProbeWaves` made and used once."""
    return ProbeWaves(probe, samples, step, device)(centre)


def cut(layer: torch.Tensor, corners: np.ndarray, samples: int) -> torch.Tensor:
    """Windows (n, samples, samples) of a layer (rows, columns) with their corners at (n, 2) int, (row, column)."""
    if len(corners) == 1:
        row, column = corners[0]
        return layer[None, row:row + samples, column:column + samples]
    span = torch.arange(samples, device=layer.device)
    row, column = torch.from_numpy(np.asarray(corners)).to(layer.device).T
    return layer[row[:, None, None] + span[:, None], column[:, None, None] + span[None, :]]


def exit_waves(waves: torch.Tensor, transmissions: torch.Tensor, corners: np.ndarray, step_on: torch.Tensor) -> torch.Tensor:
    """Waves (n, N, N) behind the last slice.

    Parameters
    ----------
    waves : (n, N, N) at the entrance surface; overwritten.
    transmissions : (slices, rows, columns), of which probe i meets the window with its corner at corners[i].
    corners : (n, 2) int, (row, column); zeros where the window is the whole layer.
    step_on : (N, N) propagator from one slice to the next; the last slice is not followed by one.
    """
    samples = waves.shape[-1]
    for number, layer in enumerate(transmissions):
        if number:
            waves = ifft2(fft2(waves, True).mul_(step_on), True)
        waves.mul_(cut(layer, corners, samples))
    return waves
