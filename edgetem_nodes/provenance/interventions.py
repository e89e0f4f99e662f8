"""What the operator asked of a recorded experiment, and between which decisions: a replay asks for it again. No ROS.

Of the recorded decisions only number, kind, `request`, `scalarizer_version` and `points` are read: the operator's part,
which the planner did not decide. What the planner decided stays unread until it has decided again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.reading import read_raw
from edgetem_nodes.provenance.topics import FLUSHED_BY

OPERATOR, PROPOSE, STOP, ENERGETICS = "operator", "propose", "stop", "energetics"


@dataclass(frozen=True)
class Step:
    """The operator's part of one decision.

    Attributes
    ----------
    request : what was asked for, without "refused"; None: nothing.
    refused : why it was not carried out after all; empty: it was.
    stopped : the decision is the operator's stop.
    points : measured before it.
    """

    index: int
    action: str
    request: dict[str, Any] | None = None
    refused: str = ""
    scalarizer_version: int = 0
    stopped: bool = False
    points: int = 0


@dataclass(frozen=True)
class Interventions:
    """The decisions of an experiment, as far as the operator made them."""

    steps: dict[int, Step] = field(default_factory=dict)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """All, in order."""
        return [step.request for _, step in sorted(self.steps.items()) if step.request is not None]

    def after(self, index: int) -> list[Step]:
        """What is asked for once a decision stands, before its measurements come: operator's decisions, or the approval."""
        steps, number = [], index + 1
        # Energies of the better level belong to the turn: what was asked for meanwhile is carried out after them.
        while number in self.steps and self.steps[number].action == ENERGETICS:
            number += 1
        while number in self.steps and self.steps[number].action == OPERATOR:
            steps.append(self.steps[number])
            number += 1
        following = self.steps.get(number)
        if not steps and self.action(index) == PROPOSE and following is not None and following.request is not None:
            steps.append(following)
        return steps

    def waits(self, index: int) -> str:
        """For what the experiment waited after a decision, where nothing is on record that ended the wait; else empty."""
        if self.after(index):
            return ""
        if self.action(index) == PROPOSE:
            return "a batch waited for approval"
        paused = False
        for number in sorted(number for number in self.steps if number <= index):
            request = self.steps[number].request or {}
            paused = {"pause_experiment": True, "resume_experiment": False}.get(request.get("kind"), paused)
        return "the experiment was paused" if paused else ""

    def stopped_in(self, index: int | None) -> bool:
        """Whether the operator stopped the experiment in the acquisition of a decision: nothing was learned of it."""
        return self.stopped_after(index) and self.steps[index + 1].points == self.steps[index].points

    def stopped_after(self, index: int | None) -> bool:
        """Whether the operator's stop is the next decision."""
        return index is not None and index + 1 in self.steps and self.steps[index + 1].stopped

    def action(self, index: int) -> str:
        """Kind of a decision; empty where it is not on record."""
        return self.steps[index].action if index in self.steps else ""


def interventions_of(folder: str | Path) -> Interventions:
    """What a bag tells of the operator; after a resume the last decision of a number counts.

    Raises
    ------
    BagError : there is no readable bag, or a request in it is not JSON.
    """
    steps = {}
    for recorded in read_raw(folder, [FLUSHED_BY]):
        message = recorded.decode()
        request = None
        if getattr(message, "request", ""):
            try:
                request = dict(json.loads(message.request))
            except ValueError:
                raise BagError(f"{folder}: the operator's request of decision {message.index} is not JSON: "
                               f"{message.request!r}") from None
        refused = str(request.pop("refused", "")) if request else ""
        steps[int(message.index)] = Step(int(message.index), message.action, request, refused,
                                         int(message.scalarizer_version),
                                         message.action == STOP and message.stop_reason == OPERATOR, int(message.points))
    return Interventions(steps)
