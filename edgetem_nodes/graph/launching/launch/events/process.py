"""Events of processes."""

from __future__ import annotations

import signal
from typing import Any, Callable, Optional, Union

from . import Event


class RunningProcessEvent(Event):
    """Something about one process that was started."""

    name = "launch.events.process.RunningProcessEvent"

    def __init__(self, *, action: Any, name: str, cmd: list[str], cwd: Optional[str], env: Optional[dict[str, str]],
                 pid: int) -> None:
        self.action = action
        self.process_name = name
        self.cmd = cmd
        self.cwd = cwd
        self.env = env
        self.pid = pid


class ProcessStarted(RunningProcessEvent):
    """A process runs."""

    name = "launch.events.process.ProcessStarted"


class ProcessExited(RunningProcessEvent):
    """A process has ended; a negative `returncode` is the signal that killed it."""

    name = "launch.events.process.ProcessExited"

    def __init__(self, *, returncode: int, **details: Any) -> None:
        super().__init__(**details)
        self.returncode = returncode


class ProcessIO(RunningProcessEvent):
    """A process has written `text` [bytes], in pieces of any size."""

    name = "launch.events.process.ProcessIO"
    from_stdin = from_stdout = from_stderr = False

    def __init__(self, *, text: bytes, **details: Any) -> None:
        super().__init__(**details)
        self.text = text


class ProcessStdout(ProcessIO):
    """A process has written to its standard output."""

    name = "launch.events.process.ProcessStdout"
    from_stdout = True


class ProcessStderr(ProcessIO):
    """A process has written to its standard error."""

    name = "launch.events.process.ProcessStderr"
    from_stderr = True


class ProcessTargetedEvent(Event):
    """A request to the processes whose action `process_matcher` accepts."""

    name = "launch.events.process.ProcessTargetedEvent"

    def __init__(self, *, process_matcher: Callable[[Any], bool]) -> None:
        self.process_matcher = process_matcher


class ShutdownProcess(ProcessTargetedEvent):
    """Stop a process: SIGINT, then SIGTERM, then SIGKILL."""

    name = "launch.events.process.ShutdownProcess"


class SignalProcess(ProcessTargetedEvent):
    """Send a signal to a process."""

    name = "launch.events.process.SignalProcess"

    def __init__(self, *, signal_number: Union[str, int, signal.Signals],
                 process_matcher: Callable[[Any], bool]) -> None:
        super().__init__(process_matcher=process_matcher)
        self.signal = signal.Signals[signal_number] if isinstance(signal_number, str) else signal.Signals(signal_number)
        self.signal_name = self.signal.name


def matches_pid(pid: int) -> Callable[[Any], bool]:
    """A matcher of the action whose process has this id."""
    return lambda action: bool(action.process_details) and action.process_details["pid"] == pid


def matches_name(name: str) -> Callable[[Any], bool]:
    """A matcher of the action whose process has this name, number included."""
    return lambda action: bool(action.process_details) and action.process_details["name"] == name


def matches_executable(executable: str) -> Callable[[Any], bool]:
    """A matcher of the actions whose command starts with this executable."""
    return lambda action: bool(action.process_details) and action.process_details["cmd"][0] == executable


__all__ = ["ProcessExited", "ProcessIO", "ProcessStarted", "ProcessStderr", "ProcessStdout", "ProcessTargetedEvent",
           "RunningProcessEvent", "ShutdownProcess", "SignalProcess", "matches_executable", "matches_name", "matches_pid"]
