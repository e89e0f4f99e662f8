"""Frames of a measured scan: only the pixels that are asked for leave the file, in time if told to."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, replay_set
from edgetem_nodes.physics.exposure import Exposure


class ReplaySource:
    """See `DetectorSource`. A position is served by the measured pixel nearest to it; the dwell time is the file's own."""

    pausable = True

    def __init__(self, instrument: Instrument) -> None:
        self._replay = replay_set(instrument)
        self.name = self._replay.detector
        self.frame_shape = self._replay.frame_shape
        self.dtype = self._replay.dtype
        self.axes = self._replay.axes
        self.real_time = instrument.replay.real_time

    def prepare(self) -> None:
        """There is nothing to compute."""

    def check_dwell(self, dwell: float) -> None:
        """Any will do: frames were measured with their own."""

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """Data that was measured does not change."""

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Measured frames (count, *frame_shape); with `real_time` it returns no sooner than `count` dwell times later."""
        start = time.monotonic()
        frames = self._replay.frames(self._replay.field.candidates(exposure.positions[first:first + count]))
        if self.real_time:
            time.sleep(max(0.0, start + exposure.dwell * len(frames) - time.monotonic()))
        return frames

    def close(self) -> None:
        """Nothing is held."""
