"""What is done when an event happens."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Optional, Union

from .context import LaunchContext
from .entities import LaunchDescriptionEntity, SomeEntitiesType, normalize_to_list_of_entities
from .events import Event, ExecutionComplete, Shutdown
from .events.process import ProcessExited, ProcessIO, ProcessStarted

Reaction = Union[SomeEntitiesType, Callable[[Event, LaunchContext], Optional[SomeEntitiesType]]]


class EventHandler:
    """Entities to visit when the matcher accepts an event."""

    def __init__(self, *, matcher: Callable[[Event], bool], entities: Reaction | None = None,
                 handle_once: bool = False) -> None:
        self._matcher = matcher
        self._reaction = entities
        self._once = handle_once
        self._handled = False

    @property
    def entities(self) -> list[LaunchDescriptionEntity]:
        """The entities that are known before the event."""
        return [] if callable(self._reaction) else normalize_to_list_of_entities(self._reaction)

    def matches(self, event: Event) -> bool:
        """Whether the handler wants this event."""
        return not (self._once and self._handled) and self._matcher(event)

    def handle(self, event: Event, context: LaunchContext) -> Optional[SomeEntitiesType]:
        """React to the event; returns the entities to visit."""
        self._handled = True
        context.extend_locals({"event": event})
        return self._reaction(event, context) if callable(self._reaction) else self._reaction


def _of_action(event_type: type, target_action: Any) -> Callable[[Event], bool]:
    if target_action is not None and not callable(target_action) and not hasattr(target_action, "visit"):
        raise TypeError(f"target_action {target_action!r} is neither an action nor a predicate of actions")

    def matcher(event: Event) -> bool:
        if not isinstance(event, event_type):
            return False
        if callable(target_action):
            return target_action(event.action)
        return target_action is None or event.action is target_action

    return matcher


class OnProcessStart(EventHandler):
    """When a process, or any process, has started."""

    def __init__(self, *, target_action: Any = None, on_start: Reaction, **options: Any) -> None:
        super().__init__(matcher=_of_action(ProcessStarted, target_action), entities=on_start, **options)


class OnProcessExit(EventHandler):
    """When a process, or any process, has ended."""

    def __init__(self, *, target_action: Any = None, on_exit: Reaction, **options: Any) -> None:
        super().__init__(matcher=_of_action(ProcessExited, target_action), entities=on_exit, **options)


class OnExecutionComplete(EventHandler):
    """When an action, or any action, has done all it does."""

    def __init__(self, *, target_action: Any = None, on_completion: Reaction, **options: Any) -> None:
        super().__init__(matcher=_of_action(ExecutionComplete, target_action), entities=on_completion, **options)


class OnProcessIO(EventHandler):
    """When a process, or any process, has written something. The functions take the event alone."""

    def __init__(self, *, target_action: Any = None, on_stdin: Callable | None = None, on_stdout: Callable | None = None,
                 on_stderr: Callable | None = None, **options: Any) -> None:
        def react(event: ProcessIO, context: LaunchContext) -> Optional[SomeEntitiesType]:
            function = on_stdout if event.from_stdout else on_stderr
            return function(event) if function is not None else None

        super().__init__(matcher=_of_action(ProcessIO, target_action), entities=react, **options)


class OnShutdown(EventHandler):
    """When the launch begins to end."""

    def __init__(self, *, on_shutdown: Reaction, **options: Any) -> None:
        super().__init__(matcher=lambda event: isinstance(event, Shutdown), entities=on_shutdown, **options)


__all__: Iterable[str] = ["EventHandler", "OnExecutionComplete", "OnProcessExit", "OnProcessIO", "OnProcessStart",
                          "OnShutdown"]
