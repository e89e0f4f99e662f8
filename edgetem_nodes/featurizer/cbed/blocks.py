"""Networks on patterns, so that what they say of one depends on that one alone, to the last bit.

Patterns are worked on in blocks of one size, filled up with zeros: products of matrices of another shape are summed in another
order. Patterns of few disks go together, so that little is computed of disks that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch

BLOCK = 64
"""Patterns in a block."""
_STEP, _SMALL_BLOCK = 6, 32
"""Numbers of disks are rounded up to multiples of the one, and patterns of one number worked on in blocks of the other."""
_guard, _users, _threads_before = Lock(), 0, 1


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as products of matrices are summed in another order on several; nested, and of several threads, the
    last that leaves sets it back."""
    global _users, _threads_before
    with _guard:
        if _users == 0:
            _threads_before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _guard:
            _users -= 1
            if _users == 0:
                torch.set_num_threads(_threads_before)


def in_blocks(network: torch.nn.Module, *inputs: np.ndarray, block: int = BLOCK) -> list[np.ndarray]:
    """A network's outputs for rows of inputs, in blocks of one size, on one thread."""
    rows = len(inputs[0])
    parts: list[tuple] = []
    with one_thread(), torch.no_grad():
        for first in range(0, max(rows, 1), block):
            given = []
            for one in inputs:
                piece = np.zeros((block, *one.shape[1:]), np.float32)
                piece[:max(min(rows - first, block), 0)] = one[first:first + block]
                given.append(torch.from_numpy(piece))
            parts.append(tuple(out[:min(rows - first, block)].numpy() for out in network(*given)))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def in_groups(network: torch.nn.Module, count: np.ndarray, by_disk: tuple[np.ndarray, ...],
              *others: np.ndarray, told_by_disk: bool) -> list[np.ndarray]:
    """A network's outputs for patterns of which the first `count` (rows,) disks are there; zeros without any.

    Parameters
    ----------
    by_disk : inputs (rows, disks, ...). others : inputs (rows, ...).
    told_by_disk : whether outputs are by disk as well.
    """
    rows, most = by_disk[0].shape[:2]
    sizes = np.minimum(_STEP * -(-count // _STEP), most)
    results: list[np.ndarray] = []
    for size in np.unique(sizes[sizes > 0]).tolist() or [_STEP]:
        here = np.flatnonzero(sizes == size)
        said = in_blocks(network, *(one[here, :size] for one in by_disk), *(one[here] for one in others), block=_SMALL_BLOCK)
        for number, one in enumerate(said):
            if len(results) == number:
                results.append(np.zeros((rows, most, *one.shape[2:]) if told_by_disk else (rows, *one.shape[1:]), one.dtype))
            if told_by_disk:
                results[number][here, :size] = one
            else:
                results[number][here] = one
    return results
