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

_MOST_AVERAGED = 0.9
"""Share of the overlapping frequencies that the pixels may average away; with more there is no image."""
_LEAST_LEFT = 0.25
"""Of a frequency's contrast, after the pixels have averaged over it; with less, it is left out."""
_LOOKED_AT = 64
"""Frequencies at which it is looked how much of them coma and spherical aberration leave."""


def aberration_terms(probe: Probe, pitch: float) -> np.ndarray:
    """Coefficients (6,) of chi [rad] in y y, y x, x x, square y, square x, square square; y and x in units of `pitch` [rad]."""
    wave = 2 * np.pi / probe.wavelength
    cos2, sin2 = np.cos(2 * probe.astigmatism_angle), np.sin(2 * probe.astigmatism_angle)
    second = wave / 2 * pitch**2 * np.array([-probe.astigmatism * cos2 - probe.defocus, 2 * probe.astigmatism * sin2,
                                             probe.astigmatism * cos2 - probe.defocus])
    third = wave / 3 * pitch**3 * probe.coma * np.array([np.sin(probe.coma_angle), np.cos(probe.coma_angle)])
    return np.array([*second, *third, wave / 4 * pitch**4 * probe.spherical_aberration])


def aberration_slopes(y: np.ndarray, x: np.ndarray, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of chi by y and x, of the polynomial of `aberration_terms`."""
    square, line = y * y + x * x, terms[3] * y + terms[4] * x
    return (2 * terms[0] * y + terms[1] * x + 2 * y * line + square * terms[3] + 4 * terms[5] * square * y,
            terms[1] * y + 2 * terms[2] * x + 2 * x * line + square * terms[4] + 4 * terms[5] * square * x)


WEIGHTS = ("trotters", "least squares")
"""How the pixels of a frequency are weighed. trotters: the mean over each of the two regions where one diffracted beam alone
overlaps, the field's definition (Strauch et al. 2021). least squares: by the transfer itself, the overlap of all three beams
and partly covered pixels included; it makes use of defocus, and costs more where there are aberrations."""


def averaging(terms: np.ndarray, qy: np.ndarray, qx: np.ndarray, disk: BrightField) -> np.ndarray:
    """What is left (rows, columns) of frequencies qy, qx when a stored pixel averages over its square.

    With defocus and astigmatism the phase of an overlap runs linearly over the disk, by H Q a pixel, H the curvature of chi;
    its mean over a pixel is a product of sin(u / 2) / (u / 2), u along the detector's rows and columns. 1 without them.
    """
    y, x = np.meshgrid(qy, qx, indexing="ij")
    runs = np.stack([2 * terms[0] * y + terms[1] * x, terms[1] * y + 2 * terms[2] * x], axis=-1)
    return np.sinc(runs @ disk.geometry.to_detector().T / (2 * np.pi)).prod(axis=-1)


def share_averaged(terms: np.ndarray, qy: np.ndarray, qx: np.ndarray, disk: BrightField) -> float:
    """Share of frequencies qy, qx (frequencies,) [stored pixels] that the pixels average over, all aberrations taken together.

    The phase of an overlap, chi(k) - chi(k - Q), runs with the difference of the slopes; the contrast left is the mean over the
    overlap of what a pixel leaves of so steep a run.
    """
    chosen = np.unique(np.linspace(0, len(qy) - 1, _LOOKED_AT).astype(int))
    lost, (y, x) = 0, disk.angles.T
    for q in np.stack([qy, qx], axis=-1)[chosen]:
        runs = np.subtract(aberration_slopes(y, x, terms), aberration_slopes(y - q[0], x - q[1], terms)).T
        overlap = np.hypot(y - q[0], x - q[1]) < disk.radius
        left = np.abs(np.sinc(runs[overlap] @ disk.geometry.to_detector().T / (2 * np.pi)).prod(axis=-1))
        lost += overlap.any() and left.mean() < _LEAST_LEFT
    return lost / len(chosen)


class Trotters:
    """The trotters of every frequency of a raster, and the sum over them.

    Attributes
    ----------
    positive, negative : (rows, columns) float32 of the frequencies of a real transform over the scan, the columns that the
        disk reaches: the factors of the two overlaps; 0 where a frequency is not transferred.
    averaged_away : share of the overlapping frequencies that a pixel averages over under the aberrations.
    thin : share of the frequencies within the band that are left out because an overlap has too few pixels.
    band : share of the raster's frequencies that lie within the band, twice the semi-convergence angle.
    """

    def __init__(self, field: ScanField, disk: BrightField, probe: Probe, weights: str = "trotters",
                 least_weight: float = 1.0) -> None:
        """Set up.

        Parameters
        ----------
        disk : the stored pixels.
        probe : wavelength and aberrations; its aperture is that of the disk.
        weights : one of `WEIGHTS`.
        least_weight : [stored pixels] least weight of a trotter; a frequency with a smaller one is left out.

        Raises
        ------
        ValueError : there are no such weights, or nothing would be left of the image.
        """
        if weights not in WEIGHTS:
            raise ValueError(f"weights {weights!r} are not known; there are {', '.join(map(repr, WEIGHTS))}")
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
        self._squares = weights == "least squares"
        self._weigh(least_weight, averaging(self._terms, self._qy, self._qx, disk), disk)
        covered = disk.coverage.sum()
        self._level = disk.coverage / ((disk.coverage**2).sum() if self._squares else covered)

    @property
    def transferred(self) -> np.ndarray:
        """(rows, columns // 2 + 1) bool, frequencies that reach the image."""
        whole = np.zeros((self._shape[0], self._half), bool)
        whole[:, :self._kept] = self.positive > 0
        return whole

    def level(self, means: np.ndarray) -> float:
        """Counts in a fully covered pixel without an object, from the mean counts (pixels,)."""
        return float(self._level @ means)

    def spectrum(self, disk: BrightField, means: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Transform (rows, columns // 2 + 1) complex128 of i phi times the counts in a fully covered pixel."""
        rows = self._shape[0]
        total = np.zeros((2, rows, self._kept))
        limit = np.float32(self._squares)
        for part, spectra in disk.spectra(means, good):
            sums = np.zeros((2, rows, self._kept), np.float32)
            pixels = self._y[part], self._x[part], self._coverage[part], self._radius, self._qy, self._qx
            if self._terms.any():
                kernels.add_aberrated_trotters(spectra, *pixels, self.positive, self.negative, limit, self._terms, *sums)
            else:
                kernels.add_trotters(spectra, *pixels, self.positive, self.negative, limit, *sums)
            total += sums
        whole = np.zeros((rows, self._half), complex)
        whole[:, :self._kept] = total[0] + 1j * total[1]
        return whole

    def power(self) -> np.ndarray:
        """Sum (pixels,) over all frequencies, those of the other half as well, of the squared weight of each stored pixel."""
        result = np.zeros(len(self._y))
        columns = self._shape[1]
        twice = np.where((np.arange(self._kept) == 0) | (2 * np.arange(self._kept) == columns), 1.0, 2.0)
        if self._squares:
            kernels.transfer_power(*self._transfer(), self.positive, twice, result)
        else:
            kernels.trotter_power(self._y, self._x, self._coverage, self._radius, self._qy, self._qx, self.positive,
                                  self.negative, twice, result)
        return result

    def _transfer(self) -> tuple:
        pixels = (values.astype(np.float64) for values in (self._y, self._x, self._coverage))
        return *pixels, self._radius, self._qy, self._qx, self._terms

    def _weigh(self, least_weight: float, left: np.ndarray, disk: BrightField) -> None:
        """Weigh the overlaps and leave out what cannot be read off: small ones, zero, the two ends of the band, and what the
        detector's pixels average away."""
        weights = np.zeros((2, len(self._qy), self._kept), np.float32)
        kernels.trotter_norms(self._y, self._x, self._coverage, self._radius, self._qy, self._qx, *weights)
        rows, columns = self._shape
        kept = (weights >= max(least_weight, 1e-3)).all(axis=0)
        qy, qx = np.meshgrid(self._qy, self._qx, indexing="ij")
        within = (np.hypot(qy, qx) < 2 * self._radius) & (np.hypot(qy, qx) > 0)
        overlapping = np.count_nonzero(kept)
        if not overlapping:
            raise ValueError("no frequency of the scan has two beams that overlap on the detector: check high tension, scan "
                             "step and convergence angle")
        self.band = np.count_nonzero(within) / (rows * self._half)
        self.thin = 1 - np.count_nonzero(kept & within) / np.count_nonzero(within)
        wide = kept.copy()
        kept &= left >= _LEAST_LEFT
        self.averaged_away = 1 - np.count_nonzero(kept) / overlapping
        if self._terms[3:].any():
            self.averaged_away = max(self.averaged_away, share_averaged(self._terms, qy[wide], qx[wide], disk))
        if self.averaged_away > _MOST_AVERAGED:
            raise ValueError(f"the aberrations to correct turn the phase within a pixel so fast that {self.averaged_away:.0%} "
                             "of the frequencies are averaged away: check their size [m], or use a longer camera length")
        kept[0, 0] = False
        if rows % 2 == 0:
            kept[rows // 2] = False
        if columns % 2 == 0:
            kept[:, columns // 2:] = False
        if self._squares:
            norm = np.zeros(weights.shape[1:])
            kernels.transfer_norms(*self._transfer(), norm)
            weights = norm / 2, norm / 2
        self.positive, self.negative = (np.where(kept, 0.5 / np.maximum(weight * left, 1e-3), 0).astype(np.float32)
                                        for weight in weights)
