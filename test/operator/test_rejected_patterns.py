"""Patterns that tell nothing of the stated material end as failures with a reason, and no structure of them is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetem_nodes.operator.outcome import read_outcome

ENERGETICS = Path(__file__).resolve().parents[2] / "config" / "energetics.yaml"
SMALL = {"planner.micro_scan.enabled": "false", "planner.initial_points": 4, "planner.point_budget": 4,
         "planner.energetics.high_fidelity.points": 0, "planner.failure_retries": 0,
         "/**.instrument.simulated.rows": 12, "/**.instrument.simulated.columns": 12, "/**.instrument.simulated.field_nm": 8.0}
CASES = {
    "empty": ({"/**.instrument.probe_current_pA": 5e-4}, "electrons are fewer than"),
    "saturated": ({"/**.instrument.dwell_ms": 20.0}, "are saturated, at 65535 counts or more"),
    "of another material": ({"/**.instrument.simulated.specimen": "MoS2"}, "material"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_patterns_without_a_meaning_never_reach_the_engine(edgetem, tmp_path, case):
    changes, reason = CASES[case]
    settings = [part for key, value in {**SMALL, **changes}.items() for part in ("--set", f"{key}={value}")]
    command = edgetem("run", ENERGETICS, "--output", tmp_path / "run", *settings)
    assert command.finish() == 0, command.output
    assert "0 energies" in command.output
    outcome = read_outcome(tmp_path / "run")
    assert len(outcome.rows) == 4 and all(not row.valid and reason in row.failure for row in outcome.rows)
    assert not outcome.structures and not outcome.energies, "no cell was made, and none was computed"
    assert [one.failure.startswith("pattern: ") for one in outcome.site_energies] == [True] * 4
    report = (tmp_path / "run" / "report.html").read_text()
    assert reason in report, "the report says why"
