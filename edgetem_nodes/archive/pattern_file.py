"""Frames of a scan, larger than memory: read block by block, in the order in which the file stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.physics.scan import Axis, ScanField

BLOCK = 32 << 20
"""[byte] of frames that are read at once, unless a chunk of the file is larger."""
SAMPLES = 24
"""Places of a file from which a sample is taken."""


class PatternFileError(VendorFileError):
    """A file whose frames cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Block:
    """A part of the file that is read at once.

    Attributes
    ----------
    segment : number of the array that holds it.
    where : slices over the leading dimensions (frames, or rows and columns) of that array.
    """

    segment: int
    where: tuple[slice, ...]


class FrameStore:
    """Arrays that hold frames, cut into blocks of whole frames that follow the chunks of the file."""

    def __init__(self, arrays: Sequence[Any], scan_dimensions: int, places: np.ndarray | None = None, *,
                 whole_chunks: bool = True) -> None:
        """Take arrays of numpy, h5py or dask.

        Parameters
        ----------
        arrays : each (frames, *signal), or one array (rows, columns, *signal), of one signal shape and type.
        scan_dimensions : 1 or 2 leading dimensions that count frames.
        places : (frames,) where each frame of the arrays, one after the other, belongs; None: in their order.
        whole_chunks : whether a part of a chunk costs as much as all of it, as in a compressed file; not so where dask's
            chunks are pieces of a mapped file.
        """
        self._arrays, self._dimensions, self._places = list(arrays), scan_dimensions, places
        self._whole_chunks = whole_chunks
        first = self._arrays[0]
        self.frame_shape = tuple(int(n) for n in first.shape[scan_dimensions:])
        self.dtype = np.dtype(first.dtype).newbyteorder("=")
        self._counts = [math.prod(int(n) for n in a.shape[:scan_dimensions]) for a in self._arrays]
        self.count = sum(self._counts)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.frame_shape) * self.dtype.itemsize

    @property
    def scan_shape(self) -> tuple[int, ...]:
        """Of the leading dimensions: (frames,) or (rows, columns)."""
        return (self.count,) if self._dimensions == 1 else tuple(int(n) for n in self._arrays[0].shape[:2])

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the frames that one chunk of the file touches: no block is read faster than that."""
        return max(math.prod(self._chunk(a)) for a in self._arrays) * self.frame_bytes

    def _chunk(self, array: Any) -> tuple[int, ...]:
        """Extent of a chunk of the file over the leading dimensions; ones where it is contiguous."""
        chunks = getattr(array, "chunks", None)
        if chunks is None or not self._whole_chunks:
            return (1,) * self._dimensions
        return tuple(int(n if isinstance(n, (int, np.integer)) else max(n)) for n in chunks[:self._dimensions])

    def plan(self, block_bytes: int = BLOCK) -> list[Block]:
        """All blocks in the order of reading: whole chunks, at most `block_bytes` unless one chunk has more."""
        frames = max(1, block_bytes // max(1, self.frame_bytes))
        return [Block(number, tuple(slice(first, first + size) for first, size in zip(corner, extent, strict=True)))
                for number, array in enumerate(self._arrays)
                for corner, extent in _cuts(self._leading(array), self._chunk(array), frames)]

    def _leading(self, array: Any) -> tuple[int, ...]:
        return tuple(int(n) for n in array.shape[:self._dimensions])

    def places(self, block: Block) -> np.ndarray:
        """(frames,) int64, index of each frame of a block in the scan (row * columns + column), or in the list of positions."""
        grids = np.meshgrid(*(np.arange(part.start, part.stop) for part in block.where), indexing="ij")
        flat = np.ravel_multi_index(grids, self._leading(self._arrays[block.segment])).ravel()
        flat = flat + sum(self._counts[:block.segment])
        return flat if self._places is None else self._places[flat]

    def read(self, block: Block) -> np.ndarray:
        """Frames (frames, *signal) of a block in the machine's byte order."""
        values = self._arrays[block.segment][block.where]
        if hasattr(values, "compute"):
            values = values.compute(scheduler="synchronous")
        # What is mapped from a file is copied, so that it is read here and its pages are given back with the block.
        values = np.array(values, self.dtype, order="C", copy=None if values.flags.owndata else True)
        return values.reshape(-1, *self.frame_shape)


def _cuts(shape: tuple[int, ...], chunk: tuple[int, ...], frames: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Corners and extents of blocks of at most `frames` frames, made of whole chunks; of one chunk where that has more."""
    extent = list(min(c, n) for c, n in zip(chunk, shape, strict=True))
    for axis in reversed(range(len(shape))):
        others = math.prod(extent) // extent[axis]
        extent[axis] = min(shape[axis], max(1, frames // (others * extent[axis])) * extent[axis])
        if extent[axis] < shape[axis]:
            break
    counts = [-(-n // e) for n, e in zip(shape, extent, strict=True)]
    for index in np.ndindex(*counts):
        corner = tuple(i * e for i, e in zip(index, extent, strict=True))
        yield corner, tuple(min(e, n - c) for e, n, c in zip(extent, shape, corner, strict=True))


@dataclass
class PatternFile:
    """The frames of one scan in a file.

    Attributes
    ----------
    reader : which format it was read as.
    store : the frames; `axes` of a frame in SI units, "" where uncalibrated.
    field : the raster [m], or None for sparse positions.
    positions : (frames, 2), (y, x) [m], by place; None for a raster.
    calibrated : False where the file has no scan step and 1 nm stands in.
    conditions : what the file states, see `vendor_axes.conditions`.
    dead : pixels that the file calls unusable, bool of the frame's shape, or None.
    saturation : counts at which a pixel is saturated as the file says; 0: it does not say.
    notes : sentences about what is not as one would expect (frames missing, aborted).
    """

    path: Path
    title: str
    reader: str
    store: FrameStore
    axes: tuple[Axis, ...]
    field: ScanField | None
    positions: np.ndarray | None = None
    calibrated: bool = True
    conditions: dict[str, float] = field(default_factory=dict)
    dead: np.ndarray | None = None
    saturation: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Frames held."""
        return self.store.count

    @property
    def places(self) -> int:
        """Places of the scan: grid points, or positions."""
        return math.prod(self.field.shape) if self.field else len(self.positions)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.store.frame_shape

    @property
    def dtype(self) -> np.dtype:
        """Of the frames."""
        return self.store.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all frames, decoded."""
        return self.count * self.store.frame_bytes

    def all_positions(self) -> np.ndarray:
        """Position of every place (places, 2), (y, x) [m]."""
        return self.field.positions() if self.field else self.positions

    def scattered(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) at places (n,) as float64 (places, ...); NaN elsewhere."""
        result = np.full((self.places, *values.shape[1:]), np.nan)
        result[places] = values
        return result

    def blocks(self, block_bytes: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places (n,) and frames (n, *signal) of each block, each frame once; the next block is read meanwhile.

        Raises
        ------
        PatternFileError : the file cannot be read there.
        """
        plan = self.store.plan(block_bytes)
        with ThreadPoolExecutor(1, "reader") as reader:
            coming = reader.submit(self._read, plan[0]) if plan else None
            for number, block in enumerate(plan):
                frames = coming.result()
                coming = reader.submit(self._read, plan[number + 1]) if number + 1 < len(plan) else None
                yield self.store.places(block), frames

    def sample(self, sample_bytes: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
        """Places and frames from `SAMPLES` places spread over the file, about `sample_bytes` in all; damaged ones left out.

        Raises
        ------
        PatternFileError : there is no frame, or none can be read.
        """
        plan = self.store.plan(max(1, min(sample_bytes, self.nbytes) // SAMPLES))
        chosen = [plan[i] for i in np.unique(np.linspace(0, len(plan) - 1, SAMPLES).round().astype(int))]
        if not chosen:
            raise PatternFileError(f"{self.path} holds no frame")
        each = max(1, sample_bytes // SAMPLES // max(1, self.store.frame_bytes))
        places, frames, damage = [], [], None
        for block in chosen:
            try:
                frames.append(self._read(block)[:each].copy())
                places.append(self.store.places(block)[:each])
            except PatternFileError as error:
                damage = error
        if not frames:
            raise damage
        return np.concatenate(places), np.concatenate(frames)

    def _read(self, block: Block) -> np.ndarray:
        try:
            return self.store.read(block)
        except Exception as error:  # noqa: BLE001  (a reader may raise anything on a damaged file)
            first = int(self.store.places(block)[0])
            raise PatternFileError(f"{self.path} could not be read from frame {first} on: {str(error) or repr(error)}; is the "
                                   "file complete?") from error

    def reshaped(self, shape: tuple[int, int]) -> PatternFile:
        """The same frames as a raster of another shape, e.g. a list of frames that is known to be 128 x 128.

        Raises
        ------
        PatternFileError : there are more frames than places.
        """
        rows, columns = shape
        if rows < 1 or columns < 1 or self.store.count > rows * columns:
            raise PatternFileError(f"{self.path} holds {self.store.count} frames, a scan of {rows} x {columns} has "
                                   f"{rows * columns} places: state its rows and columns with --scan-shape")
        notes = [note for note in self.notes if "frames in a row" not in note]
        if self.store.count < rows * columns:
            notes.append(f"the file holds {self.store.count} frames of {rows} x {columns}; the scan's end is missing")
        step = self.field.step if self.field else (1e-9, 1e-9)
        origin = self.field.origin if self.field else (0.0, 0.0)
        return replace(self, field=ScanField(origin, step, (rows, columns)), positions=None, notes=notes,
                       calibrated=self.calibrated and self.field is not None)

    def stepped(self, step: float) -> PatternFile:
        """The same raster with another step [m] of both axes."""
        if self.field is None:
            raise PatternFileError(f"{self.path} has positions, not a raster: leave out --step")
        return replace(self, field=ScanField((0.0, 0.0), (step, step), self.field.shape), calibrated=True)
