"""Configurations: parameter dataclasses, and the YAML file of an experiment checked against them. Imports no ROS.

A node declares its parameters in one dataclass made of `parameter(...)` and `group(...)` fields. A configuration is an
ordinary ROS 2 parameter file, `node: ros__parameters: {...}`, with `/**` for what several nodes share; nested mappings
are joined by dots. Everything is checked before anything starts, and an error names file, line, value and rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SHARED = "/**"


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the message names file, line, value and rule."""


@dataclass(frozen=True)
class Rule:
    """What a parameter may be: description for people, unit, inclusive range, choices, and whether it is a path."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple = ()
    path: bool = False


@dataclass(frozen=True)
class Declared:
    """A parameter as the node declares it: dotted name, Python type (e.g. `float`, `list[str]`), default and rule."""

    name: str
    type: Any
    default: Any
    rule: Rule


def parameter(default: Any, description: str, *, unit: str = "", minimum: float | None = None,
              maximum: float | None = None, choices: tuple = (), path: bool = False) -> Any:
    """A field of a parameter dataclass. `path` values are expanded and taken relative to the configuration file."""
    rule = Rule(description, unit, minimum, maximum, tuple(choices), path)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"rule": rule})
    return dataclasses.field(default=default, metadata={"rule": rule})


def group(dataclass_type: type) -> Any:
    """A field that holds a nested dataclass of parameters; its names are joined by a dot."""
    return dataclasses.field(default_factory=dataclass_type)


def declared(dataclass_type: type, prefix: str = "") -> dict[str, Declared]:
    """All parameters of a parameter dataclass by dotted name, in order of declaration."""
    hints = typing.get_type_hints(dataclass_type)
    result: dict[str, Declared] = {}
    for field in dataclasses.fields(dataclass_type):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            result.update(declared(hint, f"{prefix}{field.name}."))
            continue
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        name = prefix + field.name
        result[name] = Declared(name, hint, default, field.metadata["rule"])
    return result


def build(dataclass_type: type, values: dict[str, Any]) -> Any:
    """The parameter dataclass filled from dotted names; a name that is not given keeps its default."""
    hints = typing.get_type_hints(dataclass_type)
    arguments = {}
    for field in dataclasses.fields(dataclass_type):
        if dataclasses.is_dataclass(hints[field.name]):
            start = field.name + "."
            inner = {k[len(start):]: v for k, v in values.items() if k.startswith(start)}
            arguments[field.name] = build(hints[field.name], inner)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return dataclass_type(**arguments)


def checked(parameter_: Declared, value: Any) -> Any:
    """The value in the declared type; raises ValueError with the value and the rule where it does not fit."""
    origin = typing.get_origin(parameter_.type)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{parameter_.name}: {value!r} is not a list")
        item_type = typing.get_args(parameter_.type)[0]
        return [_checked_scalar(parameter_, item_type, item) for item in value]
    return _checked_scalar(parameter_, parameter_.type, value)


def _checked_scalar(parameter_: Declared, expected: type, value: Any) -> Any:
    rule, name = parameter_.rule, parameter_.name
    if expected is float and not isinstance(value, bool):
        try:
            value = float(value)  # also "1e6", which YAML 1.1 takes for a text
        except (TypeError, ValueError):
            pass
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{name}: {value!r} is not of type {expected.__name__}")
    if expected is float and not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not finite")
    if rule.choices and value not in rule.choices:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(repr, rule.choices))}"
                         + nearest(str(value), map(str, rule.choices)))
    unit = f" {rule.unit}" if rule.unit else ""
    if rule.minimum is not None and value < rule.minimum:
        raise ValueError(f"{name}: {value!r}{unit} is below the smallest allowed value, {rule.minimum}{unit}")
    if rule.maximum is not None and value > rule.maximum:
        raise ValueError(f"{name}: {value!r}{unit} is above the largest allowed value, {rule.maximum}{unit}")
    return value


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to the given one; empty where none is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def data_root() -> Path | None:
    """Where measured data lies: `EDGETEM_DATA`, else the nearest `shared/data` beside this folder or one above it."""
    if os.environ.get("EDGETEM_DATA"):
        return Path(os.environ["EDGETEM_DATA"])
    for folder in [Path.cwd(), *Path.cwd().parents]:
        if (folder / "shared" / "data").is_dir():
            return folder / "shared" / "data"
    return None


def expand_path(text: str, folder: Path) -> str:
    """Expand `~` and `${NAME}`, and take a relative path relative to `folder`. An empty text stays empty."""
    if not text:
        return text

    def variable(match: re.Match) -> str:
        name = match.group(1)
        if name == "EDGETEM_DATA" and data_root() is not None:
            return str(data_root())
        if name not in os.environ:
            raise ValueError(f"{text!r} names the environment variable {name}, which is not set")
        return os.environ[name]

    path = Path(re.sub(r"\$\{(\w+)\}", variable, text)).expanduser()
    return str((folder / path).resolve())


@dataclass(frozen=True)
class Configuration:
    """A checked configuration: every parameter of every node, defaults filled in, paths absolute."""

    source: Path
    nodes: dict[str, dict[str, Any]]

    def parameters(self, node: str, dataclass_type: type) -> Any:
        """The node's parameter dataclass."""
        return build(dataclass_type, self.nodes[node])

    def as_yaml(self) -> str:
        """The complete configuration as a ROS 2 parameter file."""
        return yaml.safe_dump({node: {"ros__parameters": values} for node, values in self.nodes.items()},
                              sort_keys=False, allow_unicode=True)


def load_configuration(path: str | Path, schemas: dict[str, type], overrides: dict[str, Any] | None = None) -> Configuration:
    """Read and check a configuration file.

    Parameters
    ----------
    path : the YAML file.
    schemas : parameter dataclass of each node, by node name.
    overrides : values by "node.dotted.name" or, for every node that declares it, "/**.dotted.name"; they win.

    Raises
    ------
    ConfigurationError : file missing, not YAML, an unknown node or key (with the nearest known one), a wrong value.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(f"configuration {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"configuration {path} is not a text file; for a measured scan make a configuration with "
                                 f"'edgetem init {path}'") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"configuration {path} is not YAML: {error}") from None
    known = {node: declared(schema) for node, schema in schemas.items()}
    nodes = {node: {name: p.default for name, p in parameters.items()} for node, parameters in known.items()}
    folder = path.resolve().parent
    for node, name, value, line in sorted(_entries(root, path, known), key=lambda entry: entry[0] != SHARED):
        _assign(nodes, known, node, name, value, f"{path}:{line}", folder)
    for key, value in (overrides or {}).items():
        node, _, name = key.partition(".")
        _assign(nodes, known, node, name, value, f"override {key}", Path.cwd())
    for node, values in nodes.items():
        for name, parameter_ in known[node].items():
            if parameter_.rule.path and values[name] == parameter_.default:
                values[name] = expand_path(values[name], folder)
    return Configuration(path.resolve(), nodes)


def _entries(root: Any, path: Path, known: dict[str, dict[str, Declared]]) -> typing.Iterator[tuple[str, str, Any, int]]:
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(f"{path}:1: a configuration is a mapping of node names to 'ros__parameters'")
    for node_key, body in root.value:
        if not isinstance(node_key, yaml.ScalarNode):
            raise ConfigurationError(f"{path}:{node_key.start_mark.line + 1}: a key must be the name of a node")
        node, line = node_key.value, node_key.start_mark.line + 1
        if node != SHARED and node not in known:
            raise ConfigurationError(f"{path}:{line}: there is no node {node!r}; the nodes are {', '.join(known)}, "
                                     f"and {SHARED!r} for all" + nearest(node, known))
        if not isinstance(body, yaml.MappingNode) or [k.value for k, _ in body.value] != ["ros__parameters"]:
            raise ConfigurationError(f"{path}:{line}: {node!r} must hold exactly one key, 'ros__parameters'")
        yield from ((node, *entry) for entry in _leaves(body.value[0][1], "", path))


def _leaves(mapping: Any, prefix: str, path: Path) -> typing.Iterator[tuple[str, Any, int]]:
    if not isinstance(mapping, yaml.MappingNode):
        raise ConfigurationError(f"{path}:{mapping.start_mark.line + 1}: 'ros__parameters' must be a mapping")
    seen = set()
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigurationError(f"{path}:{line}: a key must be a name")
        if key.value in seen:
            raise ConfigurationError(f"{path}:{line}: {prefix + key.value!r} is given twice")
        seen.add(key.value)
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(value, f"{prefix}{key.value}.", path)
        else:
            loader = yaml.SafeLoader("")
            try:
                yield prefix + key.value, loader.construct_object(value, deep=True), line
            except yaml.YAMLError as error:
                raise ConfigurationError(f"{path}:{line}: {error}") from None


def _assign(nodes: dict, known: dict, node: str, name: str, value: Any, where: str, folder: Path) -> None:
    if node != SHARED and node not in known:
        raise ConfigurationError(f"{where}: there is no node {node!r}" + nearest(node, known))
    targets = [n for n in known if name in known[n]] if node == SHARED else [node] if name in known[node] else []
    if not targets:
        candidates = {k for n in known for k in known[n]} if node == SHARED else known[node]
        owner = "any node" if node == SHARED else node
        raise ConfigurationError(f"{where}: {name!r} is not a parameter of {owner}" + nearest(name, candidates))
    for target in targets:
        parameter_ = known[target][name]
        try:
            value_ = checked(parameter_, value)
            nodes[target][name] = expand_path(value_, folder) if parameter_.rule.path else value_
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
