"""What runs inside a Dask worker. As a preload it ties the worker's life to its nanny's and gives way to the nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from edgetem_nodes.hpc_bridge.engines import Canceled, EngineError
from edgetem_nodes.hpc_bridge.processes import end_with_parent

TOPIC = "edgetem-steps"
"""Dask event topic of (job, attempt, worker, process id, step, energy [J], largest force [N])."""
NICENESS = "EDGETEM_WORKER_NICENESS"
SMALLEST_INTERVAL = 0.2
"""[s] between two questions to the scheduler whether a job was cancelled."""


def dask_setup(_worker: Any) -> None:
    """Called by Dask when the worker starts (`--preload`)."""
    end_with_parent()
    os.nice(int(os.environ.get(NICENESS, "0")))


def run(job: str, function: Callable, arguments: tuple) -> tuple[Any, float, str]:
    """Run `function(*arguments, step, canceled)`; returns its result, the wall time [s] and where it ran.

    In place of the result stands the error where the engine failed or the job was cancelled. Every step goes out as an
    event; the Dask event named like the job says that it is to end. A worker that dies is replaced and the job starts
    afresh, with its step numbers.
    """
    from distributed import Event, get_worker

    worker = get_worker()
    event, asked, known = Event(job), 0.0, False
    name = worker.address

    def step(number: int, energy: float, max_force: float) -> None:
        worker.log_event(TOPIC, [job, name, os.getpid(), number, float(energy), float(max_force)])

    def canceled() -> bool:
        nonlocal asked, known
        if not known and time.monotonic() - asked > SMALLEST_INTERVAL:
            known, asked = event.is_set(), time.monotonic()
        return known

    begin = time.monotonic()
    step(-1, 0.0, 0.0)
    try:
        # A job whose worker was replaced because it did not end may come here before the scheduler has dropped it.
        if canceled():
            raise Canceled
        result = function(*arguments, step, canceled)
    except (Canceled, EngineError) as error:
        result = error
    return result, time.monotonic() - begin, f"{os.uname().nodename}:{os.getpid()}"
