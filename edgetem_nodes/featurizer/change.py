"""Changing the scalarizer's parameters in mid-run: settings as a JSON object, checked as a configuration is. Imports no ROS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.scalarizers import BUILT_IN
from edgetem_nodes.graph.configuration import build, checked, declared, nearest

COMMON = ("label", "settings", "counts_per_electron", "readout_noise", "saturation")
GROUPS = (*BUILT_IN, "structure")


def changeable() -> dict[str, Any]:
    """What may be changed in mid-run, by dotted name: all that says what a frame becomes, but the instrument's beam."""
    return {name: rule for name, rule in declared(Parameters).items()
            if name in COMMON or name.partition(".")[0] in GROUPS and "." in name}


def changed(present: Parameters, scalarizer: str, settings: str) -> Parameters:
    """The parameters after a change; `present` stays as it is.

    Where another scalarizer is named, `label` and `settings`, which belong to the old one, are emptied unless given.

    Parameters
    ----------
    scalarizer : its name; empty: the present one.
    settings : JSON object of parameters by dotted name (or nested), as in the YAML. `settings`, for a scalarizer that an
        installed package adds, is an object or its text. Empty: no change.

    Raises
    ------
    ValueError : not a JSON object, a parameter that there is not or that cannot be changed in mid-run, or a value outside
        its range.
    """
    values = _values(present)
    if scalarizer and scalarizer != present.scalarizer:
        values.update(scalarizer=scalarizer, label="", settings="")
    known = changeable()
    for name, value in _entries(_json(settings), ""):
        if name not in known:
            fixed = name in values
            raise ValueError(f"{name!r} cannot be changed in mid-run: it does not say what a frame becomes" if fixed else
                             f"{name!r} is not a parameter of the scalarizers" + nearest(name, known))
        if name == "settings" and isinstance(value, dict):
            value = json.dumps(value, sort_keys=True)
        values[name] = checked(known[name], value)
    return build(Parameters, values)


def difference(start: Parameters, present: Parameters) -> str:
    """JSON object of what differs: `changed(start, present.scalarizer, difference(start, present))` is `present`."""
    before, after = _values(start), _values(present)
    renamed = start.scalarizer != present.scalarizer
    return json.dumps({name: after[name] for name in changeable()
                       if after[name] != before[name] or renamed and name in ("label", "settings")}, sort_keys=True)


def _values(parameters: Parameters) -> dict[str, Any]:
    """Every parameter by dotted name."""
    result = {}
    for name in declared(Parameters):
        value: Any = parameters
        for part in name.split("."):
            value = getattr(value, part)
        result[name] = list(value) if isinstance(value, list) else value
    return result


def _json(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"settings {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"settings {text!r} must be a JSON object, e.g. '{{\"eels_edge.signal_eV\": [930, 1010]}}'")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return result


def _entries(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names of nested objects; the object `settings` is a value."""
    for key, value in values.items():
        if isinstance(value, dict) and prefix + key != "settings":
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
