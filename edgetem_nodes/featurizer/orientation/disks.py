"""Bragg disks of many patterns, fast: a disk-shaped template less the mean of the ring around it.

The template is made of rows, and running sums along the rows give its correlation without transforms. A disk is found where
the counts above the ring are significant and largest; its place is the centre of mass of what exceeds the ring, followed
until the window stands on it. Peaks of a finer search can be given to the matching instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Events, Frames

_BLOCK = 256
"""Frames of events that are made dense at a time."""
_LEAST_AREA = 0.7
"""Part of a disk that must lie on usable pixels."""
_FOLLOWING = 4


@dataclass(frozen=True)
class Peaks:
    """Peaks of consecutive patterns.

    Attributes
    ----------
    starts : (frames + 1,) int64; peaks of frame i are starts[i] to starts[i + 1] - 1.
    positions : (peaks, 2), (y, x) [pixel]. intensities : (peaks,) above the background, any unit.
    failures : (frames,) why a frame gives no peaks; empty where it may.
    """

    starts: np.ndarray
    positions: np.ndarray
    intensities: np.ndarray
    failures: list[str]

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.failures) + 1 or self.starts[0] != 0 or (np.diff(self.starts) < 0).any() \
                or self.starts[-1] != len(self.positions) or len(self.positions) != len(self.intensities):
            raise ValueError(f"{len(self.positions)} positions, {len(self.intensities)} intensities and "
                             f"{len(self.failures)} failures do not fit {len(self.starts)} starts of frames")

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.failures)

    @classmethod
    def of(cls, positions: list[np.ndarray], intensities: list[np.ndarray]) -> Peaks:
        """From lists with an array (n, 2), (y, x) [pixel], and (n,) a pattern. Peaks that are not finite fail their pattern."""
        failures, kept = [], []
        for place, strength in zip(positions, intensities, strict=True):
            place, strength = np.asarray(place, float).reshape(-1, 2), np.asarray(strength, float)
            good = len(place) == len(strength) and np.isfinite(place).all() and np.isfinite(strength).all()
            failures.append("" if good else "the peaks hold values that are not finite numbers")
            kept.append((place, strength) if good else (place[:0], strength[:0]))
        starts = np.cumsum([0] + [len(strength) for _, strength in kept])
        empty = [(np.zeros((0, 2)), np.zeros(0))]
        return cls(starts.astype(np.int64), np.concatenate([place for place, _ in empty + kept]),
                   np.concatenate([strength for _, strength in empty + kept]), failures)


class DiskSearch:
    """Finds disks of one radius in patterns."""

    def __init__(self, shape: tuple[int, int], radius: float, *, mask: np.ndarray | None = None,
                 noise: CountingNoise | None = None, significance: float = 5.0) -> None:
        """Prepare for patterns of `shape` (rows, columns).

        Parameters
        ----------
        radius : of a disk [pixel]; the semi-convergence angle over the pixel's angle.
        mask : (rows, columns) bool, pixels in use; leave out a beam stop and dead pixels.
        significance : counts above the background over their standard error from which a disk is one.

        Raises
        ------
        ValueError : a radius or a mask that does not fit the patterns.
        """
        if not 0.5 <= radius <= min(shape) / 6:
            raise ValueError(f"disks with a radius of {radius:.3g} pixels cannot be found in patterns of {shape[0]} x "
                             f"{shape[1]}: it must lie between 0.5 and {min(shape) / 6:.3g} pixels")
        self.shape, self.radius, self.significance = tuple(shape), float(radius), float(significance)
        self.noise = noise or CountingNoise()
        self.mask = np.ones(shape, bool) if mask is None else np.asarray(mask, bool)
        if self.mask.shape != self.shape:
            raise ValueError(f"a mask of {self.mask.shape} does not fit patterns of {self.shape}")
        self._inner, self._outer = _chords(radius + 0.5), _chords(radius * 1.5 + 2.0)
        area = np.zeros((2, *shape))
        _filtered(self.mask.astype(np.float64), self._inner, self._outer, *area)
        self._area = area
        self._usable = area[0] >= _LEAST_AREA * (2 * self._inner + 1)[self._inner >= 0].sum()

    def __call__(self, frames: Frames) -> Peaks:
        """Peaks of frames (frames, rows, columns) or events; a frame with NaN or saturated pixels in use has none, and says so.

        Raises
        ------
        ValueError : the frames have another shape.
        """
        shape = frames.shape if isinstance(frames, Events) else frames.shape[1:]
        if tuple(shape) != self.shape:
            raise ValueError(f"frames of {shape[0]} x {shape[1]} pixels; the search was made for {self.shape[0]} x "
                             f"{self.shape[1]}")
        parts = []
        for first in range(0, len(frames), _BLOCK):
            block = frames[first:first + _BLOCK]
            parts.append(self._block(block.frames(np.uint32) if isinstance(block, Events) else np.asarray(block)))
        if not parts:
            return Peaks.of([], [])
        starts = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.starts) for part in parts]))])
        return Peaks(starts.astype(np.int64), np.concatenate([part.positions for part in parts]),
                     np.concatenate([part.intensities for part in parts]), sum((part.failures for part in parts), []))

    def _block(self, frames: np.ndarray) -> Peaks:
        # events cannot saturate, and their dense block has a type of its own
        failures = self.noise.failures(frames[:, self.mask])
        positions, intensities = [], []
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        for frame, failure in zip(frames, failures, strict=True):
            if failure:
                positions.append(np.zeros((0, 2)))
                intensities.append(np.zeros(0))
                continue
            places, counts = _disks(np.where(self.mask, frame, 0).astype(np.float64), self.mask, self._area, self._usable,
                                    self._inner, self._outer, self.radius, gain, readout, self.significance)
            positions.append(places)
            intensities.append(counts / gain)
        peaks = Peaks.of(positions, intensities)
        return Peaks(peaks.starts, peaks.positions, peaks.intensities, failures)


def _chords(radius: float) -> np.ndarray:
    """Half-lengths (2 n + 1,) of the rows of a disk of pixels; -1: none."""
    reach = int(radius)
    rows = np.arange(-reach, reach + 1)
    return np.floor(np.sqrt(radius ** 2 - rows ** 2)).astype(np.int64)


@njit(cache=True, nogil=True)
def _filtered(frame, inner, outer, disk, ring):
    """Sums over the disk and over the disk-less-disk ring about every pixel, into `disk` and `ring` (rows, columns)."""
    rows, columns = frame.shape
    running = np.zeros((rows, columns + 1))
    for i in range(rows):
        for j in range(columns):
            running[i, j + 1] = running[i, j] + frame[i, j]
    disk[:], ring[:] = 0.0, 0.0
    _add(running, inner, disk)
    _add(running, outer, ring)
    for i in range(rows):
        for j in range(columns):
            ring[i, j] -= disk[i, j]


@njit(cache=True, nogil=True, fastmath=True)
def _add(running, chords, result):
    rows, columns = result.shape
    reach = len(chords) // 2
    for k in range(len(chords)):
        half = chords[k]
        for i in range(max(0, reach - k), min(rows, rows + reach - k)):
            row, target = running[i + k - reach], result[i]
            for j in range(min(half, columns)):
                target[j] += row[min(columns, j + half + 1)] - row[0]
            for j in range(half, columns - half):
                target[j] += row[j + half + 1] - row[j - half]
            for j in range(max(half, columns - half), columns):
                target[j] += row[columns] - row[j - half]


@njit(cache=True, nogil=True)
def _disks(frame, mask, area, usable, inner, outer, radius, gain, readout, significance):
    """Places (n, 2) [pixel] and counts (n,) of the disks of one frame."""
    rows, columns = frame.shape
    disk, ring, net = np.empty((rows, columns)), np.empty((rows, columns)), np.empty((rows, columns))
    _filtered(frame, inner, outer, disk, ring)
    full = area[0].max()
    for i in range(rows):
        for j in range(columns):
            net[i, j] = -1.0
            if usable[i, j] and area[1, i, j] > 0:
                share = area[0, i, j] / area[1, i, j]
                above = disk[i, j] - share * ring[i, j]
                variance = gain * max(disk[i, j], gain) + area[0, i, j] * readout ** 2 \
                    + share * share * (gain * max(ring[i, j], gain) + area[1, i, j] * readout ** 2)
                if above > significance * math.sqrt(variance):
                    net[i, j] = above * full / area[0, i, j]
    reach = max(1, int(math.ceil(radius)))
    places, counts = np.empty((rows * columns // 4 + 1, 2)), np.empty(rows * columns // 4 + 1)
    number = 0
    for i in range(reach, rows - reach):
        for j in range(reach, columns - reach):
            if net[i, j] > 0 and _largest(net, i, j, reach):
                y, x = _followed(frame, mask, i, j, radius, ring[i, j] / area[1, i, j])
                if _new(places, number, y, x, radius):
                    places[number, 0], places[number, 1], counts[number] = y, x, net[i, j]
                    number += 1
    return places[:number].copy(), counts[:number].copy()


@njit(cache=True, nogil=True)
def _largest(net, i, j, reach):
    """Whether a pixel holds the largest value within a square; of equal ones the first."""
    rows, columns = net.shape
    for k in range(max(0, i - reach), min(rows, i + reach + 1)):
        for m in range(max(0, j - reach), min(columns, j + reach + 1)):
            if net[k, m] > net[i, j] or (net[k, m] == net[i, j] and (k < i or (k == i and m < j))):
                return False
    return True


@njit(cache=True, nogil=True)
def _new(places, number, y, x, radius):
    for k in range(number):
        if (places[k, 0] - y) ** 2 + (places[k, 1] - x) ** 2 < radius * radius:
            return False
    return True


@njit(cache=True, nogil=True)
def _followed(frame, mask, i, j, radius, background):
    """Centre of mass above the background in a round window that moves onto the disk."""
    rows, columns = frame.shape
    y, x = float(i), float(j)
    window = radius + 1.0
    for _ in range(_FOLLOWING):
        total, sum_y, sum_x = 0.0, 0.0, 0.0
        top, left = int(math.floor(y - window)), int(math.floor(x - window))
        for k in range(max(0, top), min(rows, top + int(2 * window) + 3)):
            for m in range(max(0, left), min(columns, left + int(2 * window) + 3)):
                distance = math.sqrt((k - y) ** 2 + (m - x) ** 2)
                part = min(1.0, max(0.0, window + 0.5 - distance))
                if part > 0 and mask[k, m]:
                    value = (frame[k, m] - background) * part
                    total += value
                    sum_y += value * (k - y)
                    sum_x += value * (m - x)
        if total <= 0:
            break
        step_y, step_x = sum_y / total, sum_x / total
        if step_y * step_y + step_x * step_x > window * window:
            break
        y, x = y + step_y, x + step_x
    return y, x
