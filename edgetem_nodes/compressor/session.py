"""From the messages of the graph to the archive: which block belongs where, what is missing, how an acquisition ended.

Knows no ROS. Everything that is not as it should be is noted with the acquisition in the archive and handed to `warn`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.archive.acquisition_writer import (
    ABORTED, COMPLETE, INCOMPLETE, INTERRUPTED, AcquisitionWriter)
from edgetem_nodes.archive.contents import AcquisitionFacts, ArchiveFull, BlockReference, FieldMap
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.physics.scan import Axis


@dataclass(frozen=True)
class BlockHead:
    """What a DetectorBlock says of its frames: where they belong, calibration of the signal, time of the first frame."""

    acquisition_id: uuid.UUID
    detector: str
    block_index: int
    first_index: int
    count: int
    axes: tuple[Axis, ...] = ()
    time_ns: int = 0


@dataclass(frozen=True)
class Ending:
    """What an AcquisitionEnd says."""

    acquisition_id: uuid.UUID
    requested: int
    sent: int
    dropped: int = 0
    aborted: bool = False
    reason: str = ""


@dataclass
class _Running:
    """The acquisition that runs: its writer, the next block and frame that are due, and its end once that is known."""

    writer: AcquisitionWriter
    path_known: bool
    next_block: int = 0
    next_frame: int = 0
    lost: int = 0
    """Frames that were sent and are not archived."""
    dropped: int = 0
    """Frames that the detector did not send."""
    missed: int = 0
    """Frames that were sent and had not come when it was given up waiting; late ones may still come."""
    end: Ending | None = None


class ArchivingSession:
    """Archives acquisitions one after another; use it from one thread.

    Messages of different topics may overtake each other: a block may come before its probe path, the end before the last
    block. An acquisition is finished when its end is known and every frame that was sent is there; or when the next one
    begins; or when nothing has come for a while (`idle`); or at `close`.

    Parameters
    ----------
    archive : what is written to.
    warn : takes a sentence for people about everything that went wrong.
    """

    def __init__(self, archive: ArchiveWriter, warn: Callable[[str], None]) -> None:
        self.archive, self._warn = archive, warn
        self._running: _Running | None = None
        self._finished: _Running | None = None
        self._map: FieldMap | None = None
        self._experiment_stopped = False
        self.frames = self.blocks = self.lost_frames = self.raw_bytes = 0

    @property
    def waiting_frames(self) -> int:
        """Frames taken in that are not in the file yet."""
        running = self._running or self._finished
        return running.writer.received - running.writer.stored if running else 0

    def probe_path(self, facts: AcquisitionFacts) -> list[BlockReference]:
        """An acquisition begins: its probe path is known."""
        running = self._running or self._finished
        if running and running.writer.facts == facts:
            return []
        if running and running.writer.facts.acquisition_id == facts.acquisition_id and not running.path_known:
            running.path_known = True
            running.writer.learn(replace(facts, detector=facts.detector or running.writer.facts.detector))
            return []
        safe = self._leave()
        self._running = _Running(self.archive.begin(facts), True)
        return safe

    def block(self, head: BlockHead, frames: np.ndarray, positions: np.ndarray, *, crc32: int | None = None,
              more: bool = False) -> list[BlockReference]:
        """Archive the frames of a block; returns the blocks that have become safe by it.

        Parameters
        ----------
        crc32 : of the frames' bytes, where it is known.
        more : the next block is there already: this one may become safe together with it.

        Raises
        ------
        ArchiveError : the file cannot be written any more; ArchiveFull : the disk is full. The block is not archived.
        """
        safe = self._due(head)
        running = self._running
        if head.block_index < running.next_block:
            self._problem(f"block {head.block_index} came a second time, or too late: not archived again")
            return safe
        if head.block_index > running.next_block or head.first_index != running.next_frame:
            self._gap(head)
        try:
            safe += running.writer.append(head.first_index, frames, positions, head.axes, head.time_ns, crc32=crc32, more=more)
        except ArchiveFull as error:
            self.lost_frames += head.count
            self._problem(f"frames from {head.first_index} on are not archived: {error}")
            raise
        running.next_block, running.next_frame = head.block_index + 1, head.first_index + head.count
        self.frames, self.blocks, self.raw_bytes = self.frames + head.count, self.blocks + 1, self.raw_bytes + frames.nbytes
        return safe + self._finish_if_whole()

    def damaged(self, head: BlockHead, why: str) -> list[BlockReference]:
        """A block came that cannot be used: its frames are lost, and said to be."""
        safe = self._due(head)
        running = self._running
        self._problem(f"frames {head.first_index} to {head.first_index + head.count - 1} are lost: {why}")
        if head.block_index >= running.next_block:
            running.lost += head.count
            self.lost_frames += head.count
            running.next_block, running.next_frame = head.block_index + 1, head.first_index + head.count
        return safe + self._finish_if_whole()

    def end(self, ending: Ending) -> list[BlockReference]:
        """The detector says that the acquisition has ended. Blocks of it may still be on their way."""
        safe = []
        if self._running is None or self._running.writer.facts.acquisition_id != ending.acquisition_id:
            safe = self._leave()
            facts = AcquisitionFacts(ending.acquisition_id, count=ending.requested)
            self._running = _Running(self.archive.begin(facts), False)
        self._running.end = ending
        return safe + self._finish_if_whole()

    def idle(self) -> list[BlockReference]:
        """Nothing has come for a while: write what waits; an acquisition whose end is known is over."""
        if self._running is None:
            return []
        if self._running.end is not None:
            return self._leave()
        return self._running.writer.settle()

    def close(self) -> list[BlockReference]:
        """Nothing more will come: finish the acquisition that runs, keep the last map. The archive stays open."""
        safe = self._leave()
        self._keep_map()
        return safe

    def experiment_map(self, field_map: FieldMap) -> None:
        """A newer map of the experiment; the last one is kept when the experiment stops, or at `close`."""
        self._map = field_map
        if self._experiment_stopped:
            self._keep_map()

    def experiment_stopped(self, stopped: bool = True) -> None:
        """The planner has decided to stop, or has begun again."""
        self._experiment_stopped = stopped
        if stopped:
            self._keep_map()

    def _keep_map(self) -> None:
        if self._map is not None:
            self.archive.write_map(self._map)
            self._map = None

    def _due(self, head: BlockHead) -> list[BlockReference]:
        """Make the acquisition of this block the one that runs."""
        running = self._running
        if running and running.writer.facts.acquisition_id == head.acquisition_id:
            again = head.block_index == 0 and running.next_block > 0
            if not again or running.end is None:
                return []
        finished = self._finished
        if running is None and finished and head.block_index and finished.writer.facts.acquisition_id == head.acquisition_id:
            self._running = finished
            self.lost_frames, finished.missed = self.lost_frames - finished.missed, 0
            return []
        safe = self._leave()
        facts = AcquisitionFacts(head.acquisition_id, detector=head.detector, time_ns=head.time_ns)
        self._running = _Running(self.archive.begin(facts), False)
        return safe

    def _gap(self, head: BlockHead) -> None:
        running = self._running
        missing = head.first_index - running.next_frame
        due = f"block {running.next_block} (frames from {running.next_frame}) was due"
        came = f"block {head.block_index} (frames from {head.first_index}) came where {due}"
        if missing < 0:
            self._problem(f"{came}: {-missing} frames have come twice and are archived twice")
        elif head.block_index == running.next_block:
            running.dropped += missing
            self._problem(f"{came}: the detector dropped {missing} frames")
        else:
            running.lost += missing
            self.lost_frames += missing
            self._problem(f"{came}: {missing} frames are lost")

    def _finish_if_whole(self) -> list[BlockReference]:
        running = self._running
        if running.end is not None and running.writer.received + running.lost >= running.end.sent:
            return self._leave()
        return []

    def _leave(self) -> list[BlockReference]:
        """Write down how the acquisition that runs has ended."""
        running, self._running = self._running, None
        if running is None:
            return []
        self._finished = running
        writer, end = running.writer, running.end
        if end is None:
            whole = writer.facts.count and writer.received == writer.facts.count
            if not whole:
                writer.mark("it was left without an AcquisitionEnd")
            return writer.finish(COMPLETE if whole else INTERRUPTED, requested=writer.facts.count, sent=writer.received)
        never = end.sent - writer.received - running.lost
        if never > 0:
            running.missed = never
            self.lost_frames += never
            self._problem(f"the last {never} of {end.sent} sent frames never came", running)
        if end.aborted:
            status = ABORTED
        else:
            nothing_missing = running.lost == running.missed == running.dropped == end.dropped == 0
            whole = nothing_missing and writer.received == end.sent >= end.requested
            status = COMPLETE if whole else INCOMPLETE
        return writer.finish(status, requested=end.requested, sent=end.sent, dropped=end.dropped, reason=end.reason)

    def _problem(self, what: str, running: _Running | None = None) -> None:
        writer = (running or self._running).writer
        writer.mark(what)
        self._warn(f"{writer.name} ({writer.facts.acquisition_id}): {what}")


