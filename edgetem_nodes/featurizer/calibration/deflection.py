"""Divergence and curl of a field of deflections on a raster, windowed without leakage. Vectors (y, x), steps may differ.

A window w would add curl to a curl-free field u, so it is taken out again: w curl u = curl(w u) - grad w x u, exactly, with
derivatives by Fourier transform, where finite differences shorten high frequencies and turn the field's directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

MOST_MISSING = 0.1
LEAST_POSITIONS = 12
_ROLL_OFF = 0.5
_LOWEST = 1.5
"""Frequencies below so many periods in the field are left out: drift, charging and descan live there."""
_MEDIAN = 1.678
"""Median of the power of two independent complex normal numbers over the mean power of one (gamma distribution of order 2)."""


@dataclass(frozen=True)
class Raster:
    """What is common to all images of one raster.

    Attributes
    ----------
    shape : (rows, columns); steps : (y, x) [m].
    window : (rows, columns); slopes : its derivative by (y, x) [1/m], two arrays.
    frequency : angular, (y, x) [rad/m], two arrays broadcast to the transform's shape (rows, columns).
    """

    shape: tuple[int, int]
    steps: tuple[float, float]
    window: np.ndarray
    slopes: tuple[np.ndarray, np.ndarray]
    frequency: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, shape: tuple[int, int], steps: tuple[float, float]) -> Raster:
        """The raster of a scan.

        Raises
        ------
        ValueError : it is too small, or a step is not positive.
        """
        if len(shape) != 2 or min(shape) < LEAST_POSITIONS:
            raise ValueError(f"a raster of {' x '.join(map(str, shape))} positions is too small: {LEAST_POSITIONS} x "
                             f"{LEAST_POSITIONS} or more")
        if len(steps) != 2 or not all(np.isfinite(step) and step > 0 for step in steps):
            raise ValueError(f"scan steps (y, x) = {tuple(steps)} m must be two positive numbers")
        (wy, sy), (wx, sx) = (_tapered(size, step) for size, step in zip(shape, steps, strict=True))
        frequency = tuple(2 * np.pi * np.fft.fftfreq(size, step) for size, step in zip(shape, steps, strict=True))
        return cls(tuple(shape), tuple(steps), wy[:, None] * wx, (sy[:, None] * wx, wy[:, None] * sx),
                   (frequency[0][:, None], frequency[1][None, :]))

    @property
    def wavenumber(self) -> np.ndarray:
        """Magnitude of the frequency [rad/m], (rows, columns)."""
        return np.hypot(*self.frequency)

    @property
    def used(self) -> np.ndarray:
        """Which frequencies count, (rows, columns) bool: neither the lowest nor those that have no opposite."""
        index = [frequency * size * step / (2 * np.pi) for frequency, size, step in
                 zip(self.frequency, self.shape, self.steps, strict=True)]
        paired = (np.abs(index[0]) < self.shape[0] / 2 - 0.25) & (np.abs(index[1]) < self.shape[1] / 2 - 0.25)
        return (np.hypot(*index) > _LOWEST) & paired

    @property
    def correlation(self) -> float:
        """How many neighbouring frequencies have common noise, as the window makes it."""
        return float(np.mean(self.window**4) / np.mean(self.window**2) ** 2)

    def derivative(self, image: np.ndarray, axis: int) -> np.ndarray:
        """Derivative [1/m] of an image (rows, columns) that ends smoothly."""
        return fft.ifft2(1j * self.frequency[axis] * fft.fft2(image)).real


def _tapered(size: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Window (size,) that falls to zero as a cosine at either end (Tukey), and its derivative [1/m]."""
    place = (np.arange(size) + 0.5) / size
    edge = np.minimum(place, 1 - place)
    rising = edge < _ROLL_OFF / 2
    phase = 2 * np.pi * edge / _ROLL_OFF
    window = np.where(rising, 0.5 - 0.5 * np.cos(phase), 1.0)
    slope = np.where(rising, np.sin(phase) * np.pi / _ROLL_OFF, 0.0) * np.where(place < 0.5, 1.0, -1.0)
    return window, slope / (size * step)


def levelled(image: np.ndarray) -> np.ndarray:
    """An image (rows, columns) less the plane fitted to it; what is not finite becomes the mean of its neighbours.

    Raises
    ------
    ValueError : more than `MOST_MISSING` of it is not finite.
    """
    from scipy.ndimage import gaussian_filter

    image = np.asarray(image, float)
    known = np.isfinite(image)
    missing = 1 - known.mean()
    if missing > MOST_MISSING:
        raise ValueError(f"{100 * missing:.0f} % of the scan positions have no value, more than {100 * MOST_MISSING:.0f} %: "
                         "scan again, or give a complete part of the raster")
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in image.shape), indexing="ij")
    design = np.stack([np.ones_like(y), y, x], axis=-1)
    plane = design @ np.linalg.lstsq(design[known], image[known], rcond=None)[0]
    rest = np.where(known, image - plane, 0.0)
    if missing:
        weight = gaussian_filter(known.astype(float), 1.0)
        rest = np.where(known, rest, gaussian_filter(rest, 1.0) / np.maximum(weight, 1e-3))
    return rest


@dataclass(frozen=True)
class Field:
    """A field of deflections on a raster, in the detector's axes with its y negated or not: windowed curl and divergence.

    Attributes
    ----------
    raster : of the scan.
    curl, divergence : transforms (rows, columns), complex, of w curl and w divergence, as if the axes of detector and scan
        were parallel; divided by the wavenumber, so that noise is white.
    noise : power of either at every frequency.
    variance : (rows, columns) of a component of the deflection, relative to its mean.
    """

    raster: Raster
    curl: np.ndarray
    divergence: np.ndarray
    noise: float
    variance: np.ndarray

    def turned(self, rotation: float) -> tuple[np.ndarray, np.ndarray]:
        """Curl and divergence of the field turned by -rotation: (C cos - D sin, D cos + C sin)."""
        cosine, sine = np.cos(rotation), np.sin(rotation)
        return self.curl * cosine - self.divergence * sine, self.divergence * cosine + self.curl * sine


def field(raster: Raster, deflection: np.ndarray, errors: np.ndarray | None, flipped: bool) -> Field:
    """Curl and divergence of deflections (rows, columns, 2), any unit, with their standard errors.

    Without errors the noise is that of most frequencies, which is right for a crystal, whose signal has few.
    """
    along_y, along_x = levelled(deflection[..., 0]) * (-1.0 if flipped else 1.0), levelled(deflection[..., 1])
    window, (slope_y, slope_x) = raster.window, raster.slopes
    ky, kx = raster.frequency
    wavenumber = np.where(raster.used, raster.wavenumber, np.inf)
    y, x = fft.fft2(window * along_y), fft.fft2(window * along_x)
    curl = 1j * (kx * y - ky * x) - fft.fft2(slope_x * along_y - slope_y * along_x)
    divergence = 1j * (ky * y + kx * x) - fft.fft2(slope_y * along_y + slope_x * along_x)
    curl, divergence = curl / wavenumber, divergence / wavenumber
    if errors is None:
        power = (np.abs(curl) ** 2 + np.abs(divergence) ** 2)[raster.used]
        return Field(raster, curl, divergence, float(np.median(power)) / _MEDIAN, np.ones(raster.shape))
    variance = np.mean(np.square(np.asarray(errors, float)), axis=-1)
    variance = np.where(np.isfinite(variance), variance, np.nanmean(variance))
    noise = float((window**2 * variance).sum())
    return Field(raster, curl, divergence, noise, variance * (window**2).sum() / max(noise, 1e-300))


def weights(one: Field) -> np.ndarray:
    """Weight of every frequency (rows, columns): S / (S + N) / N, S the signal's power, N the noise's.

    The maximum of the likelihood of a curl-free signal of power S in white noise. S is the mean over the nearest
    frequencies, and zero where this could be noise.
    """
    from scipy.ndimage import uniform_filter

    power = np.abs(one.curl) ** 2 + np.abs(one.divergence) ** 2
    mean = uniform_filter(power, 3, mode="wrap")
    signal = np.where(mean > 3.5 * one.noise, mean - 2 * one.noise, 0.0) * one.raster.used
    return signal / (signal + one.noise) / one.noise
