"""Microscope and detector together, on the simulated instrument: the contract between them."""

import math
import threading
import uuid

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from edgetem.action import Acquire
from edgetem.msg import DetectorBlock, Optics, ProbePath, StagePose
from edgetem.srv import MoveStage, SetHolder, SetOptics
from edgetem_nodes.detector.node import DetectorNode
from edgetem_nodes.graph.column import exposure_of
from edgetem_nodes.graph.credit import CreditReporter
from edgetem_nodes.graph.messages import block_data, from_uuid, number_array, to_uuid
from edgetem_nodes.graph.quality_of_service import BLOCKS, EVENTS
from edgetem_nodes.microscope.node import MicroscopeNode

PATIENCE = 30.0
FRAME = 32 * 32 * 2


class Loop:
    """The two nodes, one consumer, one client, on an executor each."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        instrument = {"instrument.simulated.rows": 16, "instrument.simulated.columns": 16, "seed": 5,
                      "instrument.simulated.field_nm": 8.0, "instrument.simulated.camera_pixels": 32,
                      "instrument.simulated.pixel_mrad": 2.0}
        options = {"context": self.context}
        both = [Parameter(name, value=value) for name, value in instrument.items()]
        self.detector = DetectorNode(**options, parameter_overrides=[
            *both, Parameter("consumers", value=["eater"]), Parameter("silence", value=60.0)])
        self.microscope = MicroscopeNode(**options, parameter_overrides=both)
        self.eater = rclpy.create_node("eater", **options)
        self.user = rclpy.create_node("planner", **options)
        self.blocks: list[DetectorBlock] = []
        self.appetite = threading.Semaphore(10**9)
        self.changed = threading.Condition()
        self.reporter = CreditReporter(self.eater, "eater", 8 * FRAME)
        self.eater.create_subscription(DetectorBlock, "detector_block", self._consume, BLOCKS)
        self.paths: list[ProbePath] = []
        self.user.create_subscription(ProbePath, "probe_path", self.paths.append, EVENTS)
        self.reporter.start()
        self.threads = []
        for node in (self.detector, self.microscope, self.eater, self.user):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self.threads.append((executor, thread))
        for node in (self.detector, self.microscope):
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
        # Made in the thread that spins its node: it is known to the node before it is whole.
        made = self.user.executor.create_task(lambda: ActionClient(self.user, Acquire, "acquire"))
        self.wait(made.done)
        self.client = made.result()
        assert self.client.wait_for_server(PATIENCE)
        self.wait(lambda: not self.detector._gate.absent())

    def _consume(self, block: DetectorBlock) -> None:
        assert self.appetite.acquire(timeout=PATIENCE)
        with self.changed:
            self.blocks.append(block)
            self.changed.notify_all()
        self.reporter.consumed(to_uuid(block.acquisition_id), block.first_index + block.shape[0])

    def wait(self, condition) -> None:
        with self.changed:
            for _ in range(int(PATIENCE / 0.02)):
                if condition():
                    return
                self.changed.wait(0.02)
        pytest.fail("what the test waits for did not come")

    def send(self, count: int, number: int):
        goal = Acquire.Goal(acquisition_id=from_uuid(uuid.UUID(int=number)), dwell_time=1e-3)
        goal.positions = number_array(self.microscope.console.field.positions(np.arange(count)))
        sent = self.client.send_goal_async(goal)
        self.wait(sent.done)
        return sent.result()

    def close(self) -> None:
        self.appetite.release(10**6)
        for executor, thread in self.threads:
            executor.shutdown()
            thread.join(timeout=5.0)
        self.client.destroy()
        for node in (self.microscope, self.detector):
            node.close()
        for node in (self.microscope, self.detector, self.eater, self.user):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


def test_every_position_of_an_acquisition_becomes_one_frame(loop):
    future = loop.send(100, 1).get_result_async()
    loop.wait(future.done)
    result = future.result().result
    assert (result.error_code, result.frames_delivered, result.frames_dropped) == (0, 100, 0)
    loop.wait(lambda: sum(block.shape[0] for block in loop.blocks) == 100)
    frames = np.concatenate([block_data(block) for block in loop.blocks])
    loop.wait(lambda: loop.paths)
    whole = loop.detector._source.read(exposure_of(loop.paths[0]), 0, 100)
    assert np.array_equal(frames, whole), "how the detector cuts its blocks changes no count"


def test_the_source_is_given_what_was_commanded(loop):
    given, read = [], loop.detector._source.read

    def recorded(exposure, first, count):
        given.append(exposure)
        return read(exposure, first, count)

    loop.detector._source.read = recorded
    for kind, name, request in (
            (SetOptics, "set_optics", {"optics": Optics(**{**dict.fromkeys(Optics.get_fields_and_field_types(), math.nan),
                                                           "defocus": 4e-8})}),
            (MoveStage, "move_stage", {"pose": StagePose(x=1e-9, y=math.nan, z=math.nan, alpha=0.1, beta=math.nan)}),
            (SetHolder, "set_holder", {"temperature": 350.0, "bias": math.nan})):
        client = loop.user.create_client(kind, name)
        assert client.wait_for_service(PATIENCE)
        answer = client.call_async(kind.Request(**request))
        loop.wait(answer.done)
        assert answer.result().error_code == 0, answer.result().error_msg
    future = loop.send(20, 1).get_result_async()
    loop.wait(future.done)
    exposure = given[0]
    assert exposure.optics["defocus"] == 4e-8 and exposure.optics["magnification"] == 1.0
    assert exposure.stage == {"x": 1e-9, "y": 0.0, "z": 0.0, "alpha": 0.1, "beta": 0.0}
    assert exposure.holder.tolist() == [[0.0, 350.0, 0.0]]
    assert np.array_equal(exposure.positions, loop.microscope.console.field.positions(np.arange(20)))


def test_canceling_stops_the_stream_and_counts_what_was_exposed(loop):
    loop.appetite = threading.Semaphore(0)
    handle = loop.send(200, 1)
    future = handle.get_result_async()
    loop.wait(lambda: loop.detector._gate.outstanding())
    canceled = handle.cancel_goal_async()
    loop.wait(canceled.done)
    loop.wait(future.done)
    result = future.result().result
    assert result.error_code == Acquire.Result.CANCELED
    assert 0 < result.frames_delivered <= 8
    assert result.dose == pytest.approx(loop.microscope.console.driver.electrons(int(result.frames_delivered), 1e-3))
    assert loop.microscope.console.driver.state(0.0).beam_blanked
    loop.appetite.release(10**6)
    future = loop.send(10, 2).get_result_async()
    loop.wait(future.done)
    assert future.result().result.error_code == 0
