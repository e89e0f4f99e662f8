"""Whatever dies or is stopped, the launch ends with a word and a code, files open, and the experiment can go on."""

import json
import signal
import time
from pathlib import Path

import h5py
import pytest
import yaml
from command_line import SLOWLY, SYNTHETIC, gone
from rosbags.highlevel import AnyReader

from edgetem_nodes.operator.outcome import read_outcome

POINTS = 48
NODES = ["recorder", "compressor", "featurizer", "detector", "microscope", "hpc_bridge", "planner"]
QUICK = ["compressor"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NODES])
def test_a_killed_node_is_named_and_the_experiment_goes_on_from_what_it_left(edgetem, tmp_path, name):
    folder = tmp_path / "run"
    command = edgetem("run", SYNTHETIC, "--output", folder, *SLOWLY)
    command.wait_for("decision   1")
    processes = command.descendants()
    command.node(name).kill()
    assert command.finish() != 0
    assert f"{name} died: killed by SIGKILL" in command.output
    assert gone(processes, 5)

    with h5py.File(folder / "archive.h5") as file:
        frames = []
        file.visititems(lambda path, item: frames.append(len(item)) if path.endswith("frames/data") else None)
    assert sum(frames) >= 16
    with AnyReader([folder / "bag"]) as reader:
        topics = [connection.topic for connection, _, _ in reader.messages()]
    assert topics.count("/decision") >= 2
    before = read_outcome(folder)

    again = edgetem("run", "--resume", folder)
    assert again.finish() == 0, again.output
    after = read_outcome(folder)
    candidates, _, _ = after.measured()
    assert len(set(candidates.tolist())) == len(candidates) == POINTS
    assert after.stop_reason == "point_budget"
    for old, new in zip(before.decisions, after.decisions, strict=False):
        assert old.candidates.tolist() == new.candidates.tolist()
        assert old.input_hash.tolist() == new.input_hash.tolist()

    replay = edgetem("replay", folder)
    assert replay.finish() == 0, replay.output


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_everything_within_ten_seconds_and_files_are_closed(edgetem, tmp_path, number):
    folder = tmp_path / "run"
    command = edgetem("run", SYNTHETIC, "--output", folder, *SLOWLY)
    command.wait_for("decision   1")
    processes = command.descendants()
    began = time.monotonic()
    command.process.send_signal(number)
    assert gone(processes, 10), command.output
    assert command.finish() == 130
    assert time.monotonic() - began < 10
    assert "edgetem run --resume" in command.output
    assert "Traceback" not in command.output, command.output
    assert read_outcome(folder).stop_reason == "interrupted"
    with h5py.File(folder / "archive.h5") as file:
        assert len(file) > 0


def test_an_interrupted_launch_is_reported_as_a_run_is(edgetem, tmp_path):
    content = yaml.safe_load(Path(SYNTHETIC).read_text())
    instrument = content["/**"]["ros__parameters"]["instrument"]
    instrument["dwell_ms"] = 100.0
    instrument["replay"] |= {"real_time": True} | {key: str(SYNTHETIC.parent / value) for key, value in
                                                   instrument["replay"].items() if (SYNTHETIC.parent / str(value)).is_file()}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(content))
    folder = tmp_path / "run"
    command = edgetem("launch", "experiment.launch.py", f"experiment:={tmp_path / 'slow.yaml'}", f"output:={folder}")
    command.wait_for("decision   1")
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130, command.output
    assert f"edgetem run --resume {folder}" in command.output and "Traceback" not in command.output, command.output
    assert (folder / "report.html").exists()
    assert json.loads((folder / "summary.json").read_text())["stop_reason"] == "interrupted"


def test_a_finished_experiment_is_not_overwritten(edgetem, finished):
    command = edgetem("run", SYNTHETIC, "--output", finished)
    assert command.finish() == 2
    assert "never overwritten" in command.output
