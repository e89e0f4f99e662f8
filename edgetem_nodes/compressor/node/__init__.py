"""The compressor node: detector blocks are encoded without loss and archived, and said to be safe once they are."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from edgetem.msg import (AcquisitionEnd, ArchivedBlock, CompressedBlock, Decision, Experiment, ExperimentMap, Overview,
                         ProbePath)
from rclpy.qos import QoSProfile

from edgetem_nodes.archive.contents import ArchiveError, BlockReference
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.node import conversion
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.compressor.parameters import Parameters
from edgetem_nodes.compressor.session import ArchivingSession
from edgetem_nodes.graph.block_feed import BlockSubscription, ReceivedBlock
from edgetem_nodes.graph.credit import CreditReporter
from edgetem_nodes.graph.messages import byte_array, positions_array
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import BLOCKS, EVENTS, STATE

ARCHIVE = "archive.h5"
IDLE = 1.0
"""[s] without a message after which frames that wait for a full chunk are written."""
FAREWELL = 8.0
"""[s] that the worker has to archive what is queued when the node stops."""
MEBIBYTE = 1 << 20


class CompressorNode(GraphNode):
    """Archives what the detector sends. The executor only queues; one worker thread encodes and writes."""

    NAME = "compressor"
    Parameters = Parameters

    def setup(self) -> None:
        settings = self.parameters
        if not settings.output:
            raise ValueError("output is empty: name the experiment's folder, e.g. -p output:=/data/run1")
        self._resources = ExitStack()
        self._worker: threading.Thread | None = None
        self._session: ArchivingSession | None = None
        self._failed = False
        self._early: dict[type, tuple[Callable[[Any], None], Any]] = {}
        self._work: queue.SimpleQueue[tuple[Callable[[Any], None], Any] | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._queued = 0
        self._codec = Codec(settings.codec.algorithm, settings.codec.level, settings.codec.threads)
        folder = Path(settings.output)
        folder.mkdir(parents=True, exist_ok=True)
        self._archive = ArchiveWriter(folder / ARCHIVE, self._codec, chunk_bytes=settings.chunk_KiB * 1024,
                                      reserve=settings.reserve_MiB * MEBIBYTE)
        self._resources.callback(self._archive.close)
        self._credit = CreditReporter(self, self.NAME, settings.window_MiB * MEBIBYTE)
        self._resources.callback(self._credit.destroy)
        self._archived = self._publisher(ArchivedBlock, "archived_block", EVENTS)
        self._compressed = None
        if settings.publish_compressed:
            self._compressed = self._publisher(CompressedBlock, "compressed_block", BLOCKS)
        self._resources.callback(BlockSubscription(self, self._on_received).destroy)
        self._listen(ProbePath, "probe_path", EVENTS, self._on_path)
        self._listen(AcquisitionEnd, "acquisition_end", EVENTS, self._on_end)
        self._listen(Decision, "decision", EVENTS, self._on_decision)
        self._listen(Overview, "overview", STATE, self._on_overview)
        self._listen(Experiment, "experiment", STATE, self._on_experiment)
        self._listen(ExperimentMap, "experiment_map", STATE, self._on_map)

    def start(self) -> None:
        self._archive.check_room(0)
        self._failed = False
        self._session = ArchivingSession(self._archive, self.warn)
        self._say([])
        self._worker = threading.Thread(target=self._run, name="archive", daemon=True)
        self._worker.start()
        for early in self._early.values():
            self._work.put(early)
        self._early.clear()
        self._credit.start()

    def stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._work.put(None)
            worker.join(FAREWELL)
        self._credit.stop()
        if worker is not None and worker.is_alive():
            raise RuntimeError(f"the archive's writer was still busy after {FAREWELL:.0f} s: {self._queued} bytes are "
                               "queued and not archived")

    def teardown(self) -> None:
        if hasattr(self, "_resources"):
            self._resources.close()

    # ---- executor's thread ------------------------------------------------------------------------------------

    def _publisher(self, message_type: type, topic: str, quality: QoSProfile) -> Any:
        publisher = self.create_publisher(message_type, topic, quality)
        self._resources.callback(self.destroy_publisher, publisher)
        return publisher

    def _listen(self, message_type: type, topic: str, quality: QoSProfile, work: Callable[[Any], None]) -> None:
        def arrived(message: Any) -> None:
            if self._worker is not None:
                self._queue(work, message)
            elif quality is STATE:
                self._early[message_type] = (work, message)
        self._resources.callback(self.destroy_subscription, self.create_subscription(message_type, topic, arrived, quality))

    def _on_received(self, block: ReceivedBlock) -> None:
        if self._worker is not None:
            self._queue(self._on_block, block)

    def _queue(self, work: Callable[[Any], None], message: Any) -> None:
        size = _size(message)
        limit = self.parameters.window_MiB * MEBIBYTE
        with self._room:
            # Credit keeps the detector below this. Should it send more, hold it back rather than fill the memory.
            while self._queued and self._queued + size > limit:
                self._room.wait(0.1)
            self._queued += size
        self._work.put((work, message))

    # ---- worker's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                item = self._work.get(timeout=IDLE)
            except queue.Empty:
                self._attempt(lambda _: self._say(self._session.idle()), None)
                continue
            if item is None:
                if not self._failed:
                    self._attempt(lambda _: self._say(self._session.close()), None)
                return
            work, message = item
            self._attempt(work, message)
            if isinstance(message, ReceivedBlock):
                with self._room:
                    self._queued -= _size(message)
                    self._room.notify_all()

    def _attempt(self, work: Callable[[Any], None], message: Any) -> None:
        if self._failed:
            return
        try:
            work(message)
        except ArchiveError as error:
            self._fail(str(error))
        except (ValueError, TypeError, KeyError) as error:
            self.warn(f"a {type(message).__name__} could not be archived: {error}")
        except Exception as error:  # noqa: BLE001  (the worker must go on emptying its queue, whatever happens)
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        """Stop taking data: the detector sees this consumer fall silent and ends the acquisition with its name."""
        self._failed = True
        self._credit.stop()
        try:
            # Frames that wait for a full chunk have been credited; the reserve on the disk has room for them.
            self._say(self._session.close())
        except Exception as error:  # noqa: BLE001  (the first failure is the one to tell; this is what it cost)
            why += f"; the last {self._session.waiting_frames} frames that came are lost ({error})"
        self.get_logger().error(f"nothing more is archived: {why}")
        self.report(f"nothing more is archived: {why}", DiagnosticStatus.ERROR)

    def _on_path(self, message: ProbePath) -> None:
        self._say(self._session.probe_path(conversion.facts(message)))

    def _on_end(self, message: AcquisitionEnd) -> None:
        self._say(self._session.end(conversion.ending(message)))

    def _on_decision(self, message: Decision) -> None:
        self._session.experiment_stopped(message.action == Decision.STOP)

    def _on_overview(self, message: Overview) -> None:
        self._archive.write_overview(conversion.survey(message))

    def _on_experiment(self, message: Experiment) -> None:
        self._archive.write_experiment(conversion.experiment(message))

    def _on_map(self, message: ExperimentMap) -> None:
        self._session.experiment_map(conversion.field_map(message))

    def _on_block(self, received: ReceivedBlock) -> None:
        message, frames = received.message, received.frames
        head = conversion.head(message)
        try:
            if frames is None:
                raise ValueError(received.damage)
            positions = positions_array(message.positions)
            conversion.check(head, frames, positions, message.encoding)
        except (ValueError, TypeError) as error:
            safe = self._session.damaged(head, str(error))
        else:
            safe = self._session.block(head, frames, positions, crc32=message.crc32, more=not self._work.empty())
            if self._compressed is not None:
                self._publish_compressed(message, frames)
        self._say(safe)
        self._credit.consumed(head.acquisition_id, head.first_index + head.count, len(message.data))

    def _publish_compressed(self, message: DetectorBlock, frames: Any) -> None:
        data = self._codec.encode(frames)
        self._compressed.publish(CompressedBlock(
            header=message.header, acquisition_id=message.acquisition_id, detector=message.detector,
            block_index=message.block_index, first_index=message.first_index, shape=message.shape, dtype=message.dtype,
            axes=message.axes, positions=message.positions, codec=self._codec.name, model_id="", raw_size=frames.nbytes,
            coded_size=len(data), crc32=zlib.crc32(data), data=byte_array(data)))

    def _say(self, safe: list[BlockReference]) -> None:
        for reference in safe:
            self._archived.publish(conversion.archived_block(reference))
        session, stored = self._session, self._archive.stored_bytes
        self._values.update(frames_archived=session.frames, frames_lost=session.lost_frames, blocks=session.blocks,
                            raw_MiB=f"{session.raw_bytes / MEBIBYTE:.1f}", stored_MiB=f"{stored / MEBIBYTE:.1f}",
                            codec=self._codec.name)
        if session.lost_frames and not self._failed:
            self.report(f"{session.lost_frames} frames lost", DiagnosticStatus.WARN)


def _size(message: Any) -> int:
    """Bytes of detector data that a message holds."""
    return len(message.message.data) if isinstance(message, ReceivedBlock) else 0
