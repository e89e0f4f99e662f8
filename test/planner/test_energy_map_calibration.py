"""Monte Carlo: the uncertainty at which an energy map stops holds the true error, of expected and of averaged densities."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Energetics, Model, Parameters
from edgetem_nodes.planner.sights import Sight
from edgetem_nodes.planner.stopping import UNCERTAINTY_TARGET, Spent

SIDE, STEP = 24, 2.0
"""Positions along each axis, and their distance [nm]."""
DEFECT, AREA = 7.7, 2.0
"""Energy of a defect [eV], footprint of a reading [nm^2]."""
FIELD = ScanField((0.0, 0.0), (STEP * 1e-9, STEP * 1e-9), (SIDE, SIDE))
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def smooth(generator, scale):
    field = gaussian_filter(generator.normal(size=(SIDE, SIDE)), scale, mode="reflect")
    return (field - field.min()) / np.ptp(field)


def averaged_plainly(values, radius):
    result = np.empty_like(values)
    for row, column in np.ndindex(values.shape):
        result[row, column] = values[np.hypot(ROWS - row, COLUMNS - column) * STEP <= radius + 1e-9].mean()
    return result


def _sights(at, seen, strain, generator):
    """Squares of the footprint's area about the positions, their defects anywhere in them."""
    edge = np.sqrt(AREA) * 1e-9
    return [Sight(edge * np.eye(2), strain[one] + 0.05 * generator.normal(), 0.05,
                  edge * generator.uniform(-0.5, 0.5, (seen[one], 2)),
                  np.ones(seen[one]), np.full(seen[one], DEFECT * 1e-18), np.zeros(seen[one])) for one in at]


def stopped(seed, density, target, radius):
    """An experiment run to its end: why it ended, its map and deviation, the truth of what the map is of."""
    generator = np.random.default_rng(seed)
    strain, rate = smooth(generator, 5), density * smooth(generator, 4) ** 2
    seen, beside = generator.poisson(rate * AREA), generator.poisson(rate * (STEP**2 - AREA))
    truth = strain + rate * DEFECT
    if radius:
        truth = averaged_plainly(strain + (seen + beside) * DEFECT / STEP**2, radius)
    parameters = Parameters(point_budget=200, initial_points=40, batch_points=20, target_standard_deviation=target,
                            acquisition_function="integrated_posterior_variance", model=Model(use_survey=False),
                            energetics=Energetics(mapped=True, averaging_nm=radius))
    experiment = ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, parameters, seed)
    while not (reason := experiment.stop_reason(Spent(experiment.points))):
        at = experiment.ask().candidates
        reading = (strain + seen * DEFECT / AREA).ravel()[at] + 0.05 * generator.normal(size=len(at))
        experiment.tell(at, reading, np.full(len(at), 0.05), sights=_sights(at, seen.ravel(), strain.ravel(), generator))
    return reason, *experiment.predict(), truth


@pytest.mark.slow
@pytest.mark.parametrize(("density", "target", "radius"), [(0.4, 1.0, 0.0), (0.15, 0.6, 0.0), (0.15, 0.6, 6.0)])
def test_the_uncertainty_at_which_it_stops_holds_the_true_error(density, target, radius):
    inside, within, reasons = [], [], []
    for seed in range(12):
        reason, mean, deviation, truth = stopped(seed, density, target, radius)
        reasons.append(reason)
        inside.append(np.mean(np.abs(mean - truth) < 1.645 * deviation))
        within.append(np.mean(np.abs(mean - truth) < 1.645 * target))
    assert reasons.count(UNCERTAINTY_TARGET) >= 10
    assert 0.85 <= np.mean(inside) <= 0.95
    assert np.mean(within) >= 0.9
