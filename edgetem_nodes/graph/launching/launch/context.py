"""What the entities of one launch share: configurations, environment, event handlers and the queue of events."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Sequence

if TYPE_CHECKING:
    from .event_handlers import EventHandler
    from .events import Event


class LaunchContext:
    """State of one launch. Only the loop's thread touches it, except through `LaunchService`."""

    def __init__(self, *, argv: Sequence[str] | None = None, noninteractive: bool = False) -> None:
        self.argv = list(argv or [])
        self.noninteractive = noninteractive
        self.launch_configurations: dict[str, Any] = {}
        self.environment: dict[str, str] = dict(os.environ)
        self.is_shutdown = False
        self.asyncio_loop: asyncio.AbstractEventLoop | None = None
        self.process_count = 0
        self.queue: asyncio.Queue = asyncio.Queue()
        self.pending: set[asyncio.Future] = set()
        self.handlers: list[EventHandler] = []
        self._globals: dict[str, Any] = {}
        self._locals: list[dict[str, Any]] = [{}]
        self._saved: dict[str, list[dict]] = {"launch_configurations": [], "environment": []}

    @property
    def locals(self) -> SimpleNamespace:
        """Values of the event or the launch file at hand, as attributes."""
        return SimpleNamespace(**self.get_locals_as_dict())

    def get_locals_as_dict(self) -> dict[str, Any]:
        """Values of the event or the launch file at hand."""
        return {**self._globals, **self._locals[-1]}

    def extend_locals(self, values: dict[str, Any]) -> None:
        """Add values that last as long as the event at hand is handled."""
        self._locals[-1].update(values)

    def extend_globals(self, values: dict[str, Any]) -> None:
        """Add values that last as long as the launch."""
        self._globals.update(values)

    def push_locals(self) -> None:
        """Begin a scope of locals that starts as a copy of the present one."""
        self._locals.append(dict(self._locals[-1]))

    def pop_locals(self) -> None:
        """Go back to the locals of the scope outside."""
        self._locals.pop()

    def push(self, what: str) -> None:
        """Save `launch_configurations` or `environment`, to be changed in a group."""
        self._saved[what].append(dict(getattr(self, what)))

    def pop(self, what: str) -> None:
        """Restore what the matching `push` saved."""
        if not self._saved[what]:
            raise RuntimeError(f"{what} were popped more often than pushed")
        setattr(self, what, self._saved[what].pop())

    def register_event_handler(self, event_handler: EventHandler, append: bool = False) -> None:
        """Add a handler; the newest is asked first unless appended."""
        self.handlers.insert(len(self.handlers) if append else 0, event_handler)

    def unregister_event_handler(self, event_handler: EventHandler) -> None:
        """Remove a handler that was registered."""
        self.handlers.remove(event_handler)

    def emit_event_sync(self, event: Event) -> None:
        """Queue an event, from the thread of the loop."""
        self.queue.put_nowait(event)

    async def emit_event(self, event: Event) -> None:
        """Queue an event, from a coroutine."""
        self.emit_event_sync(event)

    def add_completion_future(self, future: asyncio.Future) -> None:
        """Let the launch wait for this future before it counts as idle; its exception ends the launch."""
        self.pending.add(future)
        future.add_done_callback(self._completed)

    def _completed(self, future: asyncio.Future) -> None:
        self.pending.discard(future)
        self.queue.put_nowait(None if future.cancelled() else future.exception())
