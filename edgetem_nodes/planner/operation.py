"""What the operator asks of a running experiment: what is accepted, in which order it is carried out, what it does.

A request is a mapping that JSON keeps. `requests.apply` knows those that change what is measured; here are the others:

    {"kind": "pause_experiment"}             nothing is acquired until
    {"kind": "resume_experiment"}
    {"kind": "approve_batch", "decision": 7} measure the batch that decision 7 proposed
    {"kind": "approve_all", "decision": 7}   and from now on ask no more
    {"kind": "ask_approval"}                 from now on every batch waits for approval
    {"kind": "change_scalarizer", "scalarizer": "eels_edge", "settings": {}}   carried out by the node, with the featurizer

Knows no ROS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgetem_nodes.planner import requests
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.waiting import Waiting

APPROVALS = ("approve_batch", "approve_all")
CHANGE_SCALARIZER = "change_scalarizer"
_CODES = {"set_region": "INVALID_REGION", "remove_region": "UNKNOWN_REGION", "change_acquisition": "INVALID_CHANGE",
          "reject_batch": "NO_BATCH"}

Request = dict[str, Any]


class Refused(ValueError):  # noqa: N818  (an answer, not a failure)
    """A request that is not accepted; `code` names a constant of the service's response."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def carry_out(progress: Progress, request: Request) -> str:
    """Carry out one request; returns what was done, for people; empty for one that the node has to carry out.

    Whatever it is, a batch that waits for approval waits no longer.

    Raises
    ------
    Refused : it makes no sense as things stand, or is malformed; nothing has changed.
    """
    kind = request["kind"]
    try:
        if kind in _OWN:
            done = _OWN[kind](progress, request)
        else:
            if kind == "reject_batch":
                _batch(progress, request)
            done = requests.apply(progress.experiment, request)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(_CODES.get(kind, "INVALID_CHANGE"), str(error)) from None
    progress.proposed = None
    return done


def _pause(progress: Progress, _request: Request) -> str:
    if progress.paused:
        raise Refused("ALREADY_PAUSED", "the experiment is paused already")
    progress.paused = True
    return "paused by the operator"


def _resume(progress: Progress, _request: Request) -> str:
    if not progress.paused:
        raise Refused("NOT_PAUSED", "the experiment is not paused")
    progress.paused = False
    return "resumed by the operator"


def _batch(progress: Progress, request: Request) -> None:
    """Raise Refused unless the batch that the request names waits for approval."""
    wanted = int(request.get("decision", -1))
    if progress.proposed is None:
        raise Refused("NO_BATCH", f"no batch waits for approval: decision {wanted} is measured, rejected or withdrawn, or was "
                                  "none that asked")
    if progress.proposed != wanted:
        raise Refused("NO_BATCH", f"the batch that waits is that of decision {progress.proposed}, not of {wanted}: look at it "
                                  "first")


def _approve(progress: Progress, request: Request) -> str:
    _batch(progress, request)
    if progress.paused:
        raise Refused("PAUSED", "the experiment is paused: resume it, and approve the batch that it then proposes")
    return "approved by the operator"


def _approve_all(progress: Progress, request: Request) -> str:
    if progress.proposed is None:
        progress.approve_batches = False
        return "batches wait for approval no longer"
    _approve(progress, request)
    progress.approve_batches = False
    return "approved by the operator, as all that follow"


def _ask_approval(progress: Progress, _request: Request) -> str:
    progress.approve_batches = True
    return "from now on every batch waits for approval"


def _change_scalarizer(progress: Progress, request: Request) -> str:
    if progress.experiment.parameters.energetics.mapped:
        raise Refused("INVALID_SETTINGS", "energies are mapped (energetics.mapped), which another scalarizer "
                      "does not give anew")
    settings = request.get("settings")
    if not isinstance(settings, dict):
        raise Refused("INVALID_SETTINGS", f"settings {settings!r} are not a JSON object of parameters")
    if not settings and not request.get("scalarizer"):
        raise Refused("INVALID_SETTINGS", "neither another scalarizer nor settings are given: there is nothing to change")
    return ""


_OWN: dict[str, Callable[[Progress, Request], str]] = {
    "pause_experiment": _pause, "resume_experiment": _resume, "approve_batch": _approve, "approve_all": _approve_all,
    "ask_approval": _ask_approval, CHANGE_SCALARIZER: _change_scalarizer}


class Operation:
    """The requests that wait for the next decision. `submit` is called by services, all else by the experiment's thread.

    Parameters
    ----------
    waiting : its condition guards the queue, and is notified.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._progress: Progress | None = None
        self.queued: list[Request] = []

    @property
    def progress(self) -> Progress | None:
        """The experiment that takes requests; None: none does."""
        return self._progress

    def open(self, progress: Progress) -> None:
        """Take requests for this experiment from now on."""
        with self._waiting.changed:
            self._progress = progress

    def close(self) -> bool:
        """Take no more; returns False, and goes on taking them, where some are not carried out yet."""
        with self._waiting.changed:
            if self.queued:
                return False
            self._progress = None
            return True

    def abandon(self) -> list[Request]:
        """Take no more, whatever waits; returns what was not carried out."""
        with self._waiting.changed:
            left, self.queued, self._progress = self.queued, [], None
            return left

    def submit(self, request: Request) -> int:
        """Accept a request; returns how many are carried out before it.

        Raises
        ------
        Refused : no experiment takes requests, or this one makes no sense once those before it are carried out.
        """
        with self._waiting.changed:
            if self._progress is None:
                raise Refused("NOT_RUNNING", "no experiment runs that could be changed: before its first and after its last "
                                             "measurement it cannot")
            # What lies ahead is tried on a copy: its methods replace attributes, they never change what they hold.
            ahead = copy.copy(self._progress)
            ahead.experiment = copy.copy(self._progress.experiment)
            for earlier in self.queued:
                with suppress(Refused):
                    carry_out(ahead, earlier)
            carry_out(ahead, request)
            self.queued.append(request)
            self._waiting.notify()
            return len(self.queued) - 1

    def take(self) -> tuple[Request, str] | None:
        """Carry out the first request: it and what was done. A request that is refused after all has a key "refused"."""
        with self._waiting.changed:
            if not self.queued or self._progress is None:
                return None
            request = self.queued.pop(0)
            try:
                return request, carry_out(self._progress, request)
            except Refused as refusal:
                self._progress.proposed = None
                return {**request, "refused": str(refusal)}, f"refused: {refusal}"
