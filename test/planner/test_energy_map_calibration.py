"""Monte Carlo: the uncertainty at which an energy map stops holds the true error, of expected and of averaged densities."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Energetics, Model, Parameters
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
    experiment.footprint = AREA * 1e-18
    while not (reason := experiment.stop_reason(Spent(experiment.points))):
        at = experiment.ask().candidates
        reading = (strain + seen * DEFECT / AREA).ravel()[at] + 0.05 * generator.normal(size=len(at))
        experiment.tell(at, reading, np.full(len(at), 0.05))
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


EDGE, CELL, SUB = 28, 0.6, 3
"""Positions along each axis, their distance [nm], and points of a cell along each axis on which single defects lie."""


def spot_mapped(seed, radius):
    """An irradiated spot, and a field that is seen nearly whole by footprints of 3 x 3 cells: map, deviation, truth."""
    generator, size = np.random.default_rng(seed), EDGE * SUB
    places = np.stack(np.mgrid[:size, :size]) * CELL / SUB
    centre = generator.uniform(5.0, 12.0, 2)
    rate = 0.03 + np.exp(-0.5 * np.square(places - centre[:, None, None]).sum(axis=0) / 2.0**2)
    defects = generator.poisson(rate * (CELL / SUB) ** 2) * DEFECT / (CELL / SUB) ** 2
    strain = np.kron(smooth(generator, 4), np.ones((2 * SUB, 2 * SUB)))[:size, :size]
    energy = strain + defects
    middle = np.arange(EDGE) * SUB + 1
    truth = np.empty((EDGE, EDGE))
    for row, column in np.ndindex(truth.shape):
        rows, columns = (np.arange(size) - middle[at] for at in (row, column))
        truth[row, column] = energy[np.hypot(rows[:, None], columns[None]) * CELL / SUB <= radius].mean()
    around = np.pad(energy, SUB, mode="reflect")
    readings = np.array([around[SUB * row:SUB * (row + 3), SUB * column:SUB * (column + 3)].mean()
                         for row, column in np.ndindex(EDGE, EDGE)])
    parameters = Parameters(point_budget=78, initial_points=48, batch_points=10, model=Model(use_survey=False),
                            acquisition_function="integrated_posterior_variance",
                            energetics=Energetics(mapped=True, averaging_nm=radius))
    field = ScanField((0.0, 0.0), (CELL * 1e-9, CELL * 1e-9), (EDGE, EDGE))
    experiment = ActiveExperiment(np.ones((1, EDGE, EDGE)), field, parameters, seed)
    experiment.footprint = (3 * CELL) ** 2 * 1e-18
    while not experiment.stop_reason(Spent(experiment.points)):
        at = experiment.ask().candidates
        experiment.tell(at, readings[at] + 0.1 * generator.normal(size=len(at)), np.full(len(at), 0.1))
    return *experiment.predict(), truth


@pytest.mark.slow
def test_footprints_that_see_most_of_a_field_map_it_and_intervals_hold_in_the_spot_too():
    inside, rich, correlations = [], [], []
    for seed in range(10):
        mean, deviation, truth = spot_mapped(seed, 3.0)
        held = np.abs(mean - truth) < 1.645 * deviation
        inside.append(held.mean())
        rich.append(held[truth > 0.3 * truth.max()].mean())
        correlations.append(np.corrcoef(mean.ravel(), truth.ravel())[0, 1])
    assert np.median(correlations) > 0.95
    assert 0.85 <= np.mean(inside) <= 0.98
    assert np.mean(rich) >= 0.75
