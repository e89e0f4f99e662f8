"""Jobs on a Dask cluster: submitted from any thread, streamed step by step, cancelled, retried, never lost.

Where the cluster comes from is the business of `connect`, a coroutine function that returns a session: an asynchronous Dask
`client`, a task `lost` that ends with the cluster, `close()`, and `transport` for people. `local.connect` is one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from edgetem_nodes.hpc_bridge import worker
from edgetem_nodes.hpc_bridge.engines import Canceled

CANCEL_GRACE = 5.0
"""[s] a cancelled job has for its present step; then its worker is replaced."""
CLUSTERS_PER_JOB = 3
"""A job is given to this many clusters, one after the other, before it counts as lost."""

Step = Callable[[int, float, float], None]


class ClusterLost(RuntimeError):
    """The cluster, or every worker that took the job, died; the message says which."""


class TimeLimit(RuntimeError):
    """A job ran longer than it may."""


@dataclass
class Job:
    """One submitted job. `future` gives (result, wall time [s], worker) or raises what the job raised, `Canceled`,
    `ClusterLost` or `TimeLimit`. `starts` counts the workers that took it up; `process` is the last one's id."""

    name: str
    function: Callable
    arguments: tuple
    step: Step | None
    future: concurrent.futures.Future = field(default_factory=concurrent.futures.Future)
    starts: int = 0
    process: int = 0
    address: str = ""
    started: float = 0.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Cluster:
    """Runs jobs on a Dask cluster that starts in the background, on a thread and event loop of its own."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], *, start_limit: float = 60.0, time_limit: float = 600.0,
                 log: Callable[[str], None] = lambda _text: None) -> None:
        """Nothing starts yet.

        Parameters
        ----------
        connect : starts or finds the cluster; called again when it is lost while jobs wait.
        start_limit, time_limit : [s] for the start of the cluster, and for one job from its start on a worker.
        log : gets sentences for people, from the cluster's thread.
        """
        self._connect = connect
        self._start_limit = start_limit
        self._time_limit = time_limit
        self._log = log
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: asyncio.Future | None = None
        self._closing = False
        self._replacing: set[asyncio.Future] = set()
        self.transport = ""
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        """Begin to start the cluster; returns at once. May be called again."""
        self._on_loop(self._current_session())

    def submit(self, function: Callable, *arguments: Any, step: Step | None = None) -> Job:
        """Queue `function(*arguments, step, canceled)`, a function of an importable module; returns at once.

        `step` gets (number, energy [J], largest force [N]), called from the cluster's thread.
        """
        job = Job(f"edgetem-{uuid.uuid4()}", function, arguments, step)
        job.future.set_running_or_notify_cancel()
        with self._lock:
            self._jobs[job.name] = job
        self._on_loop(self._run(job))
        return job

    def cancel(self, job: Job) -> None:
        """Have a job end; its future raises `Canceled`, after a few seconds at most. Nothing happens if it has ended."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(job.stop.set)

    def counts(self) -> dict[str, int]:
        """Jobs `queued`, `running`, `done`, `failed`."""
        with self._lock:
            running = sum(1 for job in self._jobs.values() if job.starts)
            return {"queued": len(self._jobs) - running, "running": running, "done": self.done, "failed": self.failed}

    def close(self, limit: float = 8.0) -> None:
        """Cancel what is left, end the cluster and the thread; at most `limit` seconds."""
        if self._thread is None:
            return
        self._closing = True
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(limit)
        except (TimeoutError, concurrent.futures.TimeoutError):
            self._log(f"the cluster did not end within {limit:g} s; its processes end with this one")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()
        self._thread = None

    # ---- on the cluster's thread --------------------------------------------------------------------------------

    def _on_loop(self, coroutine: Any) -> None:
        with self._lock:
            if self._closing:
                coroutine.close()
                raise RuntimeError("the cluster is closed")
            if self._thread is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
                self._thread.start()
        task = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _current_session(self) -> Any:
        """The cluster, started if there is none or the last one is lost; one start at a time."""
        if self._session is not None and self._session.done():
            broken = self._session.cancelled() or self._session.exception() is not None
            if broken or self._session.result().lost.done():
                self._session = None
        if self._session is None:
            self._session = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._session)

    async def _open(self) -> Any:
        begin = time.monotonic()
        try:
            session = await asyncio.wait_for(self._connect(), self._start_limit)
        except (TimeoutError, asyncio.TimeoutError):
            raise ClusterLost(f"the cluster was not up within {self._start_limit:g} s") from None
        except (OSError, ValueError) as error:
            raise ClusterLost(f"the cluster did not start: {error}") from error
        session.client.subscribe_topic(worker.TOPIC, self._event)
        self.transport = session.transport
        self._log(f"cluster up after {time.monotonic() - begin:.1f} s ({session.transport})")
        return session

    def _event(self, event: tuple) -> None:
        _stamp, (name, address, process, number, energy, max_force) = event
        job = self._jobs.get(name)
        if job is None:
            return
        if number < 0:
            job.starts += 1
            job.address, job.process, job.started = address, process, time.monotonic()
            job.begun.set()
            if job.starts > 1:
                self._log(f"a worker was lost; its job runs again on process {process}")
        elif job.step is not None:
            job.step(number, energy, max_force)

    async def _run(self, job: Job) -> None:
        result, error = None, None
        try:
            result = await self._attempts(job)
        except asyncio.CancelledError:
            error = Canceled("the bridge ended")
        except Exception as raised:  # noqa: BLE001  (whatever a job raises belongs to its future)
            error = raised
        with self._lock:
            self._jobs.pop(job.name, None)
            self.done += error is None
            self.failed += error is not None
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    async def _attempts(self, job: Job) -> Any:
        reason = ""
        for _ in range(CLUSTERS_PER_JOB):
            stop = asyncio.ensure_future(job.stop.wait())
            start = asyncio.ensure_future(self._current_session())
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if job.stop.is_set():
                start.cancel()
                raise Canceled
            session = start.result()
            try:
                return await self._attempt(job, session)
            except ConnectionError as error:
                reason = str(error)
                await asyncio.wait({session.lost}, timeout=CANCEL_GRACE)
                self._log(f"the cluster was lost ({reason}); the job goes to a new one")
        raise ClusterLost(f"{CLUSTERS_PER_JOB} clusters were lost while this job ran: {reason}")

    async def _attempt(self, job: Job, session: Any) -> Any:
        from distributed import KilledWorker

        job.begun.clear()
        future = session.client.submit(worker.run, job.name, job.function, job.arguments, key=job.name, pure=False)
        result = asyncio.ensure_future(future.result())
        stop = asyncio.ensure_future(job.stop.wait())
        begun = asyncio.ensure_future(job.begun.wait())
        try:
            await asyncio.wait({result, stop, begun, session.lost}, return_when=asyncio.FIRST_COMPLETED)
            while not (result.done() or stop.done() or session.lost.done()):
                left = job.started + self._time_limit - time.monotonic()
                if left <= 0:
                    await self._end(job, session, future, result)
                    raise TimeLimit(f"the job ran longer than {self._time_limit:g} s (parameter cluster.time_limit_s)")
                await asyncio.wait({result, stop, session.lost}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if session.lost.done() and not result.done():
                raise ConnectionError(f"its host ended with code {session.lost.result()}")
            if not result.done():
                await self._end(job, session, future, result)
                raise Canceled
            try:
                value = result.result()
            except KilledWorker:
                raise ClusterLost(f"{job.starts} workers died on this job, one after the other: too little memory "
                                  "(parameter cluster.memory_mb), or a crash of the engine") from None
            except concurrent.futures.CancelledError:
                raise ConnectionError("the scheduler forgot the job") from None
            if isinstance(value[0], Exception):
                raise value[0]
            return value
        finally:
            for task in (result, stop, begun):
                task.cancel()
            future.release()

    async def _end(self, job: Job, session: Any, future: Any, result: asyncio.Future) -> None:
        """End a job: ask it to stop, and replace its worker if it does not in time."""
        from distributed import Event

        await asyncio.wait({asyncio.ensure_future(Event(job.name, client=session.client).set()), session.lost},
                           timeout=CANCEL_GRACE, return_when=asyncio.FIRST_COMPLETED)
        if job.starts:
            await asyncio.wait({result, session.lost}, timeout=CANCEL_GRACE, return_when=asyncio.FIRST_COMPLETED)
        if not result.done() and not session.lost.done():
            await session.client.cancel([future], force=True)
            if job.starts:
                self._log(f"the worker {job.address} does not end its step; it is replaced")
                replaced = asyncio.ensure_future(session.client.restart_workers([job.address], raise_for_error=False))
                self._replacing.add(replaced)
                replaced.add_done_callback(self._replaced)

    def _replaced(self, ended: asyncio.Future) -> None:
        self._replacing.discard(ended)
        if not ended.cancelled() and ended.exception() is not None:
            self._log(f"a worker was not replaced: {ended.exception()}")

    async def _close(self) -> None:
        for job in list(self._jobs.values()):
            job.stop.set()
        session = None
        if self._session is not None:
            if not self._session.done():
                self._session.cancel()
            await asyncio.wait({self._session})
            if not self._session.cancelled() and self._session.exception() is None:
                session = self._session.result()
        if session is not None:
            await session.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=1.0)
