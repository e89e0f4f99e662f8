"""Frames from a source, cut into blocks and sent inside the consumers' credit. Knows no ROS.

A source that can pause is read at most one block ahead of what may be sent. A source that cannot is read by a thread of
its own into a spool of bounded size; when the spool is full the acquisition ends, and what was not sent is counted.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.detector.reading import Acquisition, Block, EndedEarlyError, Reader
from edgetem_nodes.graph.credit import CreditWindow

if TYPE_CHECKING:
    from edgetem_nodes.detector.sources import DetectorSource

CHECK = 0.1
"""[s] between looks at silence and abortion while nothing else happens; events wake a waiting thread at once."""
STOP_PATIENCE = 2.0
"""[s] that a source has to return from reading when an acquisition ends early."""


@dataclass(frozen=True)
class Outcome:
    """What became of an acquisition. `code` is empty, or the name of a constant in Arm.srv."""

    sent: int
    dropped: int
    code: str = ""
    reason: str = ""


class CreditGate:
    """A `CreditWindow` that one thread waits at while others bring credit or call the acquisition off.

    Parameters
    ----------
    window : the arithmetic.
    clock : monotonic time [s].
    """

    def __init__(self, window: CreditWindow, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = window
        self._clock = clock
        self._changed = threading.Condition()
        self._ended: EndedEarlyError | None = None

    def credit(self, consumer: str, acquisition_id: uuid.UUID, through: int, window: int, stamp: int) -> None:
        """Take in a consumer's word, see `CreditWindow.update`."""
        with self._changed:
            self._window.update(consumer, acquisition_id, through, window, stamp, self._clock())
            self._changed.notify_all()

    def absent(self) -> list[str]:
        """Required consumers that never announced a window, or have fallen silent."""
        with self._changed:
            return self._window.missing() + self._window.silent(self._clock())

    def arm(self) -> None:
        """Forget that an earlier acquisition was called off."""
        with self._changed:
            self._ended = None

    def begin(self, acquisition_id: uuid.UUID, frame_bytes: int) -> int:
        """Start an acquisition; returns the frames that a block may have so that two fit into every window."""
        with self._changed:
            self._window.begin(acquisition_id, frame_bytes)
            return self._window.largest_block()

    def end(self) -> None:
        """The acquisition is over."""
        with self._changed:
            self._window.end()

    def abort(self, reason: str, code: str = "ABORTED") -> None:
        """Call the acquisition off: whoever waits or comes by raises."""
        with self._changed:
            self._ended = EndedEarlyError(code, reason)
            self._changed.notify_all()

    def outstanding(self) -> int:
        """Bytes that the slowest required consumer has not consumed yet."""
        with self._changed:
            return self._window.outstanding()

    def slowest(self) -> str:
        """The required consumer with the least room; empty where there is none."""
        with self._changed:
            return self._window.slowest()

    def check(self) -> None:
        """Raise EndedEarlyError where the acquisition was called off, or a consumer is silent or has started anew."""
        with self._changed:
            self._check()

    def take(self, frames: int) -> None:
        """Wait until there is room for `frames` more, and count them as sent. Raises as `check` does."""
        with self._changed:
            self._check()
            while self._window.available() < frames:
                self._changed.wait(CHECK)
                self._check()
            self._window.sent(frames)

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended
        for name in self._window.silent(self._clock()):
            raise EndedEarlyError("CONSUMER_SILENT", f"consumer {name} has said nothing for {self._window.silence:g} s: "
                                                     "is it running, and is its executor free?")
        for name in self._window.restarted():
            raise EndedEarlyError("CONSUMER_SILENT", f"consumer {name} started anew in mid-acquisition: frames on the way "
                                                     "to it are lost")


class Streamer:
    """Streams acquisitions of one source to `send`.

    Parameters
    ----------
    source : where frames come from.
    gate : the consumers' credit.
    send : called with the acquisition, the block and its running number, in the streaming thread; returns whether the block's
        data stays in use.
    block_bytes, spool_bytes : size of a block; room for frames of a source that cannot pause.
    interval : [s] that frames wait at most for their block to fill.
    """

    def __init__(self, source: DetectorSource, gate: CreditGate, send: Callable[[Acquisition, Block, int], bool],
                 block_bytes: int, spool_bytes: int, interval: float) -> None:
        self._source = source
        self._gate = gate
        self._send = send
        self._interval = interval
        self._reader = Reader(source, interval)
        self._frame_bytes = int(np.prod(source.frame_shape)) * np.dtype(source.dtype).itemsize
        self._block_frames = max(1, block_bytes // self._frame_bytes)
        self._spool_frames = max(1, spool_bytes // self._frame_bytes)
        self._spool: _Spool | None = None

    def stream(self, acquisition: Acquisition) -> Outcome:
        """Send every frame of the acquisition, or say why not. Never raises."""
        if self._spool is not None and self._spool.reading():
            return Outcome(0, 0, "SOURCE_FAILED", f"source {self._source.name} still reads for an earlier acquisition")
        most = min(self._block_frames, self._gate.begin(acquisition.acquisition_id, self._frame_bytes))
        sent = 0
        try:
            for number, block in enumerate(self._blocks(acquisition, most)):
                self._gate.take(block.count)
                if self._send(acquisition, block, number):
                    self._reader.give_away()
                sent = block.first_index + block.count
                if block.failure is not None:
                    raise block.failure
            return Outcome(sent, 0)
        except EndedEarlyError as end:
            return Outcome(sent, self._delivered(sent) - sent, end.code, str(end))
        except Exception as error:  # noqa: BLE001  (an end must follow every probe path)
            return Outcome(sent, self._delivered(sent) - sent, "SOURCE_FAILED", f"the detector could not send: {error!r}")
        finally:
            if self._spool is not None:
                self._spool.stop()
            self._gate.end()

    def _blocks(self, acquisition: Acquisition, most: int) -> Iterator[Block]:
        if self._source.pausable:
            return self._pausing(acquisition, most)
        self._spool = _Spool(self._reader, acquisition, self._spool_frames, self._gate)
        return self._spool.blocks(most, self._interval)

    def _delivered(self, sent: int) -> int:
        return sent if self._spool is None else max(sent, self._spool.stop())

    def _pausing(self, acquisition: Acquisition, most: int) -> Iterator[Block]:
        first = 0
        while first < acquisition.count:
            self._gate.check()
            block = self._reader.block(acquisition, first, min(most, acquisition.count - first), self._gate.check)
            yield block
            first += block.count


class _Spool:
    """Frames of a source that cannot pause, between the thread that reads them and the one that sends them."""

    def __init__(self, reader: Reader, acquisition: Acquisition, capacity: int, gate: CreditGate) -> None:
        self._reader = reader
        self._acquisition = acquisition
        self._capacity = capacity
        self._gate = gate
        self._pieces: deque[Block] = deque()
        self._waiting = 0
        self._delivered = 0
        self._failure: EndedEarlyError | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="spool", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop reading; returns the frames that the source has delivered."""
        with self._changed:
            patience = 0.0 if self._stopped else STOP_PATIENCE
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=patience)
        return self._delivered

    def reading(self) -> bool:
        """Whether the source is still being read."""
        return self._thread.is_alive()

    def blocks(self, most: int, interval: float) -> Iterator[Block]:
        """Blocks of at most `most` frames; a block that is not full is given out `interval` seconds after the last."""
        given, last = 0, time.monotonic()
        while given < self._acquisition.count:
            with self._changed:
                while not self._ready(most, time.monotonic() - last >= interval):
                    self._changed.wait(min(CHECK, interval))
                    self._gate.check()
                if self._waiting == 0:
                    raise self._failure
                block = self._pop(most)
            last = time.monotonic()
            given += block.count
            yield block

    def _ready(self, most: int, overdue: bool) -> bool:
        ended = self._failure is not None or self._delivered == self._acquisition.count
        return self._failure is not None if self._waiting == 0 else overdue or ended or self._waiting >= most

    def _pop(self, most: int) -> Block:
        block = self._cut(most)
        while self._pieces and block.count < most:
            piece = self._cut(most - block.count)
            block = Block(block.first_index, block.count + piece.count, block.parts + piece.parts,
                          block.source_duration + piece.source_duration)
        return block

    def _cut(self, most: int) -> Block:
        piece = self._pieces.popleft()
        taken = min(most, piece.count)
        self._waiting -= taken
        if taken == piece.count:
            return piece
        frames, share = piece.parts[0], piece.source_duration * taken / piece.count
        self._pieces.appendleft(Block(piece.first_index + taken, piece.count - taken, [frames[taken:]],
                                      piece.source_duration - share))
        return Block(piece.first_index, taken, [frames[:taken]], share)

    def _read(self) -> None:
        first = 0
        try:
            while first < self._acquisition.count and not self._stopped:
                piece = self._reader.read(self._acquisition, first, self._acquisition.count - first, self._reader.interval)
                first += piece.count
                with self._changed:
                    self._delivered = first
                    if self._waiting + piece.count > self._capacity:
                        raise EndedEarlyError("SPOOL_FULL", (
                            f"the source cannot pause and its consumers lag: {self._waiting + piece.count} frames wait, the "
                            f"spool holds {self._capacity}; slowest is {self._gate.slowest() or 'the detector'}; make "
                            "spool_mib larger or the dwell time longer"))
                    self._pieces.append(piece)
                    self._waiting += piece.count
                    self._changed.notify_all()
        except EndedEarlyError as failure:
            if failure.code == "SPOOL_FULL":
                self._gate.abort(str(failure), failure.code)
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
