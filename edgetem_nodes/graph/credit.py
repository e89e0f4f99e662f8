"""Flow control of detector data: what a consumer says (CreditReporter) and what the detector makes of it (CreditWindow).

A publisher with KEEP_LAST does not block: when a subscriber is slow, the oldest block is lost. So the detector sends only
what every required consumer has room for. A consumer says how far it has come, cumulatively, so that a lost or repeated
message does no harm, and says it again once a second, so that silence means that it is gone.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

NIL = uuid.UUID(int=0)
SILENCE = 5.0
"""[s] without a word after which a consumer counts as gone."""
BEAT = 1.0
"""[s] between a consumer's repetitions."""


class CreditReporter:
    """A consumer's side: publishes `Credit` when it starts, after every consumed block, and once a second.

    Make it in `setup`, call `start` in `start`, `consumed` once a block needs no more memory of the receiving queue (from
    any thread), `stop` in `stop` and `destroy` in `teardown`.

    Parameters
    ----------
    node : the consumer's node; its executor runs the timer, so a consumer that hangs falls silent.
    name : node name without namespace, as the detector's parameter `consumers` lists it.
    window : bytes that may be in flight to this consumer.
    """

    def __init__(self, node: Node, name: str, window: int) -> None:
        from edgetem.msg import Credit
        from edgetem_nodes.graph.quality_of_service import STATE

        if window <= 0:
            raise ValueError(f"credit window {window} bytes: it must hold at least one block, give 1 MiB or more")
        self._node = node
        self._lock = threading.Lock()
        self._message = Credit(consumer=name, window=int(window))
        self._publisher = node.create_publisher(Credit, "credit", STATE)
        self._timer = node.create_timer(BEAT, self._repeat)
        self._timer.cancel()

    def start(self) -> None:
        """Announce the window with the nil acquisition id, and go on saying so once a second."""
        self._say(NIL, 0)
        self._timer.reset()

    def consumed(self, acquisition_id: uuid.UUID, through: int) -> None:
        """Frames 0 .. through - 1 of the acquisition are consumed."""
        self._say(acquisition_id, through)

    def stop(self) -> None:
        """Say nothing more: the detector counts this consumer as gone after `SILENCE`."""
        self._timer.cancel()

    def destroy(self) -> None:
        """Release publisher and timer."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _say(self, acquisition_id: uuid.UUID, through: int) -> None:
        from edgetem_nodes.graph.messages import from_uuid

        with self._lock:
            self._message.header.stamp = self._node.get_clock().now().to_msg()
            self._message.acquisition_id = from_uuid(acquisition_id)
            self._message.consumed_through = int(through)
            self._publisher.publish(self._message)

    def _repeat(self) -> None:
        with self._lock:
            self._publisher.publish(self._message)


@dataclass
class _Consumer:
    window: int = 0
    heard: float | None = None
    acquisition_id: uuid.UUID = NIL
    through: int = 0
    stamp: int = 0
    stamp_at_begin: int | None = None


class CreditWindow:
    """The detector's side: how many frames of the running acquisition may still be sent. Knows no ROS and no clock.

    In flight to a consumer are (sent - consumed through) frames, where only a credit of the running acquisition counts.
    The stamp of a credit is when its count last changed: what a consumer said of an earlier attempt under the same
    acquisition id, and repeats until it has consumed the first new block, is known by its old stamp.

    Parameters
    ----------
    consumers : names of the consumers that must keep up. With none, nothing is ever held back.
    silence : [s] without a word after which a consumer counts as gone.
    """

    def __init__(self, consumers: Iterable[str], silence: float = SILENCE) -> None:
        self.silence = silence
        self._consumers = {name: _Consumer() for name in consumers}
        self._acquisition_id = NIL
        self._frame_bytes = 1
        self._sent = 0
        self._restarted: list[str] = []

    def update(self, consumer: str, acquisition_id: uuid.UUID, through: int, window: int, stamp: int, now: float) -> None:
        """Take in a `Credit` that arrived at monotonic time `now` [s]. A consumer that is not required is ignored."""
        state = self._consumers.get(consumer)
        if state is None:
            return
        anew = state.heard is not None and stamp != state.stamp and acquisition_id == NIL
        if anew and self._sent and consumer not in self._restarted:
            self._restarted.append(consumer)
        state.window, state.heard, state.stamp = int(window), now, stamp
        state.acquisition_id, state.through = acquisition_id, int(through)

    def begin(self, acquisition_id: uuid.UUID, frame_bytes: int) -> None:
        """Start counting for an acquisition whose frames have `frame_bytes` bytes each."""
        self._acquisition_id, self._frame_bytes, self._sent = acquisition_id, int(frame_bytes), 0
        self._restarted = []
        for state in self._consumers.values():
            state.stamp_at_begin = state.stamp if state.heard is not None else None

    def end(self) -> None:
        """No acquisition runs: a consumer may start anew without harm."""
        self._acquisition_id, self._sent, self._restarted = NIL, 0, []

    def sent(self, frames: int) -> None:
        """`frames` more frames are on their way."""
        self._sent += int(frames)

    def missing(self) -> list[str]:
        """Required consumers that have never announced a window."""
        return [name for name, state in self._consumers.items() if state.heard is None]

    def silent(self, now: float) -> list[str]:
        """Required consumers that have said nothing for `silence` seconds, at monotonic time `now` [s]."""
        return [name for name, state in self._consumers.items()
                if state.heard is not None and now - state.heard > self.silence]

    def restarted(self) -> list[str]:
        """Required consumers that announced themselves anew in mid-acquisition: what they had not consumed is lost."""
        return list(self._restarted)

    def available(self) -> int:
        """Frames that may be sent now. A consumer to which nothing is in flight takes one frame, however small its window."""
        return min((self._room(state) for state in self._consumers.values()), default=1 << 62)

    def slowest(self) -> str:
        """The required consumer with the least room; empty where there is none."""
        return min(self._consumers, key=lambda name: self._room(self._consumers[name]), default="")

    def _room(self, state: _Consumer) -> int:
        if state.heard is None:
            return 0
        counts = state.acquisition_id == self._acquisition_id and state.stamp != state.stamp_at_begin
        in_flight = max(0, self._sent - state.through) if counts else self._sent
        room = state.window // self._frame_bytes - in_flight
        return 1 if in_flight == 0 and room < 1 else max(0, room)
