"""Weighted sums of frames or events: which compiled loop makes which sum, on which type, in which thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from edgetem_nodes.featurizer.patterns.events import Events, native

CHUNK = 1 << 20
"""Frame data that one thread takes at once [byte] where there is a conversion or second loop: it stays in the cache."""
STREAMED = 32 << 20
"""The same where there is none: large, so that little time goes into beginning."""
MOMENTS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Powers of (y, x), in the order of the moments' columns."""


class LinearSums:
    """Sums over pixels of value times weight, for any number of weight maps; one pass over the frames makes those of masks.

    Columns: a sum a mask, then the six moments (where asked for), then a sum a weight map.

    Parameters
    ----------
    shape : (rows, columns) of the frames.
    masks : (masks, rows, columns) bool.
    inside : (rows, columns) bool, the pixels whose moments are taken; None: no moments.
    weights : (maps, rows, columns).
    threads : that frames are shared out among.
    """

    def __init__(self, shape: tuple[int, int], masks: np.ndarray, inside: np.ndarray | None, weights: np.ndarray,
                 threads: int = 1) -> None:
        y, x = np.mgrid[:shape[0], :shape[1]].astype(float)
        moments = [] if inside is None else [inside * y**a * x**b for a, b in MOMENTS]
        self.shape, self.threads = shape, threads
        self.maps = np.concatenate([masks.astype(float), np.reshape(moments, (-1, *shape)), weights])
        self.used = (masks.any(axis=0) | (weights != 0).any(axis=0) | (False if inside is None else inside))
        self._masks, self._inside, self._weights = masks, self.used if inside is None else inside, weights
        self._everything = bool(self._inside.all() and self.used.all())
        self._moments = slice(len(masks), len(masks) + len(moments))
        self._bits: dict[int, tuple[np.ndarray, ...]] = {}
        self._grouped: tuple[np.ndarray, np.ndarray] | None = None
        self._table: np.ndarray | None = None
        self._pool: ThreadPoolExecutor | None = None

    def of_frames(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums (frames, columns) float64, and the largest value used of each frame (frames,), 0 at least; masks and moments
        of integers are exact up to 2^53."""
        sums, top = np.zeros((len(frames), len(self.maps))), np.zeros(len(frames))
        streamed = not len(self._weights) and np.shares_memory(frames[:1], native(frames[:1]))
        self.each(lambda part: self._part(native(frames[part]), sums[part], top[part]),
                   len(frames), frames[:1].nbytes, STREAMED if streamed else CHUNK)
        return sums, top

    def of_events(self, events: Events) -> np.ndarray:
        """Sums (frames, columns) float64."""
        from edgetem_nodes.featurizer.patterns.kernels import event_sums

        if self._table is None:
            self._table = np.ascontiguousarray(self.maps.reshape(len(self.maps), -1).T)
        sums = np.zeros((len(events), len(self.maps)))
        starts, pixels = np.ascontiguousarray(events.starts, np.int64), np.ascontiguousarray(events.pixels, np.uint32)
        self.each(lambda part: event_sums(starts[part.start:part.stop + 1], pixels, self._table, sums[part]),
                   len(events), pixels.nbytes / max(1, len(events)), STREAMED)
        return sums

    def each(self, work: Callable[[slice], None], count: int, frame_bytes: float, chunk: int) -> None:
        """Do the work on parts of `count` frames, in as many threads as there are."""
        step = max(1, min(int(chunk / max(1, frame_bytes)), -(-count // self.threads)))
        parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        if self.threads == 1 or len(parts) < 2:
            for part in parts:
                work(part)
            return
        self._pool = self._pool or ThreadPoolExecutor(self.threads, "linear_sums")
        list(self._pool.map(work, parts))

    def _part(self, frames: np.ndarray, sums: np.ndarray, top: np.ndarray) -> None:
        """Fill the sums (frames, columns) and the largest values (frames,) of native frames."""
        from edgetem_nodes.featurizer.patterns.strips import masked_sums

        kind = frames.dtype
        masks, inside, used, spans = self._masks_of(kind.itemsize)
        (rows, columns), width = inside.shape, inside.shape[1] // spans.shape[1]
        running, most_rows = _running(kind, rows)
        counted, moments, largest = np.zeros((len(frames), len(masks))), np.zeros((len(frames), 6)), np.zeros(len(frames), kind)
        masked_sums(frames, masks, spans, inside, used, int(not self._everything), most_rows, np.zeros((rows, width), kind),
                    np.zeros((3, columns), running), np.zeros((len(masks), width), running), np.zeros((1, columns), kind),
                    counted, moments, largest)
        sums[:, :len(masks)], top[:] = counted, largest
        if self._moments.stop > self._moments.start:
            sums[:, self._moments] = moments
        if len(self._weights):
            sums[:, self._moments.stop:] = self._weighted(frames)

    def _weighted(self, frames: np.ndarray) -> np.ndarray:
        """Sums (frames, maps) of the weight maps."""
        from edgetem_nodes.featurizer.patterns.strips import TOGETHER, WEIGHTED_LANES, weighted_sums

        if self._grouped is None:
            maps = np.zeros((-(-len(self._weights) // TOGETHER) * TOGETHER, *self.shape))
            maps[:len(self._weights)] = self._weights
            padded = _padded(maps.reshape(-1, TOGETHER, *self.shape), WEIGHTED_LANES)
            strips = padded.reshape(*padded.shape[:3], -1, WEIGHTED_LANES).transpose(0, 3, 2, 1, 4)
            spans = _row_spans((padded != 0).any(axis=1), WEIGHTED_LANES)
            self._grouped = np.ascontiguousarray(strips).reshape(*strips.shape[:3], -1), spans
        weights, spans = self._grouped
        used = self._masks_of(frames.itemsize)[2]
        sums = np.zeros((len(frames), len(weights) * TOGETHER))
        weighted_sums(frames, weights, spans, used, np.zeros((self.shape[0], WEIGHTED_LANES), frames.dtype),
                      np.zeros((len(frames), TOGETHER, WEIGHTED_LANES)), sums)
        return sums[:, :len(self._weights)]

    def _masks_of(self, item_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The masks, the moments' and that of all pixels used, as bits as wide as a pixel, columns padded to whole strips;
        and the rows that the first ones span."""
        from edgetem_nodes.featurizer.patterns.strips import lanes

        if item_bytes not in self._bits:
            width, bits = lanes(item_bytes), np.dtype(f"u{item_bytes}")
            masks = [_padded(np.where(mask, np.iinfo(bits).max, 0).astype(bits), width) for mask in (
                self._masks, self._inside, self.used)]
            self._bits[item_bytes] = *masks, _row_spans(masks[0], width)
        return self._bits[item_bytes]


@lru_cache(maxsize=64)
def _running(kind: np.dtype, rows: int) -> tuple[np.dtype, int]:
    """Type of running sums of running sums of running sums, and how many rows they hold without overflow."""
    if kind.kind == "f":
        return np.dtype(np.float64), rows
    wide = np.dtype(f"{kind.kind}{4 if kind.itemsize < 4 else 8}")
    limit, largest = int(np.iinfo(wide).max), int(np.iinfo(kind).max) + (kind.kind == "i")
    most = 1
    while most < rows and (most + 1) * (most + 2) * (most + 3) // 6 * largest <= limit:
        most += 1
    return wide, most


def _padded(maps: np.ndarray, width: int) -> np.ndarray:
    """Maps (..., rows, columns) with columns of zeros to a multiple of a width."""
    return np.pad(maps, [(0, 0)] * (maps.ndim - 1) + [(0, -maps.shape[-1] % width)])


def _row_spans(maps: np.ndarray, width: int) -> np.ndarray:
    """First row and one past the last that maps (maps, rows, columns) have in strips of columns: (maps, strips, 2)."""
    some = (maps != 0).reshape(*maps.shape[:2], maps.shape[2] // width, width).any(axis=3)
    spans = np.stack([some.argmax(axis=1), maps.shape[1] - some[:, ::-1].argmax(axis=1)], axis=2)
    return np.where(some.any(axis=1)[..., None], spans, 0)
