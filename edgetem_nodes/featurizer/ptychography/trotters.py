"""Trotters: where on the detector the beams of one spatial frequency overlap with the undiffracted one, and their weights.

A thin specimen of phase phi(r) turns the intensity I(k, R) at detector angle k and probe position R, transformed over R, into
G(k, Q) = i Phi(Q) [A*(k) A(k - Q) - A(k) A*(k + Q)], A the wave in the aperture, exp(-i chi) inside. Where only one of the two
beams overlaps with the undiffracted disk, Phi can be read off: the two trotters of Q (Rodenburg, McCallum & Nellist,
Ultramicroscopy 48, 304, 1993; Pennycook et al., Ultramicroscopy 151, 160, 2015; Strauch et al., Microsc. Microanal. 27, 1078,
2021). Angles are in units of a stored pixel of the bright-field disk, frequencies the angle wavelength * Q in the same unit.
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.ptychography import kernels
from edgetem_nodes.featurizer.ptychography.bright_field import BrightField
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import ScanField


def aberration_terms(probe: Probe, pitch: float) -> np.ndarray:
    """Coefficients (6,) of chi [rad] in y y, y x, x x, square y, square x, square square; y and x in units of `pitch` [rad]."""
    wave = 2 * np.pi / probe.wavelength
    cos2, sin2 = np.cos(2 * probe.astigmatism_angle), np.sin(2 * probe.astigmatism_angle)
    second = wave / 2 * pitch**2 * np.array([-probe.astigmatism * cos2 - probe.defocus, 2 * probe.astigmatism * sin2,
                                             probe.astigmatism * cos2 - probe.defocus])
    third = wave / 3 * pitch**3 * probe.coma * np.array([np.sin(probe.coma_angle), np.cos(probe.coma_angle)])
    return np.array([*second, *third, wave / 4 * pitch**4 * probe.spherical_aberration])


class Trotters:
    """The trotters of every frequency of a raster, and the sum over them.

    Attributes
    ----------
    positive, negative : (rows, columns // 2 + 1) float32, half the reciprocal weight of the two trotters of each frequency of
        a real transform over the scan; 0 where it is not transferred.
    """

    def __init__(self, field: ScanField, disk: BrightField, probe: Probe, least_weight: float = 1.0) -> None:
        """Set up.

        Parameters
        ----------
        disk : the stored pixels.
        probe : wavelength and aberrations; its aperture is that of the disk.
        least_weight : [stored pixels] least weight of a trotter; a frequency with a smaller one is left out.
        """
        rows, columns = field.shape
        scale = probe.wavelength / disk.pitch
        qy = np.fft.fftfreq(rows, field.step[0]) * scale
        qx = np.arange(columns // 2 + 1) / (columns * field.step[1]) * scale
        self._half = len(qx)
        self._kept = int(np.count_nonzero(np.abs(qx) < 2 * disk.radius + 1))
        self._qy, self._qx = qy.astype(np.float32), qx[:self._kept].astype(np.float32)
        self._y, self._x = (np.ascontiguousarray(angle, np.float32) for angle in disk.angles.T)
        self._coverage, self._radius = disk.coverage.astype(np.float32), disk.radius
        self._terms = aberration_terms(probe, disk.pitch)
        self._shape = field.shape
        self._transferred(least_weight)

    @property
    def transferred(self) -> np.ndarray:
        """(rows, columns // 2 + 1) bool, frequencies that reach the image."""
        whole = np.zeros((self._shape[0], self._half), bool)
        whole[:, :self._kept] = self.positive > 0
        return whole

    def spectrum(self, disk: BrightField, means: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Transform (rows, columns // 2 + 1) complex128 of i phi times the mean counts in a fully covered pixel."""
        rows = self._shape[0]
        total = np.zeros((2, rows, self._kept))
        for part, spectra in disk.spectra(means, good):
            sums = np.zeros((2, rows, self._kept), np.float32)
            pixels = self._y[part], self._x[part], self._coverage[part], self._radius, self._qy, self._qx
            if self._terms.any():
                kernels.add_aberrated_trotters(spectra, *pixels, self.positive, self.negative, self._terms, *sums)
            else:
                kernels.add_trotters(spectra, *pixels, self.positive, self.negative, *sums)
            total += sums
        whole = np.zeros((rows, self._half), complex)
        whole[:, :self._kept] = total[0] + 1j * total[1]
        return whole

    def power(self) -> np.ndarray:
        """Sum (pixels,) over all frequencies, those of the other half as well, of the squared weight of each stored pixel."""
        result = np.zeros(len(self._y))
        columns = self._shape[1]
        twice = np.where((np.arange(self._kept) == 0) | (2 * np.arange(self._kept) == columns), 1.0, 2.0)
        kernels.trotter_power(self._y, self._x, self._coverage, self._radius, self._qy, self._qx, self.positive,
                              self.negative, twice, result)
        return result

    def _transferred(self, least_weight: float) -> None:
        """Weigh the trotters and leave out what cannot be read off: small ones, zero, and what is its own mirror image."""
        weights = np.zeros((2, len(self._qy), self._kept), np.float32)
        kernels.trotter_norms(self._y, self._x, self._coverage, self._radius, self._qy, self._qx, *weights)
        rows, columns = self._shape
        kept = (weights >= max(least_weight, 1e-3)).all(axis=0)
        own_rows, own_columns = [0, rows // 2][:2 - rows % 2], [0, columns // 2][:2 - columns % 2]
        for row in own_rows:
            for column in own_columns:
                if column < self._kept:
                    kept[row, column] = False
        self.positive, self.negative = (np.where(kept, 0.5 / np.maximum(weight, 1e-3), 0).astype(np.float32)
                                        for weight in weights)
