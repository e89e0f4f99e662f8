"""A process that outlives the launch and leaves none of its processes behind, whatever happens to either."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Sequence

from .parent_death import die_with_parent

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 5.0
_POLL = 0.05


def supervise(work: Callable[[], int]) -> int:
    """Run `work` in a forked process with a session of its own and return its exit code.

    The worker begins with these signals blocked: it calls `listen` when it is ready to end in order. SIGINT raises no
    KeyboardInterrupt in it, which could strike the genuine launch in the middle of anything.

    The first SIGINT, SIGTERM or SIGHUP reaches the worker as SIGINT; the second sends SIGTERM to all other processes of
    the session, the third SIGKILL, the fourth SIGKILL to the worker too. What the worker leaves running is ended. A
    worker that is killed counts as failed, and so does a launch that had to be hastened. Should this process be killed,
    the worker gets SIGINT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = os.fork()
    if worker == 0:
        _be_worker(work)
    received, hastened = 0, False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal received, hastened
        received += 1
        hastened |= _hasten(worker, received)

    previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    listen()
    try:
        _, status = os.waitpid(worker, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            _say(f"the launcher died: killed by {signal.Signals(-code).name} ({code}); ending its processes")
            _end_session(worker, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
            return 1
        _end_session(worker, (signal.SIGTERM, signal.SIGKILL))
        return max(code, 1) if hastened else code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def listen() -> None:
    """Let SIGINT, SIGTERM and SIGHUP reach the worker, those included that came before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _be_worker(work: Callable[[], int]) -> None:
    code = 1
    try:
        os.setsid()
        die_with_parent(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def _hasten(worker: int, received: int) -> bool:
    """Answer the signal of that ordinal number; returns whether it reached processes behind the worker's back."""
    if received == 1:
        _signal([worker], signal.SIGINT)
        return False
    targets, number = session_members(worker), signal.SIGTERM if received == 2 else signal.SIGKILL
    _say(f"interrupted again: {number.name} to {len(targets)} processes")
    _signal([*targets, worker] if received > 3 else targets, number)
    return bool(targets)


def session_members(session: int) -> list[int]:
    """The running processes of a session [pid], its leader left out. Empty where there is no /proc."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = entry.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has just ended
        if int(of_session) == session and state not in "ZX" and int(entry.parent.name) != session:
            members.append(int(entry.parent.name))
    return members


def _end_session(session: int, signals: Sequence[signal.Signals]) -> None:
    for number in signals:
        left = session_members(session)
        if not left:
            return
        _say(f"{number.name} to what the launch left running: {', '.join(map(_name, left))}")
        _signal(left, number)
        deadline = time.monotonic() + _PATIENCE
        while session_members(session) and time.monotonic() < deadline:
            time.sleep(_POLL)


def _name(pid: int) -> str:
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} [{pid}]"
    except OSError:
        return f"[{pid}]"


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _say(message: str) -> None:
    print(f"[ERROR] [edgetem launch]: {message}", file=sys.stderr, flush=True)
