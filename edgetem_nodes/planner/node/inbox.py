"""Measurements and probe paths as they come in, put where the experiment's thread waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.callback_groups import CallbackGroup

from edgetem.msg import Measurements, ProbePath
from edgetem_nodes.graph.messages import numbers, to_uuid
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import EVENTS
from edgetem_nodes.planner.ledger import Pending, Recomputed, Scalar, columns
from edgetem_nodes.planner.waiting import Waiting


class Inbox:
    """Subscribes `measurements` and `probe_path`; whoever waits sets `pending` or `recomputed` under `waiting.changed`.

    Parameters
    ----------
    outputs : columns that are learned besides the first one.
    """

    def __init__(self, node: GraphNode, waiting: Waiting, outputs: Sequence[str], group: CallbackGroup) -> None:
        self._node, self._waiting, self._outputs = node, waiting, tuple(outputs)
        self.pending: Pending | None = None
        self.recomputed: Recomputed | None = None
        self._subscriptions = [
            node.create_subscription(Measurements, "measurements", self._on_measurements, EVENTS, callback_group=group),
            node.create_subscription(ProbePath, "probe_path", self._on_path, EVENTS, callback_group=group)]

    def close(self) -> None:
        """Release what the node made."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def expect(self, pending: Pending | None = None, recomputed: Recomputed | None = None) -> None:
        """Take rows of this acquisition, or of these rows made anew, and of nothing else."""
        with self._waiting.changed:
            self.pending, self.recomputed = pending, recomputed

    def _on_measurements(self, message: Measurements) -> None:
        with self._waiting.changed:
            pending, recomputed, acquisition_id = self.pending, self.recomputed, to_uuid(message.acquisition_id)
            if pending is not None and acquisition_id == pending.acquisition_id:
                rows = self._rows(message, pending)
                pending.add(*rows, message.received_ns, message.source_duration, message.failures)
            elif recomputed is not None and message.scalarizer_version > recomputed.after:
                recomputed.add(acquisition_id, *self._rows(message, recomputed))
            else:
                return
            self._waiting.notify()

    def _rows(self, message: Measurements, into: Pending | Recomputed) -> tuple[Any, ...]:
        """Indices, values, standard errors and validity of what is learned; what they are goes into `into`."""
        shape, outputs = (len(message.indices), len(message.names)), self._outputs
        if isinstance(into, Pending) and into.outputs is not None:
            outputs = into.outputs
        into.scalar = Scalar(message.names[0], message.units[0], message.scalarizer_version)
        try:
            taken = columns(message.names, outputs)
        except ValueError as error:
            into.problem, taken = str(error), [0] * (1 + len(outputs))
        if isinstance(into, Pending):
            into.units = tuple(message.units[column] for column in taken)
        return (numbers(message.indices, dtype=np.uint64), numbers(message.values, shape)[:, taken],
                numbers(message.standard_errors, shape)[:, taken], np.asarray(message.valid, bool))

    def _on_path(self, path: ProbePath) -> None:
        with self._waiting.changed:
            pending = self.pending
            if pending is not None and to_uuid(path.acquisition_id) == pending.acquisition_id:
                pending.beam_time, pending.reference_dose = path.position_period * pending.count, path.reference_dose
                self._waiting.notify()
