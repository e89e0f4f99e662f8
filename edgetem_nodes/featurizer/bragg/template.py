"""What one Bragg disk looks like on the pixels: a table finer than a pixel, of a calculated disk or of a vacuum image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.ndimage import spline_filter
from scipy.special import erfc

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

OVERSAMPLING = 4
"""Samples a pixel and axis of the table; a cubic spline through them is exact to 1e-4 of the disk for edges of 0.3 pixel."""
MARGIN = 3.0
"""Pixels beyond the edge that a fit looks at, where its neighbours leave room."""
_TAIL = 3.5
"""Standard deviations of the edge beyond which a disk is dark."""
_SUBPIXELS = 4
_SPARE = 2
_PHASES, _LARGE = 16, 11
"""Sub-pixel phases an axis, half as many for disks that reach farther than `_LARGE` pixels: the table stays within a cache."""


@dataclass(frozen=True)
class Template:
    """Fraction of a disk's electrons in a pixel, by the pixel's distance from the disk's centre.

    Attributes
    ----------
    table : (n, n) float64, sampled at `OVERSAMPLING` a pixel; the middle of the disk is at index OVERSAMPLING * (reach + 2).
    reach : pixels from the centre beyond which the disk is dark.
    radius : mean radius of the disk [pixel].
    edge : standard deviation of its blurred edge [pixel]; 0 where it is not known (a vacuum image).
    axes : (2, 2) that turns offsets [pixel] into those of a round disk, of determinant 1.
    """

    table: np.ndarray
    reach: int
    radius: float
    edge: float = 0.0
    axes: np.ndarray = field(default_factory=lambda: np.eye(2))

    @classmethod
    def disk(cls, radius: float, edge: float, axes: np.ndarray | None = None) -> Template:
        """A uniform disk whose edge falls as an error function, integrated over square pixels.

        Parameters
        ----------
        radius : where the intensity is half [pixel].
        edge : standard deviation of the edge's Gaussian blur [pixel].
        axes : (2, 2); the disk is round in the offsets axes @ (y, x), e.g. `DetectorGeometry.distortion`.

        Raises
        ------
        ValueError : a radius below 1 pixel, or an edge that is not positive and narrower than the radius.
        """
        if not radius >= 1.0:
            raise ValueError(f"disks of a radius of {radius:.3g} pixels cannot be located: 1 pixel or more; lower the camera "
                             "length's pixel angle or raise the semi-convergence angle")
        if not 0.05 <= edge < radius:
            raise ValueError(f"an edge of {edge:.3g} pixels does not fit a disk of {radius:.3g}: 0.05 to the radius")
        axes = np.eye(2) if axes is None else np.asarray(axes, float)
        reach = math.ceil((radius + max(_TAIL * edge, MARGIN + edge)) * np.linalg.norm(np.linalg.inv(axes), 2) + 0.5)
        fine = OVERSAMPLING * _SUBPIXELS
        place = (np.arange((2 * reach + 5) * fine) - fine * (reach + _SPARE)) / fine + 0.5 / fine
        y, x = place[:, None], place[None, :]
        distance = np.hypot(axes[0, 0] * y + axes[0, 1] * x, axes[1, 0] * y + axes[1, 1] * x)
        level = 0.5 * erfc((distance - radius) / (math.sqrt(2) * edge))
        return cls(_normalised(_over_pixels(level, fine)), reach, float(radius), float(edge), axes)

    @classmethod
    def of_geometry(cls, geometry: DetectorGeometry, edge: float = 0.5) -> Template:
        """The calculated disk of a calibrated detector.

        Raises
        ------
        ValueError : its semi-convergence angle is not known, or the disk is too small.
        """
        if not geometry.semi_convergence_angle > 0:
            raise ValueError("the geometry knows no semi-convergence angle: state it, calibrate it, or give a vacuum image")
        return cls.disk(geometry.semi_convergence_angle / geometry.pixel_angle, edge, geometry.distortion)

    @classmethod
    def of_image(cls, image: np.ndarray, background: float | None = None) -> Template:
        """The disk of a vacuum image (rows, columns), counts, with one disk anywhere in it.

        The image is interpolated between its pixels by a cubic spline; its noise is that of the template, so take 1e6
        electrons or more.

        Parameters
        ----------
        background : counts a pixel away from the disk; by default the median of the image.

        Raises
        ------
        ValueError : not finite, no disk, or a disk that the image cuts.
        """
        image = np.asarray(image, float)
        if image.ndim != 2 or not np.isfinite(image).all():
            raise ValueError(f"a vacuum image has two dimensions and finite counts; this one has the shape {image.shape} and "
                             f"{int((~np.isfinite(image)).sum())} pixels that are not finite")
        net = image - (np.median(image) if background is None else background)
        level = np.quantile(net, 1 - 4 / net.size)
        bright = net > level / 2
        if not level > 0 or bright.sum() < 4:
            raise ValueError("the vacuum image holds no disk of 4 pixels or more above its background")
        radius = math.sqrt(net[net > level / 10].sum() / np.median(net[bright]) / np.pi)
        centre = np.argwhere(bright).mean(axis=0)
        reach = math.ceil(radius + 3)
        around = np.hypot(*(np.indices(image.shape) - centre[:, None, None])) <= reach
        for _ in range(3):
            disk = np.maximum(net, 0) * around
            centre = (np.indices(image.shape) * disk).sum(axis=(1, 2)) / disk.sum()
            around = np.hypot(*(np.indices(image.shape) - centre[:, None, None])) <= reach
        if (centre - radius < 0).any() or (centre + radius > np.array(image.shape) - 1).any():
            raise ValueError(f"the vacuum image cuts its disk, of {radius:.3g} pixels about {centre.round(1).tolist()}: move "
                             "the beam to the middle of the detector")
        coefficients = spline_filter(net * around, order=3, mode="constant")
        place = (np.arange((2 * reach + 5) * OVERSAMPLING) - OVERSAMPLING * (reach + _SPARE)) / OVERSAMPLING
        rows, columns = (_spline_weights(place + middle, size) for middle, size in zip(centre, image.shape, strict=True))
        table = np.maximum(rows @ coefficients @ columns.T, 0.0)
        table[np.hypot(place[:, None], place[None, :]) > reach] = 0.0
        return cls(_normalised(table), reach, float(radius))

    @cached_property
    def phases(self) -> np.ndarray:
        """The disk and its derivatives to its centre's y and x, for every sub-pixel phase, float32 (3, phases, phases, n, n).

        n is 2 reach + 3. Entry [.., q, r, i, j] is for a pixel (i - 1 - reach + q / phases, j - 1 - reach + r / phases) from
        the centre. Between phases kernels interpolate linearly, to 3e-4 of the disk at 16 a pixel.
        """
        phases = _PHASES if self.reach <= _LARGE else _PHASES // 2
        pixels, step = 2 * self.reach + 3, 1e-4
        place = OVERSAMPLING * (np.arange(pixels * phases) / phases + 1)
        coefficients, size = spline_filter(self.table, order=3, mode="constant"), len(self.table)
        middle = _spline_weights(place, size)
        slope = (_spline_weights(place - step, size) - _spline_weights(place + step, size)) * (OVERSAMPLING / (2 * step))
        fine = np.stack([middle @ coefficients @ middle.T, slope @ coefficients @ middle.T, middle @ coefficients @ slope.T])
        split = fine.reshape(3, pixels, phases, pixels, phases).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(split, np.float32)

    def patch(self, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """The disk on (2 reach + 1) square pixels, its centre (y, x) [pixel] off the middle one; sums to 1."""
        pixels = np.arange(-self.reach, self.reach + 1)
        middle, size = OVERSAMPLING * (self.reach + _SPARE), len(self.table)
        coefficients = spline_filter(self.table, order=3, mode="constant")
        rows, columns = (_spline_weights((pixels - shift) * OVERSAMPLING + middle, size) for shift in offset)
        return rows @ coefficients @ columns.T


def _over_pixels(level: np.ndarray, fine: int) -> np.ndarray:
    """Mean over a pixel around every `_SUBPIXELS`-th sample of an image with `fine` samples a pixel."""
    total = np.zeros((level.shape[0] + fine, level.shape[1] + fine))
    half = fine // 2
    total[half:-half, half:-half] = level
    total = np.pad(total, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    box = total[fine:, fine:] - total[:-fine, fine:] - total[fine:, :-fine] + total[:-fine, :-fine]
    return box[:level.shape[0]:_SUBPIXELS, :level.shape[1]:_SUBPIXELS] / fine**2


def _normalised(table: np.ndarray) -> np.ndarray:
    return table * (OVERSAMPLING**2 / table.sum())


def _spline_weights(places: np.ndarray, size: int) -> np.ndarray:
    """Weights (places, size) of cubic B-spline coefficients at places [samples]; 0 outside."""
    distance = np.abs(places[:, None] - np.arange(size))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    return np.where(distance < 1, near, np.where(distance < 2, (2 - distance)**3 / 6, 0.0))
