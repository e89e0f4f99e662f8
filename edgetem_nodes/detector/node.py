"""The detector node: armed by a service, triggered by the probe path, streams blocks of frames inside credit."""

from __future__ import annotations

import array
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from edgetem.msg import AcquisitionEnd, Axis, Credit, DetectorBlock, ProbePath
from edgetem.srv import Arm
from edgetem_nodes.detector.parameters import Parameters
from edgetem_nodes.detector.sources import DetectorSource, make_micro_scan_source, make_source
from edgetem_nodes.detector.streaming import Acquisition, Block, CreditGate, Outcome, Streamer
from edgetem_nodes.graph.block_feed import BlockPublisher, hears_blocks
from edgetem_nodes.graph.column import exposure_of
from edgetem_nodes.graph.history import read_history
from edgetem_nodes.graph.credit import CreditWindow
from edgetem_nodes.graph.messages import (
    NIL,
    byte_array,
    from_uuid,
    number_array,
    stamp_nanoseconds,
    to_stamp,
    to_uuid,
)
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.graph.quality_of_service import CREDITS, EVENTS
from edgetem_nodes.physics.exposure import MICRO_SCAN

MEBIBYTE = 1 << 20
WATCH = 0.25
"""[s] between looks at deadlines while the detector is armed or being stopped."""
STOP_PATIENCE = 5.0
"""[s] that a source has to return from reading when the acquisition is called off."""


@dataclass
class _Run:
    """One armed acquisition, from arming to its end."""

    acquisition_id: uuid.UUID
    count: int
    dwell_time: float
    source: DetectorSource
    armed: float
    acquisition: Acquisition | None = None
    thread: threading.Thread | None = None
    aborted: float | None = None
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class DetectorNode(GraphNode):
    """Serves `arm`; on the matching `probe_path` streams `detector_block`, then `acquisition_end`."""

    NAME: ClassVar[str] = "detector"
    Parameters: ClassVar[type] = Parameters

    def setup(self) -> None:
        p = self.parameters
        self._source = make_source(p.instrument, p.seed, p.stream.places)
        self._source.prepare()
        history = read_history(p.history)
        if history.exposures:
            self._source.resume(history.exposures)
        self._gate = CreditGate(CreditWindow(p.consumers, p.silence))
        self._sources, self._no_micro_scans = {self._source.name: self._source}, ""
        try:
            self._sources[MICRO_SCAN] = make_micro_scan_source(self._source, p.instrument)
        except ValueError as error:
            self._no_micro_scans = str(error)
        self._streamers = {name: Streamer(source, self._gate, partial(self._send, source), int(p.block_mib * MEBIBYTE),
                                          int(p.spool_mib * MEBIBYTE), p.block_interval_ms * 1e-3)
                           for name, source in self._sources.items()}
        self._run: _Run | None = None
        self._common: tuple[Acquisition, DetectorBlock] | None = None
        self._axes: list | None = None
        self._blocks = BlockPublisher(self)
        self._ends = self.create_publisher(AcquisitionEnd, "acquisition_end", EVENTS)
        self._entities = [
            self.create_subscription(Credit, "credit", self._on_credit, CREDITS),
            self.create_subscription(ProbePath, "probe_path", self._on_probe_path, EVENTS),
            self.create_service(Arm, "arm", self._on_arm),
        ]
        self._watch = self.create_timer(WATCH, self._on_watch)
        self._watch.cancel()

    def peers(self) -> list[Peer]:
        return [(f"consumer {name}", lambda name=name: hears_blocks(self, name)) for name in self.parameters.consumers]

    def start(self) -> None:
        self.report("active", source=self._source.name, frame=f"{self._source.frame_shape} {np.dtype(self._source.dtype)}")

    def stop(self) -> None:
        run = self._run
        if run is not None and run.thread is not None:
            self._abort(run, "the detector was deactivated")
            run.thread.join(timeout=STOP_PATIENCE)
            if run.thread.is_alive():
                self._finish(run, Outcome(0, 0, "ABORTED", "the detector was deactivated while its source was reading"))
        self._run = None
        self._watch.cancel()

    def teardown(self) -> None:
        self.destroy_timer(self._watch)
        for entity in self._entities:
            (self.destroy_service if entity is self._entities[-1] else self.destroy_subscription)(entity)
        self._blocks.destroy()
        self.destroy_publisher(self._ends)
        self._source.close()

    # ---- arming and triggering --------------------------------------------------------------------------------

    def _on_arm(self, request: Arm.Request, response: Arm.Response) -> Arm.Response:
        acquisition_id = to_uuid(request.acquisition_id)
        if self.active and request.count == 0:
            self._disarm(acquisition_id)
            return response
        response.error_code, response.error_msg = self._refusal(request, acquisition_id)
        if response.error_code == Arm.Response.NONE:
            self._gate.arm()
            source = self._sources[request.detector or self._source.name]
            self._run = _Run(acquisition_id, int(request.count), request.dwell_time, source, time.monotonic())
            self._watch.reset()
        return response

    def _refusal(self, request: Arm.Request, acquisition_id: uuid.UUID) -> tuple[int, str]:
        """Why the request cannot be served: error code and message; (0, "") where it can."""
        p, codes = self.parameters, Arm.Response
        if not self.active:
            return codes.NOT_ACTIVE, "the detector is not active: configure and activate it first"
        name = request.detector or self._source.name
        if name == MICRO_SCAN and self._no_micro_scans:
            return codes.UNKNOWN_DETECTOR, self._no_micro_scans
        if name not in self._sources:
            return codes.UNKNOWN_DETECTOR, (f"there is no detector {request.detector!r}; this one is {self._source.name!r}: "
                                            "leave the name empty or give this one")
        if acquisition_id == NIL:
            return codes.INVALID_REQUEST, "the acquisition id is all zero: give every acquisition a UUID of its own"
        shortest, longest = p.instrument.limits.shortest_dwell_ms, p.instrument.limits.longest_dwell_ms
        if not shortest * (1 - 1e-9) <= request.dwell_time * 1e3 <= longest * (1 + 1e-9) or request.dwell_time == 0.0:
            return codes.DWELL_OUT_OF_RANGE, (f"dwell time {request.dwell_time * 1e3:g} ms is outside the detector's range, "
                                              f"{shortest:g} to {longest:g} ms")
        try:
            self._sources[name].check_dwell(request.dwell_time)
        except ValueError as error:
            return codes.DWELL_OUT_OF_RANGE, str(error)
        run = self._run
        if run is not None and (run.thread is not None or run.acquisition_id != acquisition_id):
            doing = "streams" if run.thread is not None else "is armed for"
            return codes.BUSY, (f"the detector {doing} acquisition {run.acquisition_id}: wait for its end, or disarm it "
                                "with a count of 0")
        absent = self._gate.absent()
        if absent:
            return codes.CONSUMER_MISSING, (f"no credit from {', '.join(absent)}: the nodes in the parameter 'consumers' "
                                            "must be active before an acquisition starts")
        return codes.NONE, ""

    def _disarm(self, acquisition_id: uuid.UUID) -> None:
        run = self._run
        if run is None or run.acquisition_id != acquisition_id:
            return
        if run.thread is None:
            self._run = None
            self._watch.cancel()
        else:
            self._abort(run, "stopped from outside")

    def _abort(self, run: _Run, reason: str) -> None:
        self._gate.abort(reason)
        if run.aborted is None:
            run.aborted = time.monotonic()
        self._watch.reset()

    def _on_probe_path(self, path: ProbePath) -> None:
        if not self.active or path.detector and path.detector not in self._sources:
            return
        run, acquisition_id = self._run, to_uuid(path.acquisition_id)
        acquisition = Acquisition(acquisition_id, exposure_of(path), stamp_nanoseconds(path.header.stamp))
        if run is None or run.acquisition_id != acquisition_id or run.thread is not None:
            self._end(acquisition, Outcome(0, 0, "ABORTED", f"the detector is not armed for acquisition {acquisition_id}"))
            return
        self._watch.cancel()
        run.acquisition = acquisition
        if acquisition.count != run.count:
            self._finish(run, Outcome(0, 0, "INVALID_REQUEST", f"the probe path has {acquisition.count} positions, the "
                                                               f"detector was armed for {run.count}"))
            return
        name = path.detector or self._source.name
        if name != run.source.name:
            self._finish(run, Outcome(0, 0, "INVALID_REQUEST", f"the probe path is for the detector {name!r}, armed was "
                                                               f"{run.source.name!r}"))
            return
        run.thread = threading.Thread(target=self._work, args=(run,), name="stream", daemon=True)
        run.thread.start()

    def _on_credit(self, credit: Credit) -> None:
        self._gate.credit(credit.consumer, to_uuid(credit.acquisition_id), credit.consumed_through, credit.window,
                          stamp_nanoseconds(credit.header.stamp))

    def _on_watch(self) -> None:
        """Disarm what was never triggered; end what a hanging source does not let end."""
        run, now = self._run, time.monotonic()
        if run is None:
            self._watch.cancel()
        elif run.thread is None and now - run.armed > self.parameters.arm_timeout:
            self.warn(f"acquisition {run.acquisition_id} was armed {self.parameters.arm_timeout:g} s ago and no probe path "
                      "came: disarmed")
            self._run = None
        elif run.aborted is not None and now - run.aborted > STOP_PATIENCE:
            self._finish(run, Outcome(0, 0, "ABORTED", f"source {run.source.name} does not return from reading; the "
                                                       "detector is busy until it does"))
            self._watch.cancel()

    # ---- the streaming thread ---------------------------------------------------------------------------------

    def _work(self, run: _Run) -> None:
        outcome = self._streamers[run.source.name].stream(run.acquisition)
        if self._run is run:
            self._run = None
        self._finish(run, outcome)

    def _send(self, source: DetectorSource, acquisition: Acquisition, block: Block, number: int) -> bool:
        """Publish a block; returns whether its data stays in use."""
        data = _bytes_of(block)
        message = self._common_message(acquisition, source)
        message.header.stamp = to_stamp(0, acquisition.time_of(block.first_index))
        message.block_index = number
        message.first_index = block.first_index
        message.shape = number_array((block.count, *source.frame_shape), "I")
        axes = source.axes
        if axes != self._axes:
            self._axes = axes
            message.axes = [Axis(name=a.name, unit=a.unit, scale=float(a.scale), offset=float(a.offset), size=int(a.size))
                            for a in axes]
        message.positions = number_array(acquisition.exposure.positions[block.first_index:block.first_index + block.count])
        message.crc32 = zlib.crc32(data)
        message.source_duration = block.source_duration
        message.data = data
        in_use = self._blocks.publish(message)
        if in_use:
            self._common = None
        return in_use

    def _common_message(self, acquisition: Acquisition, source: DetectorSource) -> DetectorBlock:
        """The message of an acquisition's blocks, with what they have in common."""
        if self._common is None or self._common[0] is not acquisition:
            message = DetectorBlock(acquisition_id=from_uuid(acquisition.acquisition_id), detector=source.name,
                                    dtype=np.dtype(source.dtype).name, encoding="raw")
            message.header.frame_id = "detector"
            self._common, self._axes = (acquisition, message), None
        return self._common[1]

    def _finish(self, run: _Run, outcome: Outcome) -> None:
        with run.lock:
            if run.ended:
                return
            run.ended = True
        if run.thread is None:
            self._run = None
        self._end(run.acquisition, outcome)

    def _end(self, acquisition: Acquisition, outcome: Outcome) -> None:
        message = AcquisitionEnd(requested=acquisition.count, sent=outcome.sent, dropped=outcome.dropped,
                                 aborted=bool(outcome.code), reason=outcome.reason)
        message.header.stamp = to_stamp(0, acquisition.time_of(outcome.sent + outcome.dropped))
        message.header.frame_id = "detector"
        message.acquisition_id = from_uuid(acquisition.acquisition_id)
        message.error_code = getattr(Arm.Response, outcome.code) if outcome.code else Arm.Response.NONE
        self._ends.publish(message)
        if outcome.code:
            self.warn(f"acquisition {acquisition.acquisition_id} ended after {outcome.sent} of {acquisition.count} frames: "
                      f"{outcome.reason}", last_end=outcome.code)
        else:
            self.report("active", last_end="complete", sent=outcome.sent)


def _bytes_of(block: Block) -> array.array:
    """The frames of a block, one after the other."""
    if block.data is not None:
        return block.data
    data = byte_array(block.parts[0])
    for part in block.parts[1:]:
        data.frombytes(memoryview(np.ascontiguousarray(part)).cast("B"))
    return data
