"""The loop that runs a launch: visits entities, hands events to handlers, waits for processes, ends in order."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

from . import logging
from .context import LaunchContext
from .entities import LaunchDescription, LaunchDescriptionEntity, normalize_to_list_of_entities
from .event_handlers import EventHandler
from .events import Event, Shutdown


class _Include(Event):
    def __init__(self, launch_description: LaunchDescription) -> None:
        self.launch_description = launch_description


class LaunchService:
    """Runs launch descriptions until nothing is left to do or somebody asks for the end.

    SIGINT, SIGTERM and SIGHUP all end the launch in order: SIGINT to every process, later SIGTERM, at last SIGKILL.
    """

    def __init__(self, *, argv: Sequence[str] | None = None, noninteractive: bool = False, debug: bool = False) -> None:
        logging.launch_config.level = 10 if debug else 20
        self.context = LaunchContext(argv=argv, noninteractive=noninteractive)
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self._logger = logging.get_logger("launch")
        self._lock = threading.Lock()
        self._return_code = 0
        self.context.register_event_handler(EventHandler(
            matcher=lambda event: isinstance(event, _Include),
            entities=lambda event, context: event.launch_description))

    def emit_event(self, event: Event) -> None:
        """Queue an event; from any thread, before or during the run."""
        with self._lock:
            if self.event_loop is None:
                self.context.emit_event_sync(event)
            else:
                self.event_loop.call_soon_threadsafe(self.context.emit_event_sync, event)

    def include_launch_description(self, launch_description: LaunchDescription) -> None:
        """Visit a launch description when the service runs; from any thread."""
        self.emit_event(_Include(launch_description))

    def shutdown(self, force_sync: bool = False) -> None:
        """Ask for the end, from any thread; does nothing where the service does not run."""
        if self.event_loop is not None:
            self.emit_event(Shutdown(reason="LaunchService.shutdown() called"))

    def run(self, *, shutdown_when_idle: bool = True) -> int:
        """Run until the end; returns 0, or 1 where an entity failed. In the main thread only.

        Raises
        ------
        RuntimeError : called from another thread.
        """
        return asyncio.run(self.run_async(shutdown_when_idle=shutdown_when_idle))

    async def run_async(self, *, shutdown_when_idle: bool = True) -> int:
        """As `run`, inside a running event loop of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a LaunchService runs in the main thread only: it starts processes and handles signals")
        loop = asyncio.get_running_loop()
        with self._lock:
            self.event_loop = self.context.asyncio_loop = loop
        try:
            with self._signals(loop):
                await self._work(shutdown_when_idle)
        finally:
            with self._lock:
                self.event_loop = self.context.asyncio_loop = None
            logging.launch_config.close()
        return self._return_code

    async def _work(self, shutdown_when_idle: bool) -> None:
        context = self.context
        while True:
            if context.queue.empty() and not context.pending:
                if context.is_shutdown:
                    return
                if shutdown_when_idle:
                    context.emit_event_sync(Shutdown(reason="idle"))
            event = await context.queue.get()
            try:
                if isinstance(event, BaseException):
                    raise event
                if event is not None:
                    self._process(event)
            except Exception as error:
                self._logger.error(f"{type(error).__name__} in the launch: {error}")
                self._logger.debug("where it was raised:", exc_info=error)
                self._return_code = 1
                context.emit_event_sync(Shutdown(reason=str(error)))

    def _process(self, event: Event) -> None:
        context = self.context
        if isinstance(event, Shutdown):
            if context.is_shutdown:
                return
            context.is_shutdown = True
            self._logger.debug(f"shutting down: {event.reason}")
        failure = None
        for handler in tuple(context.handlers):
            if not handler.matches(event):
                continue
            context.push_locals()
            try:
                for entity in normalize_to_list_of_entities(handler.handle(event, context)):
                    self._visit(entity)
            except Exception as error:
                if not isinstance(event, Shutdown):
                    raise
                failure = failure or error  # one handler's failure must not keep the processes of others alive
            finally:
                context.pop_locals()
        if failure is not None:
            raise failure

    def _visit(self, entity: LaunchDescriptionEntity) -> None:
        entities: Any = entity.visit(self.context)
        future = getattr(entity, "get_asyncio_future", lambda: None)()
        if future is not None and not future.done() and future not in self.context.pending:
            self.context.add_completion_future(future)
        for inner in normalize_to_list_of_entities(entities):
            self._visit(inner)

    @contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.getsignal(number) for number in handled}

        def on_signal(number: signal.Signals) -> None:
            self._logger.warning(f"{number.name} received: ending the launch" if not self.context.is_shutdown
                                 else f"{number.name} received again: the launch is ending already")
            self.context.emit_event_sync(Shutdown(reason=f"{number.name} received", due_to_sigint=True))

        for number in handled:
            loop.add_signal_handler(number, on_signal, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
                if previous[number] is not None:
                    signal.signal(number, previous[number])
