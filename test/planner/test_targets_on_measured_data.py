"""What the shipped settings find on measured spectrum images, against random sampling and the brightest survey pixels."""

import numpy as np
import pytest
from measured_maps import copper, iron

from edgetem_nodes.graph.environment import share_directory
from edgetem_nodes.operator.experiment import load_experiment
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.simulation import found_fraction, map_correlation, simulate


def shipped(name, data_root, monkeypatch):
    monkeypatch.setenv("EDGETEM_DATA", str(data_root))
    return load_experiment(share_directory() / "config" / f"{name}.yaml").parameters("planner", Parameters)


def runs(maps, parameters, seeds, strategy="configured"):
    survey, truth, error = maps
    field = ScanField((0.0, 0.0), (1e-9, 1e-9), truth.shape)
    return [simulate(survey, truth, error, field, parameters, seed, strategy) for seed in seeds]


def median_found(truth, made, smoothing=0.0):
    return np.median([found_fraction(run.candidates, truth, smoothing=smoothing) for run in made])


def test_most_copper_is_found_in_a_tenth_of_the_field(data_root, monkeypatch):
    parameters = shipped("cuzn_eels", data_root, monkeypatch)
    maps = copper(data_root)
    run, = runs(maps, parameters, [0])
    assert len(run.candidates) == 200
    assert found_fraction(run.candidates, maps[1]) >= 0.9


@pytest.mark.slow
def test_copper_over_five_seeds(data_root, monkeypatch):
    parameters = shipped("cuzn_eels", data_root, monkeypatch)
    maps = copper(data_root)
    own, random = (runs(maps, parameters, range(5), strategy) for strategy in ("configured", "random"))
    assert median_found(maps[1], own) >= 0.9
    assert median_found(maps[1], random) < 0.2
    correlations = [np.median([map_correlation(run.mean, maps[1]) for run in made]) for made in (own, random)]
    assert correlations[0] >= correlations[1] - 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_iron_over_three_seeds(data_root, monkeypatch):
    """The truth is smoothed by one pixel: which single pixels count highest is decided by counting noise (30 counts)."""
    parameters = shipped("core_shell_fe", data_root, monkeypatch)
    maps = iron(data_root)
    own = runs(maps, parameters, range(3))
    brightest = runs(maps, parameters, [0], "brightness")
    assert all(len(run.candidates) == 410 for run in own)
    assert median_found(maps[1], own, 1.0) >= median_found(maps[1], brightest, 1.0) + 0.3
    assert median_found(maps[1], own) > median_found(maps[1], brightest)
