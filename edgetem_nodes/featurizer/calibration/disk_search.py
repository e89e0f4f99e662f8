"""A first guess of where the disk lies: the circle across which the pattern steps down the most."""

from __future__ import annotations

import numpy as np
from scipy import fft

_LARGEST = 128
_RATIO = 1.1
_LEAST_PART = 0.3
_EVEN, _BRIGHTEST = 0.1, 20
"""Unevenness, over the pixel of this rank in brightness, that any ring may have: else a faint even step, a Bragg disk, would
beat a bright uneven one."""


def find_disk(pattern: np.ndarray, usable: np.ndarray) -> tuple[tuple[float, float], float]:
    """Centre (y, x) and radius [pixel] to about a tenth of the radius.

    For every centre, also somewhat off the detector, and a range of radii, the mean of a ring outside the circle is taken
    from the mean of a ring inside, of square roots of counts (which have equal noise), over its standard
    error from the unevenness of both rings, which a circle that only touches the disk has much of.

    Parameters
    ----------
    pattern : (rows, columns), not negative where usable, zero elsewhere.
    usable : (rows, columns) bool.

    Raises
    ------
    ValueError : there is no step down anywhere.
    """
    binning = -(-max(pattern.shape) // _LARGEST)
    counts, weight = _binned(pattern, binning), _binned(usable.astype(float), binning)
    image = np.where(weight > 0, np.sqrt(np.maximum(counts, 0.0) / np.maximum(weight, 1e-9)), 0.0)
    scene = _Scene(image, weight / binning**2)
    radius, best = 2.0, (0.0, (0.0, 0.0), 0.0)
    while radius <= 0.75 * max(image.shape):
        best = max(best, (*scene.best(radius), radius))
        radius *= _RATIO
    score, (y, x), radius = best
    if not score > 0:
        raise ValueError("there is no disk: the pattern nowhere steps down")
    return (y * binning + (binning - 1) / 2, x * binning + (binning - 1) / 2), radius * binning


def _binned(image: np.ndarray, binning: int) -> np.ndarray:
    """Sums over squares of pixels; the last ones may be cut."""
    padded = np.pad(image, [(0, -size % binning) for size in image.shape])
    rows, columns = padded.shape
    return padded.reshape(rows // binning, binning, columns // binning, binning).sum(axis=(1, 3))


class _Scene:
    """Image and weights, transformed once, among zeros as wide as the largest circle needs."""

    def __init__(self, image: np.ndarray, weight: np.ndarray) -> None:
        self.margin = max(image.shape) // 4
        self.shape = tuple(fft.next_fast_len(2 * size + 2 * self.margin, real=True) for size in image.shape)
        self.size = image.shape
        self._image, self._weight = fft.rfft2(image * weight, self.shape), fft.rfft2(weight, self.shape)
        self._squared = fft.rfft2(image**2 * weight, self.shape)
        brightest = float(np.partition(image.ravel(), -min(_BRIGHTEST, image.size))[-min(_BRIGHTEST, image.size)])
        self._floor = 0.25 + (_EVEN * brightest) ** 2
        self._square = tuple(np.minimum(np.arange(n), n - np.arange(n)) ** 2 for n in self.shape)

    def best(self, radius: float) -> tuple[float, tuple[float, float]]:
        """Highest score of a circle of this radius, and its centre (y, x)."""
        width, gap = max(1.5, 0.15 * radius), max(0.5, 0.05 * radius)
        distance = np.sqrt(self._square[0][:, None] + self._square[1][None, :])
        inside = self._means((distance <= radius - gap) & (distance > radius - gap - width))
        outside = self._means((distance > radius + gap) & (distance <= radius + gap + width))
        error = np.sqrt(inside[1] + outside[1])
        score = np.where(inside[2] & outside[2], (inside[0] - outside[0]) / error, -np.inf)
        # centres more than a quarter of the detector outside it are not looked for; index -1 lies just outside
        centres = np.roll(score, (self.margin, self.margin), (0, 1))[:self.size[0] + 2 * self.margin,
                                                                     :self.size[1] + 2 * self.margin]
        place = np.unravel_index(np.argmax(centres), centres.shape)
        return float(centres[place]), (float(place[0] - self.margin), float(place[1] - self.margin))

    def _means(self, ring: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, its variance, and whether there are enough usable pixels, of the ring around every centre."""
        kernel = fft.rfft2(ring.astype(float))
        count = fft.irfft2(self._weight * kernel, self.shape)
        total = fft.irfft2(self._image * kernel, self.shape)
        mean, count = total / np.maximum(count, 1e-3), np.maximum(count, 1e-3)
        square = fft.irfft2(self._squared * kernel, self.shape) / count
        return mean, (np.maximum(square - mean**2, 0.0) + self._floor) / count, count > _LEAST_PART * ring.sum()
