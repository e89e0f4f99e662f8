"""Replay: the same decisions are called the same; one altered measurement is found out, and named by its decision."""

import itertools
import time
import uuid

import pytest
import rclpy
from altered_bag import copy_altered
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from stand_in_planner import BATCH, CONFIG, DECISIONS, ELECTRONS, EXPERIMENT, StandInPlanner, record

from edgetem_nodes.provenance import comparison
from edgetem_nodes.provenance.comparison import DIFFERENT, NOT_COMPARABLE, SAME
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.player import PlayerNode
from edgetem_nodes.provenance.reading import read_bag
from edgetem_nodes.provenance.recording import Recording, experiment_of


NAMESPACES = (f"/replay_{number}" for number in itertools.count())


def replay(folder, platform="this machine", namespace=""):
    """Run player and stand-in planner to the end, by default in a namespace of their own; returns the player."""
    namespace = namespace or next(NAMESPACES)
    rclpy.init()
    executor = SingleThreadedExecutor()
    nodes = [StandInPlanner(platform, namespace=namespace),
             PlayerNode(parameter_overrides=[Parameter("bag", value=str(folder))], namespace=namespace)]
    for node in nodes:
        executor.add_node(node)
    try:
        deadline = time.monotonic() + 60
        while nodes[1].exit_code is None:
            assert time.monotonic() < deadline, f"the replay did not end; decisions {nodes[1]._comparer.compared}"
            executor.spin_once(timeout_sec=0.05)
        return nodes[1]
    finally:
        nodes[1].close()
        for node in nodes:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()


@pytest.mark.parametrize("namespace", ["/", "/left"])
def test_the_same_decisions_are_called_the_same(tmp_path, namespace, capfd):
    record(tmp_path / "bag")
    node = replay(tmp_path, namespace=namespace)
    assert node.exit_code == SAME, node.summary
    assert node.summary == f"replay: all {DECISIONS + 1} decisions are the same, bit for bit"
    assert capfd.readouterr().out.count(", same\n") == DECISIONS + 1


def test_one_altered_measurement_makes_it_name_the_first_decision_that_differs(tmp_path):
    record(tmp_path / "bag", altered=(2, 4, 1e-9))
    node = replay(tmp_path / "bag")
    assert node.exit_code == DIFFERENT
    assert "decision 3 is the first that differs, in input_hash" in node.summary
    assert node._comparer.compared[2].same and not node._comparer.compared[3].same
    spread = next(d for d in node._comparer.compared[3].differences if d.field == "mean_standard_deviation")
    assert 0 < spread.size <= 1e-9


def test_an_alteration_in_a_finished_bag_is_found_out(tmp_path):
    record(tmp_path / "bag", crash_in=1)
    assert copy_altered(tmp_path / "bag", tmp_path / "altered", uuid.uuid5(EXPERIMENT, "3"), 5, 1 + 1e-15) == 1
    node = replay(tmp_path / "altered")
    assert node.exit_code == DIFFERENT and "decision 4 is the first that differs, in input_hash" in node.summary


def test_a_planner_that_asks_for_other_positions_is_told_so_and_the_replay_ends(tmp_path):
    record(tmp_path / "bag", altered=(1, 0, 5.0))
    node = replay(tmp_path / "bag")
    assert node.exit_code == DIFFERENT
    assert "decision 2 is the first that differs, in positions (12 values recorded, 12 values now" in node.summary
    assert "decision 2 asks for other positions than recorded: the first is number 0" in node.summary
    assert len(node._comparer.compared) == 3


def test_on_another_platform_a_difference_is_not_judged(tmp_path):
    record(tmp_path / "bag", altered=(2, 4, 1e-9))
    node = replay(tmp_path / "bag", platform="another machine")
    assert node.exit_code == NOT_COMPARABLE
    assert "not comparable" in node.summary and "'another machine' instead of 'this machine'" in node.summary
    assert "largest numeric difference" in node.summary


def test_on_another_platform_equal_decisions_are_still_called_the_same(tmp_path):
    record(tmp_path / "bag")
    node = replay(tmp_path / "bag", platform="another machine")
    assert node.exit_code == SAME and "although it runs elsewhere" in node.summary


def test_after_a_resume_the_complete_repetition_counts(tmp_path):
    record(tmp_path / "bag", crash_in=2)
    assert [m.index for _, _, m in read_bag(tmp_path, ["decision"])].count(2) == 2
    run = Recording(tmp_path).acquisition(uuid.uuid5(EXPERIMENT, "2"))
    assert run.path.session == 1 and run.complete
    node = replay(tmp_path / "bag")
    assert node.exit_code == SAME, node.summary


def test_a_recording_that_breaks_off_is_replayed_as_far_as_it_goes(tmp_path):
    record(tmp_path / "bag", cut_in=3)
    node = replay(tmp_path / "bag")
    assert node.exit_code == SAME
    assert "all 4 decisions are the same" in node.summary
    assert "the recording ends in the middle of the acquisition of decision 3" in node.summary


def test_a_gap_in_the_recording_is_called_one(tmp_path):
    record(tmp_path / "bag", gap=3)
    node = replay(tmp_path / "bag")
    assert node.exit_code == NOT_COMPARABLE
    assert "the 4 decisions up to there are the same, but the recording ends before the acquisition" in node.summary
    assert "decision 4 is in it" in node.summary


def test_a_stop_by_the_operator_is_no_decision_of_the_planner(tmp_path):
    record(tmp_path / "bag", operator_stop=3)
    node = replay(tmp_path / "bag")
    assert node.exit_code == SAME, node.summary
    assert "all 3 decisions are the same" in node.summary


def test_recorded_decisions_are_read_only_after_the_planner_made_its_own(tmp_path, monkeypatch):
    record(tmp_path / "bag")
    read, made = [], []
    genuine = comparison.read_raw
    monkeypatch.setattr(comparison, "read_raw", lambda *a: read.append(len(made)) or genuine(*a))
    publish = StandInPlanner.run

    async def watched(self, goal):
        publisher = self.decisions
        original = publisher.publish
        publisher.publish = lambda message: made.append(message.index) or original(message)
        return await publish(self, goal)

    monkeypatch.setattr(StandInPlanner, "run", watched)
    node = replay(tmp_path)
    assert node.exit_code == SAME and made == list(range(DECISIONS + 1))
    assert min(read) >= 1, "the bag's decisions were opened before the planner had decided"


def test_serving_does_not_depend_on_the_recorded_decisions(tmp_path):
    record(tmp_path / "bag", poison=True)
    recording = Recording(tmp_path)
    for index in range(DECISIONS):
        run = recording.acquisition(uuid.uuid5(EXPERIMENT, str(index)))
        assert run.complete and len(run.indices) == BATCH
    with pytest.raises(BagError, match="is not a edgetem/msg/Decision"):
        list(read_bag(tmp_path, ["decision"]))


def test_a_reference_image_counts_with_the_acquisition_that_it_was_taken_for(tmp_path):
    record(tmp_path / "bag", reference=True)
    recording = Recording(tmp_path)
    recorded = {m.index: m.dose for _, _, m in read_bag(tmp_path, ["decision"])}
    for index in range(2, DECISIONS):
        run = recording.acquisition(uuid.uuid5(EXPERIMENT, str(index)))
        assert run.reference_dose == pytest.approx(ELECTRONS / 3, rel=1e-9)
        assert run.dose == pytest.approx(recorded[index + 1] - recorded[index], rel=1e-9)


def test_doses_served_sum_to_the_recorded_totals_bit_for_bit(tmp_path):
    record(tmp_path / "bag")
    recording = Recording(tmp_path)
    total = next(m.dose for _, _, m in read_bag(tmp_path, ["overview"]))
    recorded = {m.index: m.dose for _, _, m in read_bag(tmp_path, ["decision"])}
    for index in range(DECISIONS):
        assert total == recorded[index]
        total += recording.acquisition(uuid.uuid5(EXPERIMENT, str(index))).dose


def test_the_experiment_of_a_bag(tmp_path):
    record(tmp_path / "bag", platform="a machine")
    experiment = experiment_of(tmp_path)
    assert (experiment.experiment_id, experiment.config, experiment.seed) == (EXPERIMENT, CONFIG, 5)
    assert (experiment.platform, experiment.lock_hash) == ("a machine", "lock")
    assert experiment.nodes["planner"] == {"seed": 5, "model.surrogate": "none", "tags": []}


def test_what_is_no_recording_is_said_before_anything_is_served(tmp_path):
    with pytest.raises(BagError, match="holds no bag"):
        experiment_of(tmp_path)
    node = replay(tmp_path)
    assert node.exit_code == NOT_COMPARABLE and "could not begin" in node.summary
