"""Whether the electrons agree with the stated disk: its centre, its radius, and darkness beyond it.

Counts of a few frames are summed in eight sectors of three zones: well inside the stated edge, about it, and beyond. How far
the edge lies out in a sector follows from the counts about it, as parts of the level inside: e = (sum of (counts - beyond) /
(inside - beyond) - expected coverage) / arc. Over the sectors e is the error of the radius plus that of the centre along them.
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Events, Frames, plain
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

_SECTORS = 8
_INSIDE, _ABOUT, _BEYOND = range(3)
_FRAMES = 128
"""Frames that are looked at, spread over the field."""
_FEWEST = 16
"""Frames below which nothing is said: the object itself moves the edge in single frames."""
_MOST_OFF, _MOST_PIXELS = 0.04, 0.4
"""Error of the edge that is left unsaid, the larger of a part of the radius and pixels: the phase loses about 5 %."""
_MOST_BEYOND = 0.1
"""Counts beyond the disk, as part of those inside, that are left unsaid: thin objects scatter less."""
_SIGNIFICANT = 5.0
"""Standard errors by which anything must differ to be said."""


class DiskEdge:
    """Counts about the edge of the disk, from frames at fixed places of the field, whatever the order they come in."""

    def __init__(self, positions: int, shape: tuple[int, int], geometry: DetectorGeometry, shifts: np.ndarray | None,
                 usable: np.ndarray, noise: CountingNoise) -> None:
        """Set up.

        Parameters
        ----------
        positions : number of positions of the field.
        shape : (rows, columns) of a frame.
        shifts : (positions, 2) of the patterns by descan [pixel]; None: none.
        usable : (rows, columns) bool; False where a pixel of the detector has no value.
        """
        self._geometry, self._shifts, self._noise = geometry, shifts, noise
        self._radius = geometry.semi_convergence_angle / geometry.pixel_angle
        self._width = max(1.5, 0.3 * self._radius)
        # Steps of the golden ratio follow no period of an object or of the rows.
        self._places = np.unique((np.arange(_FRAMES) * (np.sqrt(5) - 1) / 2 % 1 * positions).astype(np.int64))
        self._slots = np.full(positions, -1, np.int32)
        self._slots[self._places] = np.arange(len(self._places))
        self._sums = np.zeros((len(self._places), 3, 3, _SECTORS))
        y, x = (angle / geometry.pixel_angle for angle in geometry.angles(shape))
        reach = self._radius + 2 * self._width + (0.0 if shifts is None else 2 * np.hypot(*np.abs(shifts).max(axis=0)))
        self._pixels = np.flatnonzero((np.hypot(y, x) < reach) & usable)
        self._y, self._x = y.ravel()[self._pixels], x.ravel()[self._pixels]
        self._still = self._zones(0.0, 0.0)

    def add(self, indices: np.ndarray, frames: Frames) -> None:
        """Take in those of the frames (frames, rows, columns) at flat indices (frames,) that lie at the places looked at."""
        chosen = np.flatnonzero(self._slots[indices] >= 0)
        if not len(chosen):
            return
        level = np.inf if isinstance(frames, Events) else self._noise.saturation_level(frames.dtype)
        if isinstance(frames, Events):
            whole = np.concatenate([frames[number:number + 1].frames(np.float64) for number in chosen])
        else:
            whole = plain(frames[chosen])
        values = whole.reshape(len(chosen), -1)[:, self._pixels].astype(np.float64)
        taken = (values < level) & np.isfinite(values)
        values[~taken] = 0
        if self._shifts is None:
            self._sums[self._slots[indices[chosen]]] = _summed(values, taken, *self._still)
            return
        for row, index in enumerate(indices[chosen]):
            here = slice(row, row + 1)
            self._sums[self._slots[index]] = _summed(values[here], taken[here], *self._zones(*self._moved(index)))[0]

    def cautions(self, good: np.ndarray) -> list[str]:
        """What does not agree with the geometry, from the good positions (rows * columns,) bool; empty where all does, or where
        there are too few frames or pixels to say."""
        chosen = good[self._places]
        counts, pixels, coverage = self._sums[chosen].sum(axis=0)
        if np.count_nonzero(chosen) < _FEWEST or not pixels[_INSIDE].sum() or not pixels[_BEYOND].sum():
            return []
        variance = self._noise.counts_per_electron * np.maximum(counts, 0) + self._noise.readout_noise**2 * pixels
        inside, inside_variance = _mean(counts[_INSIDE], variance[_INSIDE], pixels[_INSIDE])
        beyond, beyond_variance = _mean(counts[_BEYOND], variance[_BEYOND], pixels[_BEYOND])
        notes = []
        if abs(beyond) > max(_MOST_BEYOND * inside, _SIGNIFICANT * np.sqrt(beyond_variance)):
            notes.append(f"a pixel beyond the disk holds {beyond:.3g} counts, one inside {inside:.3g}: a dark offset that was "
                         "not subtracted, a disk much larger than stated, or strong scattering; the phase is wrong by as much")
        if not inside - beyond > 0:
            return notes
        frames, arc = np.count_nonzero(chosen), 2 * np.pi * self._radius / _SECTORS
        unit = frames * arc
        out = ((counts[_ABOUT] - beyond * pixels[_ABOUT]) / (inside - beyond) - coverage[_ABOUT]) / unit
        errors = (variance[_ABOUT] + coverage[_ABOUT]**2 * inside_variance + pixels[_ABOUT]**2 * beyond_variance) / (
            (inside - beyond) * unit)**2
        whole = pixels[_ABOUT] >= self._width * unit
        return notes + (self._edge(out[whole], errors[whole], np.flatnonzero(whole)) if whole.sum() >= _SECTORS - 2 else [])

    def _edge(self, out: np.ndarray, variance: np.ndarray, sectors: np.ndarray) -> list[str]:
        """What to say of an edge that lies `out` (sectors,) [pixel] too far, with these variances."""
        direction = (sectors + 0.5) * 2 * np.pi / _SECTORS - np.pi
        model = np.stack([np.ones(len(sectors)), np.sin(direction), np.cos(direction)], axis=1)
        solve = np.linalg.pinv(model)
        wider, down, right = solve @ out
        errors = np.sqrt(solve**2 @ variance)
        # What one sector alone says may be a hot pixel: it counts as far as it stands without any one of them.
        others = np.array([np.linalg.pinv(np.delete(model, k, axis=0)) @ np.delete(out, k) for k in range(len(out))])
        off, sized = np.hypot(*others[:, 1:].T).min(), np.abs(others[:, 0]).min()
        least, notes = max(_MOST_PIXELS, _MOST_OFF * self._radius), []
        if min(off, np.hypot(down, right)) > max(least, _SIGNIFICANT * np.hypot(*errors[1:])):
            notes.append(f"the edge of the disk lies about ({down:.2g}, {right:.2g}) pixels, (y, x), off the stated centre: "
                         "calibrate the disk")
        if min(sized, abs(wider)) > max(least, _SIGNIFICANT * errors[0]):
            alpha, pitch = self._geometry.semi_convergence_angle * 1e3, self._geometry.pixel_angle * 1e3
            notes.append(f"the disk's radius is about {alpha + wider * pitch:.3g} mrad, not the stated {alpha:.3g} mrad: "
                         "calibrate the disk")
        return notes

    def _moved(self, index: int) -> np.ndarray:
        """Shift (2,) of a position's pattern, as distance from the centre without ellipticity [pixel]."""
        return np.asarray(self._geometry.distortion) @ self._shifts[index]

    def _zones(self, down: float, right: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether each pixel lies in each sector of each zone (pixels, 3 * 8), 0 or 1, and coverage (pixels,), at a shift."""
        y, x = self._y - down, self._x - right
        distance = np.hypot(y, x)
        zone = np.digitize(distance, self._radius + self._width * np.array([-1.0, 1.0, 2.0]))
        sector = np.floor((np.arctan2(y, x) / np.pi + 1) / 2 * _SECTORS).astype(np.int64) % _SECTORS
        place = np.where(zone < 3, zone * _SECTORS + sector, 3 * _SECTORS)
        return np.eye(3 * _SECTORS + 1)[place][:, :-1], np.clip(self._radius + 0.5 - distance, 0.0, 1.0)


def _summed(values: np.ndarray, taken: np.ndarray, zones: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Counts, pixels and coverage by zone and sector, (frames, 3, 3, 8), of the values (frames, pixels) that are taken."""
    used = taken[:1].astype(float) if taken.all() else taken.astype(float)
    parts = np.broadcast_arrays(values @ zones, used @ zones, (used * covered) @ zones)
    return np.stack(parts, axis=1).reshape(len(values), 3, 3, _SECTORS)


def _mean(counts: np.ndarray, variance: np.ndarray, pixels: np.ndarray) -> tuple[float, float]:
    """Median over the sectors (sectors,) of their mean counts, which a hot pixel does not move, and its variance."""
    there = pixels > 0
    # The median of a normal sample varies pi / 2 times as much as its mean.
    return (float(np.median(counts[there] / pixels[there])),
            float((variance[there] / pixels[there]**2).mean() / np.count_nonzero(there) * np.pi / 2))
