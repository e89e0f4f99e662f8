"""A running experiment, reached from another process: its state, and requests to its planner."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from action_msgs.srv import CancelGoal
from rclpy.executors import SingleThreadedExecutor

from edgetem.msg import Decision
from edgetem.srv import GetExperiment
from edgetem_nodes.graph.operating import SERVICES, as_text, message_of
from edgetem_nodes.graph.quality_of_service import EVENTS
from edgetem_nodes.operator.running import Running

DISCOVERY = 10.0
"""[s] that the planner may take to be found and to answer."""
AT_ONCE = 0.5
"""[s] in which a request is carried out where no acquisition is under way."""
LOOK_AGAIN = 2.0
"""[s] between two looks at whether the experiment has ended."""


class RemoteError(RuntimeError):
    """The experiment cannot be reached, or refuses; the message is the planner's or says what to do."""


class Remote:
    """A context: `with Remote(find_running(folder)) as experiment`.

    Raises
    ------
    RemoteError : no planner answers.
    """

    def __init__(self, running: Running) -> None:
        os.environ.update(running.environment)
        rclpy.init()
        self._node = rclpy.create_node(f"operate_{os.getpid()}", namespace=running.namespace or None)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._decisions: list[Decision] = []
        self._node.create_subscription(Decision, "decision", self._decisions.append, EVENTS)

    def __enter__(self) -> Remote:
        try:
            # The planner has found the subscription, too, once it has answered.
            self._state()
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        self._node.destroy_node()
        self._executor.shutdown()
        rclpy.try_shutdown()

    def state(self) -> GetExperiment.Response:
        """How the experiment stands; raises RemoteError where none runs."""
        answer = self._state()
        if answer.error_code:
            raise RemoteError(answer.error_msg)
        return answer

    def ask(self, request: dict[str, Any]) -> str:
        """Send a request; returns it as text once it is accepted.

        Raises
        ------
        RemoteError : it is refused; the message says why.
        """
        name, message = message_of(request)
        answer = self._call(SERVICES[name], name, message)
        if answer.error_code:
            raise RemoteError(answer.error_msg)
        return answer.request

    def carried_out(self, text: str, waiting: Callable[[], None] = lambda: None) -> Decision:
        """Wait for the decision that carries out an accepted request, however long it takes.

        Parameters
        ----------
        waiting : called once, where it does not come at once.

        Raises
        ------
        RemoteError : the experiment ended before.
        """
        def found() -> Decision | None:
            return next((d for d in self._decisions if d.request and _without_refusal(d.request) == text), None)
        if not self._spin(lambda: found() is not None, AT_ONCE):
            waiting()
        while True:
            self._spin(lambda: found() is not None, LOOK_AGAIN)
            decision = found()
            if decision is not None:
                return decision
            if self._state().error_code:
                raise RemoteError("the experiment ended before the request was carried out")

    def stop(self) -> None:
        """Ask the experiment to stop now, acquisition included.

        Raises
        ------
        RemoteError : none runs.
        """
        answer = self._call(CancelGoal, "run_experiment/_action/cancel_goal", CancelGoal.Request())
        if not answer.goals_canceling:
            raise RemoteError("no experiment runs that could be stopped")

    def _state(self) -> GetExperiment.Response:
        return self._call(GetExperiment, "get_experiment", GetExperiment.Request())

    def _call(self, kind: type, name: str, message: Any) -> Any:
        client = self._node.create_client(kind, name)
        try:
            where = f"in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}"
            if not self._spin(client.service_is_ready, DISCOVERY):
                raise RemoteError(f"no planner was found {where}: the experiment has not begun, or is ending")
            future = client.call_async(message)
            if not self._spin(future.done, DISCOVERY):
                raise RemoteError(f"the planner did not answer {where} within {DISCOVERY:g} s")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def _spin(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether the condition holds within `timeout` [s]."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True


def _without_refusal(text: str) -> str:
    """A recorded request as it was accepted: one that could not be carried out after all has a key more."""
    return as_text({name: value for name, value in json.loads(text).items() if name != "refused"})
