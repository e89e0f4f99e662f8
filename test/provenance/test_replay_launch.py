"""The real planner, recorded by the real recorder on a small synthetic field, and replayed by the launch file."""

import os
import subprocess
import sys
import uuid

import pytest
from altered_bag import copy_altered
from synthetic_experiment import EXPERIMENT, conduct

from edgetem_nodes.provenance.reading import read_bag
from edgetem_nodes.provenance.repair import repair


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Folder of an experiment that the real planner ran and the real recorder wrote down."""
    folder = tmp_path_factory.mktemp("experiment")
    result, _ = conduct(folder)
    assert result.error_code == 0, result.error_msg
    return folder


LAUNCH = """
import sys
from edgetem_nodes.graph.environment import prepare, share_directory
from edgetem_nodes.graph.launching import run_launch
prepare()
sys.exit(run_launch(share_directory() / "launch" / "replay.launch.py", {"bag": sys.argv[1]}))
"""


def replay(folder):
    """Exit code and output of the replay launch."""
    process = subprocess.run([sys.executable, "-c", LAUNCH, str(folder)], capture_output=True, text=True, timeout=120,
                             env={**os.environ, "ROS_LOG_DIR": str(folder)}, check=False)
    return process.returncode, process.stdout + process.stderr


@pytest.mark.slow
def test_the_real_planner_decides_the_same_from_its_bag(experiment):
    recorded = [message for _, _, message in read_bag(experiment, ["decision"])]
    assert [message.action for message in recorded] == ["initial", "acquire", "acquire", "acquire", "stop"]
    assert not repair(experiment / "bag").changed
    code, output = replay(experiment)
    assert code == 0, output
    assert "replay: all 5 decisions are the same, bit for bit" in output


def test_one_altered_measurement_makes_the_real_planner_differ_and_the_decision_is_named(experiment, tmp_path):
    acquisition = uuid.uuid5(EXPERIMENT, "1")
    assert copy_altered(experiment / "bag", tmp_path / "bag", acquisition, 2, 1 + 1e-12) == 1
    code, output = replay(tmp_path)
    assert code == 1, output
    assert "decision 0: initial, same" in output and "decision 1: acquire, same" in output
    assert "replay: decision 2 is the first that differs" in output
