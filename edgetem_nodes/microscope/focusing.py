"""Autofocus and eucentric height by ask and tell: the instrument is asked for a bounded number of images, known beforehand.

    focus = Autofocus(start, reach)
    while (defocus := focus.ask()) is not None:
        focus.tell(defocus, image_at(defocus))
    focus.result()

Knows no ROS, no driver, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics.registration import Shift, register, taper


class FocusingError(RuntimeError):
    """Focus or height could not be found; the message says why and what to do."""


@dataclass(frozen=True)
class Sharpness:
    """Sharpness of an image, noise removed, and its standard error; relative to the square of the mean brightness."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Focus:
    """Defocus of the sharpest image [m], its standard error [m], and how many images it rests on."""

    defocus: float
    standard_error: float
    images: int


@dataclass(frozen=True)
class Tilt:
    """An image that is wanted: stage tilt `alpha` [rad], scan moved by `offset_y` [m] to where the feature should be."""

    alpha: float
    offset_y: float


@dataclass(frozen=True)
class Height:
    """Height of the specimen over the tilt axis [m], its standard error [m], and how many images it rests on."""

    height: float
    standard_error: float
    images: int


def sharpness(image: np.ndarray, smoothing: float = 1.0) -> Sharpness:
    """Mean square of the gradient of an image (rows, columns) smoothed by a Gaussian of `smoothing` pixels.

    Computed in Fourier space, where the power of white noise is the same everywhere and is subtracted: the Poisson noise of
    counts, or else what the highest frequencies show. So an image that is dark or noisy does not look sharp (Vollath 1988,
    J. Microsc. 151, 133, on the bias of focus functions by noise).

    Raises
    ------
    ValueError : an image smaller than 8 x 8, or values that are not finite.
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 8 or not np.isfinite(image).all():
        raise ValueError(f"image {image.shape} must be (rows, columns), at least 8 x 8, of finite values")
    window = taper(image.shape)
    mean = float((window * image).sum() / window.sum())
    if not mean > 0:
        return Sharpness(0.0, math.inf)
    power = np.abs(np.fft.fft2(window * (image - mean))) ** 2
    frequencies = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    square = frequencies[0] ** 2 + frequencies[1] ** 2
    counts = image.min() >= 0 and np.abs(image - np.rint(image)).max() < 1e-6
    highest = square > 0.8 * np.pi ** 2
    noise = float((window ** 2 * image).sum()) if counts else float(power[highest].mean())
    weights = square * np.exp(-square * smoothing ** 2)
    weights[square < 3 * (2 * np.pi / min(image.shape)) ** 2] = 0.0
    scale = mean ** 2 * float((window ** 2).sum()) * image.size
    overlap = np.mean(window ** 4) / np.mean(window ** 2) ** 2
    variance = 2 * overlap * (weights ** 2 * (2 * np.maximum(power - noise, 0.0) * noise + noise ** 2)).sum()
    return Sharpness(float((weights * (power - noise)).sum()) / scale, math.sqrt(max(float(variance), 1e-300)) / scale)


class Autofocus:
    """Finds the defocus of the sharpest image: a coarse sweep over the reach, then a fine one about its best.

    Parameters
    ----------
    start : commanded defocus [m] in the middle of the search.
    reach : how far from it focus may lie [m].
    coarse, fine : images of either sweep.

    Raises
    ------
    ValueError : a reach that is not positive, or fewer than five images in a sweep.
    """

    def __init__(self, start: float, reach: float, coarse: int = 9, fine: int = 9) -> None:
        if not math.isfinite(start):
            raise ValueError(f"defocus {start * 1e9:g} nm to start from is not finite")
        if not (reach > 0 and math.isfinite(reach)):
            raise ValueError(f"reach {reach * 1e9:g} nm is not positive and finite")
        if min(coarse, fine) < 5:
            raise ValueError(f"sweeps of {coarse} and {fine} images are too few: five each at least")
        self._sweep = start + np.linspace(-reach, reach, coarse)
        self._fine = fine
        self._stage, self._refined = [], False
        self._told: list[tuple[float, Sharpness]] = []
        self.images = coarse + fine
        """Images that will be asked for, at most: with pixels, dwell and current they give the dose."""

    def ask(self) -> float | None:
        """Defocus [m] at which an image is wanted next; None: there is nothing more to ask.

        Raises
        ------
        FocusingError : the coarse sweep shows no contrast, or its best image at the end of the reach.
        """
        if len(self._stage) == len(self._sweep):
            if self._refined:
                return None
            self._refine()
        return float(self._sweep[len(self._stage)])

    def tell(self, defocus: float, image: np.ndarray) -> Sharpness:
        """Take in the image (rows, columns) that was asked for; raises ValueError for one that was not."""
        expected = self.ask()
        if expected is None or abs(defocus - expected) > 1e-3 * abs(self._sweep[1] - self._sweep[0]):
            raise ValueError(f"an image at defocus {defocus:.4g} m was not asked for"
                             + ("" if expected is None else f": {expected:.4g} m was"))
        value = sharpness(image)
        self._stage.append(value)
        self._told.append((expected, value))
        return value

    def _refine(self) -> None:
        values = np.array([s.value for s in self._stage])
        errors = np.array([s.standard_error for s in self._stage])
        best = int(values.argmax())
        if not values[best] > 4 * errors[best] or not np.ptp(values) > 4 * errors.max():
            raise FocusingError(f"no contrast to focus on: sharpness {values[best]:.3g} with standard error "
                                f"{errors[best]:.3g}, range over the sweep {np.ptp(values):.3g}; take more dose, another "
                                "place or a longer reach")
        if best in (0, len(values) - 1):
            raise FocusingError(f"the image is sharpest at the end of the reach, {self._sweep[best] * 1e9:.4g} nm: start "
                                "there, or search with a longer reach")
        above = np.flatnonzero(values > values[best] / 2)
        step = self._sweep[1] - self._sweep[0]
        half = max(step, min(2.0, (above[-1] - above[0] + 2) / 2) * step)
        self._sweep = self._sweep[best] + np.linspace(-half, half, self._fine)
        self._stage, self._refined = [], True

    def result(self) -> Focus:
        """The focus.

        Raises
        ------
        FocusingError : images are missing, or the sharpness has no maximum.
        """
        if self.ask() is not None:
            raise FocusingError(f"{len(self._told)} of {self.images} images are there: go on asking")
        defocus = np.array([d for d, _ in self._told])
        values = np.array([s.value for _, s in self._told])
        errors = np.array([s.standard_error for _, s in self._told])
        center, error = _maximum(defocus, values, errors)
        return Focus(center, error, len(self._told))


def _maximum(at: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Place and standard error of the maximum of a bell-shaped curve: Lorentzian with background, fitted robustly."""
    from scipy.optimize import least_squares

    scale, middle = float(np.ptp(at)), float(at[values.argmax()])
    height, low = float(values.max()), float(max(values.min(), 0.0))
    width = max(float(np.ptp(at[values > (height + low) / 2])) / 2, scale / 50)

    def misfit(p: np.ndarray) -> np.ndarray:
        bell = p[0] + p[1] / (1 + ((at - middle - p[2] * scale) / (p[3] * scale)) ** 2) ** 2
        return (bell - values) / errors

    start = np.array([low, height - low, 0.0, width / scale])
    fit = least_squares(misfit, start, loss="soft_l1", x_scale=np.array([height, height, 0.1, 0.1]), max_nfev=400,
                        bounds=([-np.inf, 0.0, -0.5, 1e-3], [np.inf, np.inf, 0.5, 10.0]))
    spread = max(float((fit.fun ** 2).sum()) / max(len(at) - 4, 1), 1.0)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * spread
    center, error = float(middle + fit.x[2] * scale), float(math.sqrt(covariance[2, 2]) * scale)
    if not fit.x[1] > 3 * math.sqrt(covariance[1, 1]) or not at.min() < center < at.max() or error > scale / 4:
        raise FocusingError(f"the sharpness has no clear maximum: {center * 1e9:.4g} +- {error * 1e9:.2g} nm; take more "
                            "dose or another place")
    return center, error


class EucentricHeight:
    """Finds the height of the specimen over the tilt axis: a point at height z moves by z * sin(alpha) along y.

    The first tilts are small enough that the shift stays in the image whatever the height, and within half a cell of a
    lattice if the image shows one; each of the next is as large as what is known by then allows, and the scan is
    moved to where the region should have gone. Images are compared with the untilted one, compressed by cos(alpha) along y.
    Tilts come in pairs of both signs, in turn one or the other first, so that steady drift cancels.

    Parameters
    ----------
    step : (y, x) of the image's pixels [m]. shape : (rows, columns) of the image.
    reach : largest height to be expected, either sign [m].
    largest_tilt : [rad]. tilts : images besides the untilted one; an even number.

    Raises
    ------
    ValueError : a reach or tilt out of range, an odd number of tilts, an image smaller than 16 x 16.
    """

    def __init__(self, step: tuple[float, float], shape: tuple[int, int], reach: float, largest_tilt: float = 0.26,
                 tilts: int = 8) -> None:
        if not (reach > 0 and math.isfinite(reach)):
            raise ValueError(f"reach {reach * 1e9:g} nm is not positive and finite")
        if not 0 < largest_tilt <= 1.2:
            raise ValueError(f"largest tilt {largest_tilt:g} rad is not above 0 and at most 1.2 rad")
        if tilts < 2 or tilts % 2:
            raise ValueError(f"{tilts} tilts will not do: they come in pairs, take an even number")
        if min(shape) < 16:
            raise ValueError(f"image {shape[0]} x {shape[1]} is too small to find the height: 16 x 16 at least")
        self._step, self._shape = np.abs(np.asarray(step, float)), tuple(shape)
        self._search = max(min(shape) // 6, 2)
        self._largest, self._tilts, self._reach = largest_tilt, tilts, reach
        self._height, self._error = 0.0, reach / 2
        self._tilt: Tilt | None = Tilt(0.0, 0.0)
        self._flat: np.ndarray | None = None
        self._visible = 0.5 * self._search * self._step[0]
        self._alphas: list[float] = []
        self._shifts: list[float] = []
        self._errors: list[float] = []
        self.images = tilts + 1
        """Images that will be asked for: with pixels, dwell and current they give the dose."""

    def ask(self) -> Tilt | None:
        """The tilt at which an image is wanted next; None: there is nothing more to ask."""
        return self._tilt

    def tell(self, tilt: Tilt, image: np.ndarray) -> Shift | None:
        """Take in the image (rows, columns) that was asked for; returns its shift against the untilted one.

        Raises
        ------
        ValueError : an image that was not asked for, or of another shape.
        FocusingError : the image cannot be registered; the message says why.
        """
        if tilt != self._tilt:
            raise ValueError(f"an image at {tilt} was not asked for: {self._tilt} was")
        if np.shape(image) != self._shape:
            raise ValueError(f"image {np.shape(image)} is not of the shape announced, {self._shape}")
        if self._flat is None:
            self._flat = np.asarray(image, float)
            self._visible = min(self._visible, 0.3 * repeat_distance(self._flat) * self._step[0])
            self._tilt = self._next()
            return None
        shift = self._registered(tilt, image)
        self._alphas.append(tilt.alpha)
        self._shifts.append(tilt.offset_y + shift.y * self._step[0])
        self._errors.append(shift.standard_error[0] * self._step[0])
        self._fit()
        self._tilt = self._next() if len(self._alphas) < self._tilts else None
        return shift

    def _registered(self, tilt: Tilt, image: np.ndarray) -> Shift:
        cut = tuple(max(n // 6, 2) for n in self._shape)
        inner = (slice(cut[0], -cut[0]), slice(cut[1], -cut[1]))
        reference = _compressed(self._flat, math.cos(tilt.alpha))
        spread = math.hypot(self._error * math.sin(tilt.alpha) / self._step[0], 0.35)
        shift = register(np.asarray(image, float)[inner], reference, cut, self._search,
                         expected_covariance=np.diag([spread ** 2, 0.35 ** 2]))
        if not shift.reliable:
            raise FocusingError(f"the image at {math.degrees(tilt.alpha):.3g} degrees cannot be compared with the untilted "
                                f"one: {shift.problem}")
        return shift

    def _fit(self) -> None:
        """Least squares of shift = height * sin(alpha) + constant: height within the reach, drift of a few pixels."""
        design = np.stack([np.sin(self._alphas), np.ones(len(self._alphas))], axis=1)
        weights = 1 / np.asarray(self._errors)
        prior = np.diag([1 / self._reach ** 2, 1 / (2 * self._step[0]) ** 2])
        normal = (design * weights[:, None] ** 2).T @ design + prior
        covariance = np.linalg.inv(normal)
        solution = covariance @ (design.T @ (weights ** 2 * np.asarray(self._shifts)))
        misfit = ((design @ solution - self._shifts) * weights) ** 2
        spread = max(float(misfit.sum()) / max(len(self._alphas) - 2, 1), 1.0)
        self._height, self._error = float(solution[0]), math.sqrt(covariance[0, 0] * spread)

    def _next(self) -> Tilt:
        if len(self._alphas) % 2:
            alpha = -self._alphas[-1]
        else:
            size = max(math.asin(min(self._visible / (3 * self._error), 1.0)), *map(abs, self._alphas[:1]), 0.0)
            alpha = min(size, self._largest) * (1 if len(self._alphas) % 4 else -1)
        return Tilt(alpha, self._height * math.sin(alpha))

    def result(self) -> Height:
        """The height.

        Raises
        ------
        FocusingError : images are missing, or the height is no better known than before.
        """
        if self._tilt is not None:
            raise FocusingError(f"{len(self._alphas) + 1} images of {self.images} are there: go on asking")
        if self._error > self._reach / 3:
            raise FocusingError(f"the height was not found: {self._height * 1e9:.4g} +- {self._error * 1e9:.2g} nm; focus "
                                "first, take more dose or another place")
        return Height(self._height, self._error, self.images)


def repeat_distance(image: np.ndarray) -> float:
    """Distance [pixels] by which an image (rows, columns) must move to look like itself again; infinite where it never does.

    The nearest maximum of the autocorrelation that reaches a third of the highest one beside zero, where noise adds to it.
    """
    from scipy.ndimage import maximum_filter

    window = taper(image.shape)
    mean = (window * image).sum() / window.sum()
    alike = np.fft.fftshift(np.fft.ifft2(np.abs(np.fft.fft2(window * (image - mean))) ** 2).real)
    middle = tuple(n // 2 for n in image.shape)
    y, x = np.ogrid[:image.shape[0], :image.shape[1]]
    distance = np.hypot(y - middle[0], x - middle[1])
    height = max(alike[distance == 1].max(), alike[(distance > 0) & (distance < 8)].max())
    maxima = (maximum_filter(alike, 3) == alike) & (distance > 1.5) & (distance < min(image.shape) / 3)
    repeats = distance[maxima & (alike > height / 3)]
    return float(repeats.min()) if repeats.size else math.inf


def _compressed(image: np.ndarray, factor: float) -> np.ndarray:
    """The image as a specimen tilted about x shows it: along y, about the middle, `factor` times as long."""
    from scipy.ndimage import affine_transform

    middle = (image.shape[0] - 1) / 2
    return affine_transform(image, [1 / factor, 1.0], [middle - middle / factor, 0.0], order=3, mode="mirror")
