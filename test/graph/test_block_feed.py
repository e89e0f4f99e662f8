"""Nodes of one process share what they hear of the detector's blocks."""

import zlib

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from edgetem.msg import Credit, DetectorBlock
from edgetem_nodes.graph.block_feed import BlockSubscription, hears_blocks
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
