"""The energetics experiment as a launch graph, small: patterns and micro-scans become energies, a map, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.operator.outcome import read_outcome

REPOSITORY = Path(__file__).resolve().parents[2]
POINTS = 8


@pytest.fixture
def small(tmp_path):
    """The shipped configuration with a small field and few sites, all of them near the spot of defects."""
    content = yaml.safe_load((REPOSITORY / "config" / "energetics.yaml").read_text())
    shared, planner = content["/**"]["ros__parameters"], content["planner"]["ros__parameters"]
    shared["instrument"]["simulated"] |= {"rows": 12, "columns": 12, "field_nm": 8.0}
    planner |= {"initial_points": 6, "batch_points": 2, "point_budget": POINTS, "target_standard_deviation": 0.0}
    planner["energetics"]["high_fidelity"]["points"] = 1
    content["featurizer"]["ros__parameters"]["structure"]["largest_atoms"] = 50  # a fifth of the time of 98
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_loop_in_a_launch_graph(edgetem, small, tmp_path):
    folder = tmp_path / "run"
    command = edgetem("launch", REPOSITORY / "launch" / "energetics.launch.py", f"experiment:={small}", f"output:={folder}",
                      "log_level:=warn")
    assert command.finish() == 0, command.output
    outcome = read_outcome(folder)
    assert outcome.stop_reason == "point_budget" and outcome.scalar == ("excess_energy_density", "eV/nm^2")
    low = [one for one in outcome.site_energies if one.name == outcome.scalar[0]]
    assert len(outcome.rows) == len(low) == POINTS
    good = [one for one in low if not one.failure]
    assert len(good) >= POINTS // 2 and all(np.isfinite(one.value) for one in good)
    scanned = {row.candidate for row in outcome.micro_scans}
    assert scanned == {row.candidate for row in outcome.rows if row.valid}, "a micro-scan at each site that was not rejected"
    with Archive.open(folder) as archive:
        shapes = {archive.acquisition(row.acquisition_id).signal_shape for row in outcome.micro_scans}
    assert shapes == {(8, 8, 64, 64)}
    for structure in outcome.structures.values():
        assert 0.5e-18 < structure.footprint_area < 4.5e-18 and structure.material == "graphene"
    assert edgetem("report", folder).finish() == 0
    report = (folder / "report.html").read_text()
    for told in ("correlation with the true map", "rich in defects", "energy_map.png", "structures.png", "The truth: tblite"):
        assert told in report, told
    judged = json.loads((folder / "energy_evaluation.json").read_text())
    assert judged["sites"]["count"] == len(good) and judged["whole"]["count"] == 144


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_replay_of_the_whole_loop_makes_every_decision_again(edgetem, small, tmp_path):
    folder = tmp_path / "run"
    assert edgetem("run", small, "--output", folder).finish() == 0
    command = edgetem("replay", folder)
    assert command.finish() == 0, command.output
