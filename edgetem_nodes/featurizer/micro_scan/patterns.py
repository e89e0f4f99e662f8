"""Detector signals of micro-scans over thin pieces of specimen, fast: one slice, windows cut out of one transmission function.

The physics is that of `physics.diffraction` with method single_slice: free atoms (`physics.scattering_factors`) with
Debye-Waller factors, exp(i sigma V), a probe wave at every position. Patterns are never stored: their intensity goes
straight to the detectors.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.specimens import Piece
from edgetem_nodes.physics.electrons import interaction_constant
from edgetem_nodes.physics.fourier import fast_length, fft2, ifft2, intensity
from edgetem_nodes.physics.multislice import ProbeWaves
from edgetem_nodes.physics.optics import FWHM, Probe
from edgetem_nodes.physics.scattering_factors import potential_spectrum
from edgetem_nodes.physics.tiles import resampled

_WINDOW = 15e-10
"""Least edge [m] of the square in which a probe is computed: twice the radius of one 5 nm out of focus at 30 mrad, and some."""
_RIM = 1e-10
_FINER = 2
_SOURCE_POINTS = 3
_BATCH = 64


class DetectorSignals:
    """Expected signals of detectors for one beam, scan and set of detectors; the aberrations may change from piece to piece."""

    def __init__(self, scan: MicroScan, widest_angle: float) -> None:
        """Prepare for patterns that are seen up to `widest_angle` [rad]."""
        probe = scan.probe
        self.scan = scan
        self.angle_step = probe.wavelength / _WINDOW
        self.blur = 0.3 * self.angle_step
        self._last = math.ceil(widest_angle / self.angle_step - 1e-6)
        reach = probe.reach(self.angle_step, self.blur)
        self.samples = fast_length(2 * (self._last + reach + 1))
        self.step = _WINDOW / self.samples
        self.half = scan.span / 2 + _WINDOW / 2 + _RIM
        """Half of the edge of the piece of specimen that is needed [m]."""
        self._box = fast_length(math.ceil(2 * self.half / self.step))
        self._fine = self._box * _FINER
        self._constant = interaction_constant(probe.high_tension)
        self._factors: dict[int, np.ndarray] = {}
        frequency = np.fft.fftfreq(self._fine, self.step / _FINER)
        self._frequency = frequency
        self._radius = np.hypot(frequency[:, None], frequency[None, :])

    @property
    def reach(self) -> int:
        """Samples of the diffraction plane, `angle_step` apart, either side of the axis."""
        return self.samples // 2 - 1

    def __call__(self, piece: Piece, probe: Probe, positions: np.ndarray, masks: torch.Tensor, turn: float = 0.0) -> np.ndarray:
        """Fractions of the beam (positions, detectors), float64.

        Parameters
        ----------
        probe : as it truly is; of the scan's high tension and semi-convergence angle.
        positions : (n, 2) [m], where the probes truly are.
        masks : (detectors, k, k) float32, k = 2 * reach + 1, what part of each sample every detector covers.
        turn : direction of the first of the three points that stand for the source: at the radius sqrt(2) sigma they have the
            Gaussian's second moments [rad].
        """
        transmission = self._transmission(piece)
        if probe.source_size:
            angle = turn + 2 * np.pi / _SOURCE_POINTS * np.arange(_SOURCE_POINTS)
            offsets = math.sqrt(2) * probe.source_size / FWHM * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        else:
            offsets = np.zeros((1, 2))
        waves = ProbeWaves(probe, self.samples, self.step, blur=self.blur)
        size = self.samples
        padded = torch.zeros((len(masks), size, size))
        order = torch.arange(-self.reach, self.reach + 1) % size
        padded[:, order[:, None], order] = masks
        flat = padded.flatten(1).T.contiguous()
        windows = transmission.unfold(0, size, 1).unfold(1, size, 1)
        result = np.zeros((len(positions), len(masks)))
        for offset in offsets:
            place = (positions + offset + self.half) / self.step
            first = np.rint(place).astype(np.int64) - size // 2
            for start in range(0, len(place), _BATCH):
                part = slice(start, start + _BATCH)
                corners = torch.from_numpy(first[part])
                exit_waves = waves(place[part] - first[part]) * windows[corners[:, 0], corners[:, 1]]
                result[part] += (intensity(fft2(exit_waves, True)).flatten(1) @ flat).numpy()
        return result / len(offsets)

    def _transmission(self, piece: Piece) -> torch.Tensor:
        """exp(i sigma V), complex64 (box, box), of the piece in a periodic box that is a little larger."""
        phase = np.zeros((self._fine, self._fine), np.complex64)
        within = (np.abs(piece.positions) < self.half).all(axis=1)
        for number in np.unique(piece.numbers[within]):
            here = within & (piece.numbers == number)
            places = piece.positions[here] + self.half
            y, x = (np.exp(-2j * np.pi * np.outer(self._frequency, places[:, axis])).astype(np.complex64) for axis in (0, 1))
            phase += ((y * piece.weights[here].astype(np.float32)) @ x.T) * self._factor(int(number))
        width = float(piece.widths[0]) if len(piece.widths) else 0.0
        phase *= np.exp(-2 * (np.pi * width * self._radius) ** 2).astype(np.float32)
        real = ifft2(torch.from_numpy(phase)).real
        return resampled(torch.polar(torch.ones_like(real), real.contiguous()), self._box)

    def _factor(self, number: int) -> np.ndarray:
        """Transform of one atom's phase on the fine grid, so that a unitary inverse transform gives radians."""
        if number not in self._factors:
            cell = self.step / _FINER
            scale = self._constant / (cell ** 2 * self._fine)
            fade = np.cos(np.pi / 2 * np.clip((self._radius * cell - 0.36) / 0.14, 0, 1)) ** 2
            self._factors[number] = (potential_spectrum(number, self._radius) * fade * scale).astype(np.float32)
        return self._factors[number]
