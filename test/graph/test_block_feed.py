"""Nodes of one process share what they hear of the detector's blocks."""

import threading
import zlib

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from edgetem.msg import Credit, DetectorBlock
from edgetem_nodes.graph.block_feed import BlockPublisher, BlockSubscription, hears_blocks
from edgetem_nodes.graph.messages import byte_array, number_array
from edgetem_nodes.graph.quality_of_service import BLOCKS, CREDITS

FRAMES = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)


class Process:
    """Nodes on one executor, and a detector on another."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = [rclpy.create_node(name, context=self.context) for name in ("one", "two", "detector")]
        for node in self.nodes:
            self.executor.add_node(node)
        self.one, self.two, self.detector = self.nodes
        self.publisher = self.detector.create_publisher(DetectorBlock, "detector_block", BLOCKS)
        self.heard = {"one": [], "two": []}

    def listen(self, node):
        return BlockSubscription(node, self.heard[node.get_name()].append)

    def ears(self):
        return [info.node_name for info in self.detector.get_subscriptions_info_by_topic("detector_block")]

    def until(self, condition):
        for _ in range(2000):
            if condition():
                return
            self.executor.spin_once(timeout_sec=0.01)
        pytest.fail("what the test waits for did not come")

    def send(self, number, damaged=False):
        message = DetectorBlock(block_index=number, dtype="uint16", crc32=zlib.crc32(FRAMES.tobytes()) ^ damaged)
        message.shape, message.data = number_array(FRAMES.shape, "I"), byte_array(FRAMES)
        self.publisher.publish(message)

    def close(self):
        for node in self.nodes:
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def process():
    made = Process()
    yield made
    made.close()


def test_a_block_is_received_once_and_heard_by_all(process):
    process.listen(process.one)
    process.listen(process.two)
    process.until(lambda: process.ears() == ["one"] and process.publisher.get_subscription_count() == 1)
    process.send(4)
    process.until(lambda: process.heard["one"] and process.heard["two"])
    one, two = process.heard["one"][0], process.heard["two"][0]
    assert one is two
    assert one.message.block_index == 4 and np.array_equal(one.frames, FRAMES) and not one.damage


def test_a_damaged_block_is_handed_on_as_such(process):
    process.listen(process.one)
    process.until(lambda: process.publisher.get_subscription_count() == 1)
    process.send(7, damaged=True)
    process.until(lambda: process.heard["one"])
    block = process.heard["one"][0]
    assert block.frames is None and "block 7" in block.damage and "CRC-32" in block.damage


def test_when_one_leaves_the_other_still_hears(process):
    first = process.listen(process.one)
    second = process.listen(process.two)
    process.until(lambda: process.ears() == ["one"])
    first.destroy()
    process.until(lambda: process.ears() == ["two"] and process.publisher.get_subscription_count() == 1)
    process.send(1)
    process.until(lambda: process.heard["two"])
    assert not process.heard["one"]
    second.destroy()
    process.until(lambda: process.ears() == [])


def test_the_detector_sees_who_hears_through_another(process):
    for node in (process.one, process.two):
        node.create_publisher(Credit, "credit", CREDITS)
    process.until(lambda: process.detector.count_publishers("credit") == 2)
    assert not hears_blocks(process.detector, "one")
    process.listen(process.one)
    process.listen(process.two)
    process.until(lambda: process.ears() == ["one"])
    assert hears_blocks(process.detector, "one") and hears_blocks(process.detector, "two")
    assert not hears_blocks(process.detector, "three")


def message_of(number):
    message = DetectorBlock(block_index=number, dtype="uint16", crc32=zlib.crc32(FRAMES.tobytes()))
    message.shape, message.data = number_array(FRAMES.shape, "I"), byte_array(FRAMES)
    return message


def test_a_detector_of_the_same_process_hands_its_blocks_on(process):
    process.listen(process.one)
    process.until(lambda: process.ears() == ["one"])
    publisher = BlockPublisher(process.detector)
    process.until(lambda: process.ears() == [])
    second = process.listen(process.two)
    sent = [message_of(number) for number in range(3)]
    thread = threading.Thread(target=lambda: [publisher.publish(message) for message in sent])
    thread.start()
    thread.join()
    assert not process.heard["one"], "it is heard in the executor's thread"
    process.until(lambda: len(process.heard["one"]) == len(process.heard["two"]) == 3)
    assert all(block.message is message for block, message in zip(process.heard["two"], sent, strict=True))
    assert np.array_equal(process.heard["one"][2].frames, FRAMES)
    assert publisher.publish(message_of(3)), "its data is in use"
    second.destroy()
    publisher.destroy()
    process.until(lambda: process.ears() == ["one"])
    process.until(lambda: process.publisher.get_subscription_count() == 1)
    process.send(9)
    process.until(lambda: process.heard["one"][-1].message.block_index == 9)


def test_other_processes_hear_what_is_handed_on(process):
    publisher = BlockPublisher(process.detector)
    assert not publisher.publish(message_of(0)), "nobody here: the data may be used again"
    process.listen(process.one)
    stranger = rclpy.create_node("stranger", context=process.context)
    elsewhere, heard = SingleThreadedExecutor(context=process.context), []
    elsewhere.add_node(stranger)
    BlockSubscription(stranger, heard.append)
    process.until(lambda: process.ears() == ["stranger"] and publisher._publisher.get_subscription_count() == 1)
    publisher.publish(message_of(5))
    for _ in range(2000):
        if heard:
            break
        elsewhere.spin_once(timeout_sec=0.01)
    process.until(lambda: process.heard["one"])
    assert heard[0].message.block_index == 5 and np.array_equal(heard[0].frames, FRAMES)
    assert len(process.heard["one"]) == 1
    publisher.destroy()
    stranger.destroy_node()
    elsewhere.shutdown()
