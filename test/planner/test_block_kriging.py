"""Averaged maps by support: covariances against counted points, predictions against drawn sheets of single defects."""

import numpy as np
import pytest

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.acquisition import BatchChooser, Goal
from edgetem_nodes.planner.block_kriging import BlockKriging, Readings, scatter_scale
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Energetics, HighFidelity, Model, Parameters
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.stopping import Spent
from edgetem_nodes.planner.support import Footprints, Support
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

STEP, SIDE, FINE = 0.5e-9, 16, 10
"""Step [m], positions along each axis, points of a cell along each axis by which discs are counted."""
FIELD = ScanField((0.0, 0.0), (STEP, STEP), (SIDE, SIDE))
AREA, RADIUS = 1.2e-18, 1.4e-9


def squares(footprints, places):
    """(footprints, fine, fine) which points, spaced evenly along both axes, lie in each."""
    inside = [np.abs(places - footprints.centres[:, axis][:, None]) < footprints.edges[:, None] / 2 for axis in (0, 1)]
    return (inside[0][:, :, None] & inside[1][:, None]).astype(float)


def test_footprints_and_discs_have_in_common_what_points_in_both_say():
    """White scatter of variance s a unit area: means over X and Y covary by s |X n Y| / (|X| |Y|), counted on fine points."""
    support, fine = Support(FIELD, RADIUS, AREA), STEP / 20
    centres = np.array([[3.1, 3.0], [3.9, 3.4], [3.0, 4.2], [0.0, 7.0], [6.0, 1.0]]) * 1e-9
    footprints = Footprints(centres, np.array([1.21, 1.21, 0.64, 1.21, 2.56]) * 1e-18)
    places = (np.arange((SIDE + 4) * 20) + 0.5) * fine - 2.5 * STEP
    masks = squares(footprints, places).reshape(5, -1)
    means = masks / masks.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(support.in_common(footprints, footprints), means @ means.T * AREA / fine**2, atol=0.06)
    within = (places > -STEP / 2) & (places < (SIDE - 0.5) * STEP)
    for place in (0, 100, 6 * SIDE + 6, 6 * SIDE + 8, 14):
        disc = np.hypot(places[:, None] - FIELD.positions()[place, 0], places[None] - FIELD.positions()[place, 1]) <= RADIUS
        disc = (disc & within[:, None] & within[None]).ravel() / (disc & within[:, None] & within[None]).sum()
        expected = means @ disc * AREA / fine**2
        np.testing.assert_allclose(support.in_discs(footprints, np.ones(SIDE**2)).toarray()[:, place], expected, atol=0.02)
        # in whole cells: of those at the rim of the disc a part counts, as if it were spread over all of the cell
        np.testing.assert_allclose(support.disc_variance(np.ones(SIDE**2))[place], disc @ disc * AREA / fine**2, rtol=0.15)


def test_overlaps_of_footprints_are_no_covariances_of_impossible_readings():
    generator = np.random.default_rng(1)
    footprints = Footprints(generator.uniform(0, 4e-9, (60, 2)), generator.uniform(0.5, 3.0, 60) * 1e-18)
    assert np.linalg.eigvalsh(Support(FIELD, RADIUS, AREA).in_common(footprints, footprints)).min() > -1e-9


def learned(at, values, errors):
    surrogate = Surrogate(Inputs(np.zeros((SIDE**2, 0)), grid_coordinates(FIELD.shape, FIELD.step)),
                          SurrogateSettings(use_survey=False))
    support = Support(FIELD, RADIUS, AREA)
    trained = surrogate.learn(at, values, errors, 0)
    return BlockKriging(trained, support, Readings(values, errors, support.typical(at)))


def poisson_sheet(generator, most=1.2, defect=7.7):
    """Defects of `defect` eV drawn as points, most of them in a spot; places (n, 2) [m] and the expected density [eV/nm^2]."""
    count = generator.poisson(most * (SIDE + 4) ** 2 * STEP**2 * 1e18)
    places = generator.uniform(-2.5 * STEP, (SIDE + 1.5) * STEP, (count, 2))
    spot = np.array([3.0e-9, 4.5e-9])
    kept = generator.random(count) < np.exp(-np.square((places - spot) / 1.5e-9).sum(axis=1) / 2)
    return places[kept], defect


def read(places, defect, footprints):
    half = footprints.edges[:, None] / 2
    seen = (np.abs(places[None, :, 0] - footprints.centres[:, :1]) < half)
    seen &= np.abs(places[None, :, 1] - footprints.centres[:, 1:]) < half
    return 0.2 + seen.sum(axis=1) * defect / (footprints.areas * 1e18)


def disc_truth(places, defect):
    """Over discs, of what lies in the field."""
    inside = ((places > -STEP / 2) & (places < (SIDE - 0.5) * STEP)).all(axis=1)
    fine = (np.arange(SIDE * FINE) + 0.5) * STEP / FINE - STEP / 2
    result = []
    for centre in FIELD.positions():
        area = (np.hypot(fine[:, None] - centre[0], fine[None] - centre[1]) <= RADIUS).sum() * (STEP / FINE) ** 2
        result.append(0.2 + (np.hypot(*(places[inside] - centre).T) <= RADIUS).sum() * defect / (area * 1e18))
    return np.array(result)


def tile(step=2):
    return np.array([row * SIDE + column for row in range(0, SIDE, step) for column in range(0, SIDE, step)])


def test_footprints_that_tile_the_field_read_its_discs_and_intervals_hold():
    generator, at = np.random.default_rng(2), tile()
    support, inside = Support(FIELD, RADIUS, AREA), []
    for _ in range(6):
        places, defect = poisson_sheet(generator)
        values = read(places, defect, support.typical(at)) + 0.05 * generator.normal(size=len(at))
        discs, truth = learned(at, values, np.full(len(at), 0.05)).discs(), disc_truth(places, defect)
        inside.append(np.mean(np.abs(discs.mean - truth) < 1.645 * discs.standard_deviation))
        assert np.corrcoef(discs.mean, truth)[0, 1] > 0.9
    assert 0.85 < np.mean(inside) < 0.99


def test_a_disc_that_was_seen_is_known_better_than_one_beside_it():
    generator, support = np.random.default_rng(3), Support(FIELD, RADIUS, AREA)
    places, defect = poisson_sheet(generator)
    at = tile()
    at = at[at % SIDE < SIDE // 2]  # the left half alone
    values = read(places, defect, support.typical(at))
    variance = learned(at, values, np.full(len(at), 0.05)).discs().variance.reshape(SIDE, SIDE)
    assert variance[4:12, 4].max() < 0.5 * variance[4:12, 12].min()


def test_the_scale_of_scatter_is_the_energy_of_a_defect_over_the_footprint():
    generator, support, at, found = np.random.default_rng(4), Support(FIELD, RADIUS, AREA), tile(3), []
    for _ in range(60):
        count = generator.poisson(0.8 * (SIDE + 4) ** 2 * STEP**2 * 1e18)
        places = generator.uniform(-2.5 * STEP, (SIDE + 1.5) * STEP, (count, 2))
        typical = support.typical(at)
        values = read(places, 7.7, typical) - 0.2 + 0.3 * generator.normal(size=len(at))
        found.append(scatter_scale(Readings(values, np.full(len(at), 0.3), typical), 0.1))
    np.testing.assert_allclose(np.mean(found), 7.7 / (AREA * 1e18), rtol=0.1)


@pytest.mark.parametrize("values", [np.zeros(30), np.full(30, 2.0), np.array([0.0] * 29 + [5.0])])
def test_readings_that_are_all_alike_or_but_one_give_a_finite_map(values):
    at = tile()[:30]
    discs = learned(at, values, np.zeros(30)).discs()
    assert np.isfinite(discs.mean).all() and (discs.variance > 0).all()


def test_a_batch_lowers_the_mean_variance_of_discs_as_conditioning_on_it_does():
    generator, support = np.random.default_rng(5), Support(FIELD, RADIUS, AREA)
    places, defect = poisson_sheet(generator)
    at = generator.choice(SIDE**2, 20, replace=False)
    errors = np.full(20, 0.1)
    model = learned(at, read(places, defect, support.typical(at)), errors)
    future, everywhere = model.next_readings(), np.arange(SIDE**2)
    free = ~np.isin(everywhere, at)
    chooser = BatchChooser(future, free, Goal(0.0), generator, sought=future.with_discs)
    batch = chooser.choose(["integrated_posterior_variance"] * 3)
    together, own = future.with_discs(everywhere, everywhere), future.covariance(everywhere, everywhere)
    fallen = 0.0
    for number, value in enumerate(batch.values, start=1):
        known = batch.candidates[:number]
        matrix = own[np.ix_(known, known)] + future.noise_variance * np.eye(number)
        fall = np.einsum("ij,ij->", together[known], np.linalg.solve(matrix, together[known])) / SIDE**2
        np.testing.assert_allclose(value, fall - fallen, rtol=1e-6)
        fallen = fall
    others = together[free]
    assert batch.values[0] >= (np.square(others).mean(axis=1) / (np.diag(own)[free] + future.noise_variance)).max() * (1 - 1e-9)


def test_a_footprint_that_was_read_is_not_worth_reading_again():
    support, at = Support(FIELD, RADIUS, AREA), tile()
    values = read(*poisson_sheet(np.random.default_rng(6)), support.typical(at))
    known = at % SIDE < SIDE // 2
    future = learned(at[known], values[known], np.full(known.sum(), 0.05)).next_readings()
    gain = (np.square(future.with_discs(np.arange(SIDE**2), np.arange(SIDE**2))).mean(axis=1)
            / (future.variance + future.noise_variance)).reshape(SIDE, SIDE)
    assert gain[3:13, 3:6].max() < 0.3 * gain[3:13, 11:14].min()


def test_an_averaged_map_of_two_levels_is_that_of_the_better_one_and_a_restart_goes_on_with_it():
    generator, support = np.random.default_rng(7), Support(FIELD, RADIUS, AREA)
    places, defect = poisson_sheet(generator)
    parameters = Parameters(point_budget=60, initial_points=24, batch_points=8, model=Model(use_survey=False),
                            acquisition_function="integrated_posterior_variance", target_standard_deviation=0.01,
                            energetics=Energetics(mapped=True, averaging_nm=RADIUS * 1e9,
                                                  high_fidelity=HighFidelity(4, "better")))
    experiment = ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, parameters, 0)
    experiment.footprint = AREA

    def measure(one):
        at = one.ask().candidates
        one.tell(at, read(places, defect, support.typical(at)), np.full(len(at), 0.05))
        return at

    measure(experiment)
    low = experiment.predict()[0]
    rows = experiment.deepen()
    assert len(rows) == 3
    experiment.tell_high(rows, 1.2 * experiment.observations.values[rows, 0], np.full(len(rows), 0.05))
    mean, deviation = experiment.predict()
    assert np.isfinite(mean).all() and (deviation > 0).all()
    rich = low > 0.5 * low.max()
    np.testing.assert_allclose((mean / low)[rich].mean(), 1.2, atol=0.1)
    assert not experiment.stop_reason(Spent(experiment.points))
    again = ActiveExperiment.load_state(experiment.state_dict())
    np.testing.assert_array_equal(again.predict()[1], deviation)
    np.testing.assert_array_equal(measure(again), measure(experiment))
