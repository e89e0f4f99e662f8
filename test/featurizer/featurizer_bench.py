"""A featurizer in this process, between publishers and subscribers of a test."""

from __future__ import annotations

import json
import time
import uuid
import zlib

import numpy as np
import rclpy
from analytic_patterns import disk_image, hexagonal_places, pattern_axes
from edgetem.msg import (AcquisitionEnd, ArchivedBlock, AtomicStructure, Axis, Credit, DetectorBlock, Measurements, Overview,
                         ProbePath)
from edgetem.srv import GetStructure, SetScalarizer
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from edgetem_nodes.featurizer.node import FeaturizerNode
from edgetem_nodes.graph.messages import byte_array, from_uuid, number_array, numbers, to_stamp, to_uuid
from edgetem_nodes.graph.quality_of_service import BLOCKS, CREDITS, EVENTS, PREVIEW, STATE
from edgetem_nodes.physics.electrons import wavelength

AXES = pattern_axes()


def patterns(count: int) -> np.ndarray:
    places = np.concatenate([[[0, 0]], hexagonal_places(3.16e-10, wavelength(80e3), np.diag([1.01, 1.02]))])
    expected = disk_image(places, np.r_[1e5, np.full(12, 1e3)], 2.0, AXES)
    return np.random.default_rng(5).poisson(expected, (count, 64, 64)).astype(np.uint16)


class Bench:
    """A featurizer with the rest of the graph played by the test."""

    def __init__(self, **parameters) -> None:
        rclpy.init()
        self.executor = SingleThreadedExecutor()
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        self.node = FeaturizerNode(parameter_overrides=overrides)
        self.outside = rclpy.create_node("outside")
        for node in (self.node, self.outside):
            self.executor.add_node(node)
        self.rows, self.credits, self.images, self.structures = [], [], [], []
        make = self.outside.create_subscription
        make(Measurements, "measurements", self.rows.append, EVENTS)
        make(Credit, "credit", self.credits.append, CREDITS)
        make(Image, "live_image", self.images.append, PREVIEW)
        make(AtomicStructure, "structure", self.structures.append, EVENTS)
        self.blocks = self.outside.create_publisher(DetectorBlock, "detector_block", BLOCKS)
        self.paths = self.outside.create_publisher(ProbePath, "probe_path", EVENTS)
        self.ends = self.outside.create_publisher(AcquisitionEnd, "acquisition_end", EVENTS)
        self.overviews = self.outside.create_publisher(Overview, "overview", STATE)
        self.archived = self.outside.create_publisher(ArchivedBlock, "archived_block", EVENTS)
        self.client = self.outside.create_client(GetStructure, "get_structure")
        self.changes = self.outside.create_client(SetScalarizer, "set_scalarizer")

    def activate(self) -> None:
        assert self.node.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        self.until(lambda: self.credits and self.client.service_is_ready() and self.changes.service_is_ready()
                   and all(p.get_subscription_count()
                           for p in (self.blocks, self.paths, self.ends, self.overviews, self.archived))
                   and all(p.get_subscription_count() for p in (self.node._measurements, self.node._images)))

    def until(self, condition, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the event that the test waits for did not come"
            self.executor.spin_once(timeout_sec=0.05)

    def path(self, acquisition_id: uuid.UUID, count: int) -> np.ndarray:
        return self.raster(acquisition_id, np.stack([np.arange(count), 10 + np.arange(count)], axis=1) * 1e-9)

    def raster(self, acquisition_id: uuid.UUID, positions: np.ndarray) -> np.ndarray:
        message = ProbePath(acquisition_id=from_uuid(acquisition_id), positions=number_array(positions), dwell_time=1e-3,
                            position_period=2e-3)
        message.header.stamp.sec = 100
        self.paths.publish(message)
        return positions

    def block(self, acquisition_id: uuid.UUID, index: int, first: int, frames: np.ndarray, positions: np.ndarray,
              axes=AXES, damaged: bool = False) -> None:
        message = DetectorBlock(acquisition_id=from_uuid(acquisition_id), block_index=index, first_index=first,
                                shape=list(frames.shape), dtype=str(frames.dtype), encoding="raw", source_duration=0.25)
        message.axes = [Axis(name=a.name, unit=a.unit, scale=a.scale, offset=a.offset, size=a.size) for a in axes]
        message.positions = number_array(positions[first:first + len(frames)])
        message.data, message.crc32 = byte_array(frames), zlib.crc32(frames.tobytes()) ^ int(damaged)
        message.header.stamp = to_stamp(0, 100_000_000_000 + 2_000_000 * first)
        self.blocks.publish(message)

    def end(self, acquisition_id: uuid.UUID, requested: int, sent: int, reason: str = "") -> None:
        self.ends.publish(AcquisitionEnd(acquisition_id=from_uuid(acquisition_id), requested=requested, sent=sent,
                                         aborted=bool(reason), reason=reason))

    def collected(self, acquisition_id: uuid.UUID, version: int = 1) -> dict[int, tuple]:
        """index -> (valid, failure, values, position), of one version of the scalarizer."""
        result = {}
        for message in self.rows:
            if to_uuid(message.acquisition_id) != acquisition_id or message.scalarizer_version != version:
                continue
            values = numbers(message.values, (len(message.indices), -1))
            positions = numbers(message.positions, (-1, 2))
            for row, index in enumerate(message.indices):
                assert index not in result, "an index must come once"
                result[int(index)] = (message.valid[row], message.failures[row], values[row], positions[row])
        return result

    def structure(self, acquisition_id: uuid.UUID, index: int) -> GetStructure.Response:
        future = self.client.call_async(GetStructure.Request(acquisition_id=from_uuid(acquisition_id), index=index))
        self.until(future.done)
        return future.result()

    def change(self, scalarizer: str = "", settings: dict | str = "", **more) -> SetScalarizer.Response:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        future = self.changes.call_async(SetScalarizer.Request(scalarizer=scalarizer, settings=text, **more))
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        self.node.close()
        for node in (self.node, self.outside):
            node.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()
