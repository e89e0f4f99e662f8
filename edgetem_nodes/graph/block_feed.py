"""Detector blocks for all nodes of a process: received once, checked once.

Receiving a block copies it several times and checks its CRC-32; that is most of what a consumer spends on a fast detector.
Nodes that share a process and an executor (`edgetem compose compressor featurizer`) share one subscription.
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
    """One subscription and those who share it."""

    def __init__(self) -> None:
        self.listeners: list[BlockSubscription] = []
        self._owner: Node | None = None
        self._subscription: Any = None

    def settle(self) -> None:
        """Have a subscription of the first listener's node, or none where nobody listens."""
        owner = self.listeners[0].node if self.listeners else None
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
        for listener in tuple(self.listeners):
            listener.callback(block)


_feeds: dict[tuple, _Feed] = {}


class BlockSubscription:
    """A node's ear for detector blocks; make it in `setup`, `destroy` it in `teardown`, both in the executor's thread.

    Parameters
    ----------
    node : whose; it shares a subscription with nodes of the same executor and the same topic.
    callback : called with each block, in the executor's thread.
    """

    def __init__(self, node: Node, callback: Callable[[ReceivedBlock], None]) -> None:
        self.node, self.callback = node, callback
        self._key = (node.executor or node, node.resolve_topic_name(TOPIC))
        feed = _feeds.setdefault(self._key, _Feed())
        feed.listeners.append(self)
        feed.settle()

    def destroy(self) -> None:
        """Hear no more."""
        feed = _feeds[self._key]
        feed.listeners.remove(self)
        feed.settle()
        if not feed.listeners:
            del _feeds[self._key]


def hears_blocks(node: Node, name: str) -> bool:
    """Whether `node` sees that the consumer `name` in its namespace says credit, and that it or its process hears blocks."""
    whose = (name, node.get_namespace())
    says = [bytes(p.endpoint_gid)[:PARTICIPANT] for p in node.get_publishers_info_by_topic("credit")
            if (p.node_name, p.node_namespace) == whose]
    ears = node.get_subscriptions_info_by_topic(TOPIC)
    there = whose in {(s.node_name, s.node_namespace) for s in ears}
    return bool(says) and (there or not {bytes(s.endpoint_gid)[:PARTICIPANT] for s in ears}.isdisjoint(says))
