"""Counts the electrons of analogue frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.featurizer.patterns.counting import coincidence, learning
from edgetem_nodes.featurizer.patterns.counting.learning import Learned
from edgetem_nodes.featurizer.patterns.events import Events

MOST_OVERLAYS = 1500
"""Sums of two frames of the sample that are counted to learn the coincidence area."""
OVERLAY_PIXELS = 1 << 22
"""Pixels of sums that are held at once."""
ROOM = 1 << 20
"""Electrons of a group of frames that are kept before they are copied."""


@dataclass(frozen=True)
class Counted:
    """The electrons of frames and what is known of those that were missed.

    Attributes
    ----------
    events : one entry an electron; empty frames have none.
    heights : (electrons,) float32, corrected value of the pixel of each electron [counts].
    coincidence_loss : part of the electrons that others hid, averaged over these frames; NaN where they are too dense to tell.
    rejected : (frames,) maxima above the X-ray threshold, which were not counted.
    saturated : (frames,) pixels that the converter cut off.
    failures : (frames,) why a frame was not counted (it then has no events); empty where it was.
    """

    events: Events
    heights: np.ndarray
    coincidence_loss: float
    rejected: np.ndarray
    saturated: np.ndarray
    failures: list[str]


class ElectronCounter:
    """Finds electrons as local maxima of 3 x 3 pixels above a threshold (Battaglia et al., Cell Rep. Methods 1, 100088 (2021)).

    Parameters
    ----------
    learned : see `learn`.
    saturation : raw value of a saturated pixel; 0: the greatest of an unsigned integer type.
    subpixels : 1 places electrons on pixels; s > 1 on the parts of an s times finer frame, by the centroid of 3 x 3 pixels.
    largest_loss : coincidence loss above which frames are refused.
    threads : that share a block of frames.
    """

    def __init__(self, learned: Learned, *, saturation: float = 0.0, subpixels: int = 1, largest_loss: float = 0.3,
                 threads: int = 1) -> None:
        if not 1 <= subpixels <= 16:
            raise ValueError(f"{subpixels} parts of a pixel are not within 1 to 16")
        if not 0 < largest_loss <= 1:
            raise ValueError(f"a coincidence loss of {largest_loss:g} is not within 0 to 1")
        if threads < 1:
            raise ValueError(f"{threads} threads: at least one is needed")
        self.learned, self.saturation, self.subpixels = learned, saturation, subpixels
        self.largest_loss, self.threads = largest_loss, threads
        self._levels: dict[np.dtype, np.ndarray] = {}

    @classmethod
    def learn(cls, frames: np.ndarray, dark: np.ndarray | None = None, gain: np.ndarray | None = None, *,
              sigmas: float | None = None, xray_sigmas: float = 20.0, **options: object) -> ElectronCounter:
        """A counter for frames like these.

        Parameters
        ----------
        frames : (frames, rows, columns) with beam, 16 or more; 50 to 200 with some thousand electrons are a good sample.
        dark : (rows, columns) mean of blank frames; or blank frames (n, rows, columns), whose maxima then tell the number of
            false electrons. None: from the sample, which must be sparse in every pixel.
        gain : (rows, columns) relative gain; 0 marks dead pixels. None: 1.
        sigmas : standard deviations of the background from which on a maximum is an electron. None: as few as keep false
            electrons below 0.2 % of the true ones, if the noise is Gaussian.
        xray_sigmas : see `learning.xray_threshold`.
        options : of the constructor.

        Raises
        ------
        ValueError : shapes do not fit, values are not finite, the sample holds fewer than 200 electrons, or it is too dense.
        """
        frames = _checked(frames, "frames")
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            raise ValueError("the sample holds values that are not finite numbers: leave those frames out")
        blank = None
        if dark is not None and np.ndim(dark) == 3:
            blank, dark = dark, np.asarray(dark).mean(axis=0)
        dark = learning.dark_of(frames) if dark is None else np.array(dark, np.float32)
        gain = np.ones(frames.shape[1:], np.float32) if gain is None else np.asarray(gain, np.float32)
        for name, reference in (("dark", dark), ("gain", gain)):
            if reference.shape != frames.shape[1:] or not np.isfinite(reference).all():
                raise ValueError(f"the {name} reference, shape {reference.shape}, does not fit frames of "
                                 f"{frames.shape[1:]}, or holds values that are not finite numbers")
        inverse = np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0)
        usable = inverse > 0
        if not usable.any():
            raise ValueError("the gain reference marks every pixel as dead")
        values = ((frames - dark)[:, usable] * inverse[usable]).ravel()
        mean, noise = learning.background_peak(values)
        threshold = mean + noise * learning.sigmas_for(values, mean, noise, sigmas)
        if not abs(mean) < noise:
            raise ValueError(f"pixels without electrons read {mean:g} counts above the dark reference, more than their "
                             f"noise, {noise:g}: the reference does not belong to these frames, or the beam is not sparse: "
                             "shorten the dwell time")
        learned = Learned(dark, inverse, mean, noise, threshold, np.inf, frames=len(frames))
        cls(learned, **options)
        return cls(_refined(learned, frames, blank, xray_sigmas, options), **options)

    @property
    def largest_rate(self) -> float:
        """Electrons a pixel and frame, evenly spread, above which coincidence hides more than `largest_loss`."""
        if self.largest_loss == 1:
            return np.inf
        return coincidence.rate_at_loss(self.largest_loss, self.learned.coincidence_area)

    def __call__(self, frames: np.ndarray) -> Counted:
        """The electrons of frames (frames, rows, columns), of any integer or float type, as the camera gave them.

        Raises
        ------
        ValueError : the frames have another shape than the sample's, or coincidence hides more than `largest_loss`.
        """
        frames = _checked(frames, "frames")
        if frames.shape[1:] != self.learned.dark.shape:
            raise ValueError(f"frames of {frames.shape[1:]} do not fit the {self.learned.dark.shape} of the sample that was "
                             "learned: learn from frames of this shape")
        counted = self.found(frames)
        if not counted.coincidence_loss <= self.largest_loss:
            raise ValueError(f"coincidence hides {counted.coincidence_loss:.0%} of the electrons, more than the "
                             f"{self.largest_loss:.0%} that largest_loss allows (nan: too dense to tell): shorten the dwell "
                             "time or lower the beam current, or sum the frames without counting")
        return counted

    def found(self, frames: np.ndarray) -> Counted:
        """As `__call__`, whatever the coincidence loss."""
        frames = _checked(frames, "frames")
        shares = min(self.threads, max(len(frames), 1))
        edges = np.linspace(0, len(frames), shares + 1).astype(int)
        parts = [frames[first:last] for first, last in zip(edges[:-1], edges[1:], strict=True)]
        if shares == 1:
            done = [self._part(parts[0])]
        else:
            with ThreadPoolExecutor(shares) as pool:
                done = list(pool.map(self._part, parts))
        numbers = np.concatenate([part[0] for part in done])
        pixels, heights = (np.concatenate([part[i] for part in done]) for i in (1, 2))
        notes = np.concatenate([part[3] for part in done])
        failures = [f"{wrong} of the {frames[0].size} pixels are not numbers or not finite" if wrong else ""
                    for wrong in notes[:, 2]]
        if notes[:, 2].any():
            kept = np.repeat(notes[:, 2] == 0, numbers)
            pixels, heights, numbers = pixels[kept], heights[kept], np.where(notes[:, 2] == 0, numbers, 0)
        starts = np.concatenate([[0], np.cumsum(numbers)])
        events = Events(starts, pixels, tuple(side * self.subpixels for side in frames.shape[1:]))
        loss = coincidence.mean_loss(self._map(events), int((notes[:, 2] == 0).sum()), self.learned.coincidence_area)
        return Counted(events, heights, loss, notes[:, 0], notes[:, 1], failures)

    def _map(self, events: Events) -> np.ndarray:
        """Electrons on every pixel of the camera over all frames."""
        fine = np.bincount(events.pixels, minlength=events.shape[0] * events.shape[1])
        rows, columns = (side // self.subpixels for side in events.shape)
        return fine.reshape(rows, self.subpixels, columns, self.subpixels).sum(axis=(1, 3))

    def _part(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Electrons of every frame, their places and heights, and notes, in one thread."""
        from edgetem_nodes.featurizer.patterns.counting.kernels import find_electrons

        known, level = self.learned, self._level(frames.dtype)
        least = np.finfo(frames.dtype).min if frames.dtype.kind == "f" else None
        room = max(ROOM, frames[:1].size // 4 + sum(frames.shape[1:]) + 8)
        pixels, values = np.empty(room, np.uint32), np.empty(room, np.float32)
        notes = np.zeros((len(frames), 3), np.int64)
        numbers, kept, done = np.zeros(len(frames), np.int64), [], 0
        while done < len(frames):
            starts = np.zeros(len(frames) - done + 1, np.int64)
            more = find_electrons(frames[done:], level, least, known.dark.ravel(), known.inverse_gain.ravel(),
                                  np.float32(known.threshold), np.float32(known.xray_threshold),
                                  self._saturation(frames.dtype), self.subpixels, pixels, values, starts, notes[done:])
            numbers[done:done + more] = np.diff(starts[:more + 1])
            kept.append((pixels[:starts[more]].copy(), values[:starts[more]].copy()))
            done += more
        if not kept:
            return numbers, pixels[:0], values[:0], notes
        return numbers, np.concatenate([one for one, _ in kept]), np.concatenate([one for _, one in kept]), notes

    def _saturation(self, dtype: np.dtype) -> np.float32:
        return np.float32(self.saturation or (np.iinfo(dtype).max if dtype.kind == "u" else np.inf))

    def _level(self, dtype: np.dtype) -> np.ndarray:
        """Raw value (pixels,) of `dtype` that an electron exceeds; never exceeded where a pixel is left out."""
        if dtype not in self._levels:
            known = self.learned
            used = known.inverse_gain > 0
            level = known.dark + known.threshold / np.where(used, known.inverse_gain, 1)
            if dtype.kind == "f":
                # a shade lower: the exact comparison follows on the corrected value
                level = np.where(used, level - 1e-5 * np.abs(level), np.finfo(dtype).max).astype(dtype)
            else:
                limits = np.iinfo(dtype)
                level = np.floor(level - 1e-5 * np.abs(level))
                level = np.array([limits.max if not one else min(max(int(value), limits.min), limits.max)
                                  for one, value in zip(used.ravel(), level.ravel(), strict=True)], dtype)
            self._levels[dtype] = np.ascontiguousarray(level).ravel()
        return self._levels[dtype]


def _checked(frames: np.ndarray, name: str) -> np.ndarray:
    frames = np.ascontiguousarray(frames)
    if frames.ndim != 3 or frames.dtype.kind not in "uif":
        raise ValueError(f"{name} of shape {frames.shape} and type {frames.dtype} are not real numbers (frames, rows, columns)")
    if frames.dtype.kind == "f" and frames.dtype.itemsize not in (4, 8):
        # half and extended precision, which compiled loops do not know
        return frames.astype(np.float32 if frames.dtype.itemsize < 4 else np.float64)
    return frames if frames.dtype.isnative else frames.astype(frames.dtype.newbyteorder("="))


def _refined(learned: Learned, frames: np.ndarray, blank: np.ndarray | None, xray_sigmas: float, options: dict) -> Learned:
    """Hot pixels, X-ray threshold, signal of an electron, efficiency, false electrons and coincidence area."""
    options = {**options, "subpixels": 1}
    fired = ElectronCounter(learned, **options).found(frames).events
    hot = learning.hot_pixels(np.bincount(fired.pixels, minlength=learned.dark.size).reshape(learned.dark.shape))
    learned = replace(learned, inverse_gain=np.where(hot, np.float32(0), learned.inverse_gain), hot_pixels=int(hot.sum()))
    every = ElectronCounter(learned, **options).found(frames)
    if len(every.heights) < learning.FEWEST_ELECTRONS:
        raise ValueError(f"the sample of {len(frames)} frames holds {len(every.heights)} electrons; "
                         f"{learning.FEWEST_ELECTRONS} or more are needed to learn from: give more frames, with a sparse "
                         "beam on the detector")
    learned = replace(learned, xray_threshold=learning.xray_threshold(every.heights, xray_sigmas))
    counted = ElectronCounter(learned, **options).found(frames)
    area, error = _coincidence_area(learned, frames)
    if not (np.isfinite(area) and error < 0.3 * area and area > 1):
        # too sparse to tell: the least that a neighbourhood of 3 x 3 pixels hides
        area, error = 9.0, np.inf
    false = _false_positives(learned, frames, blank)
    efficiency = learning.part_above(counted.heights, learned.threshold, learned.background_mean, false * len(frames))
    if efficiency < learning.LEAST_EFFICIENCY:
        raise ValueError(f"only {efficiency:.0%} of the electrons seem to reach the threshold, {learned.threshold:g} counts: "
                         "they do not stand out from the noise, or the beam is not sparse: shorten the dwell time, or do not "
                         "count")
    return replace(learned, counts_per_electron=_signal(learned, frames, counted.events), efficiency=efficiency,
                   false_positives=false, electrons=len(counted.heights),
                   xray_share=float(counted.rejected.sum() / max(len(counted.heights), 1)),
                   coincidence_area=area, coincidence_area_error=error)


def _signal(learned: Learned, frames: np.ndarray, events: Events) -> float:
    """Mean sum of 5 x 5 pixels about electrons that stand alone, less the background; NaN where none does."""
    from edgetem_nodes.featurizer.patterns.counting.kernels import isolated_sums

    sums = np.empty(len(events.pixels))
    for index in range(len(events)):
        part = slice(events.starts[index], events.starts[index + 1])
        isolated_sums(frames[index], learned.dark, learned.inverse_gain, events.pixels[part], 2, 4, sums[part])
    return float(np.nanmean(sums) - 25 * learned.background_mean) if np.isfinite(sums).any() else np.nan


def _false_positives(learned: Learned, frames: np.ndarray, blank: np.ndarray | None) -> float:
    """Maxima a frame in blank frames; or, without those, minima as deep as the threshold is high: noise is symmetric."""
    if blank is None:
        mirrored = 2 * (learned.dark + learned.background_mean / np.where(learned.inverse_gain > 0, learned.inverse_gain, 1))
        blank = mirrored - frames
    else:
        # the reference holds a share of each blank frame, but none of the frames to come
        ratio = np.sqrt((len(blank) + 1) / max(len(blank) - 1, 1))
        blank = learned.dark + (blank - learned.dark) * ratio
    counter = ElectronCounter(learned)
    return float(len(counter.found(np.ascontiguousarray(blank, np.float32)).heights) / len(blank))


def _coincidence_area(learned: Learned, frames: np.ndarray) -> tuple[float, float]:
    """From sums of a frame and the blots alone of another, so that noise is not added; see `coincidence.coincidence_area`."""
    counter = ElectronCounter(replace(learned, xray_threshold=np.inf))
    events, pixels = counter.found(frames).events, learned.dark.size
    maps = events.frames(np.uint8)
    blots = _blots(learned, frames, maps)
    pairs = int(np.clip(MOST_OVERLAYS // len(frames), 1, len(frames) - 1))
    together = 0
    for shift in range(1, pairs + 1):
        for first in range(0, len(frames), max(1, OVERLAY_PIXELS // pixels)):
            part = np.arange(first, min(first + max(1, OVERLAY_PIXELS // pixels), len(frames)))
            summed = frames[part] + blots[(part + shift) % len(frames)]
            together += len(counter.found(summed.astype(np.float32)).heights)
    return coincidence.coincidence_area(np.diff(events.starts), pairs, together, maps)


def _blots(learned: Learned, frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames (frames, rows, columns) float32 with nothing but what electrons wrote, in raw counts above the dark reference:
    3 x 3 pixels about each, and of the ring around those what is above the threshold, lest noise is added."""
    def widened(reach: int) -> np.ndarray:
        padded, near = np.pad(maps > 0, ((0, 0), (reach, reach), (reach, reach))), np.zeros(maps.shape, bool)
        for y, x in np.ndindex(2 * reach + 1, 2 * reach + 1):
            near |= padded[:, y:y + maps.shape[1], x:x + maps.shape[2]]
        return near

    values = frames - learned.dark
    corrected = values * learned.inverse_gain
    kept = widened(1) | widened(2) & (corrected > learned.threshold)
    return np.where(kept & (learned.inverse_gain > 0), values, 0).astype(np.float32)
