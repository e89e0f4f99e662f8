"""The fused pass: any number of virtual detectors, the sum, the centre of mass and the second moments of every frame."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Events, Frames

CHUNK = 2 << 20
"""Frame data that one thread takes at once [byte]; about a cache, so that a conversion or second loop stays in it."""
MOMENTS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Powers of (y, x)."""


@dataclass
class Reduced:
    """What frames became, one row a frame; NaN where not defined, and then `failures` says why.

    Attributes
    ----------
    names : of the detectors.
    counts : (frames, detectors) float64, weighted sums of corrected counts.
    standard_errors : (frames, detectors), from counting statistics.
    total : (frames,), counts on the moments' mask; by default on the whole frame.
    center_of_mass : (frames, 2), (y, x) [pixel] from the centre of pixel (0, 0), less the frame's shift.
    center_of_mass_errors : (frames, 2), standard errors; NaN for one electron or none, which have no spread.
    variance : (frames, 2, 2), second central moments [[yy, yx], [yx, xx]] [pixel^2].
    failures : (frames,) why something is NaN; empty where everything is defined.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    standard_errors: np.ndarray
    total: np.ndarray
    center_of_mass: np.ndarray
    center_of_mass_errors: np.ndarray
    variance: np.ndarray
    failures: list[str]

    def __getitem__(self, name: str) -> np.ndarray:
        """Counts of one detector (frames,)."""
        return self.counts[:, self.names.index(name)]

    @classmethod
    def joined(cls, parts: list[Reduced]) -> Reduced:
        """The rows of several, one after the other; all of one reduction."""
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in (
            "counts", "standard_errors", "total", "center_of_mass", "center_of_mass_errors", "variance"))
        return cls(parts[0].names, *arrays, [failure for part in parts for failure in part.failures])


class Reduction:
    """Everything a frame is reduced to in one pass over it.

    Every result is a linear sum over raw pixel values, or made of such sums. Corrections are linear too, so they go into the
    weights: a dark signal costs nothing, neither do dead pixels that are left out; a gain or interpolation makes weighted sums
    of all.

    Parameters
    ----------
    shape : (rows, columns) of the frames.
    detectors : masks by name, (rows, columns): bool, or weights of any sign.
    moments_mask : bool, pixels of the total and the moments; None: all.
    moments : False: only detectors; total, centre of mass and variance are NaN and no failure.
    corrections : dark, gain, dead pixels.
    noise : of raw values less dark.
    threads : that frames are shared out among.

    Attributes
    ----------
    names : of the detectors.
    dead_fraction : by detector, the fraction of its weight (absolute) on dead pixels that are not interpolated.
    """

    def __init__(self, shape: tuple[int, int], detectors: Mapping[str, np.ndarray], *, moments_mask: np.ndarray | None = None,
                 moments: bool = True, corrections: Corrections | None = None, noise: CountingNoise = CountingNoise(),
                 threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads: 1 or more")
        self.shape, self.names, self.noise, self.threads = tuple(shape), tuple(detectors), noise, threads
        corrections = corrections or Corrections()
        corrections.check(self.shape)
        known = corrections.known(self.shape)
        weights = {name: self._weights(name, mask) for name, mask in detectors.items()}
        self.dead_fraction = {name: self._dead(name, weight, known) for name, weight in weights.items()}
        masks = {}
        if moments:
            inside = np.ones(self.shape) if moments_mask is None else self._weights("moments", np.asarray(moments_mask, bool))
            self._dead("moments", inside, known)
            y, x = np.mgrid[:self.shape[0], :self.shape[1]].astype(float)
            masks = {f"{a}{b}": inside * y**a * x**b for a, b in MOMENTS}
        self._plan(weights, masks, corrections)
        self._pool: ThreadPoolExecutor | None = None
        self._by_width: dict[int, tuple[np.ndarray, ...]] = {}

    def _weights(self, name: str, mask: np.ndarray) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.shape != self.shape:
            raise ValueError(f"the mask of {name!r} has shape {mask.shape}, frames have {self.shape}")
        weights = mask.astype(float)
        if not np.isfinite(weights).all():
            raise ValueError(f"the mask of {name!r} holds {np.count_nonzero(~np.isfinite(weights))} weights that are not finite")
        if not weights.any():
            raise ValueError(f"the mask of {name!r} holds no pixel of the frame: a disk off the detector has no counts")
        return weights

    @staticmethod
    def _dead(name: str, weights: np.ndarray, known: np.ndarray) -> float:
        weight = np.abs(weights)
        fraction = 1.0 - float(weight[known].sum() / weight.sum())
        if not weight[known].any():
            raise ValueError(f"every pixel of {name!r} is dead or behind the beam stop: it has no counts; choose another mask")
        return fraction

    def _plan(self, detectors: dict[str, np.ndarray], moments: dict[str, np.ndarray], corrections: Corrections) -> None:
        """Sort the sums that are needed into masks (pixels count once or not) and weight maps, and their columns."""
        maps = {name: corrections.weights(weight) for name, weight in detectors.items()}
        binary = [name for name, weight in maps.items() if np.isin(weight, (0.0, 1.0)).all()]
        ones = {name: corrections.weights(weight) for name, weight in moments.items()}
        fused = bool(ones) and np.isin(ones["00"], (0.0, 1.0)).all()
        self._masks = np.array([maps[name] for name in binary]).reshape(-1, *self.shape) != 0
        columns: dict[object, np.ndarray] = {("sum", name): maps[name] for name in binary}
        if fused:
            columns |= {("moment", name): weight for name, weight in ones.items()}
        self._fused = len(columns)
        columns |= {("sum", name): maps[name] for name in maps if name not in binary}
        columns |= {("square", name): maps[name]**2 for name in maps if name not in binary}
        if ones and not fused:
            columns |= {("moment", name): weight for name, weight in ones.items()}
            one, y, x = ones["00"], ones["10"], ones["01"]
            columns |= {("spread", name): weight for name, weight in (
                ("00", one * one), ("10", one * y), ("01", one * x), ("20", y * y), ("02", x * x))}
        self._column = {key: k for k, key in enumerate(columns)}
        self._maps = np.array(list(columns.values())).reshape(-1, *self.shape)
        self._offsets = corrections.offsets(self._maps)
        self._areas = self._maps.sum(axis=(1, 2))
        self._floors = {name: float((maps[name]**4).sum() / (maps[name]**2).sum()) for name in maps}
        self._used = (self._maps != 0).any(axis=0)
        self._inside = ones["00"] != 0 if fused else self._used
        self._everything = bool(self._inside.all() and self._used.all())
        extra = self._maps[self._fused:] != 0
        self._spans = np.stack([extra.argmax(axis=2), self.shape[1] - extra[:, :, ::-1].argmax(axis=2)], axis=2)
        self._spans[~extra.any(axis=2)] = 0

    def __call__(self, frames: Frames, shifts: np.ndarray | None = None) -> Reduced:
        """Reduce frames (frames, rows, columns) of any real type, or events; each row depends on its frame alone, bit for bit.

        shifts (frames, 2), (y, x) [pixel]: by how much each pattern is shifted on the detector (descan); the centre of mass is
        given less that. Masks stay where they are.

        Raises
        ------
        ValueError : frames of another shape or of complex numbers; shifts of another length.
        """
        if shifts is not None:
            shifts = np.asarray(shifts, float)
            if shifts.shape != (len(frames), 2):
                raise ValueError(f"shifts of shape {shifts.shape} do not fit {len(frames)} frames: (frames, 2)")
        if isinstance(frames, Events):
            if tuple(frames.shape) != self.shape:
                raise ValueError(f"events on frames of {tuple(frames.shape)} do not fit the masks' {self.shape}")
            sums, failures = self._event_sums(frames), [""] * len(frames)
        else:
            frames = np.asarray(frames)
            if frames.shape[1:] != self.shape or frames.ndim != 3:
                raise ValueError(f"frames of shape {frames.shape} do not fit the masks': (frames, {self.shape[0]}, "
                                 f"{self.shape[1]})")
            if frames.dtype.kind not in "buif":
                raise ValueError(f"frames of {frames.dtype} cannot be counted: integers or real numbers are needed")
            sums, failures = self._frame_sums(frames)
        return self._reduced(sums - self._offsets, failures, shifts)

    def _parts(self, count: int, frame_bytes: int) -> list[slice]:
        step = max(1, min(CHUNK // max(1, frame_bytes), -(-count // self.threads)))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def _each(self, work: object, parts: list[slice]) -> None:
        if self.threads == 1 or len(parts) < 2:
            for part in parts:
                work(part)
            return
        self._pool = self._pool or ThreadPoolExecutor(self.threads, "reduction")
        list(self._pool.map(work, parts))

    def _event_sums(self, events: Events) -> np.ndarray:
        from edgetem_nodes.featurizer.patterns.kernels import event_sums

        table = np.ascontiguousarray(self._maps.reshape(len(self._maps), -1).T)
        sums = np.zeros((len(events), len(self._maps)))
        starts = np.ascontiguousarray(events.starts, np.int64)
        pixels = np.ascontiguousarray(events.pixels, np.uint32)
        self._each(lambda part: event_sums(starts[part.start:part.stop + 1], pixels, table, sums[part]),
                   self._parts(len(events), max(1, pixels.nbytes // max(1, len(events)))))
        return sums

    def _frame_sums(self, frames: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Sums of raw values (frames, columns), and why frames cannot be used."""
        sums, top = np.zeros((len(frames), len(self._maps))), np.zeros(len(frames))
        self._each(lambda part: self._part(native(frames[part]), sums[part], top[part]),
                   self._parts(len(frames), frames[:1].nbytes))
        failures = [""] * len(frames)
        bad = ~np.isfinite(sums).all(axis=1) | (top >= self.noise.saturation_level(frames.dtype))
        for row in np.flatnonzero(bad):
            failures[row] = self.noise.failures(frames[row][self._used][None])[0]
        return sums, failures

    def _part(self, frames: np.ndarray, sums: np.ndarray, top: np.ndarray) -> None:
        """Fill the sums (frames, columns) and the largest values (frames,) of a few frames."""
        from edgetem_nodes.featurizer.patterns.kernels import GROUP, masked_sums, weighted_sums
        from edgetem_nodes.featurizer.patterns.strips import lanes

        width, columns = lanes(frames.itemsize), self.shape[1]
        masks, inside, used, spans = self._masks_of(frames.itemsize, width)
        masked = not self._everything
        running, most_rows = _running(frames.dtype, self.shape[0])
        binary, moments = np.zeros((len(frames), len(masks))), np.zeros((len(frames), len(MOMENTS)))
        largest = np.zeros(len(frames), frames.dtype)
        masked_sums(frames, masks, spans, inside, used, masked, width, most_rows,
                    np.zeros((3, columns), running), np.zeros((len(masks), width), running),
                    np.zeros((1, columns), frames.dtype), binary, moments, largest)
        sums[:, :len(masks)], top[:] = binary, largest
        if self._fused > len(masks):
            sums[:, len(masks):self._fused] = moments
        if self._fused < len(self._maps):
            weighted = np.zeros((len(frames), len(self._maps) - self._fused))
            weighted_sums(frames, self._maps[self._fused:], self._spans, self._used, np.zeros((GROUP, columns)), weighted)
            sums[:, self._fused:] = weighted

    def _masks_of(self, item_bytes: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Masks of the detectors, the moments and all pixels in use, as bits as wide as a pixel; rows the first ones span."""
        if item_bytes not in self._by_width:
            bits = np.dtype(f"u{item_bytes}")
            masks = [np.where(mask, np.iinfo(bits).max, 0).astype(bits) for mask in (self._masks, self._inside, self._used)]
            self._by_width[item_bytes] = *masks, _row_spans(self._masks, width)
        return self._by_width[item_bytes]

    def _reduced(self, sums: np.ndarray, failures: list[str], shifts: np.ndarray | None) -> Reduced:
        """Results from sums of raw values less dark (frames, columns)."""
        unusable = np.array([bool(failure) for failure in failures], bool)
        sums[unusable] = np.nan
        counts, variances = np.zeros((len(sums), len(self.names))), np.zeros((len(sums), len(self.names)))
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        for k, name in enumerate(self.names):
            column = self._column["sum", name]
            square = self._column.get(("square", name), column)
            counts[:, k] = sums[:, column]
            variances[:, k] = gain * np.maximum(sums[:, square], gain * self._floors[name]) + self._areas[square] * readout**2
        total, center, errors, variance = self._moments(sums, failures)
        if shifts is not None:
            center = center - shifts
        return Reduced(self.names, counts, np.sqrt(variances), total, center, errors, variance, failures)

    def _moments(self, sums: np.ndarray, failures: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Total, centre of mass, its errors and second central moments; marks empty frames."""
        nothing = np.full(len(sums), np.nan)
        if ("moment", "00") not in self._column:
            return nothing, np.full((len(sums), 2), np.nan), np.full((len(sums), 2), np.nan), np.full((len(sums), 2, 2), np.nan)
        total, y, x, yy, yx, xx = (sums[:, self._column["moment", f"{a}{b}"]] for a, b in MOMENTS)
        for row in np.flatnonzero(~(total > 0)):
            failures[row] = failures[row] or (f"the frame is empty: {total[row]:g} counts have no centre of mass")
        some = np.where(total > 0, total, np.nan)
        y, x = y / some, x / some
        variance = np.stack([yy / some - y * y, yx / some - y * x, yx / some - y * x, xx / some - x * x], axis=1)
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        electrons = some / gain
        unbiased = np.where(electrons > 1, electrons / np.where(electrons > 1, electrons - 1, 1.0), np.nan)
        errors = []
        for middle, first, second in ((y, "10", "20"), (x, "01", "02")):
            kind = "spread" if ("spread", "00") in self._column else "moment"
            columns = [self._column[kind, name] for name in ("00", first, second)]
            q0, q1, q2 = (sums[:, column] for column in columns)
            a0, a1, a2 = (self._areas[column] for column in columns)
            spread = gain * unbiased * (q2 - 2 * middle * q1 + middle**2 * q0)
            spread += readout**2 * (a2 - 2 * middle * a1 + middle**2 * a0)
            errors.append(np.sqrt(np.maximum(spread, 0.0)) / some)
        return total, np.stack([y, x], axis=1), np.stack(errors, axis=1), variance.reshape(-1, 2, 2)


class PatternSum:
    """Sum, maximum and sum of squares of frames, over any number of blocks.

    Attributes
    ----------
    count : frames so far.
    sum, squares, maximum : (rows, columns) float64; the maximum is -inf before the first frame.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.count = tuple(shape), 0
        self.sum, self.squares, self.maximum = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)

    def add(self, frames: Frames) -> None:
        """Add frames (frames, rows, columns) or events."""
        from edgetem_nodes.featurizer.patterns.kernels import pattern_sums

        if tuple(frames.shape[-2:]) != self.shape:
            raise ValueError(f"frames of shape {tuple(frames.shape[-2:])} cannot be added to patterns of {self.shape}")
        step = max(1, CHUNK // (8 * self.shape[0] * self.shape[1]))
        for start in range(0, len(frames), step):
            part = frames[start:start + step]
            part = part.frames(np.uint32) if isinstance(part, Events) else native(np.asarray(part))
            pattern_sums(part, self.sum, self.squares, self.maximum)
        self.count += len(frames)

    @property
    def mean(self) -> np.ndarray:
        """(rows, columns); NaN before the first frame."""
        return self.sum / self.count if self.count else np.full(self.shape, np.nan)

    @property
    def variance(self) -> np.ndarray:
        """Variance between frames (rows, columns), unbiased; NaN for fewer than two."""
        if self.count < 2:
            return np.full(self.shape, np.nan)
        return np.maximum(self.squares - self.sum * self.mean, 0.0) / (self.count - 1)


def native(frames: np.ndarray) -> np.ndarray:
    """Contiguous frames of a type that is compiled for: integers to 32 bit as they are, wider ones and bool converted.

    64-bit integers become float64, exact to 2^53.
    """
    dtype = frames.dtype.newbyteorder("=")
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype.kind in "ui" and dtype.itemsize == 8:
        dtype = np.dtype(np.float64)
    elif dtype.kind == "f" and dtype.itemsize not in (4, 8):
        dtype = np.dtype(np.float32 if dtype.itemsize == 2 else np.float64)
    frames = np.require(frames, dtype, "CA").view()
    frames.flags.writeable = False
    return frames


def _running(dtype: np.dtype, rows: int) -> tuple[np.dtype, int]:
    """Type of running sums of running sums of running sums, and how many rows they hold without overflow."""
    if dtype.kind == "f":
        return np.dtype(np.float64), rows
    wide = np.dtype(f"{dtype.kind}{4 if dtype.itemsize < 4 else 8}")
    limit, largest = int(np.iinfo(wide).max), int(np.iinfo(dtype).max) + (dtype.kind == "i")
    most = 1
    while most < rows and (most + 1) * (most + 2) * (most + 3) // 6 * largest <= limit:
        most += 1
    return wide, most


def _row_spans(masks: np.ndarray, width: int) -> np.ndarray:
    """First row and one past the last that masks (masks, rows, columns) have in strips of columns: (masks, strips, 2)."""
    strips = masks.shape[2] // width
    some = masks[:, :, :strips * width].reshape(*masks.shape[:2], strips, width).any(axis=3)
    spans = np.stack([some.argmax(axis=1), masks.shape[1] - some[:, ::-1].argmax(axis=1)], axis=2)
    return np.where(some.any(axis=1)[..., None], spans, 0)
