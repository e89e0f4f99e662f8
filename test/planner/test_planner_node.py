"""The planner node in this process: the loop, what it publishes, restart, stop, and every error code."""

import json
import uuid

import numpy as np
import pytest
from laboratory import ELECTRONS, ERROR, FIELD, PERIOD, SETTINGS, SURVEY, SURVEY_DOSE, TRUTH, essence

from edgetem.action import Acquire, ComputeEnergetics, RunExperiment
from edgetem.srv import AcquireOverview, GetStructure
from edgetem_nodes.graph.messages import numbers, to_uuid
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Model, Parameters

Codes = RunExperiment.Result
SHORT = {"measurement_timeout_s": 0.5}


def test_an_experiment_runs_to_its_budget_and_says_what_it_did(laboratory, tmp_path):
    lab = laboratory(output=str(tmp_path))
    result = lab.run()
    assert (result.error_code, result.error_msg, result.stop_reason) == (Codes.NONE, "", "point_budget")
    assert (result.points, result.decisions, len(result.first_block_latencies)) == (40, 5, 4)
    assert all(0 < latency < 10 for latency in result.first_block_latencies)
    assert result.dose == SURVEY_DOSE + 40 * ELECTRONS
    assert result.beam_time == pytest.approx(40 * PERIOD)
    assert [d.action for d in lab.decisions] == ["initial", "acquire", "acquire", "acquire", "stop"]
    assert [d.index for d in lab.decisions] == list(range(5))
    assert [d.points for d in lab.decisions] == [0, 16, 24, 32, 40]
    experiment_id = uuid.UUID(int=7)
    assert [i for i, _ in lab.acquired] == [uuid.uuid5(experiment_id, str(k)) for k in range(4)]
    for decision, (_, candidates) in zip(lab.decisions, lab.acquired, strict=False):
        np.testing.assert_array_equal(numbers(decision.candidates, dtype=np.uint32), candidates)
        np.testing.assert_array_equal(numbers(decision.positions, (-1, 2)), FIELD.positions(candidates))
        assert len(decision.acquisition_values) == len(candidates)
        assert json.loads(decision.generator_state)["bit_generator"] == "PCG64"
    assert json.loads(lab.decisions[1].model)["surrogate"] == "gaussian_process"
    assert np.isnan(lab.decisions[0].best_value)
    assert lab.decisions[-1].best_value == max(TRUTH.ravel()[np.concatenate([c for _, c in lab.acquired])])
    lab.wait(lambda: lab.maps and lab.maps[-1].decision_index == 4)
    assert (lab.maps[-1].name, lab.maps[-1].unit) == ("strain", "%")
    assert numbers(lab.maps[-1].mean, TRUTH.shape).std() > 0
    lab.wait(lambda: len(lab.feedback) == 4)
    assert lab.experiments[-1].config == "a: 1\n"
    assert "thread" in lab.experiments[-1].platform


def test_the_node_decides_what_the_core_decides(laboratory):
    lab = laboratory()
    lab.run()
    parameters = Parameters(point_budget=40, initial_points=16, batch_points=8, acquisition_function="expected_improvement",
                            model=Model(training_steps=3, patch_size=3))
    core = ActiveExperiment(SURVEY, FIELD, parameters, SETTINGS["seed"])
    for decision in lab.decisions[:-1]:
        assert bytes(bytearray(decision.input_hash)) == core.input_hash()
        proposal = core.ask()
        np.testing.assert_array_equal(numbers(decision.candidates, dtype=np.uint32), proposal.candidates)
        np.testing.assert_array_equal(numbers(decision.acquisition_values), proposal.values)
        assert (decision.model, decision.generator_state) == (proposal.model, proposal.generator_state)
        core.tell(proposal.candidates, TRUTH.ravel()[proposal.candidates], ERROR.ravel()[proposal.candidates])


def test_the_order_in_which_rows_arrive_does_not_matter(laboratory):
    lab = laboratory()
    lab.run()
    first, lab.shuffle = [essence(d) for d in lab.decisions], True
    lab.decisions.clear()
    lab.run()
    assert [essence(d) for d in lab.decisions] == first


def test_marked_failures_count_as_answers(laboratory):
    lab = laboratory()
    lab.failing = set(range(0, 256, 3))
    result = lab.run()
    assert (result.error_code, result.points) == (Codes.NONE, 40)
    asked = np.concatenate([c for _, c in lab.acquired])
    assert all((asked == c).sum() <= 2 for c in lab.failing)
    assert lab.decisions[-1].input_rows == 40


def test_a_restart_makes_the_unfinished_decision_again_and_all_later_ones_the_same(laboratory, tmp_path):
    lab = laboratory(output=str(tmp_path))
    lab.run()
    whole = [essence(d) for d in lab.decisions]
    lab.decisions.clear()
    lab.acquired.clear()
    checkpoint = tmp_path / "checkpoint.npz"
    # The run breaks off in the acquisition of decision 2, as after a crash.
    lab.hold_from = 2
    handle, future = lab.begin()
    lab.wait(lambda: len(lab.acquired) == 3)
    saved = checkpoint.read_bytes()
    handle.cancel_goal_async()
    lab.wait(future.done)
    lab.wait(lambda: lab.decisions[-1].action == "stop")
    lab.hold_from = 10**6
    before, overviews = len(lab.decisions), lab.overviews
    copy = tmp_path / "saved.npz"
    copy.write_bytes(saved)
    result = lab.run(experiment_id=99, checkpoint=str(copy))
    assert result.error_code == Codes.NONE
    lab.wait(lambda: len(lab.decisions) == before + 3)
    assert [essence(d) for d in lab.decisions[before:]] == whole[2:]
    assert lab.overviews == overviews
    assert to_uuid(lab.decisions[-1].experiment_id) == uuid.UUID(int=7)


def test_cancel_stops_the_acquisition_and_ends_with_a_decision(laboratory):
    lab = laboratory()
    lab.hold_acquisition = True
    handle, future = lab.begin()
    lab.wait(lambda: lab.acquired)
    handle.cancel_goal_async()
    lab.wait(future.done)
    result = future.result().result
    assert result.stop_reason == "operator"
    lab.wait(lambda: lab.canceled == 1 and lab.decisions[-1].action == "stop")
    assert [d.index for d in lab.decisions] == [0, 1]
    assert lab.decisions[-1].stop_reason == "operator"


def test_cancel_before_the_first_decision(laboratory):
    lab = laboratory()
    lab.hold_overview = True
    handle, future = lab.begin()
    lab.wait(lambda: lab.overviews)
    handle.cancel_goal_async()
    lab.wait(future.done)
    lab.hold_overview = False
    assert future.result().result.error_code == Codes.CANCELED


def test_budgets_of_the_goal_replace_the_configured_ones(laboratory):
    lab = laboratory()
    assert lab.run(point_budget=20).points == 20
    result = lab.run(dose_budget=SURVEY_DOSE + 27 * ELECTRONS)
    assert (result.stop_reason, result.points) == ("dose_budget", 27)
    result = lab.run(time_budget=30 * PERIOD)
    assert (result.stop_reason, result.points) == ("time_budget", 30)
    result = lab.run(target_standard_deviation=1e6)
    assert (result.stop_reason, result.points) == ("uncertainty_target", 16)


def test_energies_of_the_most_telling_positions(laboratory):
    lab = laboratory(**{"energetics.points": 2})
    result = lab.run()
    assert (result.energies, lab.energies) == (2, 2)
    energetics, stop = lab.decisions[-2:]
    assert (energetics.action, stop.action, stop.index) == ("energetics", "stop", energetics.index + 1)
    assert set(energetics.candidates) <= set(np.concatenate([c for _, c in lab.acquired]).tolist())
    assert "energies of 2 of 2 positions" in stop.reason


@pytest.mark.parametrize(("flag", "code", "text"), [
    ("structure_error", GetStructure.Response.NOT_IDENTIFIABLE, "no lattice"),
    ("energy_error", ComputeEnergetics.Result.NOT_CONVERGED, "no convergence")])
def test_failed_energies_are_stated_and_end_nothing(laboratory, flag, code, text):
    lab = laboratory(**{"energetics.points": 2})
    setattr(lab, flag, code)
    result = lab.run()
    assert (result.error_code, result.energies, result.stop_reason) == (Codes.NONE, 0, "point_budget")
    assert "energies of 0 of 2 positions" in lab.decisions[-1].reason
    assert text in lab.decisions[-1].reason


@pytest.mark.parametrize(("change", "settings", "code", "text"), [
    ({"refuse_overview": AcquireOverview.Response.DRIVER_FAILED}, {}, Codes.OVERVIEW_FAILED, "the survey camera is out"),
    ({"refuse_acquisition": Acquire.Result.ACQUISITION_ABORTED}, {}, Codes.ACQUISITION_FAILED, "silent: compressor"),
    ({"withhold_rows": True}, SHORT, Codes.MEASUREMENTS_MISSING, "the featurizer went silent: 16 of 16"),
    ({"withhold_path": True}, SHORT, Codes.MEASUREMENTS_MISSING, "the microscope went silent"),
    ({"hold_acquisition": True}, SHORT, Codes.MEASUREMENTS_MISSING, "microscope or detector"),
    ({"failing": set(range(256))}, {}, Codes.MODEL_FAILED, "none of the 16 measurements so far is valid"),
    ({}, {"model.patch_size": 33}, Codes.INVALID_CONFIG, "patch size 33 does not fit a survey of 16 x 16"),
])
def test_error_codes(laboratory, change, settings, code, text):
    lab = laboratory(**settings)
    for name, value in change.items():
        setattr(lab, name, value)
    result = lab.run()
    assert (result.error_code, text in result.error_msg) == (code, True), result.error_msg
    lab.hold_acquisition = False


def test_a_second_experiment_is_refused_while_one_runs(laboratory):
    lab = laboratory()
    lab.hold_acquisition = True
    handle, future = lab.begin()
    lab.wait(lambda: lab.acquired)
    _, second = lab.begin(experiment_id=8)
    lab.wait(second.done)
    assert second.result().result.error_code == Codes.BUSY
    lab.hold_acquisition = False
    lab.wait(future.done)
    assert future.result().result.error_code == Codes.NONE


def test_an_inactive_planner_refuses(laboratory):
    assert laboratory(activate=False).run().error_code == Codes.NOT_ACTIVE


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged"])
def test_a_checkpoint_that_cannot_be_used_is_refused(laboratory, tmp_path, content):
    path = tmp_path / "checkpoint.npz"
    if content is not None:
        path.write_bytes(content)
    result = laboratory().run(checkpoint=str(path))
    assert result.error_code == Codes.CHECKPOINT_INVALID
    assert str(path) in result.error_msg


def test_deactivation_ends_the_experiment(laboratory):
    lab = laboratory()
    lab.hold_acquisition = True
    _, future = lab.begin()
    lab.wait(lambda: lab.acquired)
    lab.planner.trigger_deactivate()
    lab.wait(future.done)
    assert future.result().result.error_code == Codes.NOT_ACTIVE
    lab.wait(lambda: lab.canceled == 1)
