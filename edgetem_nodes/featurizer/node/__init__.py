"""The featurizer node: detector blocks to measurements, live images, and atomic structures on request."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

import numpy as np
from edgetem.msg import AcquisitionEnd, Measurements, Overview, ProbePath
from sensor_msgs.msg import Image

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.bookkeeping import Gap, Ledger, Memory
from edgetem_nodes.featurizer.features import Features, failed
from edgetem_nodes.featurizer.journal import Segment
from edgetem_nodes.featurizer.node.live import LivePublishing
from edgetem_nodes.featurizer.node.scalarizer_change import ScalarizerChange
from edgetem_nodes.featurizer.node.structures import StructureService
from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.preview import Preview
from edgetem_nodes.featurizer.remeasuring import Remeasured
from edgetem_nodes.graph.block_feed import BlockSubscription, ReceivedBlock
from edgetem_nodes.graph.credit import CreditReporter
from edgetem_nodes.graph.messages import (byte_array, from_uuid, number_array, positions_array,
                                          stamp_nanoseconds, to_stamp, to_uuid)
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import EVENTS, PREVIEW, STATE
from edgetem_nodes.physics.scan import Axis, ScanField

REHEARSAL = (64, 256)
"""Pixels along each axis of patterns on which a scalarizer is tried before frames come: what is compiled may depend on them."""
MICRO_SCAN_AXES = 4
"""Of a frame that is a square of patterns: (y, x, ky, kx)."""
KEPT = 4
"""Axes for which the scalarizer is kept bound."""
FIRST_VERSION = 1
"""Of the scalarizer that the configuration names; a change in mid-run gives the next."""


class FeaturizerNode(GraphNode):
    """Turns every frame into one row of `measurements`: values with standard errors, or a failure with its reason."""

    NAME = "featurizer"
    Parameters = Parameters

    def setup(self) -> None:
        settings = self.parameters
        self.definition, self.version = scalarizers.define(settings), FIRST_VERSION
        self.bound: scalarizers.Bound | None = None
        self._kept: dict[tuple[Axis, ...], scalarizers.Bound] = {}
        self.axes: tuple[Axis, ...] | None = None
        self._refused: tuple[tuple[Axis, ...], str] | None = None
        self._ledger, self.memory, self._preview = Ledger(), Memory(settings.remembered_rows), Preview()
        self._counts = {"blocks": 0, "rows": 0, "failed": 0, "damaged_blocks": 0, "gaps": 0}
        self._stragglers: dict[uuid.UUID, object] = {}
        self._previewed = -np.inf
        self._measurements = self.create_publisher(Measurements, "measurements", EVENTS)
        self._images = self.create_publisher(Image, "live_image", PREVIEW)
        self._credit = CreditReporter(self, self.NAME, settings.window_MiB << 20)
        self._entities = [
            self.create_subscription(ProbePath, "probe_path", self._on_path, EVENTS),
            self.create_subscription(AcquisitionEnd, "acquisition_end", self._on_end, EVENTS),
            self.create_subscription(Overview, "overview", self._on_overview, STATE),
        ]
        self._blocks = BlockSubscription(self, self._on_block)
        self._structures = StructureService(self)
        self._change = ScalarizerChange(self)
        self._live = LivePublishing(self)
        self._rehearse()

    def start(self) -> None:
        self._change.start()
        self._credit.start()
        self._tell_scalarizer()

    def stop(self) -> None:
        self._credit.stop()
        self._change.stop()
        for timer in self._stragglers.values():
            self.destroy_timer(timer)
        self._stragglers.clear()

    def teardown(self) -> None:
        self._change.destroy()
        self._live.destroy()
        self._credit.destroy()
        self._blocks.destroy()
        for subscription in self._entities:
            self.destroy_subscription(subscription)
        self._structures.destroy()
        for publisher in (self._measurements, self._images):
            self.destroy_publisher(publisher)

    def _rehearse(self) -> None:
        """Let what scalarizer and images compute with be compiled now.

        That takes seconds the first time, and a consumer that says nothing for so long ends an acquisition.
        """
        for pixels in REHEARSAL:
            axes = tuple(Axis(name, "rad", 0.512 / pixels, -0.256, pixels) for name in ("ky", "kx"))
            frames = np.ones((4, pixels, pixels), np.uint16)
            with suppress(ValueError):  # it takes no patterns, or not these
                self.definition.build(axes)(frames)
                self._live.rehearse(axes, frames)

    # ---- what arrives -----------------------------------------------------------------------------------------

    def _on_overview(self, message: Overview) -> None:
        told = message.field
        field = ScanField(tuple(map(float, told.origin)), tuple(map(float, told.step)), tuple(map(int, told.shape)))
        self._preview.set_field(field)
        self._live.on_overview(field)

    def _on_path(self, message: ProbePath) -> None:
        if self.active:
            positions = positions_array(message.positions).copy()
            self._ledger.path(to_uuid(message.acquisition_id), positions, stamp_nanoseconds(message.header.stamp),
                              message.position_period)
            if not message.micro_scan_points:
                self._live.on_path(to_uuid(message.acquisition_id), positions)

    def _on_block(self, received: ReceivedBlock) -> None:
        received_ns, block = time.monotonic_ns(), received.message
        if not self.active:
            return
        acquisition_id = to_uuid(block.acquisition_id)
        count = int(block.shape[0]) if len(block.shape) else 0
        arrival = self._ledger.block(acquisition_id, block.block_index, block.first_index, count)
        if arrival.gap is not None:
            self._mark(acquisition_id, arrival.gap, received_ns)
        if arrival.skip < count:
            self._measure(acquisition_id, received, count, arrival.skip, received_ns)
        self._counts["blocks"] += 1
        self._credit.consumed(acquisition_id, self._ledger[acquisition_id].next_index, len(block.data))
        self._settle(acquisition_id)
        self._show()
        self._live.show()

    def _on_end(self, message: AcquisitionEnd) -> None:
        if not self.active:
            return
        acquisition_id = to_uuid(message.acquisition_id)
        reason = f"the acquisition ended early: {message.reason or 'aborted'}" if message.aborted else ""
        self._ledger.end(acquisition_id, message.requested, message.sent, reason)
        self._settle(acquisition_id)
        if self._ledger.waiting(acquisition_id) and acquisition_id not in self._stragglers:
            wait = self.parameters.straggler_timeout_s
            self._stragglers[acquisition_id] = self.create_timer(wait, lambda: self._settle(acquisition_id, overdue=True))

    def _settle(self, acquisition_id: uuid.UUID, overdue: bool = False) -> None:
        gap = self._ledger.remainder(acquisition_id, overdue)
        if gap is not None:
            self._mark(acquisition_id, gap, time.monotonic_ns())
        if not self._ledger.waiting(acquisition_id) and acquisition_id in self._stragglers:
            self.destroy_timer(self._stragglers.pop(acquisition_id))
        if self._ledger[acquisition_id].complete:
            self._live.finish(acquisition_id)

    # ---- rows -------------------------------------------------------------------------------------------------

    def _measure(self, acquisition_id: uuid.UUID, received: ReceivedBlock, count: int, skip: int, received_ns: int) -> None:
        """Publish the rows of a block's frames from `skip` on."""
        acquisition, block = self._ledger[acquisition_id], received.message
        positions = positions_array(block.positions)
        if len(positions) != count:
            positions = acquisition.position(block.first_index, count)
        stamp, taken = stamp_nanoseconds(block.header.stamp), np.arange(skip, count)
        self.axes = tuple(Axis(axis.name, axis.unit, axis.scale, axis.offset, axis.size) for axis in block.axes)
        segment = Segment(acquisition_id, block.first_index + taken, positions[skip:].copy(),
                          stamp + np.rint(taken * acquisition.period * 1e9).astype(np.int64),
                          axes=self.axes, frames=count, block_stamp=stamp, taken=taken)
        frames, features, trouble = None, None, ""
        if received.frames is None:
            segment.failure = trouble = received.damage
        else:
            frames = received.frames[skip:]
            try:
                features = self._rows(frames)
            except ValueError as error:
                trouble = str(error)
        if features is None:
            features = failed(len(taken), len(self.columns()[0]), trouble)
            self._counts["damaged_blocks"] += 1
            self.warn(trouble, **self._counts)
        self._change.journal.add(segment, acquisition)
        self._enter(segment, features, frames)
        if frames is not None:
            self._live.add(segment, frames)
        self._publish(segment, features, self.columns(), received_ns, block.source_duration)

    def _rows(self, frames: np.ndarray) -> Features:
        """Rows of frames with the present axes, whose scalarizer is made once; raises ValueError where it does not fit."""
        if self._refused is not None and self._refused[0] == self.axes:
            raise ValueError(self._refused[1])
        if self.bound is None or self.bound.axes != self.axes:
            try:
                self.bound, self._refused = self._bound_to(self.axes), None
            except Exception as error:  # noqa: BLE001  (a third party's factory; its message goes out with every row)
                self._refused = (self.axes, f"scalarizer {self.definition.name} cannot be used on these frames: {error}")
                raise ValueError(self._refused[1]) from error
        return self.bound(frames)

    def _bound_to(self, axes: tuple[Axis, ...]) -> scalarizers.Bound:
        """The scalarizer for some axes. Patterns and micro-scans take turns, and binding may load networks: some are kept."""
        if axes not in self._kept:
            self._kept = dict(list(self._kept.items())[1 - KEPT:]) | {axes: self.definition.build(axes)}
        return self._kept[axes]

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and units; before the first block only the scalar's, without a unit."""
        if self.bound is not None:
            return self.bound.names, self.bound.units
        return (self.definition.label or self.definition.name,), ("",)

    def _mark(self, acquisition_id: uuid.UUID, gap: Gap, received_ns: int) -> None:
        """Publish rows for frames that will have no data."""
        acquisition = self._ledger[acquisition_id]
        self._counts["gaps"] += 1
        self.warn(f"frames {gap.first} to {gap.first + gap.count - 1} of acquisition {acquisition_id} have no data: "
                  f"{gap.reason}", **self._counts)
        indices = np.arange(gap.first, gap.first + gap.count)
        segment = Segment(acquisition_id, indices, acquisition.position(gap.first, gap.count),
                          np.array([acquisition.time(index) for index in indices.tolist()], np.int64), gap.reason)
        self._change.journal.add(segment, acquisition)
        self._publish(segment, failed(gap.count, len(self.columns()[0]), gap.reason), self.columns(), received_ns, 0.0)

    def _enter(self, segment: Segment, features: Features, frames: np.ndarray | None = None) -> None:
        """Keep details for structures, and show the rows in the live image."""
        if features.details:
            self.memory.add(segment.acquisition_id, int(segment.indices[0]), segment.positions, segment.stamps.tolist(),
                            features.details, features.failures)
        if len(segment.axes) == MICRO_SCAN_AXES:
            return  # its scalar is another one than that of the map
        frame = frames[-1] if frames is not None and len(frames) and self._preview.field is None else None
        self._preview.add(segment.positions, features.values[:, 0], frame)

    def _publish(self, segment: Segment, features: Features, columns: tuple[tuple[str, ...], tuple[str, ...]],
                 received_ns: int, source_duration: float) -> None:
        valid = features.valid
        message = Measurements(acquisition_id=from_uuid(segment.acquisition_id), names=list(columns[0]),
                               units=list(columns[1]), scalarizer=self.definition.name, scalarizer_version=self.version,
                               scalarizer_hash=self.definition.hash, received_ns=received_ns,
                               source_duration=float(source_duration))
        message.header.stamp, message.header.frame_id = to_stamp(0, int(segment.stamps[0])), "scan"
        message.indices, message.positions = number_array(segment.indices, "Q"), number_array(segment.positions)
        message.values, message.standard_errors = number_array(features.values), number_array(features.standard_errors)
        message.valid, message.failures = valid.tolist(), features.failures
        self._measurements.publish(message)
        self._counts["rows"] += len(valid)
        self._counts["failed"] += int(len(valid) - valid.sum())
        self.report(self._message, self._level, **self._counts)

    # ---- another scalarizer -----------------------------------------------------------------------------------

    def switch(self, parameters: Parameters, definition: scalarizers.Definition, bound: scalarizers.Bound | None,
               version: int) -> None:
        """Measure with another scalarizer from now on; details and image of what was measured before are forgotten."""
        self.parameters, self.definition, self.bound, self.version = parameters, definition, bound, version
        self._kept = {}
        self._refused, self.memory = None, Memory(parameters.remembered_rows)
        self._preview.clear()
        self._tell_scalarizer()

    def publish_again(self, remeasured: Remeasured, received_ns: int) -> None:
        """Publish rows that were measured again."""
        segment, bound = remeasured.segment, remeasured.bound
        self._enter(segment, remeasured.features)
        self._publish(segment, remeasured.features, self.columns() if bound is None else (bound.names, bound.units),
                      received_ns, 0.0)

    def _tell_scalarizer(self) -> None:
        self.report(self._message, self._level, scalarizer=self.definition.name, scalarizer_version=self.version,
                    scalarizer_hash=self.definition.hash)

    def _show(self) -> None:
        """Publish the live image, not more often than the parameter says."""
        period, now = self.parameters.preview_period_s, time.monotonic()
        if period <= 0 or now - self._previewed < period or not self._images.get_subscription_count():
            return
        picture = self._preview.image()
        if picture is None:
            return
        self._previewed = now
        pixels, frame_id = picture
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="32FC1", step=4 * pixels.shape[1])
        message.header.frame_id, message.header.stamp = frame_id, self.get_clock().now().to_msg()
        message.data = byte_array(pixels)
        self._images.publish(message)
