"""What the node does with settings, watchdogs, verdicts and further columns of the core."""

from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from edgetem.action import RunExperiment
from edgetem.srv import MoveStage, SetOptics
from edgetem_nodes.planner.experiment import ActiveExperiment


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
