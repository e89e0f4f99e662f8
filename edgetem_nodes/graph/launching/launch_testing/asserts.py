"""Assertions about exit codes and output."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional, Sequence, Union

from .util import NO_CMD_ARGS, resolveProcesses

EXIT_OK, EXIT_SIGINT, EXIT_SIGQUIT, EXIT_SIGKILL, EXIT_SIGSEGV = 0, 130, 131, 137, 139
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def assertExitCodes(proc_info: Any, allowable_exit_codes: Sequence[int] = (EXIT_OK,), process: Any = None,  # noqa: N802
                    cmd_args: Any = None, *, strict_proc_matching: bool = True) -> None:
    """Fail unless the processes (all by default) have ended with one of the codes; a signal is a negative code."""
    for code in allowable_exit_codes:
        if not isinstance(code, int):
            raise AssertionError(f"exit code {code!r} is not an int")
    for action in resolveProcesses(proc_info, process=process, cmd_args=cmd_args,
                                   strict_proc_matching=strict_proc_matching):
        event = proc_info[action]
        code = getattr(event, "returncode", None)
        if code not in allowable_exit_codes:
            raise AssertionError(f"{event.process_name} " + ("has not ended" if code is None else f"ended with code {code}")
                                 + f"; allowed: {', '.join(map(str, allowable_exit_codes))}")


def assertInStream(proc_output: Any, expected_output: Any, process: Any, cmd_args: Any = None, *,  # noqa: N802
                   output_filter: Optional[Callable[[str], str]] = None, strict_proc_matching: bool = True,
                   strip_ansi_escape_sequences: bool = True, stream: str = "stderr") -> None:
    """Fail unless one of the processes has written the text, pattern or sequence of them to the stream."""
    if stream not in ("stdout", "stderr"):
        raise ValueError(f"stream {stream!r} is neither 'stdout' nor 'stderr'")
    actions = resolveProcesses(proc_output, process=process, cmd_args=cmd_args, strict_proc_matching=strict_proc_matching)
    for action in actions:
        text = b"".join(event.text for event in proc_output[action] if getattr(event, f"from_{stream}")).decode(
            errors="replace")
        text = _ANSI.sub("", text) if strip_ansi_escape_sequences else text
        text = output_filter(text) if output_filter is not None else text
        if _contains(text, expected_output):
            return
    names = ", ".join(action.process_details["name"] for action in actions)
    raise AssertionError(f"{expected_output!r} is not in the {stream} of {names}")


def _contains(text: str, expected: Union[str, re.Pattern, Sequence]) -> bool:
    if isinstance(expected, str):
        return expected in text
    if isinstance(expected, re.Pattern):
        return expected.search(text) is not None
    for item in expected:  # in this order, one after the other
        match = re.search(re.escape(item) if isinstance(item, str) else item, text)
        if match is None:
            return False
        text = text[match.end():]
    return True


def assertInStdout(proc_output: Any, expected_output: Any, process: Any, cmd_args: Any = None,  # noqa: N802
                   **options: Any) -> None:
    """As `assertInStream`, for the standard output."""
    assertInStream(proc_output, expected_output, process, cmd_args, stream="stdout", **options)


def assertInStderr(proc_output: Any, expected_output: Any, process: Any, cmd_args: Any = None,  # noqa: N802
                   **options: Any) -> None:
    """As `assertInStream`, for the standard error."""
    assertInStream(proc_output, expected_output, process, cmd_args, stream="stderr", **options)


def assertDefaultStream() -> str:  # noqa: N802
    """The stream that `assertInStream` reads by default."""
    return "stderr"


class SequentialTextChecker:
    """Looks for texts one after the other, each behind the one before."""

    def __init__(self, output: Sequence[str]) -> None:
        self._rest = "".join(output)

    def assertInStdout(self, msg: str) -> None:  # noqa: N802
        """Fail unless the text comes after the last one found."""
        _, found, rest = self._rest.partition(msg)
        if not found:
            raise AssertionError(f"{msg!r} does not come after the text found last; left: {self._rest[:500]!r}")
        self._rest = rest

    assertInText = assertInStdout  # noqa: N815


@contextmanager
def assertSequentialStdout(proc_output: Any, process: Any,  # noqa: N802
                           cmd_args: Any = None) -> Iterator[SequentialTextChecker]:
    """A checker of the standard output of one process."""
    action, = resolveProcesses(proc_output, process=process, cmd_args=cmd_args)
    yield SequentialTextChecker([event.text.decode(errors="replace") for event in proc_output[action]
                                 if event.from_stdout])


__all__ = ["EXIT_OK", "EXIT_SIGINT", "EXIT_SIGKILL", "EXIT_SIGQUIT", "EXIT_SIGSEGV", "NO_CMD_ARGS",
           "SequentialTextChecker", "assertDefaultStream", "assertExitCodes", "assertInStderr", "assertInStdout",
           "assertInStream", "assertSequentialStdout"]
