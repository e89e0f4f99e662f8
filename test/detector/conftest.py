"""A detector node in this process, with a source of known frames, a consumer and a stand-in for the microscope."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from edgetem.msg import AcquisitionEnd, DetectorBlock, ProbePath
from edgetem.srv import Arm
from edgetem_nodes.detector import node as detector_node
from edgetem_nodes.graph.credit import CreditReporter
from edgetem_nodes.graph.messages import block_data, from_uuid, number_array, to_stamp, to_uuid
from edgetem_nodes.graph.quality_of_service import BLOCKS, EVENTS
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import Axis

PATIENCE = 20.0


class KnownFrames:
    """A source whose frame is a function of the probe path's number and the frame's index."""

    name = "known"
    frame_shape = (32, 64)
    dtype = np.dtype("uint16")
    axes = (Axis("ky", "rad", 1e-3, -16e-3, 32), Axis("kx", "rad", 1e-3, -32e-3, 64))
    real_time = False

    def __init__(self, pausable: bool = True) -> None:
        self.pausable = pausable
        self.fails_at: int | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.pause_at: int | None = None
        self.closed = self.prepared = False
        self.shortest = 1e-5

    def frames(self, sequence: int, first: int, count: int) -> np.ndarray:
        index = np.arange(first, first + count, dtype=np.uint64)
        start = (index * np.uint64(40503) + np.uint64(sequence * 7919)) % np.uint64(65536)
        ramp = np.arange(np.prod(self.frame_shape), dtype=np.uint64)
        return ((start[:, None] + ramp) % np.uint64(65536)).astype(np.uint16).reshape(count, *self.frame_shape)

    def prepare(self) -> None:
        self.prepared = True

    def check_dwell(self, dwell: float) -> None:
        if dwell < self.shortest:
            raise ValueError(f"dwell time {dwell * 1e3:g} ms is shorter than a frame, {self.shortest * 1e3:g} ms")

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        last = first + count
        if self.fails_at is not None and first <= self.fails_at < last:
            raise OSError("the cable is out")
        if self.pause_at is not None and last > self.pause_at:
            self.reached.set()
            assert self.go_on.wait(PATIENCE)
        return self.frames(exposure.sequence, first, count)

    def close(self) -> None:
        self.closed = True


class Rig:
    """The detector, one consumer named "eater", and what a microscope would do."""

    def __init__(self, source: KnownFrames, **parameters: object) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        values = {"consumers": ["eater"], "block_mib": 0.0625, **parameters}
        self.detector = detector_node.DetectorNode(
            context=self.context, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
        self.source = source
        self.eater = rclpy.create_node("eater", context=self.context)
        self.reporter: CreditReporter | None = None
        self.blocks: list[DetectorBlock] = []
        self.ends: list[AcquisitionEnd] = []
        self.appetite = threading.Semaphore(10**9)
        self.changed = threading.Condition()
        self.eater.create_subscription(DetectorBlock, "detector_block", self._on_block, BLOCKS)
        self.user = rclpy.create_node("user", context=self.context)
        self.user.create_subscription(AcquisitionEnd, "acquisition_end", self._on_end, EVENTS)
        self.paths = self.user.create_publisher(ProbePath, "probe_path", EVENTS)
        self.arming = self.user.create_client(Arm, "arm")
        self.executors = []
        for node in (self.detector, self.eater, self.user):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self.executors.append((executor, thread))

    def announce(self, window: int = 1 << 25) -> None:
        """The consumer begins to report credit."""
        self.reporter = CreditReporter(self.eater, "eater", window)
        self.reporter.start()

    def activate(self) -> None:
        assert self.detector.trigger_configure().name == "SUCCESS"
        assert self.detector.trigger_activate().name == "SUCCESS"
        self.wait(lambda: self.arming.service_is_ready() and self.paths.get_subscription_count()
                  and self.user.count_publishers("acquisition_end"))
        if self.reporter is not None:
            self.wait(lambda: not self.detector._gate.absent())

    def _on_block(self, block: DetectorBlock) -> None:
        assert self.appetite.acquire(timeout=PATIENCE)
        if self.reporter is not None:
            self.reporter.consumed(to_uuid(block.acquisition_id), block.first_index + block.shape[0])
        with self.changed:
            self.blocks.append(block)
            self.changed.notify_all()

    def _on_end(self, end: AcquisitionEnd) -> None:
        with self.changed:
            self.ends.append(end)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; fail after `PATIENCE` seconds."""
        with self.changed:
            for _ in range(int(PATIENCE / 0.02)):
                if condition():
                    return
                self.changed.wait(0.02)
        pytest.fail("what the test waits for did not come")

    def arm(self, acquisition_id: uuid.UUID, count: int, detector: str = "", dwell: float = 1e-3) -> Arm.Response:
        answered = threading.Event()
        future = self.arming.call_async(Arm.Request(acquisition_id=from_uuid(acquisition_id), detector=detector, count=count,
                                                    dwell_time=dwell))
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(PATIENCE)
        return future.result()

    def trigger(self, acquisition_id: uuid.UUID, count: int, sequence: int = 0) -> None:
        path = ProbePath(acquisition_id=from_uuid(acquisition_id), sequence=sequence, dwell_time=1e-3, position_period=2e-3)
        path.header.stamp = to_stamp(1000.0)
        path.positions = number_array(np.arange(2 * count) * 1e-10)
        self.paths.publish(path)

    def run(self, acquisition_id: uuid.UUID, count: int, sequence: int = 0) -> AcquisitionEnd:
        """Arm, trigger, wait for the end."""
        answer = self.arm(acquisition_id, count)
        assert answer.error_code == 0, answer.error_msg
        before = len(self.ends)
        self.trigger(acquisition_id, count, sequence)
        self.wait(lambda: len(self.ends) > before)
        return self.ends[-1]

    def received(self, acquisition_id: uuid.UUID) -> np.ndarray:
        """The frames of an acquisition as the consumer got them; checks order, checksums, positions and stamps."""
        mine = [b for b in self.blocks if to_uuid(b.acquisition_id) == acquisition_id]
        index = 0
        for number, block in enumerate(mine):
            assert (block.block_index, block.first_index) == (number, index)
            assert len(block.positions) == 2 * block.shape[0]
            assert block.header.stamp == to_stamp(1000.0 + index * 2e-3)
            index += block.shape[0]
        return np.concatenate([block_data(b) for b in mine])

    def close(self) -> None:
        self.source.go_on.set()
        self.appetite.release(10**6)
        for executor, thread in self.executors:
            executor.shutdown()
            thread.join(timeout=5.0)
        self.detector.close()
        for node in (self.detector, self.eater, self.user):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def rig(monkeypatch):
    """Makes a rig; `rig(pausable=..., parameter=value)`. Everything is closed at the end."""
    made = []

    def make(*, pausable: bool = True, **parameters: object) -> Rig:
        source = KnownFrames(pausable)
        monkeypatch.setattr(detector_node, "make_source", lambda *_: source)
        made.append(Rig(source, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()
