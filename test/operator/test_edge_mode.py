"""The edge-plasmon experiment and its control, whole: what is found lies at the rim, and only where there is a mode."""

import json
import subprocess

import numpy as np
import pytest
from command_line import COMMAND

from edgetem_nodes.graph.instrument import Instrument, simulation
from edgetem_nodes.operator.experiment import load_experiment
from edgetem_nodes.operator.outcome import read_outcome

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edge_mode", [True, False])
def test_a_discovery_is_reported_at_the_rim_and_only_where_there_is_an_edge_mode(tmp_path, edge_mode):
    setting = f"/**.instrument.simulated.structure.edge_mode={str(edge_mode).lower()}"
    done = subprocess.run([COMMAND, "run", "edge_mode.yaml", "--set", setting, "--set", "planner.point_budget=160",
                           "--output", str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "run" / "summary.json").read_text())["discovery"]
    assert verdict.startswith("discovery: " if edge_mode else "no discovery: 0 of 160"), verdict
    assert verdict in done.stdout
    candidates, values, _ = read_outcome(tmp_path / "run").measured()
    from edgetem_nodes.microscope.parameters import Parameters

    parameters = load_experiment(tmp_path / "run" / "experiment.yaml").parameters("microscope", Parameters)
    assert isinstance(parameters.instrument, Instrument)
    distance = simulation(parameters.instrument, parameters.seed).truth("edge_distance")[1].ravel()[candidates]
    best = distance[np.argsort(values)[-20:]]
    if edge_mode:
        assert np.abs(best).max() < 2e-9 and values.max() > 1.5
    else:
        assert (best > 0).all(), "the highest ratios of the control are those of the empty field"
        assert values.max() < 1.1
