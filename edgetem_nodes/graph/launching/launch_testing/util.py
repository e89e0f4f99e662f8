"""Which process a test means."""

from __future__ import annotations

import sys
from typing import Any, Iterable, Optional, Union

from launch.actions import ExecuteProcess

NO_CMD_ARGS = object()


class NoMatchingProcessException(Exception):
    """No process of the launch is the one that was asked for."""


class KeepAliveProc(ExecuteProcess):
    """A process that does nothing until it is ended, so that the launch is not idle."""

    def __init__(self) -> None:
        program = "import signal\ntry:\n    signal.pause()\nexcept KeyboardInterrupt:\n    pass"
        super().__init__(cmd=[sys.executable, "-c", program], name="keep_alive")


def resolveProcesses(info_obj: Any, *, process: Union[ExecuteProcess, str, None] = None,  # noqa: N802
                     cmd_args: Union[str, Iterable[str], object, None] = None,
                     strict_proc_matching: bool = True) -> list[ExecuteProcess]:
    """The processes known to `info_obj` that are meant by an action, by a part of a name, or by None (all).

    Raises
    ------
    NoMatchingProcessException : there is none.
    ValueError : a name fits several and `strict_proc_matching` holds.
    TypeError : `process` is none of these.
    """
    known = list(info_obj.processes())
    names = ", ".join(sorted(action.process_details["name"] for action in known)) or "none"
    if process is None:
        matches = known
    elif isinstance(process, ExecuteProcess):
        matches = [action for action in known if action is process]
    elif isinstance(process, str):
        matches = [action for action in known if process in action.process_details["name"]
                   and _has_arguments(action.process_details["cmd"][1:], cmd_args)]
    else:
        raise TypeError(f"process {process!r} is neither an ExecuteProcess nor a name")
    label = process.name if isinstance(process, ExecuteProcess) else process
    if not matches:
        raise NoMatchingProcessException(f"no process matches {label!r}; seen so far: {names}")
    if isinstance(process, str) and strict_proc_matching and len(matches) > 1:
        raise ValueError(f"{process!r} matches several processes of: {names}")
    return matches


def _has_arguments(arguments: list[str], wanted: Optional[Any]) -> bool:
    if wanted is None:
        return True
    if wanted is NO_CMD_ARGS:
        return not arguments
    return all(argument in arguments for argument in ([wanted] if isinstance(wanted, str) else wanted))
