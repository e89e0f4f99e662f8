"""Readout noise as the values below zero of a frame tell it."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.patterns.events import Events, Frames, native
from edgetem_nodes.featurizer.patterns.linear_sums import CHUNK, MOMENTS, LinearSums


class BelowZero:
    """Moments of the readout variance of a frame's pixels, from those below zero.

    Electrons make no value below zero. Noise that is even about zero makes as many as above, so that twice the sum of their
    squares is its variance; where the signal hides it, the signal's own noise is the larger. A dark signal that is taken off
    too much counts as noise.

    Parameters
    ----------
    weights : (rows, columns), 0 where a pixel is left out.
    dark : (rows, columns) [counts], what is taken off the raw values.
    sums : the pass whose threads do the work.
    """

    def __init__(self, weights: np.ndarray, dark: np.ndarray, sums: LinearSums) -> None:
        self._weights, self._sums = np.ascontiguousarray(weights, float), sums
        self._dark = np.where(weights != 0, dark, -np.inf)
        self._positive = bool((self._dark > 0).any())

    def __call__(self, frames: Frames) -> np.ndarray:
        """Sums (frames, 6) of weight times variance times 1, y, x, yy, yx, xx; 0, without a look at them, for frames that
        cannot be below zero."""
        from edgetem_nodes.featurizer.patterns.kernels import squares_below

        sums = np.zeros((len(frames), len(MOMENTS)))
        never = isinstance(frames, Events) or frames.dtype.kind in "bu"
        if never and not self._positive:
            return sums

        def part_of(part: slice) -> None:
            cut = frames[part]
            cut = native(cut.frames(np.uint32) if isinstance(cut, Events) else cut)
            if self._positive or not cut.min() >= 0:
                squares_below(cut, self._dark, self._weights, sums[part])

        self._sums.each(part_of, len(frames), 4 * self._dark.size, CHUNK)
        return sums
