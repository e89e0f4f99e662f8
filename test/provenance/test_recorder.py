"""The recorder against a live graph: what was published is what rosbags reads, and a killed recorder's bag is repaired."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image

from edgetem.action import Acquire
from edgetem.msg import Decision, DetectorBlock, Experiment, Measurements, MicroscopeState
from edgetem_nodes.graph.quality_of_service import BLOCKS, EVENTS, PREVIEW, STATE
from edgetem_nodes.provenance import definitions
from edgetem_nodes.provenance.metadata import read_metadata
from edgetem_nodes.provenance.reading import read_bag
from edgetem_nodes.provenance.recorder import RecorderNode, message_class
from edgetem_nodes.provenance.repair import repair


@pytest.fixture
def executor():
    rclpy.init()
    executor = SingleThreadedExecutor()
    yield executor
    for node in executor.get_nodes():
        if hasattr(node, "close"):
            node.close()
        node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown()


def until(executor, condition, patience=20.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "the event did not come"
        executor.spin_once(timeout_sec=0.05)


def recorder(executor, folder, namespace="/", **parameters):
    overrides = [Parameter(name, value=value) for name, value in {"output": str(folder), **parameters}.items()]
    node = RecorderNode(parameter_overrides=overrides, namespace=namespace)
    executor.add_node(node)
    return node


def recorded(folder, topic):
    """How many messages of a topic the metadata on disk counts."""
    entry = read_metadata(folder / "bag").topics.get(topic)
    return entry.message_count if entry else 0


def messages(folder, topic):
    return [message for name, _, message in read_bag(folder) if name == topic]


def test_every_topic_but_bulk_is_recorded_from_configuration_on(executor, tmp_path):
    node = recorder(executor, tmp_path, flush_interval=60.0)
    node.trigger_configure()
    graph = rclpy.create_node("graph")
    executor.add_node(graph)
    publishers = {name: graph.create_publisher(kind, name, profile) for name, kind, profile in (
        ("decision", Decision, EVENTS), ("measurements", Measurements, EVENTS), ("experiment", Experiment, STATE),
        ("microscope_state", MicroscopeState, STATE), ("detector_block", DetectorBlock, BLOCKS),
        ("live_image", Image, PREVIEW), ("unforeseen", Image, STATE))}
    server = ActionServer(graph, Acquire, "acquire", acquire)
    client = ActionClient(graph, Acquire, "acquire")
    small = [publisher for name, publisher in publishers.items() if name not in ("detector_block", "live_image")]
    until(executor, lambda: all(publisher.get_subscription_count() for publisher in small)
          and "/acquire/_action/feedback" in node._taken)
    for index in range(50):
        publishers["measurements"].publish(Measurements(indices=[index], values=[0.5 * index]))
    publishers["experiment"].publish(Experiment(config="seed: 3"))
    publishers["microscope_state"].publish(MicroscopeState(dose=7.0))
    publishers["unforeseen"].publish(Image(width=3, encoding="32FC1"))
    publishers["detector_block"].publish(DetectorBlock())
    publishers["live_image"].publish(Image())
    goal = client.send_goal_async(Acquire.Goal(dwell_time=0.5), feedback_callback=lambda _: None)
    until(executor, goal.done)
    result = goal.result().get_result_async()
    until(executor, result.done)
    publishers["decision"].publish(Decision(index=4))
    until(executor, lambda: recorded(tmp_path, "/decision") == 1)
    assert len(messages(tmp_path, "/measurements")) == 50, "what a decision rests on is on disk with it"
    until(executor, lambda: node._bag.metadata.topics["/diagnostics"].message_count)
    node.close()
    assert not repair(tmp_path / "bag").changed
    assert [m.values.tolist() for m in messages(tmp_path, "/measurements")] == [[0.5 * index] for index in range(50)]
    assert [m.config for m in messages(tmp_path, "/experiment")] == ["seed: 3"]
    assert [m.dose for m in messages(tmp_path, "/microscope_state")] == [7.0]
    assert [m.width for m in messages(tmp_path, "/unforeseen")] == [3]
    assert [m.feedback.frames_delivered for m in messages(tmp_path, "/acquire/_action/feedback")] == [11, 12]
    assert messages(tmp_path, "/acquire/_action/status")[-1].status_list[0].status == 4
    assert messages(tmp_path, "/recorder/transition_event") and messages(tmp_path, "/diagnostics")
    with Reader(tmp_path / "bag") as reader:
        found = {connection.topic: connection for connection in reader.connections}
        assert "/detector_block" not in found and "/live_image" not in found
        for connection in found.values():
            assert connection.digest == definitions.type_hash(connection.msgtype)
        state = found["/experiment"].ext.offered_qos_profiles
        assert [(qos.depth, qos.durability) for qos in state] == [(1, QosDurability.TRANSIENT_LOCAL)]
        for _, stamp, _ in reader.messages():
            assert abs(stamp - time.time_ns()) < 60e9
    server.destroy()
    client.destroy()


def acquire(goal):
    for delivered in (11, 12):
        goal.publish_feedback(Acquire.Feedback(frames_delivered=delivered))
    goal.succeed()
    return Acquire.Result(frames_delivered=12)


def test_bulk_is_recorded_by_choice_and_a_topic_can_be_left_out(executor, tmp_path):
    node = recorder(executor, tmp_path, record_bulk=True, exclude=["measurements"])
    node.trigger_configure()
    graph = rclpy.create_node("graph")
    executor.add_node(graph)
    blocks = graph.create_publisher(DetectorBlock, "detector_block", BLOCKS)
    decisions = graph.create_publisher(Decision, "decision", EVENTS)
    until(executor, lambda: blocks.get_subscription_count() and decisions.get_subscription_count())
    block = DetectorBlock(shape=[1, 1 << 20], dtype="uint8")
    block.data = np.arange(1 << 20, dtype=np.uint8).tobytes()
    blocks.publish(block)
    until(executor, lambda: node._bag.metadata.topics["/detector_block"].message_count == 1)
    node.close()
    assert bytes(messages(tmp_path, "/detector_block")[0].data) == bytes(block.data)
    assert "/measurements" not in read_metadata(tmp_path / "bag").topics


def test_a_recorder_in_a_namespace_leaves_its_neighbour_alone_and_goes_on_in_its_bag(executor, tmp_path):
    graph = rclpy.create_node("graph")
    executor.add_node(graph)
    left, right = (graph.create_publisher(Decision, f"/{side}/decision", EVENTS) for side in ("left", "right"))
    for index in range(2):
        node = recorder(executor, tmp_path, namespace="/left")
        node.trigger_configure()
        until(executor, lambda: left.get_subscription_count() == 1)
        left.publish(Decision(index=index))
        right.publish(Decision(index=99))
        until(executor, lambda node=node: node._bag.metadata.files[-1].message_count
              and node._bag.metadata.topics["/left/decision"].message_count > index)
        node.close()
        executor.remove_node(node)
        node.destroy_node()
        until(executor, lambda: left.get_subscription_count() == 0)
    assert [message.index for _, _, message in read_bag(tmp_path, ["decision"])] == [0, 1]
    assert [entry.path for entry in read_metadata(tmp_path / "bag").files] == ["bag_0.mcap", "bag_1.mcap"]


@pytest.mark.parametrize(("parameters", "message"), [({"output": ""}, "'output' is empty"),
                                                     ({"minimum_free_mib": 1 << 30}, "below minimum_free_mib")])
def test_what_cannot_be_recorded_is_said_before_anything_starts(executor, tmp_path, parameters, message, capfd):
    node = recorder(executor, tmp_path, **parameters)
    node.trigger_configure()
    assert message in node._message
    assert not (tmp_path / "bag").exists()


def test_a_disk_that_fails_ends_the_recorder_with_its_message(executor, tmp_path, monkeypatch):
    node = recorder(executor, tmp_path)
    node.trigger_configure()
    graph = rclpy.create_node("graph")
    executor.add_node(graph)
    decisions = graph.create_publisher(Decision, "decision", EVENTS)
    until(executor, decisions.get_subscription_count)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node._bag._writer, "add_message", fail)
    decisions.publish(Decision())
    until(executor, lambda: node.exit_code == 1)
    assert "No space left on device" in node._message and "resume the experiment" in node._message
    node.close()
    assert repair(tmp_path / "bag").changed


def test_messages_that_did_not_arrive_are_counted(executor, tmp_path):
    node = recorder(executor, tmp_path)
    node.trigger_configure()
    for number in (1, 2, 5, 9):
        node._write(node.resolve_topic_name("decision"), b"\0\1\0\0", {
            "received_timestamp": number, "source_timestamp": number, "publication_sequence_number": number,
            "publisher_gid": {"data": b"someone"}})
    node._flush()
    assert node._lost == {"/decision": 5} and "5 messages lost: /decision" in node._message


def test_message_classes_of_actions_are_found():
    assert message_class("edgetem/action/Acquire_FeedbackMessage") is Acquire.Impl.FeedbackMessage
    assert message_class("edgetem/msg/Decision") is Decision
    with pytest.raises(ImportError):
        message_class("nowhere_msgs/msg/Thing")


def test_a_killed_recorder_loses_nothing_before_the_last_decision(executor, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "edgetem_nodes", "recorder", "--ros-args", "-r", "__ns:=/killed",
                                "-p", f"output:={tmp_path}"])
    try:
        graph = rclpy.create_node("graph")
        executor.add_node(graph)
        client = graph.create_client(ChangeState, "/killed/recorder/change_state")
        until(executor, client.service_is_ready, 60.0)
        request = ChangeState.Request()
        request.transition.id = 1
        answer = client.call_async(request)
        until(executor, answer.done)
        assert answer.result().success
        decisions = graph.create_publisher(Decision, "/killed/decision", EVENTS)
        rows = graph.create_publisher(Measurements, "/killed/measurements", EVENTS)
        until(executor, lambda: decisions.get_subscription_count() and rows.get_subscription_count())
        for index in range(5):
            for row in range(20):
                rows.publish(Measurements(indices=[20 * index + row]))
            decisions.publish(Decision(index=index))
            until(executor, lambda index=index: recorded(tmp_path, "/killed/decision") > index)
        rows.publish(Measurements(indices=[1000]))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert repair(tmp_path / "bag").changed
    with Reader(tmp_path / "bag") as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert sum(1 for _ in reader.messages()) == reader.message_count
    assert counts["/killed/decision"] == 5 and 100 <= counts["/killed/measurements"] <= 101
