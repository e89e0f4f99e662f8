"""What the tests know of the output of processes."""

from __future__ import annotations

import threading
from typing import Any, Iterator

from launch.actions import ExecuteProcess
from launch.events.process import ProcessIO

from .asserts import assertInStream
from .util import NoMatchingProcessException


class IoHandler:
    """The pieces of output of all processes in order, and of each by action or name."""

    def __init__(self) -> None:
        self._events: list[ProcessIO] = []
        self._names: dict[str, list[ProcessIO]] = {}

    def track(self, process_name: str) -> None:
        """Know a process that has written nothing yet."""
        self._names.setdefault(process_name, [])

    def append(self, event: ProcessIO) -> None:
        """Note a piece of output."""
        self._events.append(event)
        self._names.setdefault(event.process_name, []).append(event)

    def __iter__(self) -> Iterator[ProcessIO]:
        return iter(list(self._events))

    def processes(self) -> list[ExecuteProcess]:
        """The actions of all processes that have written something."""
        return [events[0].action for events in list(self._names.values()) if events]

    def process_names(self) -> list[str]:
        """The names of all processes that were started."""
        return list(self._names)

    def __getitem__(self, key: Any) -> list[ProcessIO]:
        return list(self._names[key if isinstance(key, str) else key.process_details["name"]])


class ActiveIoHandler(IoHandler):
    """The same while the launch runs, with waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.io_event = threading.Condition()

    def track(self, process_name: str) -> None:
        with self.io_event:
            super().track(process_name)
            self.io_event.notify_all()

    def append(self, event: ProcessIO) -> None:
        with self.io_event:
            super().append(event)
            self.io_event.notify_all()

    def waitFor(self, expected_output: Any, process: Any = None, cmd_args: Any = None, *,  # noqa: N802
                timeout: float = 10, stream: str = "stderr", **options: Any) -> bool:
        """Whether the text, pattern or sequence appears in the stream within `timeout` seconds."""
        def found() -> bool:
            try:
                assertInStream(self, expected_output, process, cmd_args, stream=stream, **options)
            except (AssertionError, NoMatchingProcessException):
                return False
            return True

        with self.io_event:
            return self.io_event.wait_for(found, timeout)

    def assertWaitFor(self, expected_output: Any, process: Any = None, cmd_args: Any = None, *,  # noqa: N802
                      timeout: float = 10, stream: str = "stderr", **options: Any) -> None:
        """Fail unless `waitFor` finds the output."""
        if not self.waitFor(expected_output, process, cmd_args, timeout=timeout, stream=stream, **options):
            raise AssertionError(f"{expected_output!r} did not appear in the {stream} within {timeout:g} s; "
                                 f"with output: {', '.join(action.name for action in self.processes()) or 'none'}")
