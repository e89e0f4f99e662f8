"""A configuration is checked before anything starts, and its errors name file, line, value and rule."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from edgetem_nodes.graph.configuration import (
    ConfigurationError, build, declared, group, load_configuration, parameter)


@dataclass
class Optics:
    dwell_ms: float = parameter(2.0, "dwell time", unit="ms", minimum=0.1, maximum=100.0)
    mode: str = parameter("nanobeam", "mode", choices=("nanobeam", "focused"))


@dataclass
class Microscope:
    seed: int = parameter(0, "seed", minimum=0)
    file: str = parameter("", "a file", path=True)
    windows: list[float] = parameter([1.0, 2.0], "windows")
    optics: Optics = group(Optics)


@dataclass
class Planner:
    seed: int = parameter(0, "seed", minimum=0)
    points: int = parameter(10, "points", minimum=1)


SCHEMAS = {"microscope": Microscope, "planner": Planner}


def load(tmp_path: Path, text: str, **overrides):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return load_configuration(path, SCHEMAS, overrides)


def test_shared_keys_reach_every_node_that_has_them_and_own_keys_win(tmp_path):
    text = ("planner:\n  ros__parameters: {seed: 5}\n"
            "/**:\n  ros__parameters: {seed: 3, optics: {dwell_ms: 4}}\n")
    configuration = load(tmp_path, text)
    assert configuration.nodes["microscope"]["seed"] == 3
    assert configuration.nodes["planner"]["seed"] == 5
    assert configuration.parameters("microscope", Microscope).optics.dwell_ms == 4.0
    assert isinstance(configuration.nodes["microscope"]["optics.dwell_ms"], float)


def test_paths_are_relative_to_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("SCANS", "/scans")
    text = "microscope:\n  ros__parameters: {file: data/a.dm4}\n"
    assert load(tmp_path, text).nodes["microscope"]["file"] == str(tmp_path / "data" / "a.dm4")
    text = "microscope:\n  ros__parameters: {file: '${SCANS}/a.dm4'}\n"
    assert load(tmp_path, text).nodes["microscope"]["file"] == "/scans/a.dm4"


def test_the_resolved_configuration_reads_back_equal(tmp_path):
    first = load(tmp_path, "microscope:\n  ros__parameters: {windows: [3, 4.5], optics: {mode: focused}}\n")
    again = load(tmp_path, first.as_yaml())
    assert again.nodes == first.nodes
    assert set(yaml.safe_load(first.as_yaml())) == {"microscope", "planner"}


def test_dataclass_defaults_are_the_declared_defaults():
    assert build(Microscope, {name: p.default for name, p in declared(Microscope).items()}) == Microscope()


@pytest.mark.parametrize(("text", "words"), [
    ("microscop:\n  ros__parameters: {}\n", [":1:", "'microscop'", "did you mean 'microscope'"]),
    ("microscope:\n  ros__parameters:\n    optics:\n      dwel_ms: 3\n", [":4:", "dwel_ms", "'optics.dwell_ms'"]),
    ("microscope:\n  ros__parameters:\n    optics: {dwell_ms: 1000}\n", [":3:", "1000", "largest", "100.0 ms"]),
    ("microscope:\n  ros__parameters:\n    optics: {mode: nanobeem}\n", ["'nanobeem'", "did you mean 'nanobeam'"]),
    ("planner:\n  ros__parameters:\n    points: 1.5\n", [":3:", "1.5", "int"]),
    ("planner:\n  ros__parameters:\n    points: true\n", ["True", "int"]),
    ("microscope:\n  ros__parameters:\n    windows: [1, a]\n", ["'a'", "float"]),
    ("microscope:\n  ros__parameters:\n    optics: {dwell_ms: .nan}\n", ["finite"]),
    ("/**:\n  ros__parameters: {sead: 1}\n", ["any node", "'seed'"]),
    ("planner:\n  points: 3\n", ["ros__parameters"]),
    ("planner:\n  ros__parameters:\n    points: 3\n    points: 4\n", [":4:", "twice"]),
    ("planner: [\n", ["not YAML"]),
    ("- 3\n", ["mapping"]),
    ("microscope:\n  ros__parameters: {file: '${NO_SUCH_PLACE}/a'}\n", ["NO_SUCH_PLACE", "not set"]),
])
def test_a_wrong_configuration_is_refused_with_the_place_and_the_rule(tmp_path, text, words):
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, text)
    for word in ["experiment.yaml", *words]:
        assert word in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_configuration(tmp_path / "nowhere.yaml", SCHEMAS)


def test_overrides_win_and_are_checked(tmp_path):
    configuration = load(tmp_path, "planner:\n  ros__parameters: {points: 3}\n", **{"planner.points": 7, "/**.seed": 2})
    assert configuration.nodes["planner"] == {"seed": 2, "points": 7}
    assert configuration.nodes["microscope"]["seed"] == 2
    with pytest.raises(ConfigurationError, match=r"override planner\.points: .*0 is below the smallest"):
        load(tmp_path, "", **{"planner.points": 0})
