"""The service `set_scalarizer`: another scalarizer in mid-run, and all that was measured measured again from the archive."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgetem.msg import ArchivedBlock
from edgetem.srv import SetScalarizer
from rclpy.timer import Timer

from edgetem_nodes.archive.contents import ArchiveError, BlockReference
from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.change import changed, difference
from edgetem_nodes.featurizer.journal import EarlierAcquisitions, Journal, Segment
from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.remeasuring import Remeasured, Remeasurer
from edgetem_nodes.graph.background import Background
from edgetem_nodes.graph.messages import from_uuid, number_array, stamp_nanoseconds, to_uuid
from edgetem_nodes.graph.quality_of_service import EVENTS

if TYPE_CHECKING:
    from edgetem_nodes.featurizer.node import FeaturizerNode

SEGMENTS_AT_ONCE = 32
"""Blocks that are measured again before their rows are published."""
ATTEMPTS, PAUSE = 5, 0.2
"""Times that the archive is read, and seconds between: what is seen of a file that is being written may be torn."""

UNREADABLE = (ArchiveError, OSError, RuntimeError, KeyError)
"""What reading an archive may raise, more so while it is being written."""

Codes = SetScalarizer.Response
Jobs = dict[uuid.UUID, list[Segment]]


class Refused(Exception):
    """The change is not made: code and reason."""

    def __init__(self, code: int, reason: object) -> None:
        super().__init__(str(reason))
        self.code = code


class ScalarizerChange:
    """Serves `set_scalarizer` for a node and republishes its rows.

    The archive is read, and frames are measured again, in a thread of its own; everything else happens in the executor's
    thread, so a block is measured either before the change or after it. Attributes: `journal`, what was measured.
    """

    def __init__(self, node: FeaturizerNode) -> None:
        self._node, self._at_start = node, node.parameters
        self.journal = Journal()
        self._background = Background(node, "remeasuring")
        self._earlier: EarlierAcquisitions | None = None
        self._trouble = ""
        self._busy = False
        self._run = 0
        self._waiting: tuple[Sequence[Segment], object, Timer] | None = None
        self._subscription = node.create_subscription(ArchivedBlock, "archived_block", self._on_archived, EVENTS)
        self._service = node.create_service(SetScalarizer, "set_scalarizer", self._on_request)

    def start(self) -> None:
        """Note which acquisitions are in the archive already: those of an experiment that is gone on with."""
        for _ in range(ATTEMPTS if self._at_start.output else 0):
            try:
                self._earlier, self._trouble = EarlierAcquisitions(self._at_start.output), ""
                return
            except UNREADABLE as error:
                self._trouble = str(error)
                time.sleep(PAUSE / 4)

    def stop(self) -> None:
        """Republish nothing more."""
        self._run += 1
        if self._waiting is not None:
            _settle(self._waiting[1])

    def destroy(self) -> None:
        """Give up service, subscription and thread."""
        self._background.close()
        self._node.destroy_service(self._service)
        self._node.destroy_subscription(self._subscription)

    # ---- the archive says -------------------------------------------------------------------------------------

    def _on_archived(self, message: ArchivedBlock) -> None:
        self.journal.archived(BlockReference(
            to_uuid(message.acquisition_id), to_uuid(message.archive_id), message.path, message.dataset,
            int(message.first_index), int(message.count), bytes(bytearray(message.sha256)), int(message.raw_size),
            int(message.stored_size), stamp_nanoseconds(message.header.stamp)))
        if self._waiting is not None:
            segments, future, timer = self._waiting
            timer.reset()
            if all(segment.archived for segment in segments):
                _settle(future)

    # ---- the request ------------------------------------------------------------------------------------------

    async def _on_request(self, request: SetScalarizer.Request, response: SetScalarizer.Response) -> SetScalarizer.Response:
        node, jobs = self._node, {}
        try:
            if not node.active:
                raise Refused(Codes.NOT_ACTIVE, "the featurizer is not active")
            if self._busy:
                raise Refused(Codes.BUSY, f"rows of version {node.version} are still being recomputed: wait for them")
            self._busy = True
            try:
                jobs = await self._change(request)
            finally:
                self._busy = bool(jobs)
        except Refused as refusal:
            response.error_code, response.error_msg = refusal.code, str(refusal)
        response.scalarizer, response.scalarizer_version = node.definition.name, node.version
        response.scalarizer_hash = node.definition.hash
        response.settings = difference(self._at_start, node.parameters)
        if node.bound is not None:
            response.names, response.units = list(node.bound.names), list(node.bound.units)
        counts = [sum(len(segment.indices) for segment in segments) for segments in jobs.values()]
        response.acquisitions = [from_uuid(name) for name in jobs]
        response.acquisition_rows, response.rows = number_array(counts, "Q"), sum(counts)
        if jobs:
            node.executor.create_task(self._republish, jobs)
        return response

    async def _change(self, request: SetScalarizer.Request) -> Jobs:
        """Check everything, then switch; returns what is to be measured again."""
        node, run = self._node, self._run
        parameters, definition = self._defined(request)
        in_force = (definition.hash, definition.label) == (node.definition.hash, node.definition.label)
        if request.version == node.version and request.skip_measured and in_force:
            return {}
        if request.version and request.version <= node.version:
            raise Refused(Codes.INVALID_SETTINGS, f"version {request.version} is not above the present one, {node.version}")
        if not request.skip_measured:
            await self._read_earlier()
            if run != self._run:
                raise Refused(Codes.NOT_ACTIVE, "the featurizer has been deactivated meanwhile")
        jobs = {} if request.skip_measured else self.journal.segments()
        axes = node.axes or next((segment.axes for segments in reversed(jobs.values()) for segment in segments
                                  if segment.axes), None)
        bound = None
        if axes is not None:
            try:
                bound = definition.build(axes)
            except Exception as error:  # noqa: BLE001  (a third party's factory)
                raise Refused(Codes.INVALID_SETTINGS, f"scalarizer {definition.name} cannot be used on the present frames: "
                                                      f"{error}") from error
        node.switch(parameters, definition, bound, request.version or node.version + 1)
        return jobs

    def _defined(self, request: SetScalarizer.Request) -> tuple[Parameters, scalarizers.Definition]:
        known = scalarizers.available()
        if request.scalarizer and request.scalarizer not in known:
            raise Refused(Codes.UNKNOWN_SCALARIZER, scalarizers.unknown(request.scalarizer, known))
        try:
            parameters = changed(self._node.parameters, request.scalarizer, request.settings)
            return parameters, scalarizers.define(parameters)
        except ValueError as error:
            raise Refused(Codes.INVALID_SETTINGS, error) from error

    async def _read_earlier(self) -> None:
        """Enter what earlier sessions of the experiment measured, once."""
        folder = self._at_start.output
        if not folder and self.journal.segments():
            raise Refused(Codes.ARCHIVE_UNREADABLE, "output is empty: without the experiment's folder nothing can be measured "
                                                    "again; set it, or skip what was measured")
        if self._trouble:
            raise Refused(Codes.ARCHIVE_UNREADABLE, self._trouble)
        for attempt in range(ATTEMPTS if self._earlier is not None else 0):
            try:
                self.journal.earlier(await self._background.run(self._earlier.segments))
                self._earlier = None
                return
            except UNREADABLE as error:
                if attempt == ATTEMPTS - 1:
                    raise Refused(Codes.ARCHIVE_UNREADABLE, f"{error}; nothing was changed, ask again") from error
                await self._pause(PAUSE)

    # ---- rows once more ---------------------------------------------------------------------------------------

    async def _republish(self, jobs: Jobs) -> None:
        node, run = self._node, self._run
        began, rows = time.monotonic(), 0
        remeasurer = Remeasurer(self._at_start.output, node.definition, len(node.columns()[0]))
        segments = [segment for several in jobs.values() for segment in several]
        try:
            for start in range(0, len(segments), SEGMENTS_AT_ONCE):
                part = segments[start:start + SEGMENTS_AT_ONCE]
                await self._archived(part)
                received_ns = time.monotonic_ns()
                results = await self._measured(remeasurer, part, run)
                if run != self._run:
                    return
                for result in results:
                    node.publish_again(result, received_ns)
                rows += sum(len(segment.indices) for segment in part)
            node.get_logger().info(f"{rows} rows of version {node.version} recomputed in {time.monotonic() - began:.2f} s")
        finally:
            self._busy = False

    async def _measured(self, remeasurer: Remeasurer, segments: Sequence[Segment], run: int) -> list[Remeasured]:
        """Rows of segments; what could not be read is tried again."""
        results = await self._background.run(remeasurer.measure, segments)
        for _ in range(ATTEMPTS - 1):
            again = [place for place, result in enumerate(results) if result.unread and result.segment.archived]
            if not again or run != self._run:
                break
            await self._pause(PAUSE)
            for place, result in zip(again, await self._background.run(
                    remeasurer.measure, [segments[place] for place in again]), strict=True):
                results[place] = result
        return results

    async def _archived(self, segments: Sequence[Segment]) -> None:
        """Until all blocks are in the archive, or the archive has said nothing for `archive_timeout_s`."""
        if all(segment.archived for segment in segments):
            return
        await self._pause(self._at_start.archive_timeout_s, segments)

    async def _pause(self, seconds: float, segments: Sequence[Segment] | None = None) -> None:
        future = self._node.executor.create_future()
        timer = self._node.create_timer(seconds, lambda: _settle(future))
        self._waiting = (segments, future, timer) if segments else None
        try:
            await future
        finally:
            self._waiting = None
            self._node.destroy_timer(timer)


def _settle(future: object) -> None:
    if not future.done():
        future.set_result(None)
