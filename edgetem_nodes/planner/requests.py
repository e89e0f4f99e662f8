"""What an operator may ask of a running experiment: mappings that JSON keeps, so that every one is on record.

    {"kind": "set_region", "name": "hole", "region": "forbid", "vertices": [[0, 0], [0, 1e-8], [1e-8, 1e-8]]}
    {"kind": "remove_region", "name": "hole"}
    {"kind": "change_acquisition", "changes": {"acquisition_function": "maximum_variance", "batch_points": 10}}
    {"kind": "reject_batch"}                 forget the batch that was proposed, and never propose its positions again

An experiment that is given the same requests at the same decisions makes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgetem_nodes.graph.configuration import checked, declared, nearest
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.regions import Region

CHANGEABLE = ("acquisition_function", "exploration", "exploration_fraction", "confidence", "target_fraction", "level",
              "recency_length", "recency_batches", "batch_points")
"""Parameters that may change while an experiment runs."""


def _set_region(experiment: ActiveExperiment, request: dict[str, Any]) -> str:
    region = Region(str(request["name"]), str(request["region"]), tuple(map(tuple, request["vertices"])))
    inside = int(region.contains(experiment.field.positions()).sum())
    if not inside:
        raise ValueError(f"region {region.name!r} holds no position of the field: its vertices are (y, x) in metres")
    experiment.set_region(region)
    done = "forbidden" if region.kind == "forbid" else "added, and measured next"
    return f"region {region.name!r} {done}: {inside} positions"


def _remove_region(experiment: ActiveExperiment, request: dict[str, Any]) -> str:
    name = str(request["name"])
    known = [region.name for region in experiment.regions]
    if name not in known:
        raise ValueError(f"there is no region {name!r}; there are {', '.join(known) or 'none'}" + nearest(name, known))
    experiment.remove_region(name)
    return f"region {name!r} taken back"


def _change_acquisition(experiment: ActiveExperiment, request: dict[str, Any]) -> str:
    rules, changes = declared(Parameters), dict(request["changes"])
    unknown = [name for name in changes if name not in CHANGEABLE]
    if not changes:
        raise ValueError(f"nothing to change was named; {', '.join(CHANGEABLE)} can change in mid-run")
    if unknown:
        raise ValueError(f"{unknown[0]!r} cannot change in mid-run; {', '.join(CHANGEABLE)} can"
                         + nearest(str(unknown[0]), CHANGEABLE))
    changes = {name: checked(rules[name], value) for name, value in changes.items()}
    before = experiment.parameters
    experiment.parameters = replace(before, **changes)
    return "; ".join(f"{name} {getattr(before, name)} -> {value}" for name, value in changes.items())


def _reject_batch(experiment: ActiveExperiment, request: dict[str, Any]) -> str:
    rejected = experiment.reject()
    if not len(rejected):
        raise ValueError("no batch is proposed now that could be rejected")
    return f"batch of {len(rejected)} positions rejected; none of them is proposed again"


_KINDS: dict[str, Callable[[ActiveExperiment, dict[str, Any]], str]] = {
    "set_region": _set_region, "remove_region": _remove_region, "change_acquisition": _change_acquisition,
    "reject_batch": _reject_batch}
KINDS = tuple(_KINDS)


def apply(experiment: ActiveExperiment, request: dict[str, Any]) -> str:
    """Carry out one request; returns what was done, for people.

    Raises
    ------
    ValueError : an unknown kind, a missing or wrong value; the experiment is as it was.
    """
    kind = request.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"a request of kind {kind!r} is not known; there are {', '.join(KINDS)}" + nearest(str(kind), KINDS))
    try:
        return _KINDS[kind](experiment, request)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the request {kind!r} is incomplete or malformed: {type(error).__name__} {error}") from None
