"""The operator and the running experiment: what is accepted, when it is carried out, what is put on record."""

import json
import uuid

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from laboratory import ERROR, FIELD, PERIOD, SETTINGS, SURVEY, TRUTH, essence

from edgetem.action import RunExperiment
from edgetem.srv import (ChangeAcquisition, ChangeScalarizer, DecideBatch, GetExperiment, PauseExperiment, RemoveRegion,
                         ResumeExperiment, SetRegion, SetScalarizer)
from edgetem_nodes.graph.messages import numbers
from edgetem_nodes.graph.operating import as_text
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Model, Parameters

UPPER_HALF = [[-9e-9, -9e-9], [-9e-9, 8e-9], [-0.5e-9, 8e-9], [-0.5e-9, -9e-9]]
"""Rows 0 to 7 of the field."""
CORE = Parameters(point_budget=40, initial_points=16, batch_points=8, acquisition_function="expected_improvement",
                  model=Model(training_steps=3, patch_size=3))


def rows_of(decision):
    """Row of each position of a decision."""
    return np.asarray(decision.candidates) // FIELD.shape[1]


def held(lab, **goal):
    """Begin an experiment whose first acquisition does not end; returns the goal handle and its result's future."""
    lab.hold_acquisition = True
    handle, future = lab.begin(**goal)
    lab.wait(lambda: lab.acquired and lab.decisions)
    return handle, future


def release(lab, future):
    """Let the acquisitions end; returns the result of the experiment."""
    lab.hold_acquisition = False
    lab.wait(future.done)
    outcome = future.result().result
    assert outcome.error_code == RunExperiment.Result.NONE, outcome.error_msg
    lab.wait(lambda: lab.decisions[-1].action == "stop")
    return outcome


def test_a_pause_waits_for_the_acquisition_and_counts_in_no_budget(laboratory):
    lab = laboratory(time_budget_s=40 * PERIOD)
    shown = []
    lab.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: shown.extend(s.message for s in m.status), 10)
    _, future = held(lab)
    answer = lab.ask("pause_experiment")
    assert (answer.error_code, answer.queued, json.loads(answer.request)) == (0, 0, {"kind": "pause_experiment"})
    assert lab.state().requests == [answer.request]
    assert lab.ask("pause_experiment").error_code == PauseExperiment.Response.ALREADY_PAUSED
    lab.hold_acquisition = False
    paused = lab.decided(2)
    assert (paused.index, paused.action, paused.reason, paused.points) == (1, "operator", "paused by the operator", 16)
    assert paused.request == answer.request
    lab.wait(lambda: lab.state().state == GetExperiment.Response.PAUSED)
    lab.wait(lambda: "paused by the operator" in shown)
    assert len(lab.acquired) == 1
    assert lab.ask("resume_experiment").error_code == 0
    outcome = release(lab, future)
    assert (outcome.points, outcome.stop_reason) == (40, "point_budget")
    assert outcome.beam_time == pytest.approx(40 * PERIOD)
    assert [d.action for d in lab.decisions] == ["initial", "operator", "operator", "acquire", "acquire", "acquire", "stop"]
    assert [d.index for d in lab.decisions] == list(range(7))
    assert lab.acquired[1][0] == uuid.uuid5(uuid.UUID(int=7), "3"), "an acquisition has the number of its decision"


def test_regions_bind_every_later_batch_and_stand_in_the_record(laboratory):
    lab = laboratory()
    _, future = held(lab)
    answer = lab.ask("set_region", name="upper half", region="forbid", vertices=UPPER_HALF)
    assert answer.error_code == 0, answer.error_msg
    release(lab, future)
    asked = json.loads(lab.decisions[1].request)
    assert asked == {"kind": "set_region", "name": "upper half", "region": "forbid", "vertices": UPPER_HALF}
    assert lab.decisions[1].reason == "region 'upper half' forbidden: 128 positions"
    assert rows_of(lab.decisions[0]).min() < 8
    assert all(rows_of(decision).min() >= 8 for decision in lab.decisions[2:-1])


def test_a_region_is_shown_and_can_be_taken_back(laboratory):
    lab = laboratory()
    _, future = held(lab)
    lab.ask("set_region", name="hole", region="forbid", vertices=UPPER_HALF)
    assert lab.ask("remove_region", name="whole").error_code == RemoveRegion.Response.UNKNOWN_REGION
    lab.ask("pause_experiment")
    lab.hold_acquisition = False
    lab.decided(3)
    assert [json.loads(region)["name"] for region in lab.state().regions] == ["hole"]
    assert lab.ask("remove_region", name="hole").error_code == 0, "while paused it is carried out at once"
    assert lab.decided(4).reason == "region 'hole' taken back"
    assert lab.state().regions == []
    lab.ask("resume_experiment")
    release(lab, future)


def test_a_changed_acquisition_decides_as_the_core_with_it(laboratory):
    lab = laboratory()
    _, future = held(lab)
    changes = {"acquisition_function": "maximum_variance", "batch_points": 12}
    assert lab.ask("change_acquisition", changes=changes).error_code == 0
    assert json.loads(lab.state().acquisition)["batch_points"] == 8, "not before the decision"
    release(lab, future)
    assert [len(d.candidates) for d in lab.decisions] == [16, 0, 12, 12, 0]
    assert lab.decisions[2].acquisition_function == "maximum_variance"
    from edgetem_nodes.planner import requests
    core = ActiveExperiment(SURVEY, FIELD, CORE, SETTINGS["seed"])
    for decision in lab.decisions[:-1]:
        if decision.action == "operator":
            requests.apply(core, json.loads(decision.request))
            continue
        proposal = core.ask(len(decision.candidates))
        np.testing.assert_array_equal(numbers(decision.candidates, dtype=np.uint32), proposal.candidates)
        np.testing.assert_array_equal(numbers(decision.predicted_means), proposal.predicted)
        np.testing.assert_array_equal(numbers(decision.predicted_standard_deviations), proposal.predicted_deviations)
        core.tell(proposal.candidates, TRUTH.ravel()[proposal.candidates], ERROR.ravel()[proposal.candidates])


@pytest.mark.parametrize(("kind", "request_", "code", "text"), [
    ("resume_experiment", {}, ResumeExperiment.Response.NOT_PAUSED, "not paused"),
    ("set_region", {"name": "a", "region": "forbid", "vertices": UPPER_HALF[:2]}, SetRegion.Response.INVALID_REGION,
     "a polygon needs three"),
    ("set_region", {"name": "a", "region": "avoid", "vertices": UPPER_HALF}, SetRegion.Response.INVALID_REGION,
     "take forbid or add"),
    ("set_region", {"name": "a", "region": "add", "vertices": [[1, 1], [1, 2], [2, 2]]}, SetRegion.Response.INVALID_REGION,
     "holds no position of the field"),
    ("set_region", {"name": "a", "region": "add", "vertices": [1.0, 2.0, 3.0]}, SetRegion.Response.INVALID_REGION,
     "pairs are needed"),
    ("remove_region", {"name": "a"}, RemoveRegion.Response.UNKNOWN_REGION, "there is no region 'a'"),
    ("change_acquisition", {"changes": {"seed": 3}}, ChangeAcquisition.Response.INVALID_CHANGE, "cannot change in mid-run"),
    ("change_acquisition", {"changes": {"batch_points": -1}}, ChangeAcquisition.Response.INVALID_CHANGE, "smallest allowed"),
    ("change_acquisition", {"changes": [1]}, ChangeAcquisition.Response.INVALID_CHANGE, "not a JSON object"),
    ("change_scalarizer", {"scalarizer": "", "settings": {}}, ChangeScalarizer.Response.INVALID_SETTINGS, "nothing to change"),
    ("approve_batch", {"decision": 0}, DecideBatch.Response.NO_BATCH, "no batch waits"),
    ("reject_batch", {"decision": 0}, DecideBatch.Response.NO_BATCH, "no batch waits")])
def test_what_makes_no_sense_is_refused_at_once_and_changes_nothing(laboratory, kind, request_, code, text):
    lab = laboratory()
    _, future = held(lab)
    answer = lab.ask(kind, **request_)
    assert (answer.error_code, text in answer.error_msg, answer.request) == (code, True, ""), answer.error_msg
    release(lab, future)
    assert "operator" not in [d.action for d in lab.decisions]


def test_an_unknown_verdict_is_refused(laboratory):
    lab = laboratory()
    _, future = held(lab)
    answer = lab.call("decide_batch", DecideBatch.Request(verdict="perhaps"))
    assert answer.error_code == DecideBatch.Response.INVALID_VERDICT
    release(lab, future)


@pytest.mark.parametrize(("kind", "request_", "code"), [
    ("pause_experiment", {}, PauseExperiment.Response.NOT_RUNNING),
    ("resume_experiment", {}, ResumeExperiment.Response.NOT_RUNNING),
    ("set_region", {"name": "a", "region": "add", "vertices": UPPER_HALF}, SetRegion.Response.NOT_RUNNING),
    ("remove_region", {"name": "a"}, RemoveRegion.Response.NOT_RUNNING),
    ("change_acquisition", {"changes": {"batch_points": 3}}, ChangeAcquisition.Response.NOT_RUNNING),
    ("change_scalarizer", {"scalarizer": "x", "settings": {}}, ChangeScalarizer.Response.NOT_RUNNING),
    ("ask_approval", {}, DecideBatch.Response.NOT_RUNNING)])
def test_without_an_experiment_nothing_is_accepted(laboratory, kind, request_, code):
    lab = laboratory()
    answer = lab.ask(kind, **request_)
    assert (answer.error_code, "no experiment runs" in answer.error_msg) == (code, True)
    assert lab.state().error_code == GetExperiment.Response.NOT_RUNNING


def test_every_batch_waits_for_approval(laboratory):
    lab = laboratory(approve_batches=True, point_budget=24)
    _, future = lab.begin()
    first = lab.decided(1)
    assert (first.action, len(first.candidates), lab.acquired) == ("propose", 16, [])
    lab.wait(lambda: lab.state().state == GetExperiment.Response.WAITING)
    assert lab.state().decision.index == 0
    assert lab.ask("approve_batch", decision=0).error_code == 0
    initial, second = lab.decided(2), lab.decided(3)
    assert (initial.index, initial.action, initial.positions) == (1, "initial", first.positions)
    assert json.loads(initial.request) == {"kind": "approve_batch", "decision": 0}
    assert lab.acquired[0][0] == uuid.uuid5(uuid.UUID(int=7), "1")
    assert (second.action, len(second.candidates)) == ("propose", 8)
    answer = lab.ask("approve_batch", decision=0)
    assert (answer.error_code, "is that of decision 2, not of 0" in answer.error_msg) == (DecideBatch.Response.NO_BATCH, True)
    assert lab.ask("reject_batch", decision=2).error_code == 0
    rejected, third = lab.decided(4), lab.decided(5)
    assert (rejected.action, json.loads(rejected.request)["kind"]) == ("operator", "reject_batch")
    assert third.action == "propose" and not set(third.candidates) & set(second.candidates)
    assert lab.ask("approve_batch", decision=4).error_code == 0
    release(lab, future)
    assert [d.action for d in lab.decisions] == ["propose", "initial", "propose", "operator", "propose", "acquire", "stop"]
    assert lab.decisions[5].positions == third.positions
    assert lab.decisions[5].acquisition_values == third.acquisition_values


def test_what_the_operator_changes_withdraws_the_batch_that_waits(laboratory):
    lab = laboratory(approve_batches=True, point_budget=24)
    _, future = lab.begin()
    lab.decided(1)
    lab.ask("set_region", name="upper half", region="forbid", vertices=UPPER_HALF)
    again = lab.decided(3)
    assert (again.index, again.action) == (2, "propose")
    assert rows_of(again).min() >= 8
    assert lab.ask("approve_batch", decision=0).error_code == DecideBatch.Response.NO_BATCH
    assert lab.ask("approve_all", decision=2).error_code == 0
    release(lab, future)
    assert [d.action for d in lab.decisions] == ["propose", "operator", "propose", "initial", "acquire", "stop"]


def test_approval_can_be_asked_for_in_mid_run(laboratory):
    lab = laboratory(point_budget=24)
    _, future = held(lab)
    assert not lab.state().approve_batches
    assert lab.ask("ask_approval").error_code == 0
    lab.hold_acquisition = False
    assert lab.decided(3).action == "propose"
    assert lab.state().approve_batches
    lab.ask("approve_batch", decision=2)
    release(lab, future)


def test_a_pause_while_a_batch_waits_and_no_approval_while_paused(laboratory):
    lab = laboratory(approve_batches=True, point_budget=16)
    _, future = lab.begin()
    lab.decided(1)
    lab.ask("pause_experiment")
    assert lab.decided(2).reason == "paused by the operator"
    assert lab.ask("approve_batch", decision=0).error_code == DecideBatch.Response.NO_BATCH
    lab.ask("resume_experiment")
    again = lab.decided(4)
    assert (again.index, again.action) == (3, "propose")
    lab.ask("approve_batch", decision=3)
    release(lab, future)


@pytest.mark.parametrize("settings", [{}, {"approve_batches": True}])
def test_stop_ends_a_wait(laboratory, settings):
    lab = laboratory(**settings)
    if settings:
        handle, future = lab.begin()
        lab.decided(1)
    else:
        handle, future = held(lab)
        lab.ask("pause_experiment")
        lab.hold_acquisition = False
        lab.decided(2)
    acquired = len(lab.acquired)
    handle.cancel_goal_async()
    assert release(lab, future).stop_reason == "operator"
    assert len(lab.acquired) == acquired


def test_shutdown_ends_a_pause(laboratory):
    lab = laboratory()
    _, future = held(lab)
    lab.ask("pause_experiment")
    lab.hold_acquisition = False
    lab.decided(2)
    lab.planner.trigger_deactivate()
    lab.wait(future.done)
    assert future.result().result.error_code == RunExperiment.Result.NOT_ACTIVE


def test_a_changed_scalarizer_is_learned_from_every_row_measured_before(laboratory):
    lab = laboratory()
    lab.failing = {0, 17, 34, 51, 68}
    _, future = held(lab)
    lab.ask("change_scalarizer", scalarizer="strain", settings={"factor": -2.0})
    release(lab, future)
    change = lab.decisions[1]
    assert change.action == "operator" and "16 measurements read anew" in change.reason, change.reason
    assert [d.scalarizer_version for d in lab.decisions] == [0, 2, 2, 2, 2, 2]
    core = ActiveExperiment(SURVEY, FIELD, CORE, SETTINGS["seed"])
    for decision in lab.decisions[:-1]:
        if decision.action != "operator":
            candidates = np.asarray(decision.candidates)
            core.ask(len(candidates))
            valid = ~np.isin(candidates, list(lab.failing))
            core.tell(candidates, np.where(valid, -2.0 * TRUTH.ravel()[candidates], np.nan), ERROR.ravel()[candidates], valid)
        if decision.index:
            assert bytes(bytearray(lab.decisions[decision.index + (decision.action != "operator")].input_hash)) == \
                core.input_hash()


def test_a_scalarizer_that_the_featurizer_refuses_is_on_record_and_changes_nothing(laboratory):
    lab = laboratory()
    lab.refuse_scalarizer = SetScalarizer.Response.UNKNOWN_SCALARIZER
    _, future = held(lab)
    assert lab.ask("change_scalarizer", scalarizer="strange", settings={}).error_code == 0
    release(lab, future)
    change = lab.decisions[1]
    assert change.reason == "refused, the scalarizer stays as it is: no such scalarizer"
    assert json.loads(change.request) == {"kind": "change_scalarizer", "scalarizer": "strange", "settings": {},
                                          "refused": "no such scalarizer"}
    assert [d.scalarizer_version for d in lab.decisions[1:]] == [1] * 5


def test_rows_that_do_not_come_again_end_the_experiment_with_the_featurizer_s_name(laboratory):
    lab = laboratory(measurement_timeout_s=0.5)
    lab.withhold_again = True
    _, future = held(lab)
    lab.ask("change_scalarizer", scalarizer="strain", settings={"factor": 2.0})
    lab.hold_acquisition = False
    lab.wait(future.done)
    result = future.result().result
    assert result.error_code == RunExperiment.Result.MEASUREMENTS_MISSING
    assert "the featurizer went silent: 16 of 16 measurements did not come again" in result.error_msg


def test_a_restart_keeps_what_the_operator_changed_and_stays_paused(laboratory, tmp_path):
    lab = laboratory(output=str(tmp_path))
    _, future = held(lab)
    lab.ask("set_region", name="upper half", region="forbid", vertices=UPPER_HALF)
    lab.ask("change_acquisition", changes={"acquisition_function": "maximum_variance", "batch_points": 4})
    lab.ask("change_scalarizer", scalarizer="strain", settings={"factor": 3.0})
    lab.ask("ask_approval")
    lab.ask("pause_experiment")
    lab.hold_acquisition = False
    paused = lab.decided(6)
    assert paused.reason == "paused by the operator"
    checkpoint, saved = tmp_path / "checkpoint.npz", tmp_path / "saved.npz"
    lab.wait(lambda: json.loads(str(np.load(checkpoint)["progress"]))["paused"])
    saved.write_bytes(checkpoint.read_bytes())

    def go_on():
        lab.ask("resume_experiment")
        for _ in range(6):
            lab.wait(lambda: lab.decisions[-1].action == "propose")
            count = len(lab.decisions)
            lab.ask("approve_batch", decision=lab.decisions[-1].index)
            lab.decided(count + 2)
        release(lab, future)
        return [essence(d) for d in lab.decisions[6:]]
    whole = go_on()
    del lab.decisions[6:]
    lab.version, lab.factor = 1, 1.0  # as after a crash: the featurizer knows only its configuration
    _, future = lab.begin(checkpoint=str(saved))
    lab.wait(lambda: lab.state().error_code == 0 and lab.state().state == GetExperiment.Response.PAUSED)
    assert (lab.changes[-1].skip_measured, lab.changes[-1].version, lab.changes[-1].settings) == (True, 2, '{"factor": 3.0}')
    assert go_on() == whole


def test_equal_requests_are_equal_texts():
    assert as_text({"kind": "a", "b": 1}) == as_text({"b": 1, "kind": "a"})
