"""Runs a launch and judges it by its processes, through what the genuine launch and edgetem's own have in common."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any, Mapping, Sequence

from launch import EventHandler, LaunchDescription, LaunchService
from launch.actions import ExecuteLocal, IncludeLaunchDescription, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnExecutionComplete, OnProcessExit, OnProcessStart
from launch.events.process import SignalProcess
from launch.logging import launch_config

from .supervision import listen

_CLEAN = (0, -signal.SIGINT, 128 + signal.SIGINT)


class ExitWatch:
    """Ends the launch when a process that is not optional fails, and remembers why.

    Parameters
    ----------
    optional : labels of processes that may fail.
    """

    def __init__(self, optional: Sequence[str] = ()) -> None:
        self.failures: list[str] = []
        self._optional = frozenset(optional)
        self._started: dict[Any, str] = {}
        self._hastened: dict[Any, str] = {}

    def actions(self) -> list[Any]:
        """The actions that watch; they stand before those of the launch file."""
        return [RegisterEventHandler(handler) for handler in (
            OnProcessStart(on_start=self._on_start),
            OnProcessExit(on_exit=self._on_exit),
            OnExecutionComplete(on_completion=self._on_completion),
            EventHandler(matcher=lambda event: isinstance(event, SignalProcess),
                         entities=OpaqueFunction(function=self._on_signal)))]

    def _on_start(self, event: Any, context: Any) -> None:
        self._started[event.action] = event.process_name

    def _on_signal(self, context: Any) -> None:
        event = context.locals.event
        if event.signal_name != "SIGINT":
            self._hastened.update({action: event.signal_name for action in self._started if event.process_matcher(action)})

    def _on_exit(self, event: Any, context: Any) -> list[Any] | None:
        label = event.process_name.rpartition("-")[0]
        where = f"[{event.process_name}, pid {event.pid}]"
        hastened = self._hastened.pop(event.action, None)
        if context.is_shutdown and hastened is not None:
            return self._fail(label, f"{label} did not end on SIGINT: it took {hastened} {where}", context)
        if event.returncode in (_CLEAN if context.is_shutdown else (0,)):
            return None
        during = " while the launch was ending" if context.is_shutdown else ""
        return self._fail(label, f"{label} died{during}: {described(event.returncode)} {where}", context)

    def _on_completion(self, event: Any, context: Any) -> list[Any] | None:
        if not isinstance(event.action, ExecuteLocal) or event.action in self._started or context.is_shutdown:
            return None
        details = event.action.process_details
        if details is None:
            return None
        label = details["name"].rpartition("-")[0]
        return self._fail(label, f"{label} could not be started: {details['cmd'][0]} [{details['name']}]", context)

    def _fail(self, label: str, message: str, context: Any) -> list[Any] | None:
        print(f"[ERROR] [edgetem launch]: {message}", file=sys.stderr, flush=True)
        if label in self._optional:
            return None
        self.failures.append(message)
        return None if context.is_shutdown else [Shutdown(reason=message)]


def described(code: int) -> str:
    """An exit code in words: `killed by SIGKILL (-9)`, `exit code 3`."""
    number = -code if code < 0 else code - 128
    if code < 0 or code in (130, 134, 137, 139, 143):
        return f"killed by {signal.Signals(number).name} ({code})"
    return f"exit code {code}"


def launch_and_watch(source: Any, arguments: Mapping[str, str], extra_actions: Sequence[Any], optional: Sequence[str],
                     debug: bool, quiet: bool) -> int:
    """Run a launch description source; returns 0 or 1 and says at the end what failed."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join(dict.fromkeys(filter(None, [*prefixes, sys.prefix])))
    watch = ExitWatch(optional)
    service = LaunchService(argv=[f"{name}:={value}" for name, value in arguments.items()], noninteractive=True,
                            debug=debug)
    if quiet:
        launch_config.level = logging.WARNING
    service.include_launch_description(LaunchDescription([
        OpaqueFunction(function=lambda context: listen()), *watch.actions(), *extra_actions,
        IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))]))
    code = service.run()
    sys.stdout.flush()
    if watch.failures:
        print(f"[ERROR] [edgetem launch]: the launch failed: {watch.failures[0]}", file=sys.stderr, flush=True)
    return 1 if code or watch.failures else 0
