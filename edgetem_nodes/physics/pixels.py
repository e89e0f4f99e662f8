"""What a camera's pixels receive of a diffracted wave: the integral of its intensity over each pixel.

The spectrum of a wave in a window of edge W is known at angles lambda / W apart. Between those it is the transform of the
wave among zeros, so the wave is laid into a wider square, transformed again, and its intensity summed over pixels.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch

from edgetem_nodes.physics.fourier import centred, fft2, ifft2, intensity, is_fast
from edgetem_nodes.physics.optics import Camera
from edgetem_nodes.physics.sampling import Window

_FINEST = 3
"""Samples of the diffraction plane a pixel and axis, at least, for a thick specimen, whose patterns are not smooth."""


class Pixels:
    """Intensity on a camera of waves that are given by their spectra."""

    def __init__(self, grid: Window, camera: Camera) -> None:
        self._camera, self._grid = camera, grid
        ratio = grid.oversampling
        self.direct = (ratio >= _FINEST or grid.slicing.thin) and ratio % 2 == 1
        """Whether the samples of the spectrum are summed as they are."""
        self._fine = int(ratio) if self.direct else finer(ratio)
        self._weights = pixel_weights(self._fine)
        self._reach, self._span = max(self._weights), (camera.pixels - 1) * self._fine + 1
        self._every = {-2: (slice(None, None, self._fine), slice(None)), -1: (slice(None, None, self._fine),)}
        # quarters of a pixel are whole samples; a product of fast lengths is fast, and a power of two is never far
        across = 4 * math.ceil((camera.pixels + 2) / 4)
        while not is_fast(across):
            across += 4
        self._across, self._order = across * self._fine, round(across * ratio)
        first = camera.pixels // 2 * self._fine + self._reach
        self._first, self._count = -first, self._span + 2 * self._reach
        self.kept = min(first if self.direct else (self._order - 1) // 2, grid.samples // 2 - 1)
        """Frequencies of the window's spectrum either side of zero that are needed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of a pattern."""
        return self._camera.pixels, self._camera.pixels

    def of_transform(self, spectra: torch.Tensor) -> torch.Tensor:
        """Intensity (n, pixels, pixels) of spectra (n, N, N) in the transform's order."""
        if self.direct:
            return self._summed(centred(spectra, self._first, self._count))
        return self(centred(spectra, -self.kept, 2 * self.kept + 1))

    def __call__(self, spectra: torch.Tensor) -> torch.Tensor:
        """The same of the `kept` frequencies either side of zero, (n, 2 kept + 1, 2 kept + 1), or more."""
        more = spectra.shape[-1] // 2
        if self.direct:
            seen = slice(more + self._first, more + self._first + self._count)
            return self._summed(spectra[..., seen, seen])
        result = torch.empty((len(spectra), self._camera.pixels, self._camera.pixels), device=spectra.device)
        seen = slice(more - self.kept, more + self.kept + 1)
        for number, one in enumerate(spectra[..., seen, seen]):
            result[number] = self._summed(centred(self._finer(one), self._first, self._count))
        return result

    def _finer(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Spectrum (across, across), transform's order, of the wave with `kept` frequencies either side of zero."""
        placed = torch.zeros((self._order, self._order), dtype=spectrum.dtype, device=spectrum.device)
        where = torch.arange(-self.kept, self.kept + 1, device=spectrum.device) % self._order
        placed[where[:, None], where] = spectrum
        wave = ifft2(placed)
        if wave.device.type != "cpu":
            wide = torch.zeros((self._across, self._across), dtype=wave.dtype, device=wave.device)
            wide[:self._order, :self._order] = wave
            return fft2(wide)
        rows = scipy.fft.fft(wave.numpy(), self._across, axis=1)
        return torch.from_numpy(scipy.fft.fft(rows, self._across, axis=0) * np.float32(1 / self._across))

    def _summed(self, seen: torch.Tensor) -> torch.Tensor:
        seen = intensity(seen)
        for axis in (-2, -1):
            parts = [seen.narrow(axis, k + self._reach, self._span)[(..., *self._every[axis])] * weight
                     for k, weight in self._weights.items()]
            seen = sum(parts[1:], parts[0])
        return seen


def finer(ratio: float) -> int:
    """Samples a pixel and axis for `ratio` of a window: odd, at least as many, and a length whose transform is fast."""
    fine = max(_FINEST, 2 * (math.ceil(ratio) // 2) + 1)
    # a power of three ends this
    while not is_fast(fine):
        fine += 2
    return fine


def pixel_weights(fine: int) -> dict[int, float]:
    """Weights of samples by their distance from a pixel's middle: those of its integral, exact for a parabola."""
    last = max(1, fine // 2)
    more = fine / (24 * last ** 2)
    weights = {k: 1.0 if abs(k) <= fine // 2 else 0.0 for k in range(-last, last + 1)}
    weights[-last] += more
    weights[last] += more
    weights[0] -= 2 * more
    return weights
