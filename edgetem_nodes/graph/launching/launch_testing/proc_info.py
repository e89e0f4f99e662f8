"""What the tests know of starts and ends of processes."""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterator

from launch.actions import ExecuteProcess
from launch.events.process import ProcessExited, RunningProcessEvent

from .util import NoMatchingProcessException, resolveProcesses


class ProcInfoHandler:
    """The last start or end of each process, by action or by a part of its name."""

    def __init__(self) -> None:
        self._events: dict[ExecuteProcess, RunningProcessEvent] = {}

    def append(self, event: RunningProcessEvent) -> None:
        """Note a start or an end."""
        self._events[event.action] = event

    def __iter__(self) -> Iterator[RunningProcessEvent]:
        return iter(list(self._events.values()))

    def processes(self) -> list[ExecuteProcess]:
        """The actions of all processes that were started."""
        return list(self._events)

    def process_names(self) -> list[str]:
        """The names of all processes that were started."""
        return [event.process_name for event in self]

    def __getitem__(self, key: Any) -> RunningProcessEvent:
        if not isinstance(key, str):
            return self._events[key]
        for event in self:
            if key in event.process_name:
                return event
        raise KeyError(key)


class ActiveProcInfoHandler(ProcInfoHandler):
    """The same while the launch runs, with waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.proc_event = threading.Condition()

    def append(self, event: RunningProcessEvent) -> None:
        with self.proc_event:
            super().append(event)
            self.proc_event.notify_all()

    def assertWaitForStartup(self, process: Any, cmd_args: Any = None, *, timeout: float = 10) -> None:  # noqa: N802
        """Fail unless the process has started within `timeout` seconds."""
        self._wait(process, cmd_args, timeout, lambda event: True, "start")

    def assertWaitForShutdown(self, process: Any, cmd_args: Any = None, *, timeout: float = 10) -> None:  # noqa: N802
        """Fail unless the process has ended within `timeout` seconds."""
        self._wait(process, cmd_args, timeout, lambda event: isinstance(event, ProcessExited), "end")

    def _wait(self, process: Any, cmd_args: Any, timeout: float, accepts: Callable, verb: str) -> None:
        def happened() -> bool:
            try:
                return accepts(self[resolveProcesses(self, process=process, cmd_args=cmd_args)[0]])
            except NoMatchingProcessException:
                return False

        with self.proc_event:
            if not self.proc_event.wait_for(happened, timeout):
                name = process if isinstance(process, str) else process.name
                raise AssertionError(f"process {name!r} did not {verb} within {timeout:g} s; "
                                     f"seen: {', '.join(self.process_names()) or 'none'}")
