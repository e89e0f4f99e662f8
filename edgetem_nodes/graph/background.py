"""Work that would block the executor, in a thread of its own, awaited by `async def` callbacks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.node import Node


class Background:
    """One thread for a node's slow work; what is given to it runs one after the other.

    Parameters
    ----------
    node : the node whose executor runs the waiting callbacks.
    name : of the thread.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._pool = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run `work` in the thread; returns what it returns and raises what it raises."""
        executor = self._node.executor
        future = executor.create_future()

        def call() -> None:
            try:
                outcome = work(*arguments, **named), None
            except Exception as error:  # noqa: BLE001  (handed to the caller)
                outcome = None, error
            future.set_result(outcome)
            executor.wake()

        self._pool.submit(call)
        result, error = await future
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Wait for what runs, and drop what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)
