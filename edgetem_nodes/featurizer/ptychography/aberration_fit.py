"""Aberrations, rotation and handedness from the bright-field disk: maximum likelihood for a weak phase object.

To first order in the object's phase, pixel k holds G(k, Q) = i Phi(Q) M(k, Q), M = A*(k) A(k - Q) - A(k) A*(k + Q) (see
`trotters`). The likelihood of the counts, with the object profiled out, is

    L(p) = sum over Q of |sum over k of M* G / v|^2 / (sum over k of |M|^2 / v) / N,

v the variance of a pixel's count and N the number of positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography import kernels
from edgetem_nodes.featurizer.ptychography.bright_field import BrightField
from edgetem_nodes.featurizer.ptychography.trotters import aberration_terms
from edgetem_nodes.physics.optics import Probe

PARAMETERS = ("defocus", "astigmatism_0", "astigmatism_45", "coma_x", "coma_y", "rotation")
"""Defocus; astigmatism along x and along the diagonal; coma along x and y [m]; rotation beyond the geometry's [rad]."""
_SEARCH, _COARSE, _FINE = 20_000, 100_000, 500_000
"""Products of pixels and frequencies that the grid, the first and the second refinement look at."""


@dataclass(frozen=True)
class Found:
    """A best fit: gain of the log likelihood over noise, parameters and standard errors (6,), whether flipped."""

    gain: float
    parameters: np.ndarray
    errors: np.ndarray
    flipped: bool

    @property
    def aberrations(self) -> dict[str, float]:
        """By the names of `physics.optics.Probe` [m, rad]."""
        return _aberrations(self.parameters)


class Evidence:
    """What the disk says about aberrations: the strongest frequencies of every pixel, and the likelihood of parameters.

    Attributes
    ----------
    chance : log likelihood that noise alone gains: one a frequency.
    """

    def __init__(self, disk: BrightField, probe: Probe, good: np.ndarray) -> None:
        self._disk, self._probe, self._positions = disk, probe, len(good)
        means = disk.means(good)
        self._variance = disk.cautious_variance(means)
        (rows, columns), step = disk.field.shape, disk.field.step
        scale = probe.wavelength / disk.pitch
        qy, qx = np.meshgrid(np.fft.fftfreq(rows, step[0]) * scale, np.fft.rfftfreq(columns, step[1]) * scale, indexing="ij")
        twin = (np.arange(columns // 2 + 1)[None, :] == 0) & (np.arange(rows)[:, None] * 2 >= rows)
        inside = np.flatnonzero((np.hypot(qy, qx) < 2 * disk.radius) & ~twin & (np.hypot(qy, qx) > 0))
        power = np.zeros(len(inside))
        for part, values in self._chosen(means, good, inside):
            power += ((np.abs(values)**2).T / self._variance[part]).sum(axis=1)
        inside = inside[np.argsort(-power, kind="stable")[:max(1, _FINE // len(means))]]
        self._spectra = np.empty((len(inside), len(means)), np.complex128)
        for part, values in self._chosen(means, good, inside):
            self._spectra[:, part] = values.T
        self._qy, self._qx = qy.ravel()[inside], qx.ravel()[inside]
        self.chance = float(len(inside))

    def best(self, defocus_range: tuple[float, float], flipped: bool, free: np.ndarray) -> Found:
        """Best fit of the free (6,) bool parameters; defocus is looked for in its range [m]."""
        starts = self._grid(defocus_range, free[-1])
        gains = [self._gain(parameters, flipped, *self._subset(_SEARCH)) for parameters in starts]
        first = [self._refined(starts[index], flipped, free, _COARSE) for index in np.argsort(gains)[::-1][:2]]
        _, start = max(first, key=lambda one: one[0])
        gain, parameters = self._refined(start, flipped, free, _FINE)
        errors = np.full(len(PARAMETERS), np.nan)
        errors[free] = self._standard_errors(parameters, flipped, free)
        return Found(gain, parameters, errors, flipped)

    def _standard_errors(self, parameters: np.ndarray, flipped: bool, free: np.ndarray) -> np.ndarray:
        """From the curvature H of the likelihood and the variance H + T of its slope, H^-1 (H + T) H^-1.

        T is what noise alone puts into the slope: with P(p) the projection on the transfer, the sum over frequencies of
        tr(dP/dp dP/dq), which is minus the curvature of the power that P(p) explains of the transfer at the best fit. It
        matters where a frequency holds little more than noise, as nearly all do at low dose.
        """
        y, x, terms = self._seen(parameters, flipped)
        noise = np.empty_like(self._spectra)
        kernels.unit_transfer(y, x, self._disk.coverage, self._variance, self._disk.radius, self._qy, self._qx, terms, noise)
        pixels = np.arange(len(self._variance))
        scale = self._scale[free]

        def curvature(spectra: np.ndarray) -> np.ndarray:
            def loss(change: np.ndarray) -> float:
                moved = parameters.copy()
                moved[free] += change * scale
                return -self._explained(moved, flipped, pixels, spectra)
            return _curvature(loss, len(scale))

        height = curvature(self._spectra) / self._positions
        if not np.linalg.eigvalsh(height)[0] > 0:
            return np.full(len(scale), np.nan)
        inverse = np.linalg.inv(height)
        return np.sqrt(np.diag(inverse @ (height + curvature(noise)) @ inverse)) * scale

    def _chosen(self, means: np.ndarray, good: np.ndarray, frequencies: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Pixels, a slice, and their transforms (pixels, frequencies) complex64 at flat indices of frequencies."""
        for part, spectra in self._disk.spectra(means, good):
            values = spectra.reshape(len(spectra), -1, 2)[:, frequencies]
            yield part, values[..., 0] + 1j * values[..., 1]

    @property
    def _scale(self) -> np.ndarray:
        """Changes (6,) that move the phase at the edge of the disk by about a radian."""
        wave, angle = self._probe.wavelength / (2 * np.pi), self._probe.semi_convergence_angle
        return np.array([*[wave * 2 / angle**2] * 3, *[wave * 3 / angle**3] * 2, 0.1])

    def _grid(self, defocus_range: tuple[float, float], rotation: bool) -> list[np.ndarray]:
        low, high = defocus_range
        defocus = np.linspace(low, high, min(int(np.ceil((high - low) / self._scale[0] * 2)) + 1, 400))
        turns = np.deg2rad(np.arange(-90, 90, 10)) if rotation else [0.0]
        return [np.array([value, 0, 0, 0, 0, turn]) for value, turn in itertools.product(defocus, turns)]

    def _subset(self, products: int) -> tuple[np.ndarray, slice]:
        """Pixels, and the strongest frequencies, that make about as many products."""
        count = len(self._variance)
        pixels = np.arange(0, count, max(1, int(np.sqrt(count * len(self._qy) / products))))
        return pixels, slice(0, max(1, products // len(pixels)))

    def _refined(self, start: np.ndarray, flipped: bool, free: np.ndarray, products: int) -> tuple[float, np.ndarray]:
        subset, scale = self._subset(products), self._scale[free]

        def loss(change: np.ndarray) -> float:
            moved = start.copy()
            moved[free] += change * scale
            return -self._gain(moved, flipped, *subset)

        found = minimize(loss, np.zeros(free.sum()), method="BFGS", options={"eps": 1e-3, "gtol": 0.3, "maxiter": 40})
        parameters = start.copy()
        parameters[free] += found.x * scale
        return -float(found.fun), parameters

    def _gain(self, parameters: np.ndarray, flipped: bool, pixels: np.ndarray, frequencies: slice) -> float:
        spectra = self._spectra[frequencies]
        if len(pixels) < len(self._variance):
            spectra = np.ascontiguousarray(spectra[:, pixels])
        return self._explained(parameters, flipped, pixels, spectra) / self._positions

    def _explained(self, parameters: np.ndarray, flipped: bool, pixels: np.ndarray, spectra: np.ndarray) -> float:
        y, x, terms = self._seen(parameters, flipped)
        return kernels.explained_power(spectra, y[pixels], x[pixels], self._disk.coverage[pixels], self._variance[pixels],
                                       self._disk.radius, self._qy[:len(spectra)], self._qx[:len(spectra)], terms)

    def _seen(self, parameters: np.ndarray, flipped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Angles y, x of the pixels and terms of the aberrations under these parameters."""
        y, x = turned(self._disk, turned_geometry(self._disk, parameters[-1], flipped))
        return y, x, aberration_terms(replace(self._probe, **_aberrations(parameters)), self._disk.pitch)


def turned_geometry(disk: BrightField, rotation: float, flipped: bool) -> DetectorGeometry:
    """The disk's geometry turned further by `rotation` [rad] and, if `flipped`, of the other handedness."""
    own = disk.geometry
    return replace(own, rotation=own.rotation + float(rotation), flipped=own.flipped != flipped)


def turned(disk: BrightField, geometry: DetectorGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Angles y, x (pixels,) of the stored pixels if the detector were turned as `geometry` says [stored pixels]."""
    angles = disk.angles @ (geometry.to_scan() @ disk.geometry.to_detector()).T
    return np.ascontiguousarray(angles[:, 0]), np.ascontiguousarray(angles[:, 1])


def _aberrations(parameters: np.ndarray) -> dict[str, float]:
    defocus, along, across, coma_x, coma_y, _ = map(float, parameters)
    return {"defocus": defocus, "astigmatism": float(np.hypot(along, across)),
            "astigmatism_angle": float(np.arctan2(across, along) / 2), "coma": float(np.hypot(coma_y, coma_x)),
            "coma_angle": float(np.arctan2(coma_y, coma_x))}


def _curvature(loss: Callable[[np.ndarray], float], count: int, step: float = 0.05) -> np.ndarray:
    """Second derivatives (count, count) of a function at 0, by differences."""
    unit = np.eye(count) * step
    middle = loss(np.zeros(count))
    result = np.empty((count, count))
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        if i == j:
            value = loss(unit[i]) - 2 * middle + loss(-unit[i])
        else:
            value = (loss(unit[i] + unit[j]) - loss(unit[i] - unit[j]) - loss(unit[j] - unit[i])
                     + loss(-unit[i] - unit[j])) / 4
        result[i, j] = result[j, i] = value / step**2
    return result
