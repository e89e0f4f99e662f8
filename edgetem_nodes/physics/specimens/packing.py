"""Random packing without end: seeded points of which none is nearer to another than the two allow.

Candidates carry a rank of their own; one is kept as soon as no undecided neighbour in conflict outranks it, and its
neighbours are dropped (dart throwing, decided in rounds: random sequential adsorption whose outcome depends on nothing
farther away than two conflict distances a round). So any piece of the packing can be made alone.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 4
"""Candidates still undecided after these are dropped: fewer than one in a hundred."""


def cell_grid(low: np.ndarray, high: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Cells (n, d) int64 of this `size` (d,) that a box touches, `low` and `high` its corners (d,)."""
    first = np.floor(np.asarray(low) / size).astype(np.int64)
    last = np.ceil(np.asarray(high) / size).astype(np.int64)
    axes = [np.arange(a, max(b, a + 1)) for a, b in zip(first, last, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def kept(rank: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which candidates (n,) bool stay.

    Parameters
    ----------
    rank : (n,) all different; the lowest wins.
    pairs : (m, 2) indices of candidates in conflict.
    """
    winners = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    losers = pairs.sum(axis=1) - winners
    undecided, stays = np.ones(len(rank), bool), np.zeros(len(rank), bool)
    for _ in range(ROUNDS):
        outranked = np.zeros(len(rank), bool)
        outranked[losers] = True
        now = undecided & ~outranked
        stays |= now
        undecided &= outranked
        undecided[losers[now[winners]]] = False
        remain = undecided[winners] & undecided[losers]
        winners, losers = winners[remain], losers[remain]
    return stays
