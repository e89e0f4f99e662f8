"""What the operator asks of the planner, between services and the mappings that decisions keep as JSON.

Planner, player and command line share it: what is recorded in `Decision.request` is what `message_of` sends again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edgetem.srv import (ChangeAcquisition, ChangeScalarizer, DecideBatch, PauseExperiment, RemoveRegion, ResumeExperiment,
                         SetRegion)
from edgetem_nodes.graph.messages import number_array, positions_array

SERVICES: dict[str, type] = {
    "pause_experiment": PauseExperiment, "resume_experiment": ResumeExperiment, "set_region": SetRegion,
    "remove_region": RemoveRegion, "change_acquisition": ChangeAcquisition, "change_scalarizer": ChangeScalarizer,
    "decide_batch": DecideBatch}
"""Service by relative name."""
INVALID = {"set_region": "INVALID_REGION", "change_acquisition": "INVALID_CHANGE", "change_scalarizer": "INVALID_SETTINGS",
           "decide_batch": "INVALID_VERDICT"}
"""Constant of the response that stands for a request which `request_of` cannot read."""
_VERDICTS = {"approve_batch": DecideBatch.Request.APPROVE, "approve_all": DecideBatch.Request.APPROVE_ALL,
             "reject_batch": DecideBatch.Request.REJECT, "ask_approval": DecideBatch.Request.ASK}


def request_of(service: str, message: Any) -> dict[str, Any]:
    """The mapping that a service's request stands for.

    Raises
    ------
    ValueError : it cannot be read.
    """
    if service == "set_region":
        if len(message.vertices) % 2:
            raise ValueError(f"vertices are {len(message.vertices)} numbers: (y, x) pairs are needed")
        return {"kind": service, "name": message.name, "region": message.kind,
                "vertices": positions_array(message.vertices).tolist()}
    if service == "remove_region":
        return {"kind": service, "name": message.name}
    if service == "change_acquisition":
        return {"kind": service, "changes": _mapping(message.changes, "changes")}
    if service == "change_scalarizer":
        return {"kind": service, "scalarizer": message.scalarizer, "settings": _mapping(message.settings or "{}", "settings")}
    if service == "decide_batch":
        kinds = {verdict: kind for kind, verdict in _VERDICTS.items()}
        if message.verdict not in kinds:
            raise ValueError(f"verdict {message.verdict!r} is not one of {', '.join(kinds)}")
        kind = kinds[message.verdict]
        return {"kind": kind} if kind == "ask_approval" else {"kind": kind, "decision": message.decision_index}
    return {"kind": service}


def message_of(request: dict[str, Any]) -> tuple[str, Any]:
    """Name of the service and the message that ask for what a mapping says; the inverse of `request_of`.

    Raises
    ------
    KeyError : no service does what it says, or something of it is missing.
    """
    kind = request["kind"]
    if kind in _VERDICTS:
        return "decide_batch", DecideBatch.Request(verdict=_VERDICTS[kind], decision_index=request.get("decision", 0))
    fill: dict[str, Callable[[], dict[str, Any]]] = {
        "set_region": lambda: {"name": request["name"], "kind": request["region"],
                               "vertices": number_array(request["vertices"])},
        "remove_region": lambda: {"name": request["name"]},
        "change_acquisition": lambda: {"changes": json.dumps(request["changes"])},
        "change_scalarizer": lambda: {"scalarizer": request["scalarizer"], "settings": json.dumps(request["settings"])}}
    return kind, SERVICES[kind].Request(**fill.get(kind, dict)())


def as_text(request: dict[str, Any]) -> str:
    """A request as a decision keeps it: equal requests are equal texts."""
    return json.dumps(request, sort_keys=True)


def _mapping(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r} are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} {text!r} are not a JSON object")
    return value
