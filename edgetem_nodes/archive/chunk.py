"""Encoded chunks that say what they are.

Each chunk of frames in the file is a Blosc2 contiguous frame, as the HDF5 Blosc2 filter (32026) stores it. A note in its
trailer, which the filter ignores, names the archive, the acquisition and the rows, with their positions and a CRC-32. So
the frames can be found and put together again by reading the bytes of the file alone, whatever became of its index.
"""

from __future__ import annotations

import json
import mmap
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import blosc2
import numpy as np

NOTE = "edgetem"
MAGIC = b"\x9e\xa8b2frame\x00"
_SIZE_AT = 16
"""Offset of the frame's length, uint64 big-endian, in its header
(https://github.com/Blosc/c-blosc2/blob/main/README_CFRAME_FORMAT.rst)."""


class Encoder(Protocol):
    """What turns an array into the bytes of one chunk; `edgetem_nodes.compressor.codec.Codec` is one."""

    dataset_options: dict[str, Any]
    """Filter arguments of `h5py.Group.create_dataset`."""

    def encode(self, values: np.ndarray, note: bytes = b"") -> bytes:
        """A Blosc2 contiguous frame of the array's bytes, with the note in its trailer."""


@dataclass(frozen=True)
class ChunkNote:
    """What a chunk holds.

    `rows` of the chunk count, the rest is padding; `shape` and `dtype` are those of the decoded chunk; `facts` are what a
    rebuilt archive needs to know of the acquisition, overview or map. `indices` (rows,) int64 within the acquisition and
    `positions` (rows, 2) float64, (y, x) [m]; both empty for other arrays than frames.
    """

    archive_id: uuid.UUID
    group: str
    first_row: int
    rows: int
    shape: tuple[int, ...]
    dtype: str
    crc32: int
    facts: dict[str, Any] = field(default_factory=dict)
    indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    positions: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    def to_bytes(self) -> bytes:
        """JSON, a newline, then indices and positions as little-endian numbers."""
        head = {"archive": str(self.archive_id), "group": self.group, "first_row": self.first_row, "rows": self.rows,
                "shape": list(self.shape), "dtype": self.dtype, "crc32": self.crc32, "frames": len(self.indices),
                "facts": self.facts}
        return (json.dumps(head).encode() + b"\n" + np.ascontiguousarray(self.indices, "<i8").tobytes()
                + np.ascontiguousarray(self.positions, "<f8").tobytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> ChunkNote:
        """The inverse of `to_bytes`.

        Raises
        ------
        ValueError, KeyError : the bytes are not such a note.
        """
        text, separator, rest = data.partition(b"\n")
        head = json.loads(text)
        count = head["frames"]
        if not separator or len(rest) != 24 * count:
            raise ValueError(f"a chunk note of {count} frames has {len(rest)} bytes of indices and positions, "
                             f"not {24 * count}")
        return cls(uuid.UUID(head["archive"]), head["group"], head["first_row"], head["rows"], tuple(head["shape"]),
                   head["dtype"], head["crc32"], head["facts"], np.frombuffer(rest, "<i8", count),
                   np.frombuffer(rest, "<f8", 2 * count, 8 * count).reshape(-1, 2))


@dataclass(frozen=True)
class FoundChunk:
    """A chunk found in the bytes of a file, its content checked: offset and encoded bytes."""

    offset: int
    encoded: bytes
    note: ChunkNote

    def decoded(self) -> np.ndarray:
        """The rows that count, shape (rows, ...)."""
        return decode(self.encoded, self.note.dtype, self.note.shape)[:self.note.rows]


def decode(encoded: bytes, dtype: str | np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a Blosc2 contiguous frame; read-only.

    Raises
    ------
    ValueError : the bytes are no such frame, or hold another number of values.
    """
    try:
        raw = blosc2.schunk_from_cframe(encoded, copy=True)[:]
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"not a sound Blosc2 frame ({len(encoded)} bytes): {error}") from None
    dtype = np.dtype(dtype)
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(f"the Blosc2 frame holds {len(raw)} bytes; shape {tuple(shape)} of {dtype} needs {expected}")
    return np.frombuffer(raw, dtype).reshape(shape)


def find_chunks(path: Path) -> Iterator[FoundChunk]:
    """Every sound chunk with a note in the bytes of a file, in order of place, whether or not HDF5 still knows of it.

    Its content is decoded and checked against the note's CRC-32. What only looks like a chunk is passed over. At most one
    chunk is in memory at a time.
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(MAGIC)
        while place >= 0:
            found = _chunk_at(data, place)
            if found is not None:
                yield found
            place = data.find(MAGIC, place + (len(found.encoded) if found else len(MAGIC)))


def _chunk_at(data: mmap.mmap, place: int) -> FoundChunk | None:
    length = int.from_bytes(data[place + _SIZE_AT:place + _SIZE_AT + 8], "big")
    if not 0 < length <= len(data) - place:
        return None
    encoded = data[place:place + length]
    try:
        frame = blosc2.schunk_from_cframe(encoded, copy=False)
        if NOTE not in frame.vlmeta:
            return None
        note = ChunkNote.from_bytes(frame.vlmeta[NOTE])
        del frame
        found = FoundChunk(place, encoded, note)
        if zlib.crc32(found.decoded().tobytes()) != note.crc32:
            return None
    except (RuntimeError, ValueError, KeyError, TypeError):
        return None
    return found
