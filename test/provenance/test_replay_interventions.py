"""Replay of experiments in which the operator had a hand: every decision the same, the operator's among them."""

import itertools
import time

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from synthetic_experiment import SETTINGS, SHAPE, STEP, conduct, spin

from edgetem_nodes.planner.node import PlannerNode
from edgetem_nodes.provenance.comparison import SAME
from edgetem_nodes.provenance.interventions import interventions_of
from edgetem_nodes.provenance.player import PlayerNode
from edgetem_nodes.provenance.reading import read_bag

NAMESPACES = (f"/interventions_{number}" for number in itertools.count())
LEFT = [[-STEP, -STEP], [-STEP, 7.5 * STEP], [SHAPE[0] * STEP, 7.5 * STEP], [SHAPE[0] * STEP, -STEP]]
PAUSE, RESUME = {"kind": "pause_experiment"}, {"kind": "resume_experiment"}
FORBID = {"kind": "set_region", "name": "left", "region": "forbid", "vertices": LEFT}
CHANGE = {"kind": "change_acquisition", "changes": {"acquisition_function": "maximum_variance", "batch_points": 4}}
SCALE = {"kind": "change_scalarizer", "scalarizer": "", "settings": {"factor": -3.0}}
WRONG = {"kind": "change_scalarizer", "scalarizer": "", "settings": {"size": 2}}


def approve(index, kind="approve_batch"):
    """The verdict on the batch of a decision."""
    return {"kind": kind, "decision": index}


def replay(folder, **settings):
    """Run the real planner and the player to the end; returns the player."""
    namespace = next(NAMESPACES)
    rclpy.init()
    executor = SingleThreadedExecutor()
    overrides = [Parameter(name, value=value) for name, value in {**SETTINGS, **settings}.items()]
    nodes = [PlannerNode(parameter_overrides=overrides, namespace=namespace),
             PlayerNode(parameter_overrides=[Parameter("bag", value=str(folder))], namespace=namespace)]
    for node in nodes:
        executor.add_node(node)
    try:
        spin(executor, lambda: nodes[1].exit_code is not None, time.monotonic() + 60)
        return nodes[1]
    finally:
        for node in nodes:
            node.close()
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()


SCRIPTS = {
    "everything but approval": ({0: [FORBID, CHANGE, SCALE], 4: [PAUSE], 5: [{"kind": "remove_region", "name": "left"}, WRONG,
                                                                           {**SCALE, "settings": {"factor": 0.5}}, RESUME]},
                                {}),
    "approval": ({0: [SCALE], 2: [approve(2)], 4: [approve(4, "reject_batch")], 6: [FORBID], 8: [PAUSE], 9: [RESUME],
                  11: [approve(11, "approve_all")], 13: [{"kind": "ask_approval"}], 15: [approve(15)], 17: [approve(17)]},
                 {"approve_batches": True, "batch_points": 5}),
    "a stop in a pause": ({2: [PAUSE], 3: ["stop"]}, {}),
    "a stop where a batch waits": ({0: [approve(0)], 2: ["stop"]}, {"approve_batches": True}),
    "a stop in an acquisition": ({0: [CHANGE], 3: ["stop"]}, {}),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_the_operator_did_is_done_again_between_the_same_decisions(tmp_path, name):
    script, settings = SCRIPTS[name]
    result, operator = conduct(tmp_path, script, **settings)
    assert result.error_code == 0, result.error_msg
    refused = [answer.error_msg for answer in operator.answers if answer.error_code]
    assert not refused
    asked = sum(request != "stop" for requests in script.values() for request in requests)
    assert len(interventions_of(tmp_path).requests) == asked, [(d.index, d.action, d.reason) for d in operator.decisions]
    node = replay(tmp_path, **settings)
    assert node.exit_code == SAME, node.summary
    assert node.summary == f"replay: all {len(operator.decisions)} decisions are the same, bit for bit"


def test_a_recording_that_ends_in_a_pause_is_replayed_as_far_as_it_goes(tmp_path, monkeypatch):
    conduct(tmp_path, {2: [PAUSE], 3: ["stop"]})
    whole = interventions_of(tmp_path)
    cut = type(whole)({index: step for index, step in whole.steps.items() if not step.stopped})
    monkeypatch.setattr("edgetem_nodes.provenance.player.interventions_of", lambda folder: cut)
    node = replay(tmp_path)
    assert node.exit_code == SAME
    assert "the recording ends while the experiment was paused" in node.summary


def test_settings_are_part_of_every_decision_and_doses_come_back_to_the_last_bit(tmp_path):
    free = {"actions.probe_current_pA": [37.3, 59.1], "actions.dwell_ms": [1.7]}
    conduct(tmp_path, **free)
    measured = [m for _, _, m in read_bag(tmp_path, ["decision"]) if m.action in ("initial", "acquire")]
    assert {m.optics.probe_current for m in measured} == {37.3 * 1e-12, 59.1 * 1e-12}, "both are used"
    assert {m.dwell_time for m in measured} == {1.7e-3}
    node = replay(tmp_path, **free)
    assert node.exit_code == SAME, node.summary
