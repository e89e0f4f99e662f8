"""Flow control of detector data: what a consumer says (CreditReporter) and what the detector makes of it (CreditWindow).

A publisher with KEEP_LAST does not block: when a subscriber is slow, the oldest block is lost. So the detector sends only
what every required consumer has room for. A consumer says how far it has come, cumulatively, so that a lost or repeated
message does no harm, and says it again once a second, so that silence means that it is gone.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
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
LARGEST_BACKLOG = 48
"""Blocks that may be on their way to a consumer, however small they are: fewer than its queue holds."""
UNSAID_SHARE, UNSAID_BLOCKS = 4, 8
"""A consumer may keep to itself, until its next repetition, that it has consumed less than the window over `UNSAID_SHARE`, in
fewer than so many blocks: the detector needs half a window at most for its next block."""


class CreditReporter:
    """A consumer's side: publishes `Credit` when it starts, when a good part of the window is free again, and once a second.

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
        self._lock = threading.RLock()
        self._message = Credit(consumer=name, window=int(window))
        self._later = NIL, 0
        self._unsaid = 0, 0
        """Bytes and blocks that were consumed since the last word."""
        self._publisher = node.create_publisher(Credit, "credit", STATE)
        self._timer = node.create_timer(BEAT, self._repeat)
        self._timer.cancel()

    def start(self) -> None:
        """Announce the window with the nil acquisition id, and go on saying so once a second."""
        self._say(NIL, 0)
        self._timer.reset()

    def consumed(self, acquisition_id: uuid.UUID, through: int, size: int | None = None) -> None:
        """Frames 0 .. through - 1 of the acquisition are consumed, the last `size` bytes just now (None: say so at once)."""
        with self._lock:
            bytes_, blocks = self._unsaid[0] + (size or 0), self._unsaid[1] + 1
            if size is not None and bytes_ * UNSAID_SHARE < self._message.window and blocks < UNSAID_BLOCKS:
                self._unsaid, self._later = (bytes_, blocks), (acquisition_id, int(through))
            else:
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
            self._unsaid = 0, 0
            self._message.header.stamp = self._node.get_clock().now().to_msg()
            self._message.acquisition_id = from_uuid(acquisition_id)
            self._message.consumed_through = int(through)
            self._publisher.publish(self._message)

    def _repeat(self) -> None:
        with self._lock:
            if self._unsaid[1]:
                self._say(*self._later)
            else:
                self._publisher.publish(self._message)


@dataclass
class _Consumer:
    window: int = 0
    heard: float | None = None
    stamp: int = 0
    position: int = 0
    """Number of blocks, of all that were ever sent, that it has consumed."""


@dataclass(frozen=True)
class _Sent:
    acquisition_id: uuid.UUID
    through: int
    """Frames of the acquisition sent with this block and before."""
    before: int
    """Bytes of all blocks ever sent before this one."""


class CreditWindow:
    """The detector's side: how many frames may be sent now. Knows no ROS and no clock.

    It keeps a ledger of the blocks on their way. A consumer takes blocks in the order in which they were sent, so its word
    about one says that it has consumed all before it, those of earlier acquisitions too: a consumer that lags behind over
    many short acquisitions is waited for as it is within a long one. A repetition of what a consumer has said before, known
    by its stamp, shows that it is there, and nothing else.

    Parameters
    ----------
    consumers : names of the consumers that must keep up. With none, nothing is ever held back.
    silence : [s] without a word after which a consumer counts as gone.
    """

    def __init__(self, consumers: Iterable[str], silence: float = SILENCE) -> None:
        self.silence = silence
        self._consumers = {name: _Consumer() for name in consumers}
        self._ledger: deque[_Sent] = deque()
        self._forgotten = 0
        self._bytes = 0
        self._acquisition_id = NIL
        self._frame_bytes = 1
        self._frames = 0
        self._restarted: list[str] = []

    def update(self, consumer: str, acquisition_id: uuid.UUID, through: int, window: int, stamp: int, now: float) -> None:
        """Take in a `Credit` that arrived at monotonic time `now` [s]. A consumer that is not required is ignored."""
        state = self._consumers.get(consumer)
        if state is None:
            return
        news = state.heard is None or stamp != state.stamp
        known = state.heard is not None
        state.window, state.heard, state.stamp = int(window), now, stamp
        if news and acquisition_id == NIL:
            if known and self._frames and consumer not in self._restarted:
                self._restarted.append(consumer)
            state.position = self._total
        elif news:
            state.position = self._position(state.position, acquisition_id, through)
        self._forget()

    def begin(self, acquisition_id: uuid.UUID, frame_bytes: int) -> None:
        """Start counting for an acquisition whose frames have `frame_bytes` bytes each."""
        self._acquisition_id, self._frame_bytes, self._frames = acquisition_id, int(frame_bytes), 0
        self._restarted = []

    def end(self) -> None:
        """No acquisition runs: a consumer may start anew without harm."""
        self._acquisition_id, self._frames, self._restarted = NIL, 0, []

    def sent(self, frames: int) -> None:
        """A block of `frames` more frames is on its way."""
        self._frames += int(frames)
        if self._consumers:
            self._ledger.append(_Sent(self._acquisition_id, self._frames, self._bytes))
            self._bytes += int(frames) * self._frame_bytes

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
        """Frames that may be sent now. A consumer to which nothing is in flight takes one, however small its window."""
        return min((self._room(state) for state in self._consumers.values()), default=1 << 62)

    def largest_block(self) -> int:
        """Frames that a block may have so that two fit into every window; at least one."""
        windows = [state.window // self._frame_bytes for state in self._consumers.values()]
        return max(1, min(windows, default=1 << 62) // 2)

    def outstanding(self) -> int:
        """Bytes sent that some required consumer has not consumed yet."""
        return max((self._in_flight(state)[0] for state in self._consumers.values()), default=0)

    def slowest(self) -> str:
        """The required consumer with the least room; empty where there is none."""
        return min(self._consumers, key=lambda name: self._room(self._consumers[name]), default="")

    @property
    def _total(self) -> int:
        return self._forgotten + len(self._ledger)

    def _in_flight(self, state: _Consumer) -> tuple[int, int]:
        """Bytes and blocks on their way to the consumer."""
        blocks = self._total - state.position
        return (self._bytes - self._ledger[state.position - self._forgotten].before, blocks) if blocks else (0, 0)

    def _room(self, state: _Consumer) -> int:
        if state.heard is None:
            return 0
        size, blocks = self._in_flight(state)
        if blocks == 0:
            return max(1, state.window // self._frame_bytes)
        return max(0, (state.window - size) // self._frame_bytes) if blocks < LARGEST_BACKLOG else 0

    def _position(self, position: int, acquisition_id: uuid.UUID, through: int) -> int:
        """Where in the ledger a consumer stands that was at `position` and speaks of this acquisition."""
        for number in range(position - self._forgotten, len(self._ledger)):
            block = self._ledger[number]
            if block.acquisition_id == acquisition_id:
                if block.through <= through:
                    position = self._forgotten + number + 1
                if block.through >= through:
                    break
        return position

    def _forget(self) -> None:
        """Drop what all consumers have consumed."""
        consumed = min((state.position for state in self._consumers.values()), default=0)
        while self._forgotten < consumed:
            self._ledger.popleft()
            self._forgotten += 1
