"""Sum, maximum and variance of frames: the mean pattern of a scan, and which pixels never change or never answer."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.patterns.events import Events, Frames, native, plain
from edgetem_nodes.featurizer.patterns.linear_sums import CHUNK


class PatternSum:
    """Sum, maximum and sum of squares of frames, over any number of blocks. What is NaN in one frame is NaN in all three.

    Attributes
    ----------
    count : frames so far.
    sum, squares, maximum : (rows, columns) float64; the maximum is -inf before the first frame.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.count = tuple(shape), 0
        self.sum, self.squares, self.maximum = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)

    def add(self, frames: Frames) -> None:
        """Add frames (frames, rows, columns) of any real type, or events.

        Raises
        ------
        ValueError : frames of another shape, of complex numbers, or masked.
        """
        from edgetem_nodes.featurizer.patterns.kernels import pattern_sums

        frames = frames if isinstance(frames, Events) else plain(frames)
        shape = frames.shape if isinstance(frames, Events) else frames.shape[1:]
        if tuple(shape) != self.shape:
            raise ValueError(f"frames of shape {tuple(shape)} cannot be added to patterns of {self.shape}")
        step = max(1, CHUNK // (8 * self.shape[0] * self.shape[1]))
        for start in range(0, len(frames), step):
            part = frames[start:start + step]
            part = part.frames(np.uint32) if isinstance(part, Events) else part
            pattern_sums(native(part), self.sum, self.squares, self.maximum)
        self.count += len(frames)

    @property
    def mean(self) -> np.ndarray:
        """(rows, columns); NaN before the first frame."""
        return self.sum / self.count if self.count else np.full(self.shape, np.nan)

    @property
    def variance(self) -> np.ndarray:
        """Variance between frames (rows, columns), unbiased; NaN for fewer than two."""
        if self.count < 2:
            return np.full(self.shape, np.nan)
        return np.maximum(self.squares - self.sum * self.mean, 0.0) / (self.count - 1)
