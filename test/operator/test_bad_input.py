"""Bad input gets a clear error before anything starts."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest
import yaml
from command_line import COMMAND, SYNTHETIC
from typer.testing import CliRunner

from edgetem_nodes.operator.cli import app

assert COMMAND.exists(), f"the command is not installed beside the interpreter: {COMMAND}"


@pytest.fixture
def configuration(tmp_path):
    """A copy of the synthetic experiment to spoil: its folder and its content as a mapping."""
    for name in ("synthetic_eels.hspy", "synthetic_haadf.hspy"):
        shutil.copy(SYNTHETIC.parent / name, tmp_path)
    return tmp_path, yaml.safe_load(SYNTHETIC.read_text())


def refused(folder, content, *words, command="check"):
    path = folder / "spoilt.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    before = sorted(folder.iterdir())
    arguments = [command, str(path)] + (["--output", str(folder / "run")] if command == "run" else [])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    for word in ("error:", *words):
        assert word in result.output, result.output
    assert "Traceback" not in result.output
    assert sorted(folder.iterdir()) == before, "something was started"


def test_a_missing_file(configuration):
    folder, content = configuration
    (folder / "synthetic_eels.hspy").unlink()
    refused(folder, content, "synthetic_eels.hspy", "does not exist", command="run")


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_a_truncated_file(configuration, part):
    folder, content = configuration
    path = folder / "synthetic_eels.hspy"
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * part)])
    refused(folder, content, "synthetic_eels.hspy", "complete")


def test_a_survey_of_another_shape(configuration):
    folder, content = configuration
    with h5py.File(folder / "synthetic_haadf.hspy", "r+") as file:
        group = next(iter(file["Experiments"].values()))
        data = group["data"][:]
        del group["data"]
        group["data"] = data[:-3]
        group["axis-0"].attrs["size"] = len(data) - 3
    refused(folder, content, "synthetic_haadf.hspy", "shape")


def test_an_unknown_scalarizer_with_the_nearest_known_one(configuration):
    folder, content = configuration
    content["featurizer"]["ros__parameters"]["scalarizer"] = "eels_egde"
    refused(folder, content, "'eels_egde'", "did you mean 'eels_edge'")


def test_a_key_that_does_not_exist_with_the_nearest_known_one_and_its_line(configuration):
    folder, content = configuration
    content["planner"]["ros__parameters"]["point_bugdet"] = 3
    refused(folder, content, "spoilt.yaml:", "'point_bugdet'", "did you mean 'point_budget'")


def test_a_window_outside_the_axis(configuration):
    folder, content = configuration
    content["featurizer"]["ros__parameters"]["eels_edge"]["signal_eV"] = [4000.0, 4100.0]
    refused(folder, content, "eels_edge.signal_eV", "4000", "outside")


def test_a_dose_that_the_limit_forbids(configuration):
    folder, content = configuration
    content["/**"]["ros__parameters"]["instrument"]["limits"] = {"electrons": 100.0}
    refused(folder, content, "instrument.limits.electrons", "100")


def test_a_file_that_is_not_yaml(configuration):
    folder, _ = configuration
    refused(folder, "planner: [1,\n", "not YAML")


@pytest.mark.parametrize(("setting", "words"), [
    ("planner.model.patch_size=41", ["patch size 41 does not fit a survey of 24 x 20"]),
    ("planner.dose_budget=3e6", ["planner.dose_budget", "does not pay", "16 initial points"]),
    ("planner.position_dose_limit=1e5", ["planner.position_dose_limit 1e+05", "the survey's share", "the cheapest setting"]),
    ("planner.outputs=[backgrund]", ["'backgrund'", "no column of scalarizer 'eels_edge'", "did you mean"]),
    ("planner.discovery.level=3.0", ["planner.discovery.level 3", "confidence is 0", "nothing would be tested"]),
    ("planner.energetics.points=2", ["energetics.points", "'eels_edge'", "only 'lattice'"]),
    ("/**.instrument.limits.areal_dose_e_per_A2=0.001", ["areal_dose_e_per_A2", "one point costs"]),
    ("/**.instrument.dwell_ms=50000", ["dwell_ms 50000 ms is outside"]),
    ("detector.instrument.driver=simulated", ["'replay' for microscope", "'simulated' for detector"]),
    ("operator.nodes=[recorder, planer]", ["'planer'", "did you mean 'planner'"]),
    ("operator.together=[compressor, featuriser]", ["'featuriser'", "none of operator.nodes", "did you mean 'featurizer'"]),
    ("operator.together=[compressor]", ["must name two nodes or more"]),
    ("planner.point_budget=[1", ["not a YAML value"]),
])
def test_settings_that_contradict_each_other(setting, words):
    result = CliRunner().invoke(app, ["check", str(SYNTHETIC), "--set", setting])
    assert result.exit_code == 2, result.output
    for word in ("error:", *words):
        assert word in result.output


def test_a_model_on_a_device_that_is_not_there(monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["check", str(SYNTHETIC), "--set", "planner.model.device=cuda"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "planner.model.device is 'cuda'" in result.output, result.output
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_dose_budget_limits_the_plan():
    result = CliRunner().invoke(app, ["check", str(SYNTHETIC), "--set", "planner.dose_budget=1.5e7"])
    assert result.exit_code == 0, result.output
    assert "25 of 480 positions" in result.output


def test_the_plan_says_what_drift_tracking_costs():
    settings = ["--set", "microscope.drift_tracking.every_points=30"]
    result = CliRunner().invoke(app, ["check", str(SYNTHETIC), *settings])
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("drift"))
    assert "reference images of" in line and "electrons" in line
    settings[-1] = "microscope.drift_tracking.every_points=2"
    result = CliRunner().invoke(app, ["check", str(SYNTHETIC), *settings])
    assert "points at once take longer than the interval" in result.output


def test_a_launch_refuses_what_a_run_refuses(configuration):
    folder, content = configuration
    content["detector"] = {"ros__parameters": {"instrument": {"driver": "simulated"}}}
    (folder / "spoilt.yaml").write_text(yaml.safe_dump(content))
    result = subprocess.run([str(COMMAND), "launch", "experiment.launch.py", f"experiment:={folder / 'spoilt.yaml'}",
                             f"output:={folder / 'run'}"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "'replay' for microscope and 'simulated' for detector" in result.stdout + result.stderr
    assert not (folder / "run").exists(), "something was started"


@pytest.mark.parametrize(("arguments", "words"), [
    (["run", str(SYNTHETIC), "--log-level", "loud"], ["--log-level", "'loud'"]),
    (["run", str(SYNTHETIC), "--namespace", "bad name"], ["--namespace", "ROS name"]),
    (["run", str(SYNTHETIC.parent / "synthetic_eels.hspy")], ["not a text file", "edgetem init"]),
    (["run", str(SYNTHETIC), "--output", str(SYNTHETIC)], ["cannot be made"]),
    (["run", "--resume", "nowhere", "--seeds", "2"], ["cannot be combined"]),
    (["run"], ["either a configuration or --resume"]),
    (["run", "nowhere.yaml"], ["nowhere.yaml cannot be read"]),
    (["run", str(SYNTHETIC), "--set", "planner.point_budget"], ["not NODE.KEY=VALUE"]),
    (["run", str(SYNTHETIC), "--set", "planner.point_budget=0"], ["override planner.point_budget", "0 is below"]),
    (["run", "--resume", "nowhere"], ["nowhere"]),
    (["replay", "nowhere"], ["nowhere holds no bag"]),
    (["launch", "experimnt.launch.py"], ["experiment.launch.py"]),
    (["launch", "experiment.launch.py", "namspace:=a"], ["namspace", "did you mean 'namespace'"]),
    (["launch", "experiment.launch.py", "record:=maybe"], ["record:=maybe", "true, false"]),
    (["bench", "transprot"], ["did you mean 'transport'"]),
    (["init", "nowhere.dm4"], ["nowhere.dm4", "does not exist"]),
])
def test_a_wrong_command_line(arguments, words):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    for word in ("error:", *words):
        assert word in result.output
    assert "Traceback" not in result.output


def test_a_configuration_made_by_init_runs_through_check(configuration):
    folder, _ = configuration
    made = folder / "made.yaml"
    result = CliRunner().invoke(app, ["init", str(folder / "synthetic_eels.hspy"), "--survey",
                                      str(folder / "synthetic_haadf.hspy"), "--output", str(made)])
    assert result.exit_code == 0, result.output
    for word in ("24 x 20", "Energy loss", "eV", "edgetem run"):
        assert word in result.output, result.output
    checked = CliRunner().invoke(app, ["check", str(made)])
    assert checked.exit_code == 0, checked.output
    for word in ("48 of 480 positions", "e/Å²", "beam time"):
        assert word in checked.output, checked.output
    again = CliRunner().invoke(app, ["init", str(folder / "synthetic_eels.hspy"), "--output", str(made)])
    assert again.exit_code == 2
    assert "exists" in again.output


def test_the_doctor_looks_at_everything():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    for word in ("C++ compiler", "shared memory", "ROS domain", "discovery", "disk", "launcher", "versions"):
        assert word in result.output


def test_positions_outside_the_field_are_refused_by_name():
    from edgetem_nodes.physics.scan import ScanField
    field = ScanField((0.0, 0.0), (1e-9, 2e-9), (64, 64))
    with pytest.raises(ValueError, match=r"\(y, x\) = \(70, 24\) nm, \(row, column\) \(70, 12\), is outside the 64 x 64 "
                                         r"field, y 0 to 63 nm and x 0 to 126 nm"):
        field.candidates(np.array([[70e-9, 24e-9]]))
    with pytest.raises(ValueError, match=r"\(1e\+09, 1e\+09\) nm"):
        field.candidates(np.array([[1.0, 1.0]]))
