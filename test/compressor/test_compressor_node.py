"""The node in the graph: blocks become archived blocks, credit flows, trouble is said, and a SIGINT closes the file."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from edgetem.msg import (AcquisitionEnd, ArchivedBlock, CompressedBlock, Credit, Decision, DetectorBlock, Experiment,
                         ExperimentMap, Overview, ProbePath)
from edgetem.msg import Axis as AxisMessage
from edgetem.msg import ScanField as ScanFieldMessage
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.compressor.node import CompressorNode
from edgetem_nodes.graph.messages import byte_array, from_uuid, number_array, to_uuid
from edgetem_nodes.graph.quality_of_service import BLOCKS, EVENTS, STATE

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
FRAMES = np.random.default_rng(8).poisson(0.5, (40, 32, 32)).astype(np.uint16)
ROWS = 10


class Neighbours:
    """A node that plays detector, microscope and planner, and keeps what the compressor says."""

    def __init__(self, executor: SingleThreadedExecutor, namespace: str = "") -> None:
        self.executor, self.node = executor, Node("neighbours", namespace=namespace)
        executor.add_node(self.node)
        self.heard: dict[type, list] = {t: [] for t in (ArchivedBlock, CompressedBlock, Credit, DiagnosticArray)}
        topics = {ArchivedBlock: ("archived_block", EVENTS), CompressedBlock: ("compressed_block", BLOCKS),
                  Credit: ("credit", STATE), DiagnosticArray: ("/diagnostics", 10)}
        for kind, (topic, quality) in topics.items():
            self.node.create_subscription(kind, topic, self.heard[kind].append, quality)
        self._publishers = {kind: self.node.create_publisher(kind, topic, quality) for kind, topic, quality in (
            (DetectorBlock, "detector_block", BLOCKS), (ProbePath, "probe_path", EVENTS),
            (AcquisitionEnd, "acquisition_end", EVENTS), (Overview, "overview", STATE), (Experiment, "experiment", STATE),
            (ExperimentMap, "experiment_map", STATE), (Decision, "decision", EVENTS))}

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE} s"
            self.executor.spin_once(timeout_sec=0.05)

    def publish(self, message: object) -> None:
        self._publishers[type(message)].publish(message)

    def meet(self) -> None:
        self.wait(lambda: all(p.get_subscription_count() for p in self._publishers.values())
                  and self.node.count_publishers("archived_block"), "discovery")

    def block(self, identifier: uuid.UUID, number: int, damaged: bool = False) -> None:
        data = np.ascontiguousarray(FRAMES[number * ROWS:(number + 1) * ROWS])
        axes = [AxisMessage(name=name, unit="rad", scale=1e-3, offset=0.0, size=32) for name in ("ky", "kx")]
        message = DetectorBlock(acquisition_id=from_uuid(identifier), detector="camera", block_index=number,
                                first_index=number * ROWS, shape=number_array(data.shape, "I"), dtype="uint16",
                                encoding="raw", axes=axes, positions=number_array(np.full((ROWS, 2), number * 1e-9)),
                                crc32=zlib.crc32(data.tobytes()) ^ damaged, data=byte_array(data))
        message.header.stamp.sec = 1000 + number
        self.publish(message)

    def acquisition(self, identifier: uuid.UUID, damaged: int | None = None) -> None:
        self.publish(ProbePath(acquisition_id=from_uuid(identifier), positions=number_array(np.zeros(2 * len(FRAMES))),
                               dwell_time=1e-3, detector="camera"))
        for number in range(len(FRAMES) // ROWS):
            self.block(identifier, number, damaged == number)
        self.publish(AcquisitionEnd(acquisition_id=from_uuid(identifier), requested=len(FRAMES), sent=len(FRAMES)))

    def diagnostics(self) -> list[DiagnosticStatus]:
        return [status for array in self.heard[DiagnosticArray] for status in array.status if status.name == "compressor"]


@pytest.fixture
def executor() -> Iterator[SingleThreadedExecutor]:
    rclpy.init()
    made = SingleThreadedExecutor()
    yield made
    for node in made.get_nodes():
        made.remove_node(node)
        node.destroy_node()
    made.shutdown()
    rclpy.shutdown()


@pytest.fixture
def graph(executor, tmp_path) -> Iterator[Callable[..., tuple[CompressorNode, Neighbours]]]:
    nodes: list[CompressorNode] = []

    def make(**parameters: object) -> tuple[CompressorNode, Neighbours]:
        values = {"output": str(tmp_path), "reserve_MiB": 16, **parameters}
        node = CompressorNode(parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
        nodes.append(node)
        executor.add_node(node)
        return node, Neighbours(executor)

    yield make
    for node in nodes:
        node.close()


def activate(node: CompressorNode, neighbours: Neighbours) -> None:
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    neighbours.meet()


def test_blocks_are_archived_and_referred_to_and_credited(graph, tmp_path):
    node, neighbours = graph(publish_compressed=True)
    activate(node, neighbours)
    identifier = uuid.uuid4()
    neighbours.acquisition(identifier)
    archived = neighbours.heard[ArchivedBlock]
    neighbours.wait(lambda: sum(m.count for m in archived) == len(FRAMES), "archiving")
    neighbours.wait(lambda: any(m.consumed_through == len(FRAMES) and to_uuid(m.acquisition_id) == identifier
                                for m in neighbours.heard[Credit]), "credit for all frames")
    neighbours.wait(lambda: len(neighbours.heard[CompressedBlock]) == 4, "compressed blocks")
    assert neighbours.heard[Credit][0].window == 32 << 20
    node.close()
    with Archive.open(tmp_path) as reader:
        for message in archived:
            reader.verify(message)
            rows = FRAMES[message.first_index:message.first_index + message.count]
            assert bytes(message.sha256) == hashlib.sha256(rows.tobytes()).digest()
            assert (message.path, to_uuid(message.archive_id)) == ("archive.h5", reader.archive_id)
            assert message.header.stamp.sec == 1000 + message.first_index // ROWS
        stored, = reader.acquisitions()
        assert stored.status == "complete" and np.array_equal(stored.rows(), FRAMES) and stored.axes[0].unit == "rad"
    block = neighbours.heard[CompressedBlock][2]
    assert zlib.crc32(block.data) == block.crc32 and block.codec == "blosc2-bitshuffle-zstd1"
    assert np.array_equal(Codec.decode(bytes(block.data), block.dtype, tuple(block.shape)), FRAMES[20:30])


def test_a_damaged_block_is_said_and_does_not_stall_the_detector(graph, tmp_path):
    node, neighbours = graph()
    activate(node, neighbours)
    neighbours.acquisition(uuid.uuid4(), damaged=1)
    neighbours.wait(lambda: any(m.consumed_through == len(FRAMES) for m in neighbours.heard[Credit]), "all credit")
    neighbours.wait(lambda: any(s.level == DiagnosticStatus.WARN and "10 frames lost" in s.message
                                for s in neighbours.diagnostics()), "a warning in the diagnostics")
    node.close()
    with Archive.open(tmp_path) as reader:
        stored, = reader.acquisitions()
        assert stored.count == 30 and stored.status == "incomplete" and "CRC-32" in stored.problems[0]


def test_overview_experiment_and_the_last_map_are_kept(graph, tmp_path):
    node, neighbours = graph()
    field = ScanFieldMessage(origin=[0.0, 0.0], step=[1e-9, 1e-9], shape=[2, 3])
    overview = Overview(acquisition_id=from_uuid(uuid.uuid4()), field=field, channels=["haadf"], data=number_array(range(6)))
    # Latched before the compressor is there, as after a restart.
    neighbours.publish(overview)
    neighbours.publish(Experiment(experiment_id=from_uuid(uuid.UUID(int=7)), config="a: 1", version="0.1.0"))
    activate(node, neighbours)
    for index in (4, 5):
        values = number_array(range(6))
        neighbours.publish(ExperimentMap(experiment_id=from_uuid(uuid.UUID(int=7)), decision_index=index, field=field,
                                         name="s", mean=values, standard_deviation=values, acquisition=values))
    neighbours.publish(Decision(action=Decision.STOP, index=5))
    kept = node._archive.file["experiment"]
    neighbours.wait(lambda: "map_0005" in kept and "overview_0000" in kept and "metadatabundle" in kept, "archiving")
    node.close()
    with Archive.open(tmp_path) as reader:
        assert reader.overviews()[0].data.ravel().tolist() == list(range(6))
        assert reader.experiment.config == "a: 1"
        assert reader.maps()[-1].decision_index == 5


def test_without_a_folder_or_without_room_it_does_not_start(graph):
    node, _ = graph(output="")
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node, _ = graph(reserve_MiB=1 << 24)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE


def test_a_full_disk_in_mid_run_is_an_error_and_credit_stops(graph, tmp_path):
    node, neighbours = graph()
    activate(node, neighbours)
    identifier = uuid.uuid4()
    neighbours.block(identifier, 0)
    neighbours.wait(lambda: any(m.consumed_through == ROWS for m in neighbours.heard[Credit]), "credit")
    node._archive._reserve = 1 << 60
    neighbours.block(identifier, 1)
    neighbours.wait(lambda: any(s.level == DiagnosticStatus.ERROR and "nothing more is archived" in s.message
                                for s in neighbours.diagnostics()), "an error in the diagnostics")
    assert max(m.consumed_through for m in neighbours.heard[Credit]) == ROWS
    node.close()
    with Archive.open(tmp_path) as reader:
        assert reader.acquisitions()[0].count == ROWS


def test_sigint_archives_what_has_arrived_and_closes_the_file(executor, tmp_path):
    # A namespace of its own: the services of lifecycle nodes that other tests destroyed in this process may still be seen.
    neighbours = Neighbours(executor, "/microscope_2")
    command = [sys.executable, "-m", "edgetem_nodes", "compressor", "--ros-args", "-p", f"output:={tmp_path}",
               "-p", "reserve_MiB:=16", "-r", "__ns:=/microscope_2"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        client = neighbours.node.create_client(ChangeState, "compressor/change_state")
        neighbours.wait(client.service_is_ready, "the compressor's start")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            neighbours.wait(answer.done, "a transition")
            assert answer.result().success
        neighbours.meet()
        identifier = uuid.uuid4()
        for number in range(3):
            neighbours.block(identifier, number)
        neighbours.wait(lambda: any(m.consumed_through == 3 * ROWS for m in neighbours.heard[Credit]), "credit")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    with Archive.open(tmp_path) as reader:
        stored, = reader.acquisitions()
        assert stored.status == "interrupted" and np.array_equal(stored.rows(), FRAMES[:30])
