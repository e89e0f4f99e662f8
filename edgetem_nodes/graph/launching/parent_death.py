"""What happens to a process when its parent is killed."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Let the kernel send the signal to this process when its parent ends, which may be killed with no time to do so."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
