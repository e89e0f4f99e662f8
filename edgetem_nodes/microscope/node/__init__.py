"""The microscope node: column, stage and scan. It serves acquisitions one at a time, and alone stamps acquisition time."""

from __future__ import annotations

from typing import ClassVar

from rclpy.callback_groups import ReentrantCallbackGroup

from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.microscope.node.acquiring import AcquisitionServer
from edgetem_nodes.microscope.node.console import Console
from edgetem_nodes.microscope.node.drift import resume_tracking
from edgetem_nodes.microscope.drivers import make_driver
from edgetem_nodes.microscope.node.focusing_actions import FocusingActions
from edgetem_nodes.microscope.parameters import Parameters
from edgetem_nodes.microscope.node.services import ColumnServices


class MicroscopeNode(GraphNode):
    """One console, and the servers that use it in turn: `acquire`, focusing actions, services. See docs/microscope.md."""

    NAME: ClassVar[str] = "microscope"
    Parameters: ClassVar[type] = Parameters
    ABORT_PATIENCE: ClassVar[float] = 8.0
    """[s] that the detector has to end an acquisition that was called off."""

    def setup(self) -> None:
        p = self.parameters
        group = ReentrantCallbackGroup()
        self.console = Console(self, make_driver(p.instrument, p.seed), p)
        self.acquisitions = AcquisitionServer(self, self.console, lambda: self.ABORT_PATIENCE, group)
        self._servers = [self.acquisitions, ColumnServices(self, self.console, group),
                         FocusingActions(self, self.console, group)]
        self._poll = self.create_timer(p.state_interval, self._on_poll, callback_group=group)
        self.console.blank(True)

    def peers(self) -> list[Peer]:
        return self.acquisitions.peers()

    def start(self) -> None:
        self.console.start()
        resume_tracking(self.console)

    def stop(self) -> None:
        self.acquisitions.stop()
        self.console.interrupt("ACQUISITION_ABORTED", "the microscope was stopped")
        self.console.stop()

    def teardown(self) -> None:
        self.destroy_timer(self._poll)
        for server in self._servers:
            server.close()
        self.console.close()

    async def _on_poll(self) -> None:
        """Read the column's state now and then, while nothing else does."""
        if self.active and not self.console.busy:
            try:
                await self.console.drive(lambda: None)
            except Exception as error:  # noqa: BLE001  (a reading that failed is reported, the next may succeed)
                self.warn(f"the column's state could not be read: {error}")
            else:
                self.console.show()
