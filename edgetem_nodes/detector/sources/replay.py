"""Frames of a measured scan: only the pixels that are asked for leave the file, in time if told to."""

from __future__ import annotations

import time

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, replay_set


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

    def read(self, positions: np.ndarray, dwell: float, sequence: int, first_index: int) -> np.ndarray:
        """Measured frames (n, *frame_shape); with `real_time` it returns no sooner than n dwell times after the call."""
        start = time.monotonic()
        frames = self._replay.frames(self._replay.field.candidates(positions))
        if self.real_time:
            time.sleep(max(0.0, start + dwell * len(frames) - time.monotonic()))
        return frames

    def close(self) -> None:
        """Nothing is held."""
