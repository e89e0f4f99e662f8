"""Settings of a training, from a YAML file that is checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgetem_nodes.graph.configuration import (ConfigurationError, build, checked, declared, expand_path, group, nearest,
                                               parameter)


@dataclass
class DiskStage:
    """Training of the disk network."""

    patterns: int = parameter(100000, "patterns that are drawn", minimum=32, maximum=10_000_000)
    displacements: int = parameter(2, "displaced lattices of each", minimum=1, maximum=16)
    epochs: int = parameter(16, "passes over them; 0: left as it begins (--from)", minimum=0, maximum=1000)
    batch: int = parameter(512, "lattices in a step", minimum=8, maximum=65536)
    rate: float = parameter(4e-3, "largest learning rate", minimum=1e-6, maximum=0.1)
    width: int = parameter(96, "neurons in a layer", minimum=8, maximum=1024)


@dataclass
class RefiningStage:
    """Training of the refining network, on the patterns of the pattern networks."""

    epochs: int = parameter(22, "passes over them; 0: left as it begins (--from)", minimum=0, maximum=1000)
    batch: int = parameter(512, "patterns in a step", minimum=8, maximum=65536)
    rate: float = parameter(4e-3, "largest learning rate", minimum=1e-6, maximum=0.1)
    width: int = parameter(160, "neurons in a layer", minimum=8, maximum=1024)


@dataclass
class PatternStage:
    """Training of the pattern networks."""

    patterns: int = parameter(400000, "patterns that are drawn", minimum=32, maximum=10_000_000)
    countings: int = parameter(2, "times that each is counted, with other doses", minimum=1, maximum=16)
    other_share: float = parameter(0.12, "part of them that is of other materials", minimum=0.0, maximum=0.5)
    several_share: float = parameter(0.05, "part of them that is of several crystals, powders and films", minimum=0.0,
                                     maximum=0.4)
    epochs: int = parameter(18, "passes over them", minimum=1, maximum=1000)
    batch: int = parameter(512, "patterns in a step", minimum=8, maximum=65536)
    rate: float = parameter(6e-3, "largest learning rate", minimum=1e-6, maximum=0.1)
    members: int = parameter(2, "networks of the ensemble", minimum=1, maximum=8)
    disk_width: int = parameter(112, "neurons in a layer, for each disk", minimum=8, maximum=1024)
    width: int = parameter(160, "neurons in a layer, for the pattern", minimum=8, maximum=1024)


@dataclass
class NanobeamConditions:
    """From what conditions patterns are drawn; see `ConditionRanges` for the others."""

    high_tensions_kV: list[float] = parameter([60.0, 80.0, 120.0, 200.0, 300.0], "one of these", unit="kV")
    semi_convergence_mrad: list[float] = parameter([1.0, 3.0], "least and largest, logarithmic", unit="mrad")
    pixels: list[int] = parameter([64, 64, 96, 128], "cameras, along each axis; one given twice is drawn twice as often")
    strain: float = parameter(0.03, "largest exx, eyy, exy", minimum=0.0, maximum=0.1)
    tilt_mrad: float = parameter(16.0, "largest tilt of the zone axis", unit="mrad", minimum=0.0, maximum=20.0)
    electrons: list[float] = parameter([3e2, 1e6], "of a pattern, least and largest, logarithmic")


@dataclass
class NanobeamTraining:
    """The nanobeam network."""

    network: str = parameter("nanobeam", "which network", choices=("nanobeam",))
    seed: int = parameter(0, "of everything random", minimum=0, maximum=2**31 - 1)
    workers: int = parameter(0, "processes that compute and draw; 0: one for each core. It does not change the weights",
                             minimum=0, maximum=1024)
    materials: list[str] = parameter([], "by name; empty: all that are not kept back for evaluation")
    others: list[str] = parameter([], "materials that are learnt as none of them; empty: all that are for that")
    tables: str = parameter("", "folder for rocking curves, some 4 GB; empty: they are computed, some minutes, and forgotten",
                            path=True)
    calibration_patterns: int = parameter(20000, "patterns from which errors are calibrated", minimum=32, maximum=1_000_000)
    conditions: NanobeamConditions = group(NanobeamConditions)
    disk: DiskStage = group(DiskStage)
    refining: RefiningStage = group(RefiningStage)
    pattern: PatternStage = group(PatternStage)


def network_of(path: Path) -> str:
    """The key `network` of a training's configuration; "nanobeam" where it has none.

    Raises
    ------
    ConfigurationError : the file cannot be read or is no mapping.
    """
    return next((str(value) for name, value, _ in _entries(path) if name == "network"), "nanobeam")


def read_settings(path: Path, dataclass_type: type, overrides: dict[str, Any] | None = None) -> Any:
    """The settings in a file, checked; a key that is not given keeps its default.

    Raises
    ------
    ConfigurationError : the file cannot be read, or a key or value is wrong; the message names line, value and rule.
    """
    known = declared(dataclass_type)
    values = {}
    given = [(name, value, f"{path}:{line}") for name, value, line in _entries(path)]
    for name, value, where in [*given, *((key, value, f"override {key}") for key, value in (overrides or {}).items())]:
        if name not in known:
            raise ConfigurationError(f"{where}: {name!r} is no setting of this training" + nearest(name, known))
        try:
            value = checked(known[name], value)
            values[name] = expand_path(value, path.resolve().parent) if known[name].rule.path else value
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    return build(dataclass_type, values)


def _entries(path: Path) -> list[tuple[str, Any, int]]:
    """Dotted names, values and lines of a file."""
    try:
        root = yaml.compose(Path(path).read_text(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"configuration {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"configuration {path} is not a text file") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"configuration {path} is not YAML: {error}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(f"{path}:1: a configuration is a mapping of settings")
    return list(_leaves(root, "", path))


def _leaves(mapping: yaml.MappingNode, prefix: str, path: Path) -> list[tuple[str, Any, int]]:
    result: list[tuple[str, Any, int]] = []
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigurationError(f"{path}:{line}: a key must be a name")
        name = prefix + key.value
        if any(name == other or other.startswith(name + ".") for other, _, _ in result):
            raise ConfigurationError(f"{path}:{line}: {name!r} is given twice")
        if isinstance(value, yaml.MappingNode):
            result += _leaves(value, name + ".", path)
        else:
            result.append((name, yaml.SafeLoader("").construct_object(value, deep=True), line))
    return result
