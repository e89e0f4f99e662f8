"""Writing the frames of one acquisition: rows into chunks, chunks into the file, and the books that go with them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from edgetem_nodes.archive import emd
from edgetem_nodes.archive.chunk import ChunkNote
from edgetem_nodes.archive.contents import AcquisitionFacts, ArchiveError, BlockReference, FramesDescription
from edgetem_nodes.physics.scan import Axis

if TYPE_CHECKING:
    from edgetem_nodes.archive.writer import ArchiveWriter

SMALL_CHUNK = 64 * 1024
"""Bytes below which a chunk waits for more frames: each costs about 1 KiB of headers and index."""
SMALL_TABLE = 256
"""Entries by which the small tables of an acquisition grow."""
TOGETHER = 16
"""Blocks that are made safe at once, at most, where more follow: tables and flush cost as much for one as for all."""

BLOCKS = np.dtype([("first_row", "<u8"), ("rows", "<u8"), ("raw_size", "<u8"), ("stored_size", "<u8"),
                   ("time_ns", "<i8"), ("sha256", "u1", 32)])
"""One row of the table `blocks`: what an `ArchivedBlock` says, kept with the data too."""

OPEN, COMPLETE, INCOMPLETE, ABORTED, INTERRUPTED = "open", "complete", "incomplete", "aborted", "interrupted"
"""Status of an acquisition. Incomplete: frames are missing; interrupted: the writer ended before the acquisition."""


@dataclass
class _Waiting:
    """A block whose rows are not all in the file yet."""

    reference: BlockReference
    digest: Future[bytes]
    stored_size: float = 0.0

    @property
    def end(self) -> int:
        return self.reference.first_index + self.reference.count


def rows_of_chunk(description: FramesDescription, rows: int, count: int, target: int) -> int:
    """Frames of one chunk, for blocks of `rows` frames in an acquisition of `count` frames (0: not known).

    At most `target` bytes; if it can be, a divisor of `rows`, so that no chunk spans two blocks; not below `SMALL_CHUNK`.
    """
    frame = max(1, description.frame_bytes)
    largest = max(1, target // frame)
    divisor = max(n for n in range(1, min(rows, largest) + 1) if rows % n == 0)
    if divisor * frame * 4 < min(target, rows * frame):
        divisor = min(largest, rows)
    if divisor * frame < SMALL_CHUNK:
        divisor = min(largest, max(divisor, SMALL_CHUNK // frame))
    return max(1, min(divisor, count) if count else divisor)


class AcquisitionWriter:
    """Appends the frames of one acquisition. Made by `ArchiveWriter.begin`; use it from one thread.

    Frames that do not fill a chunk wait in memory until the next ones fill it, or until `settle`. A block is reported,
    as a `BlockReference`, once all its rows are in the file and the file is flushed.
    """

    def __init__(self, archive: ArchiveWriter, name: str, facts: AcquisitionFacts, chunk_bytes: int) -> None:
        self.archive, self.name, self.facts = archive, name, facts
        self.description: FramesDescription | None = None
        self.problems: list[str] = []
        self.status = OPEN
        self.received = 0
        """Frames taken in."""
        self.stored = 0
        """Frames in the file."""
        self._chunk_bytes = chunk_bytes
        self._group = emd.make_node(archive.file[emd.ROOT], name)
        self._group.attrs["id"] = str(facts.acquisition_id)
        self._group.attrs["status"] = OPEN
        self._waiting: deque[_Waiting] = deque()
        self._tables: Tables | None = None
        self._tail: np.ndarray | None = None
        self._unlisted: list[tuple[np.ndarray, np.ndarray]] = []
        """Indices and positions of the last rows taken in, of which those up to `stored` are not in their tables yet."""
        self._listed = 0
        self._tail_rows = self._tail_stored = 0
        self._write_facts()

    @property
    def dataset(self) -> str:
        """HDF5 path of the frames."""
        return f"/{emd.ROOT}/{self.name}/frames/data"

    def learn(self, facts: AcquisitionFacts) -> None:
        """Take in what became known of the acquisition after it began (its probe path came after its first block)."""
        self.facts = facts
        self._write_facts()

    def append(self, first_index: int, frames: np.ndarray, positions: np.ndarray, axes: tuple[Axis, ...] = (),
               time_ns: int = 0, *, crc32: int | None = None, more: bool = False) -> list[BlockReference]:
        """Take in consecutive frames.

        Parameters
        ----------
        first_index : index of the first frame within the acquisition.
        frames : (rows, ...) in the data's own dtype.
        positions : (rows, 2), (y, x) [m].
        axes : of the signal dimensions; none: uncalibrated.
        time_ns : acquisition time of the first frame, ns since the epoch.
        crc32 : of the frames' bytes, where it is known; it is not computed again then.
        more : the next block is there already: up to `TOGETHER` blocks become safe at once.

        Returns
        -------
        The blocks that have become safe: this one, earlier ones, or none as long as a chunk is not full or more follow.

        Raises
        ------
        ArchiveError : the frames do not fit the earlier ones, or the file cannot be written.
        ArchiveFull : the disk has no room; nothing of the frames was written.
        """
        self.archive.check_room(frames.nbytes)
        frames = np.ascontiguousarray(frames, frames.dtype.newbyteorder("<"))
        rows = len(frames)
        if rows == 0:
            return []
        positions = np.asarray(positions, np.float64).reshape(-1, 2)
        if len(positions) != rows:
            raise ArchiveError(f"{self.name}: {rows} frames come with {len(positions)} positions; they must be as many")
        description = FramesDescription(frames.shape[1:], frames.dtype, tuple(axes))
        if self.description is None:
            self._create(description, rows_of_chunk(description, rows, self.facts.count, self._chunk_bytes))
        elif (description.signal, description.dtype) != (self.description.signal, self.description.dtype):
            known = self.description
            raise ArchiveError(f"{self.name}: frames of shape {description.signal} {description.dtype} follow frames of "
                               f"shape {known.signal} {known.dtype}; one acquisition has one shape and type")
        reference = BlockReference(self.facts.acquisition_id, self.archive.archive_id, self.archive.path.name, self.dataset,
                                   self.received, rows, b"", frames.nbytes, 0, time_ns)
        # Hashing takes as long as encoding and needs no interpreter: both at once where a core is free.
        self._waiting.append(_Waiting(reference, self.archive.hashing.submit(_sha256, frames)))
        self.received += rows
        with self.archive.writing(self.name):
            self._unlisted.append((np.arange(first_index, first_index + rows, dtype=np.int64), positions))
            self._distribute(frames, crc32)
            last = bool(self.facts.count) and self.received >= self.facts.count
            if last:
                self._write_tail()
            return [] if more and not last and len(self._waiting) < TOGETHER else self._safe()

    def settle(self) -> list[BlockReference]:
        """Write what waits for a full chunk or for more blocks; returns the blocks that have become safe."""
        if self._tail_rows == self._tail_stored and self.stored == self._listed:
            return []
        with self.archive.writing(self.name):
            self._write_tail()
            return self._safe()

    def mark(self, problem: str) -> None:
        """Note for ever that something went wrong with this acquisition."""
        self.problems.append(problem)
        with self.archive.writing(self.name):
            self._group.attrs["problems"] = json.dumps(self.problems)
            self.archive.file.flush()

    def finish(self, status: str, *, requested: int = 0, sent: int = 0, dropped: int = 0,
               reason: str = "") -> list[BlockReference]:
        """Settle, and write down how the acquisition ended. May be called again when late frames changed the outcome."""
        safe = self.settle()
        with self.archive.writing(self.name):
            self.status = status
            self._group.attrs["status"] = status
            emd.write_metadata(self._group, "outcome", {
                "status": status, "requested_frames": requested, "sent_frames": sent, "dropped_frames": dropped,
                "archived_frames": self.stored, "reason": reason, "problems": json.dumps(self.problems)})
            self.archive.file.flush()
        return safe

    def _write_facts(self) -> None:
        with self.archive.writing(self.name):
            emd.write_metadata(self._group, "acquisition", self.facts.as_metadata())
            self.archive.file.flush()

    def _create(self, description: FramesDescription, chunk_rows: int) -> None:
        if description.axes and tuple(axis.size for axis in description.axes) != description.signal:
            self.mark(f"the axes have {[axis.size for axis in description.axes]} entries, the frames "
                      f"{list(description.signal)}: stored uncalibrated")
        with self.archive.writing(self.name):
            self.description, self._tables = make_tables(self._group, description, chunk_rows, self.facts.count,
                                                         self.archive.encoder.dataset_options)
        self._tail = np.zeros((chunk_rows, *description.signal), description.dtype)

    def _distribute(self, frames: np.ndarray, crc32: int | None) -> None:
        size, start = len(self._tail), 0
        while start < len(frames):
            take = min(size - self._tail_rows, len(frames) - start)
            part = frames[start:start + take]
            start += take
            if take == size:
                self._write_chunk(self.stored, part, size, crc32 if take == len(frames) else None)
                continue
            self._tail[self._tail_rows:self._tail_rows + take] = part
            self._tail_rows += take
            if self._tail_rows == size:
                self._write_tail()

    def _write_tail(self) -> None:
        rows = self._tail_rows
        if rows == self._tail_stored:
            return
        self._tail[rows:] = 0
        self._write_chunk(self.stored - self._tail_stored, self._tail, rows)
        self._tail_rows, self._tail_stored = (0, 0) if rows == len(self._tail) else (rows, rows)

    def _write_chunk(self, first: int, values: np.ndarray, rows: int, crc32: int | None = None) -> None:
        indices, positions = self._rows(first, rows)
        if crc32 is None:
            crc32 = zlib.crc32(memoryview(values[:rows]).cast("B"))
        note = ChunkNote(self.archive.archive_id, self.name, first, rows, values.shape, values.dtype.str, crc32,
                         self._recovery_facts(), indices, positions)
        encoded = self.archive.encoder.encode(values, note.to_bytes())
        place_frames(self._tables, note, encoded)
        self.stored = first + rows
        self.archive.stored_bytes += len(encoded)
        for waiting in self._waiting:
            overlap = min(waiting.end, first + rows) - max(waiting.reference.first_index, first)
            if overlap > 0:
                waiting.stored_size += len(encoded) * overlap / rows

    def _rows(self, first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and positions of rows that are not forgotten yet."""
        if len(self._unlisted) > 1:
            indices, positions = zip(*self._unlisted, strict=True)
            self._unlisted = [(np.concatenate(indices), np.concatenate(positions))]
        indices, positions = self._unlisted[0]
        start = first - (self.received - len(indices))
        return indices[start:start + rows], positions[start:start + rows]

    def _recovery_facts(self) -> dict[str, Any]:
        return {"kind": "acquisition", **self.facts.as_metadata(),
                "axes": [[a.name, a.unit, a.scale, a.offset, a.size] for a in self.description.axes]}

    def _safe(self) -> list[BlockReference]:
        if self.stored > self._listed:
            place_rows(self._tables, self._listed, *self._rows(self._listed, self.stored - self._listed))
            self._listed = self.stored
            # A chunk that is not full is written again: what it holds of rows is needed until then.
            keep = self.received - (self.stored - self._tail_stored)
            indices, positions = self._unlisted[0]
            self._unlisted = [(indices[len(indices) - keep:], positions[len(positions) - keep:])]
        safe = []
        while self._waiting and self._waiting[0].end <= self.stored:
            done = self._waiting.popleft()
            safe.append(replace(done.reference, sha256=done.digest.result(), stored_size=round(done.stored_size)))
        add_blocks(self._tables, safe)
        self.archive.file.flush()
        return safe


def status_when_left(group: h5py.Group) -> str:
    """Status of an acquisition whose writer is gone without a word: complete if it holds every frame that was requested."""
    requested = emd.read_metadata(group, "acquisition").get("requested_frames", 0)
    held = group["frames/data"].shape[0] if "frames" in group else 0
    return COMPLETE if requested and held == requested else INTERRUPTED


def _sha256(values: np.ndarray) -> bytes:
    return hashlib.sha256(memoryview(values).cast("B")).digest()


class Tables(NamedTuple):
    """The datasets of an acquisition: frames (count, ...), positions (count, 2), indices (count,), and the block table."""

    frames: h5py.Dataset
    positions: h5py.Dataset
    indices: h5py.Dataset
    blocks: h5py.Dataset

    @classmethod
    def of(cls, group: h5py.Group) -> Tables:
        """Those of an acquisition that is there."""
        return cls(group["frames/data"], group["positions/data"], group["indices/data"], group["blocks"])


def make_tables(group: h5py.Group, description: FramesDescription, chunk_rows: int, count: int,
                options: dict[str, Any]) -> tuple[FramesDescription, Tables]:
    """Make the empty datasets of an acquisition of `count` frames (0: not known); axes that do not fit are replaced."""
    axes = description.axes
    if tuple(axis.size for axis in axes) != description.signal:
        axes = tuple(Axis(f"axis{n}", emd.PIXELS, 1.0, 0.0, size) for n, size in enumerate(description.signal))
    rows = min(count or SMALL_TABLE, 16 * SMALL_TABLE)
    frames = emd.make_array(group, "frames", "counts", [emd.running("frame"), *axes], shape=(0, *description.signal),
                            maxshape=(None, *description.signal), chunks=(chunk_rows, *description.signal),
                            dtype=description.dtype, **options)
    positions = emd.make_array(group, "positions", "m", [emd.running("frame"), Axis("y, x", "", 1.0, 0.0, 2)], shape=(0, 2),
                               maxshape=(None, 2), chunks=(rows, 2), dtype="<f8")
    indices = emd.make_array(group, "indices", "", [emd.running("frame")], shape=(0,), maxshape=(None,), chunks=(rows,),
                             dtype="<i8")
    blocks = group.create_dataset("blocks", shape=(0,), maxshape=(None,), chunks=(min(rows, 64),), dtype=BLOCKS)
    return replace(description, axes=axes), Tables(frames, positions, indices, blocks)


def place_frames(tables: Tables, note: ChunkNote, encoded: bytes) -> None:
    """Put an encoded chunk of frames where it belongs, growing the dataset."""
    end, frames = note.first_row + note.rows, tables.frames.id
    shape = frames.shape
    if shape[0] < end:
        frames.set_extent((end, *shape[1:]))
    frames.write_direct_chunk((note.first_row,) + (0,) * (len(shape) - 1), encoded)


def place_rows(tables: Tables, first: int, indices: np.ndarray, positions: np.ndarray) -> None:
    """Write indices and positions of rows from `first` on, growing the datasets."""
    end = first + len(indices)
    for dataset, values in ((tables.indices, indices), (tables.positions, positions)):
        if dataset.shape[0] < end:
            dataset.resize(end, axis=0)
        dataset[first:end] = values


def add_blocks(tables: Tables, references: list[BlockReference]) -> None:
    """Append references to the table `blocks` of an acquisition."""
    if not references:
        return
    table = tables.blocks
    start = table.shape[0]
    table.resize(start + len(references), axis=0)
    rows = np.zeros(len(references), BLOCKS)
    for row, reference in zip(rows, references, strict=True):
        row["first_row"], row["rows"] = reference.first_index, reference.count
        row["raw_size"], row["stored_size"] = reference.raw_size, reference.stored_size
        row["time_ns"], row["sha256"] = reference.time_ns, np.frombuffer(reference.sha256, np.uint8)
    table[start:] = rows
