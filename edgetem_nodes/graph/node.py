"""Base of the graph's nodes: a lifecycle node with checked parameters, peers to wait for, and diagnostics."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from edgetem_nodes.graph import parameters

Peer = tuple[str, Callable[[], bool]]
"""What a node needs before it is active: a name for people, and whether it is there."""


class GraphNode(LifecycleNode):
    """A lifecycle node of the graph. Subclasses set `NAME` and `Parameters` and override the five hooks.

    `setup` makes publishers, servers and drivers (may raise: the transition then fails with the message); `peers` names
    what must be found before activation; `start` begins work; `stop` ends it and is called on every way out;
    `teardown` releases what `setup` made. All are called from the executor's thread.
    """

    NAME: ClassVar[str]
    Parameters: ClassVar[type]
    PEER_TIMEOUT: ClassVar[float] = 20.0
    """[s] that activation waits for peers."""

    def __init__(self, **options: object) -> None:
        super().__init__(self.NAME, **options)
        parameters.declare(self, self.Parameters)
        self.parameters = None
        self.active = False
        self._configured = False
        self._level, self._message = DiagnosticStatus.OK, "unconfigured"
        self._values: dict[str, object] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self.create_timer(1.0, self.publish_diagnostics)

    def setup(self) -> None:
        """Make publishers, servers and drivers from `self.parameters`. May raise; the message is logged."""

    def peers(self) -> list[Peer]:
        """What must be found before this node is active."""
        return []

    def start(self) -> None:
        """Begin work. May raise."""

    def stop(self) -> None:
        """End work and leave everything safe; called once on every way out of the active state."""

    def teardown(self) -> None:
        """Release what `setup` made; called once on every way out."""

    # ---- health -----------------------------------------------------------------------------------------------

    def report(self, message: str, level: int = DiagnosticStatus.OK, **values: object) -> None:
        """Set what the next diagnostics say; `values` are merged into the key-value list."""
        self._message, self._level = message, level
        self._values.update(values)

    def warn(self, message: str, **values: object) -> None:
        """Log a warning and show it in the diagnostics."""
        self.get_logger().warning(message)
        self.report(message, DiagnosticStatus.WARN, **values)

    def publish_diagnostics(self) -> None:
        """Publish this node's health now; also done once a second."""
        name = f"{self.get_namespace().rstrip('/')}/{self.get_name()}".lstrip("/")
        status = DiagnosticStatus(name=name, hardware_id="edgetem", level=self._level, message=self._message,
                                  values=[KeyValue(key=k, value=str(v)) for k, v in self._values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    # ---- lifecycle --------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def work() -> None:
            self.parameters = parameters.read(self, self.Parameters)
            self._configured = True
            self.setup()
        if not self._try("configure", work):
            self._release()
            return TransitionCallbackReturn.FAILURE
        self.report("inactive")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        deadline = time.monotonic() + self.PEER_TIMEOUT
        missing = [peer for peer in self.peers() if not peer[1]()]
        while missing and time.monotonic() < deadline:
            time.sleep(0.01)
            missing = [peer for peer in missing if not peer[1]()]
        if missing:
            names = ", ".join(name for name, _ in missing)
            self.get_logger().error(f"{self.NAME} found no {names} within {self.PEER_TIMEOUT:.0f} s: is that node running?")
            return TransitionCallbackReturn.FAILURE
        if not self._try("activate", self.start):
            self._try("stop", self.stop)
            return TransitionCallbackReturn.FAILURE
        self.active = True
        self.report("active")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self.report("inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self.report("unconfigured")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return super().on_shutdown(state)

    def close(self) -> None:
        """Stop and release, whatever the state; used when the process ends."""
        self._halt()
        self._release()

    def _halt(self) -> None:
        if self.active:
            self.active = False
            self._try("stop", self.stop)

    def _release(self) -> None:
        if self._configured:
            self._configured = False
            self._try("teardown", self.teardown)

    def _try(self, what: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (a transition must answer, whatever a driver raises)
            self.get_logger().error(f"{self.NAME} could not {what}: {error}")
            self.get_logger().debug(traceback.format_exc())
            self.report(f"could not {what}: {error}", DiagnosticStatus.ERROR)
            return False
        return True
