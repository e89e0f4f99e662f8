"""Events that handlers may wait for."""

from __future__ import annotations

from typing import Any, Callable


class Event:
    """Something that happened."""

    name = "launch.Event"


class Shutdown(Event):
    """The launch ends, and every process with it."""

    name = "launch.events.Shutdown"

    def __init__(self, *, reason: str = "reason not given", due_to_sigint: bool = False) -> None:
        self.reason = reason
        self.due_to_sigint = due_to_sigint


class ExecutionComplete(Event):
    """An action has done all it does."""

    name = "launch.events.ExecutionComplete"

    def __init__(self, *, action: Any) -> None:
        self.action = action


class TimerEvent(Event):
    """The period of a `TimerAction` is over."""

    name = "launch.events.TimerEvent"

    def __init__(self, *, timer_action: Any) -> None:
        self.timer_action = timer_action


def matches_action(target_action: Any) -> Callable[[Any], bool]:
    """A matcher of exactly this action."""
    return lambda action: action is target_action


from . import process  # noqa: E402  (its events derive from Event)

__all__ = ["Event", "ExecutionComplete", "Shutdown", "TimerEvent", "matches_action", "process"]
