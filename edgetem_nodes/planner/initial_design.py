"""The sparse initial scan: a space-filling random design on any set of allowed candidates."""

from __future__ import annotations

import numpy as np


def best_candidate_design(coordinates: np.ndarray, allowed: np.ndarray, count: int, generator: np.random.Generator,
                          trials: int = 16) -> np.ndarray:
    """Positions that keep their distance from each other: of `trials` random candidates the farthest one, in turn.

    Mitchell, "Spectrally optimal sampling for distribution ray tracing", SIGGRAPH 1991 (best-candidate sampling).

    Parameters
    ----------
    coordinates : (candidates, 2) (y, x), any unit of length.
    allowed : (candidates,) bool.
    count : positions wanted; at most the allowed ones are given.
    generator : source of randomness.
    trials : candidates that compete for each position.

    Returns
    -------
    (count,) int64 candidate indices, no two alike, in the order chosen.
    """
    free = np.flatnonzero(allowed)
    chosen: list[int] = []
    nearest = np.full(len(coordinates), np.inf)
    for _ in range(min(count, len(free))):
        drawn = free[generator.choice(len(free), size=min(trials, len(free)), replace=False)]
        pick = int(drawn[np.argmax(nearest[drawn])])
        chosen.append(pick)
        nearest = np.minimum(nearest, np.square(coordinates - coordinates[pick]).sum(axis=1))
        free = free[free != pick]
    return np.array(chosen, np.int64)
