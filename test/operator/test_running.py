"""Which running experiment a command means."""

import json
import os

import pytest
from typer.testing import CliRunner

from edgetem_nodes.operator.cli import app
from edgetem_nodes.operator.experiment import RUNNING
from edgetem_nodes.operator.running import NotRunningError, announced, find_running


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Folder `runs` with two experiments in it; no ROS_DOMAIN_ID says which is meant."""
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    return tmp_path / "runs"


def test_the_only_experiment_that_runs_is_meant(runs, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with announced(runs / "second", "/left"):
        found = find_running(None, here=runs.parent)
        assert (found.folder, found.namespace) == (runs / "second", "/left")
        assert found.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    with pytest.raises(NotRunningError, match="no experiment runs in a folder of"):
        find_running(None, here=runs.parent)


def test_of_several_one_must_be_named(runs):
    with announced(runs / "first", ""), announced(runs / "second", ""):
        with pytest.raises(NotRunningError, match="several experiments run: .*first, .*second"):
            find_running(None, here=runs.parent)
        assert find_running(runs / "first").folder == runs / "first"


def test_what_a_crash_left_behind_is_no_running_experiment(runs):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    (runs / "first" / RUNNING).write_text(json.dumps({"process": child, "namespace": "", "environment": {}}))
    with pytest.raises(NotRunningError, match="no experiment runs in"):
        find_running(runs / "first")


def test_a_domain_in_the_environment_is_meant_where_no_folder_is_named(runs, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert find_running(None, "/left").namespace == "/left"


@pytest.mark.parametrize(("arguments", "words"), [
    (["forbid", "hole", "1", "2", "3"], "3 numbers are no corners"),
    (["acquisition", "batch_points"], "is not KEY=VALUE"),
    (["scalarizer", "eels_edge", "eels_edge.signal_eV=[930"], "is not a YAML value"),
    (["status", "--output", "nowhere"], "no experiment runs in nowhere")])
def test_a_command_that_cannot_be_meant(arguments, words):
    result = CliRunner().invoke(app, ["operate", *arguments])
    assert result.exit_code == 1
    assert words in result.output
