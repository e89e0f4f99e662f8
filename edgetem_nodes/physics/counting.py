"""Electron counting: Poisson noise whose numbers depend on what is counted, not on how the work is cut into blocks."""

from __future__ import annotations

import numpy as np

SURVEY = (1 << 64) - 1
"""Sequence number of the survey; acquisitions count from 0."""


def generator(seed: int, sequence: int, index: int) -> np.random.Generator:
    """The random generator of one frame: of the instrument's seed, the acquisition's running number and the frame's index.

    Counter-based (Philox, Salmon et al. 2011): any frame can be made alone and comes out the same.

    Raises
    ------
    ValueError : a number is negative or does not fit into 64 bits.
    """
    for name, value in (("seed", seed), ("sequence", sequence), ("index", index)):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{name} {value} is not an unsigned 64-bit number")
    return np.random.Generator(np.random.Philox(key=np.array([seed, sequence], np.uint64),
                                                 counter=np.array([0, 0, 0, index], np.uint64)))


def count(expected: np.ndarray, seed: int, sequence: int, first_index: int, dtype: np.dtype) -> np.ndarray:
    """Poisson counts of expected frames (n, ...), as an integer detector of `dtype` stores them: its counters saturate."""
    largest = np.iinfo(dtype).max
    counts = np.empty(expected.shape, dtype)
    for offset, frame in enumerate(expected):
        events = generator(seed, sequence, first_index + offset).poisson(frame)
        np.minimum(events, largest, out=counts[offset], casting="unsafe")
    return counts
