"""Acquisition time: the one time that data carries."""

from __future__ import annotations


class AcquisitionClock:
    """Acquisition time in nanoseconds since the epoch.

    An instrument that works in real time is at the wall clock. One that is simulated or replayed starts at the wall clock
    and then advances only by what its work would take, so that a slow computer does not make a long experiment.

    Parameters
    ----------
    real_time : whether the instrument works in real time.
    start : wall clock [ns since the epoch] when it became active.
    before : acquisition time [s] of the experiment before that.
    """

    def __init__(self, real_time: bool, start: int, before: float = 0.0) -> None:
        self._real_time, self._before = real_time, before
        self._start = self._now = start

    def now(self, wall: int) -> int:
        """Acquisition time [ns], given the wall clock [ns]. It never runs backwards."""
        if self._real_time:
            self._now = max(self._now, wall)
        return self._now

    def elapsed(self, wall: int) -> float:
        """Acquisition time [s] of the experiment so far, given the wall clock [ns]."""
        return self._before + (self.now(wall) - self._start) * 1e-9

    def advance(self, seconds: float) -> None:
        """Count work that takes `seconds`; in real time the wall clock has done so already."""
        if not self._real_time:
            self._now += round(seconds * 1e9)
