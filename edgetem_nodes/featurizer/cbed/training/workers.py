"""Work in shards shared by processes; what comes out depends on the shard's number alone, not on how many share it."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import numpy as np
import torch

_AHEAD = 2
"""Shards that wait for each process: a person who ends the work does not wait for many."""
_work: Callable[[int], Any] | None = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of zeros that forked processes write to in common."""
    count = int(np.prod(shape, dtype=np.int64))
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def in_shards(work: Callable[[int], Any], shards: int, workers: int,
              stopped: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Any]]:
    """Numbers and results of `work(shard)` for shards 0, 1, ..., as they end; after `stopped` none is begun.

    Processes are forked, so that they see what this one has in memory, and compiled; results are pickled, larger ones belong
    into a `shared_array`.

    Parameters
    ----------
    workers : processes; with 1 the work is done in this one.
    """
    if min(workers, shards) <= 1:
        for shard in range(shards):
            if stopped():
                return
            yield shard, work(shard)
        return
    global _work
    _work = work
    try:
        with ProcessPoolExecutor(min(workers, shards), multiprocessing.get_context("fork"), _alone) as pool:
            waiting: dict[Future, int] = {}
            begun = 0
            try:
                while begun < shards or waiting:
                    while begun < shards and len(waiting) < _AHEAD * workers and not stopped():
                        waiting[pool.submit(_call, begun)] = begun
                        begun += 1
                    if not waiting:
                        return
                    for one in wait(waiting, return_when=FIRST_COMPLETED).done:
                        yield waiting.pop(one), one.result()
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        _work = None


def _alone() -> None:
    """A process with one thread, that leaves interrupts to the one that began it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _call(shard: int) -> Any:
    assert _work is not None
    return _work(shard)
