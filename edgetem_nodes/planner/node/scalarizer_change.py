"""The change of the scalarizer in mid-run: the featurizer reads all data anew, the experiment learns it anew."""

from __future__ import annotations

import json
import time
from typing import Any

from rclpy.callback_groups import CallbackGroup

from edgetem.srv import SetScalarizer
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.planner.ledger import Recomputed, Scalar
from edgetem_nodes.planner.node.inbox import Inbox
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.waiting import ANSWER_TIMEOUT, Failed, Waiting

LOOK = 0.05
"""[s] between two looks at whether the service is there."""


class ScalarizerClient:
    """Calls `set_scalarizer`."""

    def __init__(self, node: GraphNode, waiting: Waiting, inbox: Inbox, group: CallbackGroup) -> None:
        self._node, self._waiting, self._inbox = node, waiting, inbox
        self._client = node.create_client(SetScalarizer, "set_scalarizer", callback_group=group)

    def close(self) -> None:
        """Release what the node made."""
        self._node.destroy_client(self._client)

    def ready(self) -> bool:
        """Whether a node serves it."""
        return self._client.service_is_ready()

    def change(self, progress: Progress, request: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Carry out a request of the operator: it, with a key "refused" where the featurizer refuses, and what was done.

        Raises
        ------
        Failed : the featurizer does not answer, or rows that were measured do not come again.
        """
        recomputed = Recomputed(tuple(progress.rows), progress.scalar.version)
        self._inbox.expect(recomputed=recomputed)
        try:
            answer = self._waiting.ask(self._client, SetScalarizer.Request(
                scalarizer=request["scalarizer"], settings=json.dumps(request["settings"])),
                "MEASUREMENTS_MISSING", "featurizer")
            if answer.error_code:
                refused = str(answer.error_msg)
                return {**request, "refused": refused}, f"refused, the scalarizer stays as it is: {refused}"
            self._await(recomputed)
        finally:
            self._inbox.expect()
        before = progress.scalar
        if recomputed.wanted:
            progress.experiment.retell(*recomputed.sorted())
            progress.scalar = recomputed.scalar
        else:
            progress.scalar = Scalar(*(names[0] if names else "" for names in (answer.names, answer.units)),
                                     answer.scalarizer_version)
        # Of the request alone, which a replay has too: a label does not follow the windows it was given for.
        asked = ", ".join(f"{name} = {json.dumps(value)}" for name, value in sorted(request["settings"].items()))
        progress.scalarizer, progress.scalarizer_settings = answer.scalarizer, answer.settings
        old, new = (f"{scalar.name} [{scalar.unit}]" if scalar.unit else scalar.name for scalar in (before, progress.scalar))
        return request, (f"scalarizer {answer.scalarizer}, version {progress.scalar.version}: {new or 'another scalar'} in "
                         f"place of {old or 'the configured one'}, {len(recomputed.wanted)} measurements read anew"
                         + (f"; {asked}" if asked else ""))

    def restore(self, progress: Progress) -> None:
        """Give a featurizer that was started anew the scalarizer that the checkpoint's measurements were made with.

        Raises
        ------
        Failed : it does not answer, or refuses.
        """
        if not progress.scalarizer:
            return
        patience = time.monotonic() + ANSWER_TIMEOUT
        while not self.ready() and time.monotonic() < patience:
            self._waiting.until(lambda: False, LOOK)
        answer = self._waiting.ask(self._client, SetScalarizer.Request(
            scalarizer=progress.scalarizer, settings=progress.scalarizer_settings, version=progress.scalar.version,
            skip_measured=True), "MEASUREMENTS_MISSING", "featurizer")
        if answer.error_code:
            raise Failed("MEASUREMENTS_MISSING", f"the featurizer refuses the scalarizer {progress.scalarizer!r} that the "
                                                 f"experiment had changed to: {answer.error_msg}")

    def _await(self, recomputed: Recomputed) -> None:
        silence = self._node.parameters.measurement_timeout_s
        self._waiting.until(lambda: bool(recomputed.problem) or not recomputed.missing(), silence,
                            lambda: len(recomputed.rows))
        if recomputed.problem:
            raise Failed("MEASUREMENTS_MISSING", recomputed.problem)
        if recomputed.missing():
            raise Failed("MEASUREMENTS_MISSING", f"the featurizer went silent: {recomputed.missing()} of "
                         f"{len(recomputed.wanted)} measurements did not come again with the new scalarizer within "
                         f"{silence:g} s")
