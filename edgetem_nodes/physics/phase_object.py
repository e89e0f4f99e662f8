"""A thin specimen as a phase object: projected potential, transmission function, diffraction patterns at any position.

The exit wave is probe(r - r0) * exp(i sigma V(r)); the pattern is the squared modulus of its Fourier transform (Kirkland,
Advanced Computing in Electron Microscopy, chapter 5). Propagation inside the 0.3 nm sheet is neglected. Angles are
wavelength times spatial frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.scattering_factors import potential_spectrum

OVERSAMPLING = 2
"""Samples of the diffraction plane a detector pixel and axis."""
_BATCH = 16


@dataclass(frozen=True)
class Camera:
    """A square pixelated detector: pixels along an axis, and the angle that a pixel subtends [rad]."""

    pixels: int
    pixel_angle: float

    @property
    def offset(self) -> float:
        """Angle of pixel 0 [rad]: the undiffracted beam is centred on pixel pixels // 2."""
        return -(self.pixels // 2) * self.pixel_angle


@dataclass(frozen=True)
class Probe:
    """Illumination: high tension [V], semi-convergence angle [rad], defocus [m] (positive is underfocus)."""

    high_tension: float
    semi_convergence_angle: float
    defocus: float = 0.0

    def amplitude(self, step: float) -> np.ndarray:
        """Complex aperture function on frequencies (-n..n) * step [rad], (2n + 1, 2n + 1), (y, x); sum of |.|^2 is 1.

        A sample holds the part of its cell that lies inside the aperture, so the disc has the right size between samples.
        """
        reach = int(np.ceil(self.semi_convergence_angle / step))
        fine = (np.arange((2 * reach + 1) * 8) - 8 * reach - 3.5) / 8 * step
        inside = (fine[:, None] ** 2 + fine[None, :] ** 2 <= self.semi_convergence_angle ** 2).astype(float)
        covered = inside.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).mean(axis=(1, 3))
        angle = np.arange(-reach, reach + 1) * step
        phase = np.pi * self.defocus / wavelength(self.high_tension) * (angle[:, None] ** 2 + angle[None, :] ** 2)
        wave = covered * np.exp(-1j * phase)
        return wave / np.sqrt((np.abs(wave) ** 2).sum())


def projected_potential(positions: np.ndarray, atomic_numbers: np.ndarray, origin: np.ndarray, size: np.ndarray,
                        shape: tuple[int, int], displacement_rms: float) -> np.ndarray:
    """Projected potential [V m], float32 (rows, columns), of a box that is taken as periodic.

    Parameters
    ----------
    positions : (atoms, 2), (y, x) [m]; atomic_numbers : (atoms,).
    origin, size : corner and edge lengths of the box, (y, x) [m]; shape : samples.
    displacement_rms : thermal displacement of the atoms along one axis [m]; enters as a Debye-Waller factor.

    Each atom is laid down with cubic B-splines, whose transform is then divided out: exact up to aliasing.
    """
    shape_ = np.asarray(shape)
    frequency = [scipy.fft.fftfreq(shape[0], size[0] / shape[0])[:, None], scipy.fft.rfftfreq(shape[1], size[1] / shape[1])]
    square = frequency[0] ** 2 + frequency[1] ** 2
    spectrum = np.zeros(square.shape, np.complex64)
    scaled = (positions - origin) / size * shape_
    for number in np.unique(atomic_numbers):
        delta = scipy.fft.rfft2(_splines(scaled[atomic_numbers == number], shape))
        spectrum += delta * potential_spectrum(int(number), np.sqrt(square)).astype(np.float32)
    correction = [np.sinc(f * length / samples) ** 4 for f, length, samples in zip(frequency, size, shape, strict=True)]
    factor = np.exp(-2 * np.pi ** 2 * displacement_rms ** 2 * square) / (correction[0] * correction[1])
    return scipy.fft.irfft2(spectrum * (factor * shape_.prod() / np.prod(size)).astype(np.float32), s=shape)


def _splines(scaled: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cubic B-spline weights of points (n, 2) [samples] on a periodic grid, float32, sum n."""
    base = np.floor(scaled).astype(np.int64)
    t = scaled - base
    weights = np.stack([(1 - t) ** 3, 3 * t ** 3 - 6 * t ** 2 + 4, -3 * t ** 3 + 3 * t ** 2 + 3 * t + 1, t ** 3]) / 6
    grid = np.zeros(shape[0] * shape[1])
    for row in range(4):
        rows = (base[:, 0] + row - 1) % shape[0] * shape[1]
        for column in range(4):
            grid += np.bincount(rows + (base[:, 1] + column - 1) % shape[1], weights[row, :, 0] * weights[column, :, 1],
                                minlength=grid.size)
    return grid.reshape(shape).astype(np.float32)


class PhaseObject:
    """Diffraction patterns of a thin specimen on a pixelated detector."""

    def __init__(self, positions: np.ndarray, atomic_numbers: np.ndarray, extent: tuple[float, float], probe: Probe,
                 camera: Camera, overscan: float = 0.0, displacement_rms: float = 0.065e-10) -> None:
        """Compute the transmission function of everything that a probe in the field can see.

        Parameters
        ----------
        positions : (atoms, 2), (y, x) [m], reaching `margin(probe, camera)` + `overscan` beyond the field on every side.
        atomic_numbers : (atoms,).
        extent : height and width of the field [m]; its corner is the origin.
        overscan : how far a probe may stand outside the field [m].
        displacement_rms : thermal displacement of an atom along one axis [m].

        Raises
        ------
        ValueError : the camera does not hold the bright-field disc.
        """
        self.probe, self.camera = probe, camera
        step = camera.pixel_angle / OVERSAMPLING
        reach = int(np.ceil(probe.semi_convergence_angle / step))
        self._samples = camera.pixels * OVERSAMPLING
        if 2 * reach >= self._samples:
            raise ValueError(f"semi-convergence angle {probe.semi_convergence_angle * 1e3:.3g} mrad does not fit on a "
                             f"camera of {camera.pixels} pixels of {camera.pixel_angle * 1e3:.3g} mrad: enlarge either")
        self._window = scipy.fft.next_fast_len(self._samples + 2 * reach + 4)
        self._step = wavelength(probe.high_tension) / (self._window * step)
        self._aperture = (probe.amplitude(step) / self._window ** 2).astype(np.complex64)
        half = self._window * self._step / 2
        self._overscan = overscan + 2 * self._step
        self._origin = -np.full(2, half + self._overscan)
        around = 2 * (half + self._overscan)
        samples = [scipy.fft.next_fast_len(int(np.ceil((length + around) / self._step)) + 1) for length in extent]
        size = np.array(samples) * self._step
        inside = ((positions >= self._origin) & (positions < self._origin + size)).all(axis=1)
        fine = (2 * samples[0], 2 * samples[1])
        phase = projected_potential(positions[inside], atomic_numbers[inside], self._origin, size, fine, displacement_rms)
        phase *= np.float32(interaction_constant(probe.high_tension))
        self.transmission = _band_limited(np.exp(1j * phase), tuple(samples), self._window,
                                          self._samples // 2 + reach + 1)
        self._extent = np.asarray(extent, float)

    def patterns(self, positions: np.ndarray) -> np.ndarray:
        """Expected pattern of each probe position: fraction of the beam in each pixel, (n, ky, kx) float32.

        The sum over a pattern is the fraction of the beam that falls on the camera.

        Parameters
        ----------
        positions : (n, 2), (y, x) [m].

        Raises
        ------
        ValueError : a position is outside the field.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        outside = ~((positions >= -self._overscan) & (positions <= self._extent + self._overscan)).all(axis=1)
        if outside.any():
            y, x = positions[outside][0] * 1e9
            raise ValueError(f"probe position ({y:.3f}, {x:.3f}) nm is outside the simulated field of "
                             f"{self._extent[0] * 1e9:.3f} x {self._extent[1] * 1e9:.3f} nm; positions are (y, x)")
        result = np.empty((len(positions), self.camera.pixels, self.camera.pixels), np.float32)
        for first in range(0, len(positions), _BATCH):
            result[first:first + _BATCH] = self._batch(positions[first:first + _BATCH])
        return result

    def _batch(self, positions: np.ndarray) -> np.ndarray:
        n, half = self._window, self._window // 2
        place = (positions - self._origin) / self._step
        corner = np.rint(place).astype(int) - half
        exit_wave = np.empty((len(positions), n, n), np.complex64)
        np.matmul(self._plane_waves(place[:, 0] - corner[:, 0]) @ self._aperture,
                  self._plane_waves(place[:, 1] - corner[:, 1]).swapaxes(1, 2), out=exit_wave)
        intensity = np.empty((len(positions), n, n), np.float32)
        # One transform a pattern: vectorised over several, its last bits could depend on how many there are.
        for number, (row, column) in enumerate(corner):
            wave = scipy.fft.fft2(exit_wave[number] * self.transmission[row:row + n, column:column + n], overwrite_x=True)
            intensity[number] = wave.real ** 2 + wave.imag ** 2
        order = np.arange(-self._samples // 2 - 1, self._samples // 2) % n
        return _pixels(_pixels(intensity[:, order][:, :, order], 1), 2)

    def _plane_waves(self, centre: np.ndarray) -> np.ndarray:
        """exp(2 pi i q (r - centre) / n), (positions, n, 2 reach + 1) complex64."""
        n, reach = self._window, self._aperture.shape[0] // 2
        r, q = np.arange(n)[None, :, None], np.arange(-reach, reach + 1)[None, None, :]
        return np.exp(2j * np.pi / n * q * (r - centre[:, None, None])).astype(np.complex64)


def _pixels(samples: np.ndarray, axis: int) -> np.ndarray:
    """Integrate the samples of the diffraction plane over the pixels, two a pixel, along an axis.

    A sample on the border of two pixels counts half in each, so pixels are symmetric and the sum is kept.
    """
    samples = np.moveaxis(samples, axis, 0)
    return np.moveaxis(samples[1::2] + 0.5 * (samples[:-1:2] + samples[2::2]), 0, axis)


def margin(probe: Probe, camera: Camera) -> float:
    """How far a specimen must go on beyond the field [m]: half a probe window, and something for the box's edge."""
    return wavelength(probe.high_tension) / (camera.pixel_angle / OVERSAMPLING) / 2 + 1.5e-9


def _band_limited(wave: np.ndarray, shape: tuple[int, int], window: int, limit: int) -> np.ndarray:
    """Keep `limit` frequencies of a `window` [samples] either side of zero and resample to `shape`, complex64."""
    spectrum = scipy.fft.fft2(wave, overwrite_x=True)
    result = np.zeros(shape, np.complex64)
    index = []
    for fine, coarse in zip(wave.shape, shape, strict=True):
        highest = limit * coarse // window
        index.append((np.arange(-highest, highest + 1) % fine, np.arange(-highest, highest + 1) % coarse))
    result[np.ix_(index[0][1], index[1][1])] = spectrum[np.ix_(index[0][0], index[1][0])]
    result = scipy.fft.ifft2(result, overwrite_x=True)
    result *= np.float32(np.prod(shape) / np.prod(wave.shape))
    return result
