"""A whole simulated experiment, operated from another terminal, killed in a pause, gone on with, and replayed."""

import json
import os

import numpy as np
import pytest
import yaml

from edgetem_nodes.operator.outcome import read_outcome
from edgetem_nodes.provenance.reading import read_bag

CONFIGURATION = {
    "/**": {"instrument": {"high_tension_kV": 200.0, "semi_convergence_mrad": 10.0,
                           "simulated": {"rows": 16, "columns": 16, "field_nm": 8.0}}},
    "featurizer": {"scalarizer": "virtual_detector"},
    "planner": {"point_budget": 40, "initial_points": 16, "batch_points": 8, "approve_batches": True,
                "actions": {"dwell_ms": [1.0, 4.0], "defocus_nm": [-5.0], "camera_length_mm": [120.0]},
                "discovery": {"level": 1.0, "confidence": 0.95}}}


@pytest.mark.slow
def test_a_run_is_operated_killed_in_a_pause_gone_on_with_and_replayed(edgetem, tmp_path):
    path, folder = tmp_path / "operated.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({node: {"ros__parameters": values} for node, values in CONFIGURATION.items()}))
    environment = {"ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]}

    def operate(*arguments):
        command = edgetem("operate", *arguments, "--output", folder, **environment)
        assert command.finish() == 0, command.output
        return command.output

    run = edgetem("run", path, "--output", folder)
    run.wait_for("decision   0  propose")
    assert "decision 1, initial" in operate("approve")
    assert "deflection_magnitude [mrad] in place of counts [counts], 16 measurements" in operate("scalarizer", "center_of_mass")
    assert "forbidden" in operate("forbid", "corner", -0.1, -0.1, 3, 3)
    assert "paused by the operator" in operate("pause")
    run.node("planner").kill()
    assert run.finish() == 1

    run = edgetem("run", "--resume", folder)
    run.wait_for("all nodes active")
    status = operate("status")
    assert "state        paused" in status and "region       corner: forbid" in status, status
    assert "resumed by the operator" in operate("resume")
    run.wait_for("propose")
    assert "acquire" in operate("approve", "--all")
    assert run.finish() == 0, run.output

    outcome = read_outcome(folder)
    field = outcome.scan_field
    later = [d for d in outcome.decisions if d.action == "acquire"]
    visited = np.concatenate([field.positions(np.asarray(d.candidates, int)) for d in later])
    assert not (visited < 3e-9).all(axis=1).any(), "the corner stays forbidden"
    assert outcome.scalar == ("deflection_magnitude", "mrad") and len(outcome.rows) == 40
    commanded = {bytes(d.acquisition_id.uuid): (d.dwell_time, d.optics.defocus, d.optics.camera_length)
                 for d in outcome.decisions if d.action in ("initial", "acquire")}
    for _, _, probe in read_bag(folder, ["probe_path"]):
        assert commanded[bytes(probe.acquisition_id.uuid)] == (probe.dwell_time, probe.optics.defocus,
                                                               probe.optics.camera_length)
    assert {dwell for dwell, *_ in commanded.values()} == {1e-3, 4e-3}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["counts"]["interventions"] == 4 and "discovery" in summary["discovery"]

    replay = edgetem("replay", folder)
    assert replay.finish() == 0, replay.output
    assert f"all {len(outcome.decisions)} decisions are the same, bit for bit" in replay.output
