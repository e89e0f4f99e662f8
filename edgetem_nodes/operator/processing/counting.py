"""Counting the electrons of analogue frames before anything is computed of them."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.archive.pattern_file import BLOCK, PatternFile
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.counting import ElectronCounter
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.operator.processing.results import ProcessingError

SAMPLE = 200
"""Frames that the counter learns from."""


class Counting:
    """Frames to events, with what was learnt of the camera.

    Attributes
    ----------
    lost, electrons : electrons that coincidence hid, estimated, and electrons counted, so far.
    """

    def __init__(self, source: PatternFile, corrections: Corrections, saturation: float, threads: int) -> None:
        """Learn from a sample of the file.

        Raises
        ------
        ProcessingError : the frames are not those of a sparse beam on an analogue camera.
        """
        gain = np.ones(source.frame_shape) if corrections.gain is None else 1 / np.asarray(corrections.gain, float)
        if corrections.dead is not None:
            gain = np.where(corrections.dead, 0.0, gain)
        _, frames = source.sample(min(BLOCK, SAMPLE * source.store.frame_bytes))
        try:
            self._counter = ElectronCounter.learn(frames, corrections.dark, gain, saturation=saturation, threads=threads)
        except ValueError as error:
            raise ProcessingError(f"--count: {error}") from None
        self.learned = self._counter.learned
        self.lost, self.electrons = 0.0, 0

    def __call__(self, frames: np.ndarray) -> tuple[Events, list[str]]:
        """Electrons of frames, and why a frame was not counted; empty where it was."""
        try:
            counted = self._counter(frames)
        except ValueError as error:
            return Events(np.zeros(len(frames) + 1, np.int64), np.zeros(0, np.uint32), tuple(frames.shape[1:])), [
                f"not counted: {error}"] * len(frames)
        number = len(counted.events.pixels)
        self.electrons += number
        if np.isfinite(counted.coincidence_loss):
            self.lost += number * counted.coincidence_loss / (1 - counted.coincidence_loss)
        return counted.events, counted.failures

    def sample(self, frames: np.ndarray) -> np.ndarray:
        """Counted frames (frames, rows, columns) uint16 of a sample, which does not count among the electrons so far.

        Raises
        ------
        ProcessingError : they cannot be counted.
        """
        try:
            return self._counter(frames).events.frames()
        except ValueError as error:
            raise ProcessingError(f"--count: {error}") from None

    def line(self) -> str:
        """For people."""
        known = self.learned
        return (f"counting: threshold {known.threshold:.4g} counts, {known.background_noise:.3g} counts of noise, "
                f"{known.counts_per_electron:.4g} counts an electron, {100 * known.efficiency:.1f} % of the electrons reach "
                f"the threshold, {known.false_positives:.3g} false ones a frame, {known.hot_pixels} hot pixels left out")
