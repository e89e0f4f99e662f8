"""Reading a source in pieces of a time that can be waited for, and checking what comes. Knows no ROS."""

from __future__ import annotations

import array
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.physics.exposure import Exposure

if TYPE_CHECKING:
    from edgetem_nodes.detector.sources import DetectorSource

FIRST_READ = 16
"""Frames of the first read from a source whose speed is not known yet."""
UNUSED = 2
"""References to a buffer that only the reader still knows: its list's, and that of the count itself."""


class EndedEarlyError(Exception):
    """An acquisition that cannot go on; `code` is the name of a constant in Arm.srv."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Acquisition:
    """What is to be measured; `start` [ns since the epoch] is acquisition time at the first position."""

    acquisition_id: uuid.UUID
    exposure: Exposure
    start: int

    @property
    def count(self) -> int:
        """Number of frames."""
        return self.exposure.count

    def time_of(self, index: int) -> int:
        """Acquisition time [ns since the epoch] at which frame `index` begins."""
        return self.start + round(index * self.exposure.period * 1e9)


@dataclass
class Block:
    """Consecutive frames: `parts` are arrays (n, *frame_shape), one after the other; `source_duration` [s]."""

    first_index: int
    count: int
    parts: list[np.ndarray]
    source_duration: float
    failure: EndedEarlyError | None = None
    """Why no frame came after these."""
    data: array.array | None = None
    """The bytes of all frames, where they lie in one buffer; good until the next block is read."""


class Reader:
    """Reads a source in pieces that take about `interval` [s] each, and checks what comes."""

    def __init__(self, source: DetectorSource, interval: float) -> None:
        self._source = source
        self.interval = interval
        self._rate: float | None = None
        self._buffer = array.array("B")
        self._given: list[array.array] = []

    def read(self, acquisition: Acquisition, first: int, most: int, remaining: float, space: np.ndarray | None = None) -> Block:
        """At most `most` frames from `first` on, no more than are likely to come within `remaining` seconds.

        With `space` (most, *frame_shape) they are read into it, for sources that can.

        Raises
        ------
        EndedEarlyError : SOURCE_FAILED, where the source raises or delivers something else than it promised.
        """
        source = self._source
        if self._rate is None:
            likely = self.interval / acquisition.exposure.dwell if source.real_time else FIRST_READ
        else:
            likely = self._rate * min(remaining, self.interval)
        count = int(max(1, min(most, likely)))
        started = time.perf_counter()
        try:
            if space is None:
                frames = source.read(acquisition.exposure, first, count)
            else:
                frames = space[:count]
                source.read_into(acquisition.exposure, first, frames)
        except Exception as error:  # noqa: BLE001  (whatever a camera library raises, the acquisition must end in order)
            raise EndedEarlyError("SOURCE_FAILED", f"source {source.name} failed at frame {first}: {error}") from error
        duration = time.perf_counter() - started
        self._rate = count / max(duration, 1e-6)
        frames = np.asarray(frames)
        if frames.shape != (count, *source.frame_shape) or frames.dtype != source.dtype:
            raise EndedEarlyError("SOURCE_FAILED", f"source {source.name} delivered {frames.dtype} of shape {frames.shape} "
                                                   f"at frame {first}, not {np.dtype(source.dtype)} of shape "
                                                   f"{(count, *source.frame_shape)}")
        return Block(first, count, [frames], duration)

    def block(self, acquisition: Acquisition, first: int, most: int, check: Callable[[], None]) -> Block:
        """At most `most` frames from `first` on, gathered for `interval` seconds at the longest."""
        deadline = time.monotonic() + self.interval
        space = self._space(most)
        block = self.read(acquisition, first, most, self.interval, space)
        remaining = deadline - time.monotonic()
        while block.count < most and remaining > 0:
            check()
            try:
                piece = self.read(acquisition, first + block.count, most - block.count, remaining,
                                  None if space is None else space[block.count:])
            except EndedEarlyError as failure:
                block.failure = failure
                break
            block.count += piece.count
            block.parts += piece.parts
            block.source_duration += piece.source_duration
            remaining = deadline - time.monotonic()
        if space is not None:
            block.parts = [space[:block.count]]
            block.data = self._buffer if block.parts[0].nbytes == len(self._buffer) else None
        return block

    def give_away(self) -> None:
        """Read the next block into another buffer: this one is in use, until nobody else refers to it any more."""
        self._given.append(self._buffer)
        self._buffer = array.array("B")

    def _returned(self, size: int) -> array.array:
        """A buffer of this size [byte] that is out of use, or a new one.

        New ones all the time would leave holes in the heap that smaller things move into: the process would grow.
        """
        for number in range(len(self._given)):
            if sys.getrefcount(self._given[number]) <= UNUSED:
                buffer = self._given.pop(number)
                if len(buffer) == size:
                    return buffer
                break
        return array.array("B", b"\0") * size

    def _space(self, frames: int) -> np.ndarray | None:
        """Room for frames (frames, *frame_shape), used again for every block unless it was given away; None: the source brings
        its own."""
        source = self._source
        if not hasattr(source, "read_into"):
            return None
        size = frames * int(np.prod(source.frame_shape)) * np.dtype(source.dtype).itemsize
        if len(self._buffer) != size:
            self._buffer = self._returned(size)
        return np.frombuffer(self._buffer, source.dtype).reshape(frames, *source.frame_shape)
