"""Where a disk of known size lies in each of many patterns, or where many like it lie in one: by their edges.

Unlike a centre of mass this does not move with what is inside the disk or far outside it. Fisher scoring of centre, height and
background of a blurred edge, on a ring of pixels that moves along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from edgetem_nodes.featurizer.calibration.disk import Disk
from edgetem_nodes.featurizer.features import CountingNoise, mark
from edgetem_nodes.featurizer.patterns.events import Frames, dense

LEAST_SIGNIFICANCE = 4.0
_STEPS = 8
_BLOCK = 1 << 21
"""Pixels of all frames of a block."""
_LARGEST_ERROR = 0.5
"""Of a position, over the radius."""


@dataclass(frozen=True)
class DiskPositions:
    """Centres of disks.

    Attributes
    ----------
    centers : (count, 2), (y, x) [pixel]; NaN where there is none.
    errors : (count, 2) standard errors from counting statistics.
    heights : (count,) step at the edge [counts a pixel].
    failures : why there is none, (count,); empty where there is.
    """

    centers: np.ndarray
    errors: np.ndarray
    heights: np.ndarray
    failures: list[str]

    @property
    def found(self) -> np.ndarray:
        """(count,) bool."""
        return np.array([not failure for failure in self.failures], bool)


def disk_positions(frames: Frames, disk: Disk, mask: np.ndarray | None = None, noise: CountingNoise | None = None,
                   reach: float | None = None) -> DiskPositions:
    """Centre of the bright-field disk in every frame.

    Parameters
    ----------
    frames : (frames, rows, columns) or as many events.
    disk : of the summed pattern; its radius, ellipticity and blur are kept.
    mask : (rows, columns) bool, True where a pixel may be used.
    noise : of the counts.
    reach : how far from the mean centre a disk may lie [pixel]; None: half its radius.
    """
    noise, reach = noise or CountingNoise(), disk.radius / 2 if reach is None else reach
    shape = frames.shape if not isinstance(frames, np.ndarray) else frames.shape[1:]
    usable = np.ones(shape, bool) if mask is None else np.asarray(mask, bool)
    parts = [_located(block, usable[None], np.array(disk.center)[None], disk, noise, reach)
             for block in _blocks(frames, max(1, _BLOCK // (shape[0] * shape[1])))]
    return DiskPositions(*(np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros((0, *size))
                           for name, size in (("centers", (2,)), ("errors", (2,)), ("heights", ()))),
                         [failure for part in parts for failure in part.failures])


def _blocks(frames: Frames, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(frames), size):
        yield dense(frames[first:first + size])


def disks_near(pattern: np.ndarray, places: np.ndarray, disk: Disk, mask: np.ndarray | None = None,
               noise: CountingNoise | None = None, reach: float | None = None) -> DiskPositions:
    """Disks of the bright-field disk's size near given places of one summed pattern.

    Parameters
    ----------
    pattern : (rows, columns) counts.
    places : (count, 2), (y, x) [pixel], each right to `reach`; nearer to each other than a diameter, disks disturb each other.
    reach : [pixel]; None: half the radius.
    """
    noise, reach = noise or CountingNoise(), disk.radius / 2 if reach is None else reach
    places = np.asarray(places, float).reshape(-1, 2)
    usable = np.isfinite(pattern) & (np.ones(np.shape(pattern), bool) if mask is None else np.asarray(mask, bool))
    half = int(np.ceil(disk.radius * disk.axis_ratio + reach + _width(disk))) + 1
    padded, on = np.pad(np.where(usable, pattern, 0.0), half), np.pad(usable, half)
    size = np.array(np.shape(pattern))
    corner = np.clip(np.rint(places).astype(int), 0, size - 1)
    cut = [(slice(y, y + 2 * half + 1), slice(x, x + 2 * half + 1)) for y, x in corner]
    if not cut:
        return DiskPositions(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), [])
    found = _located(np.stack([padded[one] for one in cut]), np.stack([on[one] for one in cut]), places - corner + half, disk,
                     noise, reach)
    return DiskPositions(found.centers + corner - half, found.errors, found.heights, found.failures)


def _width(disk: Disk) -> float:
    return max(3 * disk.blur, 0.2 * disk.radius, 2.0)


def _located(images: np.ndarray, usable: np.ndarray, start: np.ndarray, disk: Disk, noise: CountingNoise,
             reach: float) -> DiskPositions:
    """Disks in images (count, rows, columns) about `start` (count or 1, 2)."""
    count = len(images)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in images.shape[1:]), indexing="ij")).reshape(2, -1)
    failures = noise.failures(images.reshape(count, -1)[:, usable.reshape(len(usable), -1).any(axis=0)])
    usable, start = np.broadcast_to(usable.reshape(len(usable), -1), (count, grid.shape[1])), np.broadcast_to(start, (count, 2))
    counts = np.where(usable, np.nan_to_num(images.reshape(count, -1).astype(float)), 0.0)
    center, model = start.copy(), None
    for _ in range(_STEPS):
        inwards, jacobian = _edge(grid, center, disk)
        weight = (np.abs(inwards) <= _width(disk)) & usable
        if model is None:
            mean = (counts * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
            model = np.broadcast_to(mean[:, None], counts.shape)
        weight = weight / noise.variance(model)
        step = ndtr(inwards / disk.blur)
        linear = _solve(np.stack([step, np.ones_like(step)], axis=1), weight, counts)[0]
        model = np.maximum(linear[:, :1] * step + linear[:, 1:], 0.0)
        design = np.concatenate([np.maximum(linear[:, :1, None], 0.0) * jacobian, np.stack([step, np.ones_like(step)], 1)], 1)
        change, covariance = _solve(design, weight, counts - linear[:, :1] * step - linear[:, 1:])
        center = center + np.clip(change[:, :2], -1.0, 1.0)
        away = center - start
        center = start + away * np.minimum(1.0, 1.2 * reach / np.maximum(np.hypot(*away.T), 1e-9))[:, None]
    errors = np.sqrt(covariance[:, [0, 1], [0, 1]])
    height, its_error = linear[:, 0], np.sqrt(covariance[:, 2, 2])
    mark(failures, counts.sum(axis=1) <= 0, "the pattern is empty")
    mark(failures, ~(height > LEAST_SIGNIFICANCE * its_error) | ~np.isfinite(center).all(axis=1), "there is no disk")
    far = np.hypot(*(center - start).T) > reach
    mark(failures, far, f"the disk lies more than {reach:.1f} pixels from where it was sought")
    mark(failures, ~(errors.max(axis=1) < _LARGEST_ERROR * disk.radius), "too little of the disk's edge is seen")
    lost = np.array([bool(failure) for failure in failures], bool)
    center[lost], errors[lost], height = np.nan, np.nan, np.where(lost, np.nan, height)
    return DiskPositions(center, errors, height, failures)


def _edge(grid: np.ndarray, center: np.ndarray, disk: Disk) -> tuple[np.ndarray, np.ndarray]:
    """Distance inwards from the edge (count, pixels), and derivative of the blurred step by the centre (count, 2, pixels)."""
    offset = grid[None] - center[:, :, None]
    stretched = disk.distortion @ offset
    radius = np.maximum(np.hypot(stretched[:, 0], stretched[:, 1]), 1e-9)
    inwards = disk.radius - disk.blur**2 / (2 * disk.radius) - radius
    profile = np.exp(-0.5 * (inwards / disk.blur) ** 2) / (np.sqrt(2 * np.pi) * disk.blur)
    return inwards, (disk.distortion @ stretched) / radius[:, None] * profile[:, None]


def _solve(design: np.ndarray, weight: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares: coefficients (count, n) and covariances (count, n, n), designs (count, n, pixels)."""
    weighted = design * weight[:, None]
    normal = weighted @ np.swapaxes(design, 1, 2)
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    covariance = np.linalg.inv(normal + np.eye(normal.shape[1]) * (1e-9 * scale + 1e-30))
    return (covariance @ (weighted @ values[:, :, None]))[:, :, 0], covariance
