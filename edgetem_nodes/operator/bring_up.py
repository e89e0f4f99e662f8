"""Bring the graph's lifecycle nodes up in parallel and in order, and down in reverse."""

from __future__ import annotations

import threading
import time

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node


ANSWER = 2.0
"""[s] after which an answer counts as lost; a transition that takes longer is waited for."""
_STATES = {
    Transition.TRANSITION_CONFIGURE: (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, "configure"),
    Transition.TRANSITION_ACTIVATE: (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE, "activate"),
    Transition.TRANSITION_DEACTIVATE: (State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_INACTIVE, "deactivate"),
    Transition.TRANSITION_CLEANUP: (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_UNCONFIGURED, "clean up"),
}
"""State before and after each transition, and what it is called."""


class BringUpError(RuntimeError):
    """A node did not appear or refused a transition; the message names it."""


class BringUp:
    """Lifecycle clients for a list of nodes. Call from a thread other than the executor's.

    Parameters
    ----------
    node : the node whose executor carries the service calls.
    names : lifecycle nodes in order of activation, relative to the node's namespace.
    timeout : longest wait for one node to appear or to change its state [s].
    """

    def __init__(self, node: Node, names: list[str], timeout: float) -> None:
        self._names, self._timeout = names, timeout
        self._change = {name: node.create_client(ChangeState, f"{name}/change_state") for name in names}
        self._state = {name: node.create_client(GetState, f"{name}/get_state") for name in names}

    def up(self) -> None:
        """Configure all nodes in parallel, then activate them in order.

        Raises
        ------
        BringUpError : a node did not appear, or could not configure or activate.
        """
        deadline = time.monotonic() + self._timeout
        waiting = list(self._names)
        pending = []
        while waiting:
            for name in [n for n in waiting if self._change[n].service_is_ready()]:
                waiting.remove(name)
                pending.append((name, self._begin(name, Transition.TRANSITION_CONFIGURE)))
            if waiting and time.monotonic() > deadline:
                raise BringUpError(f"{' and '.join(waiting)} did not appear within {self._timeout:.0f} s")
            time.sleep(0.005)
        for name, call in pending:
            self._change_to(name, Transition.TRANSITION_CONFIGURE, call)
        for name in self._names:
            self._change_to(name, Transition.TRANSITION_ACTIVATE)

    def down(self) -> list[str]:
        """Deactivate and clean up in reverse order; returns the names of nodes that did not answer."""
        silent = []
        for name in reversed(self._names):
            for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
                try:
                    if self._present_state(name) == _STATES[transition][0]:
                        self._change_to(name, transition)
                except BringUpError:
                    silent.append(name)
                    break
        return silent

    def _present_state(self, name: str) -> int:
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            call = _call(self._state[name], GetState.Request())
            if call.done.wait(ANSWER):
                return call.response.current_state.id
        raise BringUpError(f"{name} did not answer within {self._timeout:.0f} s")

    def _begin(self, name: str, transition: int) -> _Call:
        return _call(self._change[name], ChangeState.Request(transition=Transition(id=transition)))

    def _change_to(self, name: str, transition: int, call: _Call | None = None) -> None:
        """Bring one transition to its end.

        A service may be seen before it sees its client, and its answer is then lost: when none comes, the node's state
        says whether the transition was made, and it is asked for again where it was not.
        """
        call = call or self._begin(name, transition)
        before, after, what = _STATES[transition]
        deadline = time.monotonic() + self._timeout
        while not call.done.wait(ANSWER):
            state = self._present_state(name)
            if state == after:
                return
            if time.monotonic() > deadline:
                raise BringUpError(f"{name} did not {what} within {self._timeout:.0f} s")
            if state == before:
                call = self._begin(name, transition)
        if not call.response.success and self._present_state(name) != after:
            raise BringUpError(f"{name} could not {what}: its own message above says why")


class _Call:
    """A service call whose answer another thread waits for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.response = None


def _call(client: Client, request: object) -> _Call:
    call = _Call()

    def finish(future: object) -> None:
        call.response = future.result()
        call.done.set()

    client.call_async(request).add_done_callback(finish)
    return call

