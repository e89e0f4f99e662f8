"""Definitions and type hashes of message types, from the interface files that the installed ROS packages share.

A bag holds for every type the full text of its definition and of all that it refers to, so that it can be read where
the package is not installed. A type of a `.msg` file is given as that file says it, comments and all; the types that
ROS derives from an action or a service (feedback messages, events) have no file, and are written from the type
description that the generator installs beside it. Imports no ROS.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import lru_cache
from pathlib import Path

SEPARATOR = "=" * 80
_FIELD = re.compile(r"^[ \t]*([A-Za-z0-9_/]+)(?:\[[^\]]*\])?[ \t]+[A-Za-z]", re.MULTILINE)
_PRIMITIVES = frozenset(("bool", "byte", "char", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32",
                         "int64", "uint64", "string", "wstring"))
# Numbers of type_description_interfaces/msg/FieldType; arrays are 48, bounded sequences 96, sequences 144 above these.
_TYPE_NAMES = {2: "int8", 3: "uint8", 4: "int16", 5: "uint16", 6: "int32", 7: "uint32", 8: "int64", 9: "uint64",
               10: "float32", 11: "float64", 13: "char", 15: "bool", 16: "byte", 17: "string", 18: "wstring"}
_NESTED, _BOUNDED_STRING, _BOUNDED_WSTRING = 1, 21, 22


class DefinitionNotFoundError(LookupError):
    """No installed package shares the definition of a type."""


def split_type(name: str) -> tuple[str, str, str]:
    """Package, kind and type of `package/msg/Type`; the kind is `msg` where a definition leaves it out.

    Raises
    ------
    ValueError : the name is not of this form.
    """
    parts = name.split("/")
    if len(parts) == 2:
        return parts[0], "msg", parts[1]
    if len(parts) != 3 or parts[1] not in ("msg", "srv", "action"):
        raise ValueError(f"{name!r} is not a message type: the form is 'package/msg/Type', 'package/srv/Type' or "
                         "'package/action/Type'")
    return parts[0], parts[1], parts[2]


def definition(type_name: str) -> str:
    """The type's definition and, after a line of `=` and `MSG: name` each, those of all that it refers to (`ros2msg`).

    Raises
    ------
    DefinitionNotFoundError : the package, or the type in it, is not installed on AMENT_PREFIX_PATH.
    """
    seen = {"/".join(split_type(type_name))}
    parts = []

    def append(name: str) -> None:
        text, references = _own_text("/".join(split_type(name)))
        parts.append(text)
        for reference in references:
            full = "/".join(split_type(reference))
            if full not in seen:
                seen.add(full)
                parts.append(f"{SEPARATOR}\nMSG: {reference}\n")
                append(full)

    append(type_name)
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def type_hash(type_name: str) -> str:
    """The RIHS01 hash of a type, as the interface generator computed it.

    Raises
    ------
    DefinitionNotFoundError : the package, or the type in it, is not installed on AMENT_PREFIX_PATH.
    """
    full = "/".join(split_type(type_name))
    for entry in _description(full)["type_hashes"]:
        if entry["type_name"] == full:
            return entry["hash_string"]
    raise DefinitionNotFoundError(f"the type description that {full} belongs to does not list its hash")


@lru_cache
def _own_text(full: str) -> tuple[str, tuple[str, ...]]:
    package, kind, name = split_type(full)
    if kind == "msg":
        text = _share(package, "msg", f"{name}.msg", full).read_text()
        found = dict.fromkeys(match for match in _FIELD.findall(text) if match not in _PRIMITIVES)
        return text, tuple(match if "/" in match else f"{package}/{match}" for match in found)
    described = _description(full)["type_description_msg"]
    for individual in (described["type_description"], *described["referenced_type_descriptions"]):
        if individual["type_name"] == full:
            return _text_of(individual["fields"])
    raise DefinitionNotFoundError(f"the type description of {package}/{kind} does not hold {name}")


def _text_of(fields: list[dict]) -> tuple[str, tuple[str, ...]]:
    lines, references = [], []
    for field in fields:
        if field["name"] == "structure_needs_at_least_one_member":
            continue
        declared = field["type"]
        container, element = divmod(declared["type_id"], 48)
        suffix = ("", f"[{declared['capacity']}]", f"[<={declared['capacity']}]", "[]")[container]
        if element == _NESTED:
            package, kind, name = split_type(declared["nested_type_name"])
            text = f"{package}/{name}" if kind == "msg" else f"{package}/{kind}/{name}"
            references.append(text)
        elif element in (_BOUNDED_STRING, _BOUNDED_WSTRING):
            text = f"{'string' if element == _BOUNDED_STRING else 'wstring'}<={declared['string_capacity']}"
        else:
            text = _TYPE_NAMES[element]
        default = f" {field['default_value']}" if field["default_value"] else ""
        lines.append(f"{text}{suffix} {field['name']}{default}\n")
    return "".join(lines), tuple(dict.fromkeys(references))


@lru_cache
def _description(full: str) -> dict:
    package, kind, name = split_type(full)
    return json.loads(_share(package, kind, f"{name if kind == 'msg' else name.split('_')[0]}.json", full).read_text())


def _share(package: str, kind: str, file: str, full: str) -> Path:
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*prefixes, Path(sys.prefix)):
        path = prefix / "share" / package / kind / file
        if path.is_file():
            return path
    raise DefinitionNotFoundError(f"{full}: no share/{package}/{kind}/{file} on AMENT_PREFIX_PATH or in {sys.prefix}: "
                                  f"is the package {package} installed?")
