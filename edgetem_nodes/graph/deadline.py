"""Ends a process in time even where code that is not Python's blocks it."""

from __future__ import annotations

import ctypes
import sys

_MONOTONIC, _THREAD = 1, 2
_POINTER = ctypes.sizeof(ctypes.c_void_p)


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux, 64 bytes: a function that is called in a thread of its own with `value`."""

    _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("function", ctypes.c_void_p),
                ("attributes", ctypes.c_void_p), ("rest", ctypes.c_char * (56 - 3 * _POINTER)))


class _Times(ctypes.Structure):
    """`struct itimerspec`: interval and time to the first expiry, each in seconds and nanoseconds."""

    _fields_ = (("interval", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


def exit_within(seconds: float, code: int) -> None:
    """End this process with an exit code after so long, whatever it does then.

    A thread of Python's could not: rclpy keeps the interpreter's lock while the middleware takes leave. So a POSIX timer calls
    the C library's `_exit`. Where there is no such timer (not Linux) nothing happens.

    Raises
    ------
    OSError : the system has no timer left.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None, use_errno=True)
    event = _Event(value=code, notify=_THREAD, function=ctypes.cast(library._exit, ctypes.c_void_p).value)
    timer, times = ctypes.c_void_p(), _Times(first=(int(seconds), int(seconds % 1 * 1e9)))
    if library.timer_create(_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) or library.timer_settime(
            timer, 0, ctypes.byref(times), None):
        raise OSError(ctypes.get_errno(), "no timer for the end of the process")
