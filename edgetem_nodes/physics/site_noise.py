"""Random numbers that belong to an atom, a site or a cell, not to the order in which they are drawn.

A counter-based hash: every number is a function of a seed, the identity of what it belongs to, and a stream that says what
it is for, so that a piece of specimen has the same vacancies, phonons and damage however the plane is cut. The mixing
function is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) with the constants of Stafford's "Mix13", applied
twice with a key of seed and stream in between, after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def words(seed: int, identity: np.ndarray, *stream: int | str) -> np.ndarray:
    """Random 64-bit words, uint64 of the shape of `identity`.

    Parameters
    ----------
    seed : unsigned 64-bit number.
    identity : unsigned integers; signed ones count modulo 2^64.
    stream : any number of integers and names; different ones give independent numbers, e.g. `"phonon", configuration`.

    Raises
    ------
    ValueError : the seed is not an unsigned 64-bit number.
    """
    first, second = _keys(seed, stream)
    state = np.asarray(identity).astype(np.uint64, order="C")
    if state.ndim == 0:
        return words(seed, state[None], *stream)[0]
    state ^= np.uint64(first)
    _mix(state)
    state += np.uint64(second)
    return _mix(state)


def uniform(seed: int, identity: np.ndarray, *stream: int | str) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 of the shape of `identity`, with 53 random bits. Arguments as for `words`."""
    return (words(seed, identity, *stream) >> np.uint64(11)) * 2.0 ** -53


def normal(seed: int, identity: np.ndarray, *stream: int | str) -> np.ndarray:
    """Standard normal numbers, float64 of the shape of `identity`. Arguments as for `words`."""
    return normals(seed, identity, 1, *stream)[..., 0]


def normals(seed: int, identity: np.ndarray, columns: int, *stream: int | str) -> np.ndarray:
    """Independent standard normal numbers, float64 of the shape of `identity` and `columns` more, e.g. (n, 3) for z, y, x.

    Box & Muller, Ann. Math. Stat. 29, 610 (1958). The first columns are the same however many are asked for.
    """
    identity = np.asarray(identity)
    drawn = np.empty((*identity.shape, columns))
    for column in range(0, columns, 2):
        # 1 - uniform lies in (0, 1], where the logarithm is finite
        radius = np.sqrt(-2 * np.log(1 - uniform(seed, identity, *stream, "radius", column)))
        angle = 2 * np.pi * uniform(seed, identity, *stream, "angle", column)
        drawn[..., column] = radius * np.cos(angle)
        if column + 1 < columns:
            drawn[..., column + 1] = radius * np.sin(angle)
    return drawn


def combined(*numbers: np.ndarray | int) -> np.ndarray:
    """One uint64 identity of several integer arrays (broadcast), e.g. lattice indices: a hash, 2^-64 likely to collide."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(n) for n in numbers)), np.uint64)
    for position, number in enumerate(numbers):
        state = words(position, state ^ words(position, np.asarray(number), "number"), "combined")
    return state


def _keys(seed: int, stream: tuple[int | str, ...]) -> tuple[int, int]:
    """Two 64-bit keys of a seed and a stream."""
    if not 0 <= seed <= _MASK:
        raise ValueError(f"seed {seed} is not an unsigned 64-bit number")
    # repr tells 1 from "1", and ("ab", "c") from ("a", "bc")
    parts = tuple(part if isinstance(part, str) else int(part) for part in stream)
    digest = hashlib.blake2b(repr(parts).encode(), key=int(seed).to_bytes(8, "little"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _mix(state: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit of the input moves half of the bits of the output; in place."""
    state += np.uint64(_GOLDEN)
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
