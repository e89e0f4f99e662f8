"""Averaged maps of what was seen and what is expected, against drawn sheets of single defects."""

from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.acquisition import BatchChooser, Goal
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.observations import ExperimentError
from edgetem_nodes.planner.parameters import Energetics, HighFidelity, Model, Parameters
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.seen_map import SeenMap, _seen_part
from edgetem_nodes.planner.sights import Sight
from edgetem_nodes.planner.stopping import Spent
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

STEP, SIDE, FINE = 0.5e-9, 16, 10
"""Step [m], positions along each axis, points of a cell along each axis by which discs are counted."""
FIELD = ScanField((0.0, 0.0), (STEP, STEP), (SIDE, SIDE))
RADIUS, DEFECT, SMOOTH = 1.4e-9, 7.7e-18, 0.2
"""Of discs [m], content of a defect [scalar m^2], and the smooth part [scalar]."""
CELL = 1.1e-9 * np.array([[0.0, 1.0], [np.sqrt(3) / 2, 0.5]])
AREA = abs(np.linalg.det(CELL))


def poisson_sheet(generator, most=1.2):
    """Defects drawn as points, most of them in a spot: places (n, 2) [m], some of them beyond the field."""
    count = generator.poisson(most * (SIDE + 4) ** 2 * STEP**2 * 1e18)
    places = generator.uniform(-2.5 * STEP, (SIDE + 1.5) * STEP, (count, 2))
    spot = np.array([3.0e-9, 4.5e-9])
    return places[generator.random(count) < 0.03 + np.exp(-np.square((places - spot) / 1.5e-9).sum(axis=1) / 2)]


def look(places, at):
    """What sites at positions see, without any error but that of the smooth part."""
    sights = []
    for site in FIELD.positions(at):
        inside = places[Sight(CELL, 0.0, 0.0).sees(places - site)] - site
        sights.append(Sight(CELL, SMOOTH, 0.02, inside, np.ones(len(inside)), np.full(len(inside), DEFECT),
                            np.zeros(len(inside))))
    return sights


def mapped(at, sights):
    surrogate = Surrogate(Inputs(np.zeros((SIDE**2, 0)), grid_coordinates(FIELD.shape, FIELD.step)),
                          SurrogateSettings(use_survey=False))
    smooth = surrogate.learn(at, np.array([one.smooth for one in sights]), np.array([one.error for one in sights]), 0)
    return SeenMap(FIELD, RADIUS, FIELD.positions(at), sights, smooth.predict())


def disc_truth(places):
    """Over discs, of what lies in the field."""
    inside = ((places > -STEP / 2) & (places < (SIDE - 0.5) * STEP)).all(axis=1)
    fine = (np.arange(SIDE * FINE) + 0.5) * STEP / FINE - STEP / 2
    result = []
    for centre in FIELD.positions():
        area = (np.hypot(fine[:, None] - centre[0], fine[None] - centre[1]) <= RADIUS).sum() * (STEP / FINE) ** 2
        result.append(SMOOTH + (np.hypot(*(places[inside] - centre).T) <= RADIUS).sum() * DEFECT / area)
    return np.array(result)


EVERYWHERE = np.arange(SIDE**2)
TILE = np.array([row * SIDE + column for row in range(0, SIDE, 2) for column in range(0, SIDE, 2)])


def test_defects_beside_the_cells_count_as_those_in_them():
    """Of half of the defects that sites saw it is not known what they cost: they cost what the others do."""
    places = poisson_sheet(np.random.default_rng(3))
    whole = look(places, TILE)
    part = [replace(one, contents=np.where(np.arange(len(one.places)) % 2, np.nan, one.contents),
                    variances=np.where(np.arange(len(one.places)) % 2, np.nan, one.variances)) for one in whole]
    assert sum(np.isnan(one.contents).sum() for one in part) > 2
    known, completed = (mapped(TILE, sights).discs_averaged() for sights in (whole, part))
    np.testing.assert_allclose(completed.mean, known.mean, rtol=1e-9)
    np.testing.assert_allclose(completed.variance, known.variance, rtol=1e-9)
    none = [replace(one, contents=np.full(len(one.places), np.nan), variances=np.full(len(one.places), np.nan))
            for one in whole]
    with pytest.raises(ValueError, match="of none it is known what it costs"):
        mapped(TILE, none)


def test_what_was_seen_whole_is_known_however_often_it_was_seen():
    """Sites at every position overlap many times; each defect counts once, the grid's own coarseness aside."""
    places = poisson_sheet(np.random.default_rng(1))
    found = mapped(EVERYWHERE, look(places, EVERYWHERE))
    assert found.seen.min() == 1.0
    inside = ((places > -STEP / 2) & (places < (SIDE - 0.5) * STEP)).all(axis=1)
    assert found.contents.sum() == pytest.approx(inside.sum() * DEFECT, rel=1e-9)
    discs, truth = found.discs_averaged(), disc_truth(places)
    np.testing.assert_allclose(discs.mean, truth, atol=0.02 * truth.max())
    assert discs.standard_deviation.max() < 0.05


def test_a_defect_that_one_of_two_overlooks_counts_by_half():
    site = FIELD.positions(np.array([100]))
    place = np.array([[0.1e-9, 0.1e-9]])
    one = Sight(CELL, SMOOTH, 0.02, place, np.ones(1), np.array([DEFECT]), np.array([0.25 * DEFECT**2]))
    found = mapped(np.array([100, 100]), [one, Sight(CELL, SMOOTH, 0.02)])
    assert found.contents.sum() == pytest.approx(DEFECT / 2) and found.variances.sum() == pytest.approx(0.125 * DEFECT**2)
    np.testing.assert_allclose(found.places, site + place)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_intervals_hold_where_only_a_part_was_seen_and_defects_are_dense(share):
    generator, inside, rich, off = np.random.default_rng(2), [], [], []
    for _ in range(12):
        places = poisson_sheet(generator)
        at = generator.choice(SIDE**2, int(share * 90), replace=False)
        discs, truth = mapped(at, look(places, at)).discs_averaged(), disc_truth(places)
        held = np.abs(discs.mean - truth) < 1.645 * discs.standard_deviation
        inside.append(held.mean())
        rich.append(held[truth > 0.3 * truth.max()].mean())
        off.append((discs.mean - truth).mean() / truth.mean())
    assert 0.85 < np.mean(inside) < 0.99
    assert np.mean(rich) > 0.7
    assert abs(np.mean(off)) < 0.1


def test_a_disc_that_was_seen_is_known_better_than_one_beside_it():
    at = TILE[TILE % SIDE < SIDE // 2]  # the left half alone
    variance = mapped(at, look(poisson_sheet(np.random.default_rng(3)), at)).discs_averaged().variance.reshape(SIDE, SIDE)
    assert variance[4:12, 4].max() < 0.3 * variance[4:12, 12].min()


@pytest.mark.parametrize("most", [0.0, 1e-9])
def test_without_any_defect_the_map_is_the_smooth_part(most):
    at = TILE[:30]
    discs = mapped(at, look(np.zeros((0, 2)), at)).discs_averaged()
    np.testing.assert_allclose(discs.mean, SMOOTH, atol=0.01)
    assert (discs.variance >= 0).all() and np.isfinite(discs.variance).all() and most < 1


def test_contents_below_zero_are_expected_as_surely_as_those_above():
    """As of a dopant that lowers the energy: the same map with the other sign."""
    at, places = TILE[::2], poisson_sheet(np.random.default_rng(4))
    sights = [Sight(CELL, 0.0, 0.02, one.places, one.probabilities, one.contents, one.variances) for one in look(places, at)]
    turned = [Sight(CELL, 0.0, 0.02, one.places, one.probabilities, -one.contents, one.variances) for one in sights]
    one, other = (mapped(at, these).discs_averaged() for these in (sights, turned))
    np.testing.assert_allclose(other.mean, -one.mean, atol=1e-6)
    np.testing.assert_allclose(other.variance, one.variance, rtol=1e-6)


def test_doubtful_defects_leave_as_much_to_chance_as_certain_ones_that_are_as_many():
    """Of each of ten places one certain defect, or four with a probability of a quarter."""
    at, generator = TILE, np.random.default_rng(8)
    where = generator.choice(len(at), 10, replace=False)

    def seen(likely):
        count = round(1 / likely)
        places = generator.uniform(-0.3e-9, 0.3e-9, (len(at), count, 2))
        return [Sight(CELL, 0.0, 0.02, places[number], np.full(count, likely), np.full(count, likely * DEFECT),
                      np.full(count, likely * (1 - likely) * DEFECT**2)) if number in where else Sight(CELL, 0.0, 0.02)
                for number in range(len(at))]

    certain, doubtful = mapped(at, seen(1.0)), mapped(at, seen(0.25))
    np.testing.assert_allclose(doubtful.chance.mean(), certain.chance.mean(), rtol=0.1)
    assert doubtful.discs_averaged().variance.mean() > certain.discs_averaged().variance.mean()


@pytest.mark.parametrize("step", [0.5e-9, 2e-9, 7e-9])
def test_what_a_site_sees_is_as_large_as_it_is_whatever_the_step(step):
    field = ScanField((0.0, 0.0), (step, step), (SIDE, SIDE))
    at = np.array([5 * SIDE + 5])
    seen = _seen_part(field, field.positions(at), [Sight(CELL, SMOOTH, 0.02)]) * step**2
    assert seen.sum() == pytest.approx(AREA, rel=0.1)


def test_narrow_gaps_between_what_sites_see_are_not_seen():
    """Squares of 3.8 steps at every fourth position, as micro-scans lie: (3.8 / 4)^2 of the area."""
    field = ScanField((0.0, 0.0), (STEP, STEP), (SIDE, SIDE))
    at = np.array([row * SIDE + column for row in range(2, SIDE, 4) for column in range(2, SIDE, 4)])
    seen = _seen_part(field, field.positions(at), [Sight(3.8 * STEP * np.eye(2), SMOOTH, 0.02)] * len(at))
    inner = seen.reshape(SIDE, SIDE)[2:14, 2:14]
    assert inner.mean() == pytest.approx(0.95**2, abs=0.03) and inner.max() == 1.0


def test_a_batch_lowers_the_mean_variance_of_discs_as_conditioning_on_it_does():
    generator = np.random.default_rng(5)
    at = generator.choice(SIDE**2, 20, replace=False)
    future = mapped(at, look(poisson_sheet(generator), at)).next_readings(AREA, 0.01)
    free = ~np.isin(EVERYWHERE, at)
    chooser = BatchChooser(future, free, Goal(0.0), generator, sought=future.with_discs)
    batch = chooser.choose(["integrated_posterior_variance"] * 3)
    together, own = future.with_discs(EVERYWHERE, EVERYWHERE), future.covariance(EVERYWHERE, EVERYWHERE)
    np.testing.assert_allclose(np.diag(own), future.variance, rtol=1e-6)
    assert np.linalg.eigvalsh(own).min() > -1e-9 * own.max()
    fallen = 0.0
    for number, value in enumerate(batch.values, start=1):
        known = batch.candidates[:number]
        matrix = own[np.ix_(known, known)] + future.noise_variance * np.eye(number)
        fall = np.einsum("ij,ij->", together[known], np.linalg.solve(matrix, together[known])) / SIDE**2
        np.testing.assert_allclose(value, fall - fallen, rtol=1e-6)
        fallen = fall


def test_what_was_seen_is_not_worth_seeing_again():
    at = TILE[TILE % SIDE < SIDE // 2]
    future = mapped(at, look(poisson_sheet(np.random.default_rng(6)), at)).next_readings(AREA, 0.01)
    gain = (np.square(future.with_discs(EVERYWHERE, EVERYWHERE)).mean(axis=1)
            / (future.variance + future.noise_variance)).reshape(SIDE, SIDE)
    assert gain[3:13, 3:6].max() < 0.3 * gain[3:13, 11:14].min()


def experiment(target=0.01, **settings):
    parameters = Parameters(point_budget=60, initial_points=24, batch_points=8, model=Model(use_survey=False),
                            acquisition_function="integrated_posterior_variance", target_standard_deviation=target, **settings)
    return ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, parameters, 0)


def test_an_averaged_map_of_two_levels_is_that_of_the_better_one_and_a_restart_goes_on_with_it():
    places = poisson_sheet(np.random.default_rng(7))
    first = experiment(energetics=Energetics(mapped=True, averaging_nm=RADIUS * 1e9, high_fidelity=HighFidelity(4, "better")))

    def measure(one):
        at = one.ask().candidates
        sights = look(places, at)
        values = np.array([sight.smooth + sight.contents.sum() / AREA for sight in sights])
        one.tell(at, values, np.full(len(at), 0.05), np.arange(len(at)) != 2, sights=sights)
        return at

    measure(first)
    low = first.predict()[0]
    rows = first.deepen()
    assert len(rows) == 3
    first.tell_high(rows, 1.2 * first.observations.values[rows, 0], np.full(len(rows), 0.05))
    mean, deviation = first.predict()
    assert np.isfinite(mean).all() and (deviation > 0).all()
    rich = low > 0.5 * low.max()
    np.testing.assert_allclose((mean / low)[rich].mean(), 1.2, atol=0.1)
    assert not first.stop_reason(Spent(first.points))
    again = ActiveExperiment.load_state(first.state_dict())
    np.testing.assert_array_equal(again.predict()[1], deviation)
    np.testing.assert_array_equal(measure(again), measure(first))


def test_no_target_is_met_while_nothing_tells_what_defects_cost_that_were_seen():
    one = experiment(50.0, energetics=Energetics(mapped=True, averaging_nm=RADIUS * 1e9))
    for known in (False, False, True):
        at = one.ask().candidates
        lone = Sight(CELL, SMOOTH, 0.02, np.zeros((1, 2)), np.ones(1), np.array([DEFECT if known else np.nan]),
                     np.array([0.0 if known else np.nan]))
        one.tell(at, np.full(len(at), SMOOTH), np.full(len(at), 0.02), np.ones(len(at), bool),
                 sights=[lone] + [Sight(CELL, SMOOTH, 0.02)] * (len(at) - 1))
        assert (one.stop_reason(Spent(one.points)) == "uncertainty_target") == known


def test_sights_belong_to_rows_and_without_them_the_map_is_of_what_is_expected():
    one = experiment(energetics=Energetics(mapped=True, averaging_nm=RADIUS * 1e9))
    at = one.ask().candidates
    with pytest.raises(ExperimentError, match="1 sights for 24 measurements"):
        one.tell(at, np.ones(24), np.full(24, 0.1), sights=[None])
    one.tell(at, np.linspace(0, 1, 24), np.full(24, 0.1))
    assert one._next_readings() is None and np.isfinite(one.predict()[0]).all()
