"""Scalars and images of analogue frames whose electrons are counted first, frame by frame."""

from __future__ import annotations

import hashlib

import numpy as np

from edgetem_nodes.archive.pattern_formats import open_patterns
from edgetem_nodes.featurizer.features import Features, Scalarizer, mark
from edgetem_nodes.featurizer.parameters import Counting
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.counting import ElectronCounter
from edgetem_nodes.featurizer.patterns.events import Events

SAMPLE, SAMPLE_FRAMES = 32 << 20, 200
"""[byte] and frames at most that the counter learns from."""
LARGEST_LOSS = 0.3
"""Of a frame's electrons that may be hidden by others, by the frame's signal; a denser frame is a marked failure."""
LIT = 3.0
"""Standard deviations of the background from which on a pixel's value is signal."""


class FrameCounter:
    """Electrons of frames, by thresholds learnt once from a file: what a frame holds depends on nothing but the frame.

    Attributes
    ----------
    identity : SHA-256 (hex) of the sample that was learnt from.
    """

    def __init__(self, group: Counting, corrections: Corrections | None, saturation: float) -> None:
        """Learn.

        Raises
        ------
        ValueError : the file cannot be read, or its frames are not those of a sparse beam on an analogue camera.
        """
        corrections = corrections or Corrections()
        file = open_patterns(group.sample)
        _, frames = file.sample(min(SAMPLE, SAMPLE_FRAMES * file.store.frame_bytes))
        # The counter divides by a gain; dead pixels have none.
        gain = np.ones(file.frame_shape) if corrections.gain is None else 1 / np.asarray(corrections.gain, float)
        gain = np.where(corrections.live(file.frame_shape), gain, 0.0)
        try:
            learnt = ElectronCounter.learn(frames, corrections.dark, gain, saturation=saturation, largest_loss=LARGEST_LOSS)
        except ValueError as error:
            raise ValueError(f"counting.sample {file.path}: {error}") from None
        self.identity = hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()
        self._counter = learnt

    def __call__(self, frames: np.ndarray) -> tuple[Events, list[str]]:
        """Events of frames (frames, rows, columns), and why a frame was not counted; empty where it was.

        Raises
        ------
        ValueError : frames of another shape than the sample's.
        """
        shape = self._counter.learned.dark.shape
        if frames.shape[1:] != shape:
            raise ValueError(f"frames of {frames.shape[1:]} do not fit counting.sample, whose frames are {shape}: name a file "
                             "of frames of this detector")
        counted = self._counter.found(frames)
        failures = list(counted.failures)
        for row in np.flatnonzero(counted.saturated):
            failures[row] = failures[row] or f"{counted.saturated[row]} pixels are saturated: their electrons cannot be counted"
        number, expected = np.diff(counted.events.starts), self._expected(frames)
        # Three standard deviations of a number whose electrons differ in height.
        for row in np.flatnonzero((1 - LARGEST_LOSS) * expected - number > 3 * np.sqrt(expected)):
            failures[row] = failures[row] or (f"{number[row]} electrons were found where the signal is that of "
                                              f"{expected[row]:.0f}: they lie too densely to be counted one by one: shorten "
                                              "the dwell time, or do not count")
        return counted.events, failures

    def _expected(self, frames: np.ndarray) -> np.ndarray:
        """Electrons (frames,) by the signal of each frame: it goes on rising where maxima merge."""
        known, result = self._counter.learned, np.zeros(len(frames))
        for row, frame in enumerate(frames):
            value = np.nan_to_num((frame - known.dark) * known.inverse_gain, posinf=0.0, neginf=0.0)
            lit = value > known.background_mean + LIT * known.background_noise
            result[row] = value[lit].sum() / known.counts_per_electron
        return result


class CountedScalarizer:
    """Another scalarizer, made for counts of single electrons, on counted frames."""

    def __init__(self, scalarizer: Scalarizer, counter: FrameCounter) -> None:
        self.names, self.units = scalarizer.names, scalarizer.units
        self._scalarizer, self._counter = scalarizer, counter

    def __call__(self, frames: np.ndarray) -> Features:
        events, failures = self._counter(frames)
        features = self._scalarizer(events.frames())
        for row in (number for number, failure in enumerate(failures) if failure):
            mark(features.failures, np.arange(len(failures)) == row, failures[row])
            features.values[row], features.standard_errors[row] = np.nan, np.nan
        return features
