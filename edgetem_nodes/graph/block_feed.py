"""Detector blocks for all nodes of a process: received once, checked once; and not sent at all where the detector is there.

Sending and receiving a block copies it several times and computes its CRC-32 anew; that is most of what a consumer spends on
a fast detector. Nodes that share a process and an executor (`edgetem compose compressor featurizer`) share one subscription.
Where the detector is among them it hands its blocks on as they are; what listens in other processes gets them as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetem.msg import DetectorBlock
from edgetem_nodes.graph.messages import block_data
from edgetem_nodes.graph.quality_of_service import BLOCKS

if TYPE_CHECKING:
    from rclpy.node import Node

TOPIC = "detector_block"
PARTICIPANT = 12
"""Bytes of an endpoint's identifier that all endpoints of a process have in common (DDSI-RTPS 2.5, 9.3.1)."""


@dataclass(frozen=True)
class ReceivedBlock:
    """A block as it came. Other nodes may hold it, too: it is not changed.

    Attributes
    ----------
    message : the block.
    frames : (frames, ...), a view of its data; None where it is damaged.
    damage : why there are no frames.
    """

    message: DetectorBlock
    frames: np.ndarray | None
    damage: str = ""


class _Feed:
    """One subscription, or the detector itself, and those who share it."""

    def __init__(self) -> None:
        self.listeners: list[BlockSubscription] = []
        self.publisher: BlockPublisher | None = None
        self._owner: Node | None = None
        self._subscription: Any = None

    def settle(self) -> None:
        """Have a subscription of the first listener's node; none where nobody listens, or the detector is here."""
        owner = self.listeners[0].node if self.listeners and self.publisher is None else None
        if owner is self._owner:
            return
        if self._owner is not None:
            self._owner.destroy_subscription(self._subscription)
        self._owner = owner
        self._subscription = owner and owner.create_subscription(DetectorBlock, TOPIC, self._arrived, BLOCKS)

    def _arrived(self, message: DetectorBlock) -> None:
        try:
            block = ReceivedBlock(message, block_data(message))
        except (ValueError, TypeError) as error:
            block = ReceivedBlock(message, None, str(error))
        self.hand_on(block)

    def hand_on(self, block: ReceivedBlock) -> None:
        """Call all who listen; in the executor's thread."""
        for listener in tuple(self.listeners):
            listener.callback(block)


_feeds: dict[tuple, _Feed] = {}


def _feed(node: Node) -> tuple[tuple, _Feed]:
    """The feed of a node's executor and topic, and its key."""
    key = (node.executor or node, node.resolve_topic_name(TOPIC))
    return key, _feeds.setdefault(key, _Feed())


class BlockPublisher:
    """The detector's mouth; make it in `setup`, `destroy` it in `teardown`, both in the executor's thread.

    Nodes of the same executor hear only this detector, as long as it is there.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._publisher = node.create_publisher(DetectorBlock, TOPIC, BLOCKS)
        self._key, self._feed = _feed(node)
        self._feed.publisher = self
        self._feed.settle()

    def publish(self, message: DetectorBlock) -> bool:
        """Send a block, from any thread; returns whether message and data are in use from now on: then leave them alone."""
        here = bool(self._feed.listeners)
        if here:
            shape = tuple(message.shape)
            block = ReceivedBlock(message, np.frombuffer(message.data, message.dtype).reshape(shape))
            self.node.executor.create_task(self._feed.hand_on, block)
        if not here or self._publisher.get_subscription_count():
            self._publisher.publish(message)
        return here

    def destroy(self) -> None:
        """Send no more."""
        self._feed.publisher = None
        self._feed.settle()
        if not self._feed.listeners:
            _feeds.pop(self._key, None)
        self.node.destroy_publisher(self._publisher)


class BlockSubscription:
    """A node's ear for detector blocks; make it in `setup`, `destroy` it in `teardown`, both in the executor's thread.

    Parameters
    ----------
    node : whose; it shares a subscription with nodes of the same executor and the same topic.
    callback : called with each block, in the executor's thread.
    """

    def __init__(self, node: Node, callback: Callable[[ReceivedBlock], None]) -> None:
        self.node, self.callback = node, callback
        self._key, self._feed = _feed(node)
        self._feed.listeners.append(self)
        self._feed.settle()

    def destroy(self) -> None:
        """Hear no more."""
        self._feed.listeners.remove(self)
        self._feed.settle()
        if not self._feed.listeners and self._feed.publisher is None:
            _feeds.pop(self._key, None)


def hears_blocks(node: Node, name: str) -> bool:
    """Whether `node` sees that the consumer `name` in its namespace says credit, and that it or its process hears blocks."""
    whose = (name, node.get_namespace())
    here = {(other.node.get_name(), other.node.get_namespace()) for other in _feed(node)[1].listeners}
    says = [bytes(p.endpoint_gid)[:PARTICIPANT] for p in node.get_publishers_info_by_topic("credit")
            if (p.node_name, p.node_namespace) == whose]
    ears = node.get_subscriptions_info_by_topic(TOPIC)
    there = whose in here | {(s.node_name, s.node_namespace) for s in ears}
    return bool(says) and (there or not {bytes(s.endpoint_gid)[:PARTICIPANT] for s in ears}.isdisjoint(says))
