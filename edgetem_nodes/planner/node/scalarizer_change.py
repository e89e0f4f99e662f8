"""The change of the scalarizer in mid-run: the featurizer reads all data anew, the experiment learns it anew."""

from __future__ import annotations

import json
import time
from typing import Any

import yaml
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
    """Calls `set_scalarizer`. Attributes: `config`, YAML of the experiment's complete configuration."""

    def __init__(self, node: GraphNode, waiting: Waiting, inbox: Inbox, group: CallbackGroup) -> None:
        self._node, self._waiting, self._inbox = node, waiting, inbox
        self.config = ""
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
        differences = changes(self.config, progress.scalarizer_settings, answer.settings)
        progress.scalarizer, progress.scalarizer_settings = answer.scalarizer, answer.settings
        old, new = (f"{scalar.name} [{scalar.unit}]" if scalar.unit else scalar.name for scalar in (before, progress.scalar))
        return request, (f"scalarizer {answer.scalarizer}, version {progress.scalar.version}: {new or 'another scalar'} in "
                         f"place of {old or 'the configured one'}, {len(recomputed.wanted)} measurements read anew"
                         + (f"; {differences}" if differences else ""))

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


def changes(config: str, before: str, after: str) -> str:
    """Settings of the scalarizer that a change changed, for people: "eels_edge.signal_eV [930, 1010] -> [1020, 1080]".

    A label does not follow the windows it was given for, so that the scalar's name alone does not tell two of them apart.

    Parameters
    ----------
    config : YAML of the complete configuration; where it does not say a value, "as configured" stands for it.
    before, after : JSON objects, what differed and what differs from the configuration; empty: nothing.
    """
    configured = _featurizer_of(config)
    old, new = (json.loads(text) if text else {} for text in (before, after))

    def value(held: dict[str, Any], name: str) -> str:
        return json.dumps(held.get(name, configured.get(name))) if name in held or name in configured else "as configured"
    pairs = [(name, value(old, name), value(new, name)) for name in sorted({*old, *new})]
    return ", ".join(f"{name} {was} -> {now}" for name, was, now in pairs if was != now)


def _featurizer_of(config: str) -> dict[str, Any]:
    """The featurizer's parameters by dotted name; none where the text holds no such thing."""
    try:
        held: Any = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    for key in ("featurizer", "ros__parameters"):
        held = held.get(key) if isinstance(held, dict) else None
    return held if isinstance(held, dict) else {}
