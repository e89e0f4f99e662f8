"""Bragg disks of single patterns by cross-correlation with the template, anywhere on the detector and without a lattice.

The kernel is the disk less the mean of a ring around it, so a flat background correlates to zero. `plain` correlation divided
by its own counting noise says how significant a maximum is. `hybrid` and `phase` divide the pattern's spectrum by a power of
its modulus (1/2 and 1; with the white spectrum of counting noise added to it), which sharpens maxima where a disk's inside is
uneven (Pekin et al., Ultramicroscopy 176, 170, 2017); their noise is the spread of the map. On ideal lattices of disks plain
correlation with a parabola was the best of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.fft
from numba import njit

from edgetem_nodes.featurizer.bragg.template import Template
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Frames, dense

CORRELATIONS = {"plain": 0.0, "hybrid": 0.5, "phase": 1.0}
"""Power of the spectrum's modulus by which a pattern is divided."""
REFINEMENTS = ("pixel", "parabola", "upsampled")
_BLOCK = 32
_UPSAMPLED, _REACH = 8, 1.0
_RING = 1.5


@dataclass(frozen=True)
class Disks:
    """Disks of patterns, one a row, the most significant first; NaN and 0 after the last.

    Attributes
    ----------
    places : (rows, most, 2), (y, x) [pixel].
    significance : (rows, most) height of the maximum over the noise.
    count : (rows,) number of disks.
    failures : (rows,) why a row has none: empty, or not finite.
    """

    places: np.ndarray
    significance: np.ndarray
    count: np.ndarray
    failures: list[str]


@dataclass
class BraggDetector:
    """Finds the disks of each frame by itself.

    Attributes
    ----------
    template : of a disk.
    correlation : one of `CORRELATIONS`.
    refinement : one of `REFINEMENTS`: none, a parabola an axis, or the correlation's Fourier series at 1/8 pixel around its
        maximum (Guizar-Sicairos et al., Opt. Lett. 33, 156, 2008).
    significance : a maximum must have, in standard deviations of its noise.
    most : disks a frame.
    mask : (rows, columns) bool, pixels to use; others are taken as the mean of the used ones. None: all.

    Raises
    ------
    ValueError : a correlation or refinement that there is not.
    """

    template: Template
    correlation: str = "plain"
    refinement: str = "parabola"
    significance: float = 5.0
    most: int = 64
    mask: np.ndarray | None = None
    noise: CountingNoise = field(default_factory=CountingNoise)

    def __post_init__(self) -> None:
        for value, known, what in ((self.correlation, CORRELATIONS, "correlation"),
                                   (self.refinement, REFINEMENTS, "refinement")):
            if value not in known:
                raise ValueError(f"there is no {what} {value!r}; there is {', '.join(known)}")

    def __call__(self, frames: Frames) -> Disks:
        """Disks of frames (rows, rows, columns)."""
        rows = len(frames)
        places, heights = np.full((rows, self.most, 2), np.nan), np.zeros((rows, self.most))
        count, failures = np.zeros(rows, np.int64), [""] * rows
        for first in range(0, rows, _BLOCK):
            part = slice(first, min(first + _BLOCK, rows))
            block = np.asarray(dense(frames[part]), np.float32)
            finite = np.isfinite(block).all(axis=(1, 2))
            block = np.where(finite[:, None, None], block, np.float32(0))
            light = block.sum(axis=(1, 2)) > 0
            for row in np.flatnonzero(~(finite & light)):
                failures[first + row] = "the pattern is empty" if finite[row] else "pixels are not finite numbers"
            good = finite & light
            maps, noise, spectra = self._correlated(self._filled(block))
            spacing = max(self.template.radius, 2.0)
            for row in np.flatnonzero(good):
                found = _maxima(maps[row], noise[row], self.significance, spacing, self.most)
                count[first + row] = len(found)
                if len(found):
                    heights[first + row, :len(found)] = found[:, 2]
                    places[first + row, :len(found)] = self._refined(maps[row], spectra[row], found[:, :2].astype(int))
        return Disks(places, heights, count, failures)

    def _filled(self, block: np.ndarray) -> np.ndarray:
        if self.mask is None:
            return block
        mean = block[:, self.mask].mean(axis=1, dtype=np.float32)
        return np.where(self.mask, block, mean[:, None, None])

    def _kernel(self, shape: tuple[int, int]) -> np.ndarray:
        """The disk less the ring around it, its middle at pixel (0, 0)."""
        patch = self.template.patch()
        kernel = np.zeros(shape)
        inside = tuple(slice(0, min(size, length)) for size, length in zip(patch.shape, shape, strict=True))
        kernel[inside] = (patch / patch.max())[inside]
        kernel = np.roll(kernel, (-self.template.reach, -self.template.reach), axis=(0, 1))
        y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
        distance = np.hypot(y[:, None], x[None, :])
        inner = self.template.radius + 2 * self.template.edge + 0.5
        ring = (distance > inner) & (distance <= inner + _RING)
        return kernel - ring * (kernel.sum() / ring.sum())

    def _correlated(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Correlation maps (rows, y, x), the noise of each pixel, and the maps' spectra."""
        shape, power = block.shape[1:], CORRELATIONS[self.correlation]
        kernel = self._kernel(shape)
        spectra = scipy.fft.rfft2(block)
        product = spectra * np.conj(scipy.fft.rfft2(kernel)).astype(np.complex64)
        if power:
            total = block.sum(axis=(1, 2))[:, None, None] * self.noise.counts_per_electron
            white = np.maximum(total, 1e-30) + self.noise.readout_noise**2 * shape[0] * shape[1]
            product /= np.sqrt(np.abs(spectra)**2 + white.astype(np.float32))**power
        maps = scipy.fft.irfft2(product, s=shape)
        if power:
            spread = 1.4826 * np.median(np.abs(maps - np.median(maps, axis=(1, 2), keepdims=True)), axis=(1, 2))
            noise = np.broadcast_to(spread[:, None, None], maps.shape)
        else:
            square = np.conj(scipy.fft.rfft2(kernel**2)).astype(np.complex64)
            gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
            variance = gain * scipy.fft.irfft2(spectra * square, s=shape) + readout**2 * (kernel**2).sum()
            noise = np.sqrt(np.maximum(variance, gain**2))
        return maps, noise.astype(np.float32), product

    def _refined(self, image: np.ndarray, spectrum: np.ndarray, places: np.ndarray) -> np.ndarray:
        if self.refinement == "pixel":
            return places.astype(float)
        shape = np.array(image.shape)
        if self.refinement == "parabola":
            steps = np.eye(2, dtype=int)
            middle = image[tuple(places.T)]
            fine = places.astype(float)
            for axis in (0, 1):
                low, high = (image[tuple(((places + sign * steps[axis]) % shape).T)] for sign in (-1, 1))
                bend = low - 2 * middle + high
                fine[:, axis] += np.clip(np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, 1), 0), -0.5, 0.5)
            return fine
        return places + _upsampled(spectrum, image.shape, places)


def _upsampled(spectrum: np.ndarray, shape: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Offsets (n, 2) [pixel] of the maxima of a real Fourier series around pixels, then a parabola between its samples."""
    offsets = np.arange(-int(_REACH * _UPSAMPLED), int(_REACH * _UPSAMPLED) + 1) / _UPSAMPLED
    rows, columns = scipy.fft.fftfreq(shape[0]), scipy.fft.rfftfreq(shape[1])
    double = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)
    result = np.empty((len(places), 2))
    for index, (y, x) in enumerate(places):
        left = np.exp(2j * np.pi * np.outer(y + offsets, rows))
        right = np.exp(2j * np.pi * np.outer(columns, x + offsets)) * double[:, None]
        fine = np.real(left @ spectrum @ right)
        i, j = np.unravel_index(np.argmax(fine), fine.shape)
        result[index] = offsets[i], offsets[j]
        for axis, (k, line) in enumerate(((i, fine[:, j]), (j, fine[i]))):
            if 0 < k < len(offsets) - 1:
                bend = line[k - 1] - 2 * line[k] + line[k + 1]
                result[index, axis] += 0.5 * (line[k - 1] - line[k + 1]) / bend / _UPSAMPLED if bend < 0 else 0.0
    return result


@njit(cache=True, nogil=True)
def _maxima(image, noise, significance, spacing, most):
    """Maxima (n, 3): y, x, significance, highest first, none nearer than `spacing` [pixel] to a higher one."""
    rows, columns = image.shape
    candidates = []
    for y in range(rows):
        for x in range(columns):
            value = image[y, x]
            if value <= significance * noise[y, x]:
                continue
            best = True
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    i, j = y + dy, x + dx
                    if 0 <= i < rows and 0 <= j < columns and (image[i, j] > value or image[i, j] == value and (i, j) < (y, x)):
                        best = False
            if best:
                candidates.append((float(value), y, x))
    candidates.sort(reverse=True)
    found = np.zeros((most, 3))
    count = 0
    for value, y, x in candidates:
        if count == most:
            break
        free = True
        for k in range(count):
            if (found[k, 0] - y)**2 + (found[k, 1] - x)**2 < spacing**2:
                free = False
        if free:
            found[count, 0], found[count, 1], found[count, 2] = y, x, value / noise[y, x]
            count += 1
    return found[:count]
