"""The bright-field disk of every scan position, kept in memory: what ptychography needs of a scan, in any order of frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Events, Frames, native
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography.disk_edge import DiskEdge
from edgetem_nodes.physics.scan import ScanField

LEAST_RADIUS = 2.0
"""[stored pixels] Radius of the disk below which its overlaps have no shape."""
_MOVED = 0.02
"""[pixel] Shift of the pattern over the field below which descan is left alone."""
_TOGETHER = 2**20
"""Values of scan images that are transformed together, so that they stay in the cache."""
_EMPTY = 20.0
"""Mean electrons a frame from which on a frame without any is none that the beam made (probability exp(-20))."""
_DARK, _DARK_COUNTS = 0.1, 100.0
"""Part of the disk's median, and electrons of that median, below and above which a pixel is shadowed, not unlucky."""


class BrightField:
    """Counts of the pixels in the bright-field disk, (positions, pixels).

    Attributes
    ----------
    angles : (pixels, 2) float64, (y, x), of each stored pixel in the scan's axes [stored pixels]: `pitch` is their size.
    coverage : (pixels,) float64, part of each stored pixel inside the disk: clip(radius - |angle| + 1/2, 0, 1).
    radius : of the disk [stored pixels].
    pitch : angle of a stored pixel [rad].
    visited : (rows, columns) bool, positions whose frame came and could be used.
    failures : why the frame of a position cannot be used, by flat index.
    edge : what the electrons say of the stated disk.
    """

    def __init__(self, field: ScanField, shape: tuple[int, int], geometry: DetectorGeometry, *, binning: int = 1,
                 usable: np.ndarray | None = None, noise: CountingNoise | None = None,
                 memory_limit: int = 4 * 2**30) -> None:
        """Set up.

        Parameters
        ----------
        field : the raster.
        shape : (rows, columns) of a frame.
        geometry : of the detector; its semi-convergence angle must be known.
        binning : pixels along an axis that are summed into one stored pixel.
        usable : (rows, columns) bool; False where a pixel is dead or shadowed by a beam stop. All by default.
        noise : of the counts; says also when a pixel is saturated.
        memory_limit : most that may be stored [bytes].

        Raises
        ------
        ValueError : the semi-convergence angle is not known, the disk does not lie on the detector or has too few pixels,
            or memory does not suffice.
        """
        if not geometry.semi_convergence_angle > 0:
            raise ValueError("the semi-convergence angle is not known (0 rad): calibrate the bright-field disk, or state it")
        if binning < 1:
            raise ValueError(f"binning {binning} is not 1 or more pixels")
        self.field, self.shape, self.geometry = field, tuple(shape), geometry
        self.noise = noise or CountingNoise()
        self.pitch = geometry.pixel_angle * binning
        self.radius = geometry.semi_convergence_angle / self.pitch
        if self.radius < LEAST_RADIUS:
            raise ValueError(f"the bright-field disk has a radius of {self.radius:.3g} pixels after binning by {binning}; it "
                             f"needs {LEAST_RADIUS:g} or more: bin less, or use a longer camera length")
        self._shifts = self._descan()
        self._binning = binning
        self._choose(usable)
        count = field.shape[0] * field.shape[1]
        self._dtype = np.dtype(np.float32 if self._shifts is not None or binning > 1 else np.uint16)
        needed = count * len(self.angles) * 4
        if needed > memory_limit:
            raise ValueError(f"{count} positions with {len(self.angles)} pixels each may need {needed / 2**30:.3g} GiB, more "
                             f"than the limit of {memory_limit / 2**30:.3g} GiB: bin the detector by "
                             f"{int(np.ceil(binning * np.sqrt(needed / memory_limit)))}, or raise the limit")
        self._counts = np.zeros((count, len(self.angles)), self._dtype)
        self.totals = np.zeros(count)
        self._visited = np.zeros(count, bool)
        self.edge = DiskEdge(count, self.shape, geometry, self._shifts,
                             np.ones(self.shape, bool) if usable is None else np.asarray(usable, bool), self.noise)
        self.failures: dict[int, str] = {}
        self.pixels_together = binning**2

    @property
    def visited(self) -> np.ndarray:
        return self._visited.reshape(self.field.shape)

    def add(self, indices: int | np.ndarray, frames: Frames) -> None:
        """Take frames in; a position that comes again replaces what was there.

        Parameters
        ----------
        indices : flat index row * columns + column of each frame, (frames,), or of the first of consecutive ones.
        frames : (frames, rows, columns), or events.

        Raises
        ------
        ValueError : an index outside the field, or frames of another shape.
        """
        if tuple(frames.shape[-2:]) != self.shape or (not isinstance(frames, Events) and frames.ndim != 3):
            raise ValueError(f"frames of {' x '.join(map(str, frames.shape[-2:]))} pixels do not fit the "
                             f"{self.shape[0]} x {self.shape[1]} that were announced")
        indices = np.arange(indices, indices + len(frames)) if np.ndim(indices) == 0 else np.asarray(indices, np.int64)
        if indices.shape != (len(frames),):
            raise ValueError(f"there are {indices.size} indices for {len(frames)} frames: give one a frame")
        if not len(frames):
            return
        if not 0 <= indices.min() <= indices.max() < len(self._counts):
            raise ValueError(f"index {indices.max() if indices.max() >= len(self._counts) else indices.min()} is outside the "
                             f"{self.field.shape[0]} x {self.field.shape[1]} field; indices run from 0 to "
                             f"{len(self._counts) - 1}")
        bad = self._store(np.ascontiguousarray(indices), frames)
        self.edge.add(indices, frames)
        self._visited[indices] = bad == 0
        for index in indices[bad == 0]:
            self.failures.pop(int(index), None)
        for index, number in zip(indices[bad > 0], bad[bad > 0], strict=True):
            self.failures[int(index)] = (f"{number} pixels of the bright-field disk are saturated or not finite numbers")

    def usable(self) -> np.ndarray:
        """Positions (rows * columns,) bool to compute with; marks empty frames, and refuses a scan without electrons.

        Raises
        ------
        ValueError : no frame has come, none has an electron in the disk, or part of the disk is dark.
        """
        if not self._visited.any():
            raise ValueError("no frame that can be used has come yet" + (f": {next(iter(self.failures.values()))}"
                                                                        if self.failures else ""))
        mean = self.totals[self._visited].mean() / self.noise.counts_per_electron
        if not mean > 0:
            raise ValueError("the bright-field disk holds no electrons in any frame: is the beam blanked, or the centre wrong?")
        good = self._visited.copy()
        if mean > _EMPTY:
            empty = np.flatnonzero(self._visited & (self.totals <= 0))
            good[empty] = False
            self.failures.update(dict.fromkeys(empty.tolist(), f"an empty frame among frames of {mean:.4g} electrons"))
        return good

    def means(self, good: np.ndarray) -> np.ndarray:
        """Mean counts (pixels,) float64 of the good positions (rows * columns,) bool.

        Raises
        ------
        ValueError : pixels well inside the disk are dark.
        """
        from edgetem_nodes.featurizer.ptychography import kernels

        sums = np.zeros(len(self.angles))
        kernels.sums(self._counts, good, sums)
        inside = self.coverage == 1
        median = np.median(sums[inside])
        dark = np.count_nonzero(sums[inside] < _DARK * median)
        if dark and median > _DARK_COUNTS * self.noise.counts_per_electron:
            raise ValueError(f"{dark} of the {np.count_nonzero(inside)} pixels inside the bright-field disk hold less than a "
                             "tenth of its median: a beam stop, dead pixels or a wrong centre; exclude them with `usable`, or "
                             "calibrate the disk")
        return sums / np.count_nonzero(good)

    def variance(self, means: np.ndarray) -> np.ndarray:
        """Variance (pixels,) of the counts of a stored pixel in one frame, from its mean."""
        return self.noise.counts_per_electron * means + self.pixels_together * self.noise.readout_noise**2

    def cautious_variance(self, means: np.ndarray) -> np.ndarray:
        """The same to weigh pixels by: at least that of the electrons which an even disk would put there, so that a pixel at
        the edge that happens to be darker than the model says does not count for certain."""
        return self.variance(np.maximum(means, self.coverage * (self.coverage @ means) / (self.coverage @ self.coverage)))

    def spectra(self, means: np.ndarray, good: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Stored pixels, a slice, and the transforms over the scan of their counts less their mean, piece by piece.

        A position that is not good adds nothing but the mean. A piece is (pixels, rows, columns // 2 + 1, 2) float32, real and
        imaginary part; pieces come in one order, so that the same counts give the same bits.
        """
        import torch

        from edgetem_nodes.featurizer.ptychography.kernels import unfold

        rows, columns = self.field.shape
        together = max(1, min(_TOGETHER // (rows * columns), len(means)))
        images = torch.empty((together, rows, columns), dtype=torch.float32)
        centred = means.astype(np.float32)
        for first in range(0, len(means), together):
            part = slice(first, min(first + together, len(means)))
            piece = images[:part.stop - first]
            unfold(self._counts, first, centred, good, piece.numpy().reshape(len(piece), -1))
            yield part, torch.view_as_real(torch.fft.rfft2(piece)).numpy()

    def _descan(self) -> np.ndarray | None:
        """Shift (positions, 2) [pixel] of every pattern; None where it does not matter. Refuses a disk off the detector."""
        geometry = self.geometry
        shifts = geometry.shifts(self.field.positions())
        reach = geometry.semi_convergence_angle / geometry.pixel_angle * np.abs(np.linalg.inv(geometry.distortion)).sum(axis=1)
        low = np.asarray(geometry.center) + shifts.min(axis=0) - reach
        high = np.asarray(geometry.center) + shifts.max(axis=0) + reach
        if not np.isfinite(low).all() or (low < -0.5).any() or (high > np.asarray(self.shape) - 0.5).any():
            raise ValueError(f"the bright-field disk spans rows {low[0]:.4g} to {high[0]:.4g} and columns {low[1]:.4g} to "
                             f"{high[1]:.4g} over the scan, not all of it on the {self.shape[0]} x {self.shape[1]} detector: "
                             "centre it, or use a shorter camera length")
        return np.ascontiguousarray(shifts) if np.abs(shifts).max() > _MOVED else None

    def _choose(self, usable: np.ndarray | None) -> None:
        """Lay out the stored pixels: which detector pixels each is made of, and where it lies."""
        usable = np.ones(self.shape, bool) if usable is None else np.asarray(usable, bool)
        if usable.shape != self.shape:
            raise ValueError(f"usable has shape {usable.shape}; frames have {self.shape}")
        usable = self._usable_throughout(usable)
        y, x = (angle / self.pitch for angle in self.geometry.angles(self.shape))
        rows, columns = (size // self._binning for size in self.shape)

        def binned(values: np.ndarray) -> np.ndarray:
            cut = values[:rows * self._binning, :columns * self._binning]
            return cut.reshape(rows, self._binning, columns, self._binning).mean(axis=(1, 3))

        turned = np.stack([binned(y), binned(x)], -1).reshape(-1, 2) @ self.geometry.to_scan().T
        coverage = np.clip(self.radius + 0.5 - np.hypot(*turned.T), 0.0, 1.0)
        chosen = np.flatnonzero((coverage > 0) & (binned(usable.astype(float)).ravel() == 1))
        if (coverage[chosen] == 1).sum() < 4:
            raise ValueError(f"{len(chosen)} usable pixels are left in the bright-field disk: too few")
        self.angles, self.coverage = turned[chosen], coverage[chosen]
        top, left = chosen // columns * self._binning, chosen % columns * self._binning
        part = np.arange(self._binning)
        row, column = np.broadcast_arrays(top[:, None, None] + part[:, None], left[:, None, None] + part)
        self._slots = np.full(self.shape[0] * self.shape[1], -1, np.int32)
        flat = (row * self.shape[1] + column).reshape(len(chosen), -1)
        self._slots[flat.ravel()] = np.repeat(np.arange(len(chosen), dtype=np.int32), flat.shape[1])
        self._pixels = np.ascontiguousarray(np.sort(flat.ravel())).astype(np.int64)
        self._targets = self._slots[self._pixels]

    def _usable_throughout(self, usable: np.ndarray) -> np.ndarray:
        """Pixels of an undeflected pattern that lie on usable pixels (rows, columns) bool whatever the descan."""
        if self._shifts is None or usable.all():
            return usable
        low, high = np.floor(self._shifts.min(axis=0)).astype(int), np.floor(self._shifts.max(axis=0)).astype(int) + 1
        return np.logical_and.reduce([np.roll(usable, (-down, -right), axis=(0, 1))
                                      for down in range(low[0], high[0] + 1) for right in range(low[1], high[1] + 1)])

    def _store(self, indices: np.ndarray, frames: Frames) -> np.ndarray:
        """Gather the disk's pixels; number (frames,) of those that are saturated or not finite."""
        from edgetem_nodes.featurizer.ptychography import kernels

        bad = np.zeros(len(frames), np.int64)
        if isinstance(frames, Events) and self._shifts is not None:
            frames = frames.frames(np.float32)
        if isinstance(frames, Events):
            kernels.gather_events(frames.starts, frames.pixels, self._slots, indices, self._counts, self.totals)
            return bad
        level = self.noise.saturation_level(frames.dtype)
        frames = native(frames)
        if self._dtype == np.uint16 and frames.dtype not in (np.uint8, np.uint16):
            self._dtype = np.dtype(np.float32)
            self._counts = self._counts.astype(np.float32)
        flat = frames.reshape(len(frames), -1)
        if self._shifts is None:
            kernels.gather(flat, self._pixels, self._targets, indices, self._counts, self.totals, level, bad)
        else:
            kernels.gather_shifted(flat, self.shape, self._pixels, self._targets, self._shifts, indices, self._counts,
                                   self.totals, level, bad)
        return bad
