"""The bright-field disk of a mean pattern: centre, radius and ellipticity, to a small part of a pixel.

A blurred elliptic edge is fitted by maximum likelihood (Fisher scoring, Poisson counts) to the pixels near the edge. How
bright the pattern is on either side is left free as a Fourier series of the azimuth with a radial slope, so contrast inside the
disk, overlapping disks and diffuse scattering do not draw the edge with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from edgetem_nodes.featurizer.calibration.disk_search import find_disk
from edgetem_nodes.featurizer.features import CountingNoise

LEAST_EDGE, LEAST_EDGE_OF_ELLIPSE = 0.35, 0.6
"""Part of the edge's azimuth that must be seen for a circle, and for an ellipse."""
LEAST_ELECTRONS, LEAST_RADIUS, LEAST_SIGNIFICANCE = 200.0, 2.5, 5.0
USUAL_ELLIPTICITY = 0.02
"""Standard deviation of e1 and e2 before anything is measured: projector lenses distort by up to a few percent."""
LARGEST_MISFIT = 0.15
"""Above it the disk may be missed by pixels. From 1e5 electrons on, single patterns of 8 nm SrTiO3 have 0.12 to 0.3 and are up
to 6 pixels off from 0.16 on, 0.3 below; means of a row have 0.07 to 0.12, of the scan 0.04."""
_HARMONICS = 6
_PATCH = 3
"""[pixel] Side of the squares over which residuals are summed, as what the levels miss is alike in neighbouring pixels."""
_SECTORS = 72
_ROUNDS, _STEPS = 4, 12
_CENTRE_Y, _CENTRE_X, _RADIUS, _E1, _E2, _BLUR = range(6)


@dataclass(frozen=True)
class Disk:
    """A bright-field disk: |distortion @ (p - center)| = radius. Vectors (y, x) [pixel].

    Attributes
    ----------
    center : (y, x).
    radius : [pixel], of the circle that has the ellipse's area.
    ellipticity : (e1, e2); distortion = exp([[e1, e2], [e2, -e1]]), symmetric, of determinant 1; the longer over the shorter
        axis is exp(2 |e|).
    blur : standard deviation of the edge, the pixels' own included [pixel].
    covariance : (6, 6) of center y, x, radius, e1, e2, blur. From counting statistics, times the reduced chi-square where that
        is more than one: of pixels, or of sums over squares of 3 x 3 pixels where that is larger and there is misfit. Zero rows
        for an ellipticity that was held at zero.
    elliptical : whether the ellipticity was measured. If not, as too little of the edge is seen, it is what the edge says
        of a distribution of the width `USUAL_ELLIPTICITY`, so that centre and radius have the errors that come of it.
    edge_seen : part of the edge, by azimuth, that lies on usable pixels.
    chi_square : reduced, of the pixels near the edge.
    misfit : root mean square of what the model misses near the edge, over the level inside; 0 where one standard deviation
        of the chi-square explains it. It does not grow with the dose, as the chi-square does.
    contrast : mean step at the edge over the level inside.
    left_out : number of pixels that were masked or not finite.
    """

    center: tuple[float, float]
    radius: float
    ellipticity: tuple[float, float]
    blur: float
    covariance: np.ndarray
    elliptical: bool
    edge_seen: float
    chi_square: float
    misfit: float
    contrast: float
    left_out: int

    @property
    def distortion(self) -> np.ndarray:
        """(2, 2), symmetric, of determinant 1, as `DetectorGeometry` has it."""
        return stretch(*self.ellipticity)

    @property
    def standard_errors(self) -> np.ndarray:
        """(6,) of center y, x, radius, e1, e2, blur."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def distortion_errors(self) -> np.ndarray:
        """(2, 2) standard errors of the distortion's elements, to first order in the ellipticity."""
        first, second = self.standard_errors[[_E1, _E2]]
        return np.array([[first, second], [second, first]])

    @property
    def axis_ratio(self) -> float:
        """Longer over shorter axis of the disk."""
        return float(np.exp(2 * np.hypot(*self.ellipticity)))


def stretch(e1: float, e2: float) -> np.ndarray:
    """exp([[e1, e2], [e2, -e1]]), (2, 2): symmetric, of determinant 1."""
    size = np.hypot(e1, e2)
    part = np.sinh(size) / size if size > 1e-12 else 1.0
    return np.cosh(size) * np.eye(2) + part * np.array([[e1, e2], [e2, -e1]])


def fit_disk(pattern: np.ndarray, mask: np.ndarray | None = None, noise: CountingNoise | None = None, frames: int = 1,
             elliptical: bool = True) -> Disk:
    """Fit the bright-field disk of a summed pattern.

    Parameters
    ----------
    pattern : (rows, columns), sum of counts over `frames` patterns (not their mean: the errors come from the counts).
    mask : (rows, columns) bool, True where a pixel may be used; a beam stop and dead or saturated pixels are False. Pixels
        that are not finite are left out too.
    noise : of the counts.
    frames : number of patterns in the sum, for the readout noise.
    elliptical : fit the ellipticity; measured where `LEAST_EDGE_OF_ELLIPSE` of the edge is seen. False: a circle.

    Raises
    ------
    ValueError : the pattern is empty, shows no disk, or too little of the disk's edge lies on usable pixels; or the misfit is
        above `LARGEST_MISFIT`, as in single patterns of thick crystals.
    """
    pattern, usable = _usable(pattern, mask)
    noise = noise or CountingNoise()
    electrons = float(pattern[usable].sum()) / noise.counts_per_electron
    if not electrons >= LEAST_ELECTRONS:
        raise ValueError(f"the pattern holds {electrons:.4g} electrons: a disk needs {LEAST_ELECTRONS:g} or more; sum more "
                         "frames")
    center, radius = find_disk(pattern, usable)
    blur = max(0.7, 0.07 * radius)
    start = np.array([*center, radius, 0.0, 0.0, np.log(blur)])
    fit = _Edge(pattern, usable, noise, frames)
    seen = fit.edge_seen(start, fit.width(start))
    _check_edge(start, seen, pattern.shape)
    free = np.array([True] * 3 + [elliptical] * 2 + [True])
    fit.prior[[_E1, _E2]] = USUAL_ELLIPTICITY**-2 if seen < LEAST_EDGE_OF_ELLIPSE else 0.0
    values = fit.solve(start, free)
    seen = fit.edge_seen(values, fit.width(values))
    _check_edge(values, seen, pattern.shape)
    fit.check(values, start)
    blur = float(np.exp(values[_BLUR]))
    covariance = np.zeros((6, 6))
    covariance[np.ix_(free, free)] = fit.covariance[:free.sum(), :free.sum()]
    covariance[_BLUR] *= blur
    covariance[:, _BLUR] *= blur
    return Disk(tuple(values[:2].tolist()), float(values[_RADIUS]), tuple(values[3:5].tolist()), blur,
                covariance * fit.enlarged, elliptical and not fit.prior[_E1], seen, fit.chi_square, fit.misfit, fit.contrast,
                int((~usable).sum()))


def _usable(pattern: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Pattern as float, zero where it may not be used, and where it may."""
    pattern = np.asarray(pattern, float)
    if pattern.ndim != 2 or min(pattern.shape) < 8:
        raise ValueError(f"a pattern of shape {pattern.shape} is not (rows, columns) of 8 x 8 or more")
    usable = np.isfinite(pattern)
    if mask is not None:
        if np.shape(mask) != pattern.shape:
            raise ValueError(f"the mask of shape {np.shape(mask)} does not fit the pattern of shape {pattern.shape}")
        usable &= np.asarray(mask, bool)
    if not usable.any():
        raise ValueError("no pixel of the pattern may be used: all are masked or not finite")
    return np.where(usable, pattern, 0.0), usable


def _check_edge(values: np.ndarray, seen: float, shape: tuple[int, int]) -> None:
    y, x, radius = values[:3]
    if radius < LEAST_RADIUS:
        raise ValueError(f"the disk has a radius of {radius:.2f} pixels, less than {LEAST_RADIUS:g}: raise the camera "
                         "length")
    if seen < LEAST_EDGE:
        cut = y < radius or x < radius or y + radius > shape[0] - 1 or x + radius > shape[1] - 1
        raise ValueError(f"the strongest edge is that of a circle about ({y:.1f}, {x:.1f}) with a radius of {radius:.1f} "
                         f"pixels, {100 * seen:.0f} % of which lie on usable pixels, less than {100 * LEAST_EDGE:.0f} %: "
                         "there is no disk, or it " + (
                             "is cut by the detector's edge: centre it or lower the camera length" if cut else
                             "lies behind masked pixels: move the beam stop"))


class _Edge:
    """The fit: six values of the edge and the linear coefficients of the levels on either side."""

    def __init__(self, pattern: np.ndarray, usable: np.ndarray, noise: CountingNoise, frames: int) -> None:
        self.pattern, self.usable, self.noise, self.frames = pattern, usable, noise, frames
        self.grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in pattern.shape), indexing="ij"))
        self.prior = np.zeros(6)
        self.covariance, self.chi_square, self.contrast, self.significance = np.zeros((0, 0)), 0.0, 0.0, 0.0
        self.misfit, self.enlarged = 0.0, 1.0

    @staticmethod
    def width(values: np.ndarray) -> float:
        """Half-width of the ring of pixels that are fitted [pixel]."""
        return float(min(max(3.5 * np.exp(values[_BLUR]), 0.12 * values[_RADIUS], 2.5), 0.8 * values[_RADIUS]))

    def edge_seen(self, values: np.ndarray, width: float) -> float:
        """Part of the azimuth in which usable pixels lie on both sides of the edge."""
        angle = (np.arange(_SECTORS) + 0.5) * 2 * np.pi / _SECTORS
        direction = np.stack([np.sin(angle), np.cos(angle)])
        seen = np.ones(_SECTORS, bool)
        for side in (-0.4, 0.4):
            place = np.linalg.inv(stretch(*values[3:5])) @ direction * (values[_RADIUS] + side * width)
            index = np.rint(place + values[:2, None]).astype(int)
            on = (index >= 0).all(axis=0) & (index < np.array(self.pattern.shape)[:, None]).all(axis=0)
            index = np.where(on, index, 0)
            seen &= on & self.usable[index[0], index[1]]
        return float(seen.mean())

    def geometry(self, values: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance inwards from the edge and azimuth of pixels (2, n), each (n,).

        A curved edge blurred by s lies s^2 / 2R farther in (heat equation in polar coordinates).
        """
        distortion = stretch(*values[3:5])
        y, x = distortion @ (pixels - values[:2, None])
        radius = np.hypot(y, x)
        edge = values[_RADIUS] - np.exp(2 * values[_BLUR]) / (2 * values[_RADIUS])
        # the stretched distance over its slope: the blur is as wide along either axis of the ellipse
        slope = np.hypot(*(distortion @ np.stack([y, x]))) / np.maximum(radius, 1e-9)
        return (edge - radius) / np.maximum(slope, 0.1), np.arctan2(y, x)

    def levels(self, values: np.ndarray, pixels: np.ndarray, harmonics: int, width: float) -> np.ndarray:
        """Design matrix (n, coefficients) of the step and of the level outside."""
        inwards, azimuth = self.geometry(values, pixels)
        order = np.arange(1, harmonics + 1)[:, None] * azimuth
        series = np.concatenate([np.ones((1, len(azimuth))), np.cos(order), np.sin(order)])
        series = np.concatenate([series, inwards[None] / width])
        return np.concatenate([series * ndtr(inwards * np.exp(-values[_BLUR])), series]).T

    def solve(self, start: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Values of the edge; the ring of pixels follows the edge."""
        values = start
        for _ in range(_ROUNDS):
            width = self.width(values)
            inwards, _ = self.geometry(values, self.grid.reshape(2, -1))
            ring = (np.abs(inwards) <= width) & self.usable.ravel()
            before, values = values, self._scoring(values, free, ring, width)
            if np.abs(values - before).max() < 1e-4:
                break
        return values

    def _scoring(self, values: np.ndarray, free: np.ndarray, ring: np.ndarray, width: float) -> np.ndarray:
        """Fisher scoring on a fixed ring of pixels, with steps that stay within a pixel."""
        pixels, counts = self.grid.reshape(2, -1)[:, ring], self.pattern.ravel()[ring]
        if len(counts) < 40:
            raise ValueError("there is no disk: the strongest edge is none on closer inspection")
        # a gap in the edge leaves a long series free to do anything within it
        harmonics = int(min(len(counts) // 40, np.rint(_HARMONICS * self.edge_seen(values, width) ** 2)))
        gain = self.noise.counts_per_electron
        model, robust = np.maximum(_smooth(counts, pixels, values, width), gain), np.ones(len(counts))
        for _ in range(_STEPS):
            variance = gain * np.maximum(model, 0.05 * gain) + self.frames * self.noise.readout_noise**2
            weight = np.sqrt(robust / variance)
            design = self.levels(values, pixels, harmonics, width)
            weighted = design * weight[:, None]
            linear = _solved(weighted.T @ weighted, weighted.T @ (counts * weight))
            columns = [(self.levels(values + step, pixels, harmonics, width) - design) @ linear / 1e-4
                       for step in 1e-4 * np.eye(6)[free]]
            jacobian = np.concatenate([np.stack(columns, 1), design], 1) * weight[:, None]
            residual = (counts - design @ linear) * weight
            change = self._step(jacobian, residual, values, free)
            values = values.copy()
            values[free] += change * min(1.0, 1.0 / np.abs(change).max())
            values[_BLUR] = np.clip(values[_BLUR], np.log(0.2), np.log(max(0.5 * abs(values[_RADIUS]), 1.0)))
            model = design @ linear
            robust = _robust(residual / np.sqrt(robust))
            if np.abs(change).max() < 1e-5:
                break
        self._judge(jacobian, residual, linear, free, self.levels(values, pixels, harmonics, width))
        self.enlarged = max(self.chi_square, _of_patches(residual, pixels) if self.misfit else 0.0, 1.0)
        return values

    def _normal(self, jacobian: np.ndarray, free: np.ndarray) -> np.ndarray:
        normal = jacobian.T @ jacobian
        place = np.arange(free.sum())
        normal[place, place] += self.prior[free]
        return normal

    def _step(self, jacobian: np.ndarray, residual: np.ndarray, values: np.ndarray, free: np.ndarray) -> np.ndarray:
        right = jacobian.T @ residual
        right[:free.sum()] -= (self.prior * values)[free]
        return _solved(self._normal(jacobian, free), right)[:free.sum()]

    def _judge(self, jacobian: np.ndarray, residual: np.ndarray, linear: np.ndarray, free: np.ndarray,
               design: np.ndarray) -> None:
        """Covariance, and whether the step that the levels (n, coefficients) make at the edge is more than noise."""
        normal = self._normal(jacobian, free)
        self.covariance = np.linalg.inv(_regular(normal))
        self.chi_square = float(residual @ residual / max(len(residual) - len(normal), 1))
        mean = design[:, len(linear) // 2:].mean(axis=0)
        mean[-1] = 0.0
        count, place = len(mean), len(normal) - len(linear)
        step, level = mean @ linear[:count], mean @ (linear[:count] + linear[count:])
        variance = mean @ self.covariance[place:place + count, place:place + count] @ mean
        self.significance = float(step / np.sqrt(max(variance, 1e-300) * max(self.chi_square, 1.0)))
        self.contrast = float(step / level) if level > 0 else 0.0
        excess = max(self.chi_square - 1 - np.sqrt(2 / len(residual)), 0.0)
        variance = self.noise.counts_per_electron * level + self.frames * self.noise.readout_noise**2
        self.misfit = float(np.sqrt(excess * variance) / level) if level > 0 else 0.0

    def check(self, values: np.ndarray, start: np.ndarray) -> None:
        """Refuse what is no disk (ValueError)."""
        blur, radius = np.exp(values[_BLUR]), values[_RADIUS]
        if not np.isfinite(values).all() or self.significance < LEAST_SIGNIFICANCE:
            raise ValueError(f"there is no disk: the sharpest edge found is {max(self.significance, 0):.1f} standard errors "
                             f"high, less than {LEAST_SIGNIFICANCE:g}; sum more frames, or check that the beam is on the "
                             "detector")
        if blur > 0.1 * radius + 0.8:
            raise ValueError(f"there is no disk: the edge at {radius:.1f} pixels is blurred over {blur:.1f} pixels")
        if np.abs(values[:3] - start[:3]).max() > 0.3 * start[_RADIUS] + 2:
            raise ValueError(f"there is no disk: the fit ran from a radius of {start[_RADIUS]:.1f} pixels to one of "
                             f"{radius:.1f} at ({values[0]:.1f}, {values[1]:.1f})")
        if self.misfit > LARGEST_MISFIT:
            raise ValueError(f"the edge at {radius:.1f} pixels has contrast of {100 * self.misfit:.0f} % of the disk that is "
                             f"not of a disk, more than {100 * LARGEST_MISFIT:.0f} %: sum the patterns of more positions, over "
                             "whole unit cells of a crystal")
        error = np.sqrt(self.covariance[:3, :3].diagonal().max() * self.enlarged)
        if error > 0.1 * radius:
            raise ValueError(f"centre or radius of the disk are known to {error:.2f} pixels only, of a radius of "
                             f"{radius:.1f}: sum more frames, or show more of its edge")


def _smooth(counts: np.ndarray, pixels: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Mean counts by distance from the centre: the first guess of the variance."""
    distance = np.hypot(*(pixels - values[:2, None]))
    ring = np.rint(distance - distance.min()).astype(int)
    return (np.bincount(ring, counts) / np.maximum(np.bincount(ring), 1))[ring]


def _of_patches(residual: np.ndarray, pixels: np.ndarray) -> float:
    """Reduced chi-square of sums over squares of pixels (2, n), of those at least half of which are there."""
    _, patch = np.unique((pixels // _PATCH).astype(int), axis=1, return_inverse=True)
    count = np.bincount(patch.ravel())
    squares = (np.bincount(patch.ravel(), residual)**2 / count)[count > _PATCH**2 / 2]
    return float(squares.mean()) if len(squares) else 0.0


def _regular(normal: np.ndarray) -> np.ndarray:
    """A normal matrix in which what the pixels do not determine, a level behind the beam stop, is held small."""
    return normal + 1e-6 * np.diag(np.diag(normal)) + 1e-300 * np.eye(len(normal))


def _solved(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.solve(_regular(normal), right)


def _robust(residual: np.ndarray) -> np.ndarray:
    """Huber's weights, only where the misfit is more than counting noise: rare counts must not be taken for outliers."""
    scale = 1.4826 * float(np.median(np.abs(residual)))
    return np.minimum(1.0, 3 * scale / np.maximum(np.abs(residual), 1e-300)) if scale > 1.5 else np.ones(len(residual))
