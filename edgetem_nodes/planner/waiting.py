"""How the experiment's thread waits: for answers, for measurements, and for being told to stop. Knows no ROS."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any


ANSWER_TIMEOUT = 30.0
"""[s] that a service may take to answer."""


class Stopped(Exception):  # noqa: N818  (a request, not an error)
    """The operator asked the experiment to stop."""


class Halted(Exception):  # noqa: N818
    """The node is going down."""


class Failed(Exception):  # noqa: N818
    """The experiment cannot go on; `code` names a constant of RunExperiment.Result."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Call:
    """An answer that is on its way."""

    def __init__(self) -> None:
        self.done = False
        self._future: Any = None

    def result(self) -> Any:
        """The answer; raises what the call raised."""
        return self._future.result()


class Waiting:
    """One condition for everything that the experiment's thread may wait for."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._stop = self._halt = False

    def reset(self) -> None:
        """Forget an earlier request to stop."""
        with self.changed:
            self._stop = self._halt = False

    def request_stop(self) -> None:
        """Make the next wait raise Stopped."""
        with self.changed:
            self._stop = True
            self.changed.notify_all()

    def halt(self) -> None:
        """Make every wait raise Halted."""
        with self.changed:
            self._halt = True
            self.changed.notify_all()

    def notify(self) -> None:
        """Look at the conditions again; the caller holds `changed`."""
        self.changed.notify_all()

    def call(self, future: Any) -> Call:
        """Follow a future; its end wakes the waiting thread."""
        call = Call()

        def finish(done: Any) -> None:
            with self.changed:
                call._future, call.done = done, True
                self.changed.notify_all()

        future.add_done_callback(finish)
        return call

    def until(self, condition: Callable[[], bool], silence: float, sign: Callable[[], Any] = lambda: None) -> None:
        """Wait until the condition holds, or until `sign` has not changed for `silence` seconds; infinite: however long.

        Raises
        ------
        Stopped, Halted : the experiment is asked to end.
        """
        with self.changed:
            seen, deadline = sign(), time.monotonic() + silence
            while not condition():
                self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self.changed.wait(left if math.isfinite(left) else None)
                if sign() != seen:
                    seen, deadline = sign(), time.monotonic() + silence
            self._check()

    def ask(self, client: Any, request: Any, code: str, who: str, patience: float = ANSWER_TIMEOUT) -> Any:
        """The answer of a service; raises Failed with `code` where `who` does not give one within `patience` [s]."""
        call = self.call(client.call_async(request))
        self.until(lambda: call.done, patience)
        if not call.done:
            raise Failed(code, f"the {who} did not answer {client.srv_name} within {patience:g} s")
        return call.result()

    def check(self) -> None:
        """Raise Stopped or Halted where the experiment is asked to end."""
        with self.changed:
            self._check()

    def _check(self) -> None:
        if self._halt:
            raise Halted
        if self._stop:
            raise Stopped
