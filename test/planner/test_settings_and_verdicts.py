"""What the node does with settings, watchdogs, verdicts and further columns of the core."""

from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from laboratory import ELECTRONS, ERROR, FIELD, PERIOD, SETTINGS, SURVEY, SURVEY_DOSE, TRUTH

from edgetem.action import RunExperiment
from edgetem.srv import MoveStage, SetOptics
from edgetem_nodes.graph.messages import numbers
from edgetem_nodes.planner.affordability import affordable_with
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Actions, Model, Parameters
from edgetem_nodes.planner.stopping import Budget, Spent


def test_a_watchdog_is_in_the_decision_and_in_the_diagnostics(laboratory, monkeypatch):
    lab, shown = laboratory(point_budget=24), []
    lab.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: shown.extend(m.status), 10)
    lab.wait(lambda: any(status.name == "planner" for status in shown))
    genuine = ActiveExperiment.ask

    def noticing(self, count=None):
        proposal = genuine(self, count)
        return replace(proposal, watchdogs=("trapped in one place: it explores",)) if self.points else proposal
    monkeypatch.setattr(ActiveExperiment, "ask", noticing)
    lab.run()
    assert [list(d.watchdogs) for d in lab.decisions] == [[], ["trapped in one place: it explores"], []]
    lab.wait(lambda: any(s.level == DiagnosticStatus.WARN and "trapped in one place" in s.message for s in shown))


@pytest.mark.parametrize(("level", "begins"), [(2.0, "discovery: "), (50.0, "no discovery: ")])
def test_the_last_decision_says_whether_anything_was_found(laboratory, level, begins):
    result = (lab := laboratory(**{"discovery.level": level, "discovery.confidence": 0.95})).run()
    assert result.discovery.startswith(begins), result.discovery
    assert lab.decisions[-1].reason == f"the point budget is spent; {result.discovery}"


def test_optics_stage_and_dwell_time_are_commanded_where_they_change(laboratory):
    lab = laboratory(**{"actions.camera_length_mm": [100.0, 200.0], "actions.z_nm": [5.0], "actions.dwell_ms": [3.0]})
    assert lab.run().error_code == RunExperiment.Result.NONE
    measured = [d for d in lab.decisions if d.action in ("initial", "acquire")]
    assert set(lab.dwell_times) == {3e-3} == {d.dwell_time for d in measured}
    lengths = [d.optics.camera_length for d in measured]
    assert set(lengths) <= {0.1, 0.2} and np.isnan(measured[0].optics.defocus) and np.isnan(measured[0].stage.alpha)
    changes = [length for before, length in zip([None, *lengths], lengths, strict=False) if length != before]
    assert [c["camera_length"] for c in lab.commands if "camera_length" in c] == changes
    assert [c for c in lab.commands if "z" in c] == [{"z": pytest.approx(5e-9)}], "once: it never changes"
    assert np.isnan(lab.decisions[-1].optics.camera_length)


@pytest.mark.parametrize(("flag", "settings", "code", "text"), [
    ("refuse_optics", {"actions.defocus_nm": [10.0]}, SetOptics.Response.NOT_SUPPORTED, "no such lens"),
    ("refuse_stage", {"actions.alpha_mrad": [10.0]}, MoveStage.Response.OUT_OF_RANGE, "the stage is locked")])
def test_a_setting_that_the_microscope_refuses_ends_the_experiment_with_its_words(laboratory, flag, settings, code, text):
    lab = laboratory(**settings)
    setattr(lab, flag, code)
    result = lab.run()
    assert (result.error_code, result.points, lab.acquired) == (RunExperiment.Result.SETTING_REFUSED, 0, [])
    assert text in result.error_msg and str(code) in result.error_msg and next(iter(settings))[8:13] in result.error_msg


def test_a_resumed_experiment_commands_its_setting_again(laboratory, tmp_path):
    lab = laboratory(output=str(tmp_path), **{"actions.defocus_nm": [10.0]})
    lab.run(point_budget=16)
    lab.commands.clear()
    lab.run(checkpoint=str(tmp_path / "checkpoint.npz"))
    assert lab.commands == [{"defocus": pytest.approx(1e-8)}]


def test_a_column_that_the_measurements_lack_is_named(laboratory):
    result = laboratory(outputs=["energy"]).run()
    assert result.error_code == RunExperiment.Result.MEASUREMENTS_MISSING
    assert "no column 'energy'" in result.error_msg and "strain, counts" in result.error_msg


def test_further_columns_are_learned_with_the_scalar(laboratory):
    lab = laboratory(outputs=["counts"], point_budget=24)
    assert lab.run().error_code == RunExperiment.Result.NONE


@pytest.mark.parametrize("limits", ["dose_budget", "time_budget"])
def test_budgets_are_kept_where_the_dwell_time_is_free(laboratory, limits):
    """16 initial positions of 1 ms, then batches of 1 ms or 8 ms: what is left never pays for less than what is asked for."""
    lab = laboratory(point_budget=200, **{"actions.dwell_ms": [1.0, 8.0]})
    lab.dwell_counts = True
    costly = {"dose_budget": 8 * ELECTRONS, "time_budget": PERIOD + 7e-3}[limits]
    budget = {"dose_budget": SURVEY_DOSE + 16 * ELECTRONS, "time_budget": 16 * PERIOD}[limits] + 20.5 * costly
    result = lab.run(**{limits: budget})
    spent = {"dose_budget": result.dose, "time_budget": result.beam_time}[limits]
    assert result.stop_reason == limits
    assert 8e-3 in lab.dwell_times, "the costly setting was chosen"
    assert budget - costly < spent <= budget
    core = ActiveExperiment(SURVEY, FIELD, Parameters(
        point_budget=200, initial_points=16, batch_points=8, acquisition_function="expected_improvement",
        model=Model(training_steps=3, patch_size=3), actions=Actions(dwell_ms=[1.0, 8.0])), SETTINGS["seed"])
    for decision in lab.decisions[:-1]:
        proposal = core.ask(len(decision.candidates))
        np.testing.assert_array_equal(numbers(decision.candidates, dtype=np.uint32), proposal.candidates)
        assert (decision.generator_state, decision.dwell_time) == (proposal.generator_state, proposal.setting.dwell_time)
        core.tell(proposal.candidates, TRUTH.ravel()[proposal.candidates], ERROR.ravel()[proposal.candidates],
                  setting=proposal.setting_index)


def test_what_a_setting_affords_counts_dose_time_and_what_comes_on_top():
    """10 positions of 2 ms and 100 e each; besides, 50 e of reference images and 1 ms of settling a position."""
    core = ActiveExperiment(SURVEY, FIELD, Parameters(actions=Actions(dwell_ms=[2.0, 6.0])), 0, survey_dose=1.0)
    core.tell(np.arange(10), np.ones(10), np.ones(10), doses=100.0)
    spent = Spent(10, dose=256.0 + 1000.0 + 50.0, time=10 * 3e-3, survey_dose=256.0)

    def afforded(setting, **limits):
        return affordable_with(Budget(100, **limits), spent, core.observations, core.actions, setting)
    assert [afforded(setting, dose=1306.0 + 1220.0) for setting in (0, 1)] == [1220 // 105, 1220 // 305]
    assert [afforded(setting, time=30e-3 + 42e-3) for setting in (0, 1)] == [14, 6]
    assert [afforded(setting, dose=1306.0 + 200.0) for setting in (0, 1)] == [1, 0]
    assert afforded(1) == 90


def test_an_overview_is_waited_for_longer_than_an_answer(laboratory, monkeypatch):
    monkeypatch.setattr("edgetem_nodes.planner.node.instrument.ANSWER_TIMEOUT", 0.1)
    lab = laboratory(measurement_timeout_s=0.5)
    lab.hold_overview = True
    result = lab.run()
    lab.hold_overview = False
    assert result.error_code == RunExperiment.Result.OVERVIEW_FAILED
    assert "did not answer" in result.error_msg and "within 2 s" in result.error_msg
