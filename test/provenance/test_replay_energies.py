"""Replay of an energy map: patterns, micro-scans, structures and energies of both levels come back from the bag."""

import uuid

import numpy as np
import pytest
from synthetic_experiment import EXPERIMENT, conduct
from test_replay_interventions import CHANGE, replay

from edgetem_nodes.graph.identifiers import micro_scan_id
from edgetem_nodes.provenance.comparison import SAME
from edgetem_nodes.provenance.reading import read_bag
from edgetem_nodes.provenance.recording import Recording

MAPPED = {"energetics.mapped": True, "energetics.high_fidelity.points": 4, "energetics.high_fidelity.engine": "better",
          "micro_scan.enabled": True, "actions.semi_convergence_mrad": [1.5], "actions.defocus_nm": [0.0],
          "acquisition_function": "maximum_variance", "initial_points": 12, "point_budget": 30}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """An energy map with failures at every step, in which the operator asks for something while energies are computed."""
    folder = tmp_path_factory.mktemp("energies")
    result, operator = conduct(folder, {0: [CHANGE]}, **MAPPED)
    assert result.error_code == 0, result.error_msg
    return folder, result, operator


def test_every_decision_of_an_energy_map_is_the_same_bit_for_bit(recorded):
    folder, result, operator = recorded
    actions = [decision.action for decision in operator.decisions]
    assert actions[:3] == ["initial", "energetics", "operator"]
    assert any("without a structure" in decision.reason for decision in operator.decisions)
    node = replay(folder, **MAPPED)
    assert node.exit_code == SAME, node.summary
    assert node.summary == f"replay: all {len(actions)} decisions are the same, bit for bit"


def test_the_bag_holds_the_energy_of_every_site_and_why_there_is_none(recorded):
    folder, result, _ = recorded
    rows = [(m.names[0], value, valid, failure) for _, _, m in read_bag(folder, ["site_energies"])
            for value, valid, failure in zip(m.values, m.valid, m.failures, strict=True)]
    low = [row for row in rows if row[0] == "excess_energy_density"]
    assert len(low) == result.points
    assert sum(valid for _, _, valid, _ in rows) == result.energies
    steps = {failure.split(":")[0] for _, _, valid, failure in low if not valid}
    assert steps == {"pattern", "micro_scan", "structure", "energy"}
    assert all(np.isnan(value) for _, value, valid, _ in rows if not valid)


def test_levels_and_micro_scans_are_told_apart(recorded):
    recording = Recording(recorded[0])
    first = uuid.uuid5(EXPERIMENT, "0")
    scan = recording.acquisition(micro_scan_id(first))
    assert scan.complete and 0 < len(scan.positions) < len(recording.acquisition(first).positions)
    engines = [key[-2] for key in recording.energetics]
    assert engines.count("better") == 4 and engines.count("") > 10
