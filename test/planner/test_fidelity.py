"""Two levels of energies: what few sites of the better one make of the map, how honest it is, and which sites are asked for."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import fidelity
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.fidelity import Correction, due, root_mean_square, telling_sites
from edgetem_nodes.planner.parameters import Energetics, HighFidelity, Model, Parameters
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.stopping import Spent
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

SIDE, SITES = 16, 40
PLACES = grid_coordinates((SIDE, SIDE), (1.0, 1.0))
SURROGATE = Surrogate(Inputs(np.zeros((SIDE**2, 0)), PLACES), SurrogateSettings(use_survey=False, training_steps=15))
PARAMETERS = Parameters(point_budget=60, initial_points=30, batch_points=10, acquisition_function="maximum_variance",
                        model=Model(use_survey=False, training_steps=10),
                        energetics=Energetics(mapped=True, high_fidelity=HighFidelity(points=4, engine="better")))
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), (SIDE, SIDE))
SPENT = Spent()


def smooth(generator, scale):
    field = gaussian_filter(generator.normal(size=(SIDE, SIDE)), scale, mode="reflect").ravel()
    return field / field.std()


def world(seed):
    """Latent energies of both levels, sites, readings of both there: scatter is common to both levels, as it really is."""
    generator = np.random.default_rng(seed)
    low = np.maximum(2.0 + 1.2 * smooth(generator, 3), 0.0)
    factor, offset, part = generator.normal(1.0, 0.2), generator.normal(0.0, 0.5), 0.1 * smooth(generator, 5)
    sites = generator.choice(SIDE**2, SITES, replace=False)
    readings = low[sites] + 0.4 * generator.normal(size=SITES)
    better = factor * readings + offset + part[sites] + 0.05 * generator.normal(size=SITES)
    return low, factor * low + offset + part, sites, readings, better, factor


def corrected(seed, points):
    low, high, sites, readings, better, factor = world(seed)
    posterior = SURROGATE.learn(sites, readings, np.full(SITES, 0.1), 0).predict()
    scale = root_mean_square(readings)
    chosen = telling_sites(readings, PLACES[sites], np.zeros(SITES, bool), points, (posterior.mean, PLACES), scale)
    correction = Correction(readings[chosen], better[chosen], PLACES[sites[chosen]], scale)
    return low, high, posterior, correction, factor


@pytest.mark.parametrize("points", [4, 6])
def test_few_sites_take_off_scale_and_offset_and_intervals_hold(points):
    errors, inside, known = {"low": [], "better": []}, [], []
    for seed in range(16):
        low, high, posterior, correction, factor = corrected(seed, points)
        better = correction.applied(posterior, PLACES)
        errors["low"].append(np.sqrt(np.mean((posterior.mean - high) ** 2)))
        errors["better"].append(np.sqrt(np.mean((better.mean - high) ** 2)))
        inside.append(np.mean(np.abs(better.mean - high) < 1.645 * better.standard_deviation))
        known.append(abs(correction.factor[0] - factor) < 1.645 * correction.factor[1])
    assert np.median(errors["better"]) < 0.75 * np.median(errors["low"])
    assert 0.82 <= np.mean(inside) <= 0.97
    assert np.mean(known) >= 0.7


def test_the_correction_is_the_regression_that_a_direct_calculation_gives():
    """For fixed variances posterior and evidence are those of the joint normal distribution (Rasmussen and Williams 2.23)."""
    low, places = np.array([0.5, 1.0, 2.5]), np.array([[0.1, 0.2], [0.6, 0.3], [0.9, 0.8]])
    high = np.array([0.9, 1.3, 2.6])
    parts = (0.05,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "PARTS", parts)
        correction = Correction(low, high, places, 1.0)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) * np.sqrt(5) / fidelity.LENGTH
    alike = (1 + distance + distance**2 / 3) * np.exp(-distance)
    matrix = fidelity.SLOPE**2 * np.outer(low, low) + fidelity.OFFSET**2 + parts[0] ** 2 * (alike + np.eye(3))
    slope = fidelity.SLOPE**2 * low @ np.linalg.solve(matrix, high - low)
    variance = fidelity.SLOPE**2 - fidelity.SLOPE**4 * low @ np.linalg.solve(matrix, low)
    np.testing.assert_allclose(correction.factor, [1 + slope, np.sqrt(variance)], rtol=1e-9)
    offset = fidelity.OFFSET**2 * np.ones(3) @ np.linalg.solve(matrix, high - low)
    np.testing.assert_allclose(correction.offset[0], offset, rtol=1e-9)


def test_variances_that_are_not_known_are_weighed_by_how_well_they_explain_the_data():
    generator = np.random.default_rng(3)
    low, places = generator.uniform(0, 3, 5), generator.random((5, 2))
    high = 1.2 * low + 0.3 + 0.02 * generator.normal(size=5)
    correction = Correction(low, high, places, 1.0)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) * np.sqrt(5) / fidelity.LENGTH
    alike = (1 + distance + distance**2 / 3) * np.exp(-distance)
    common = fidelity.SLOPE**2 * np.outer(low, low) + fidelity.OFFSET**2
    evidence = np.array([multivariate_normal(cov=common + a**2 * alike + b**2 * np.eye(5)).pdf(high - low)
                         for a in fidelity.PARTS for b in fidelity.PARTS])
    np.testing.assert_allclose([part.weight for part in correction._parts], evidence / evidence.sum(), rtol=1e-6)


def test_the_corrected_covariance_is_one_and_has_the_variance_on_its_diagonal():
    _, _, posterior, correction, _ = corrected(1, 4)
    better = correction.applied(posterior, PLACES)
    some = np.random.default_rng(0).choice(SIDE**2, 40, replace=False)
    covariance = better.covariance(some, some)
    np.testing.assert_allclose(np.diag(covariance), better.variance[some], rtol=1e-6)
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9 * covariance.max()
    assert (better.correction_variance > 0).all() and (better.correction_variance < better.variance).all()


def test_sites_are_spread_over_energies_and_field_and_never_asked_twice():
    low, _, sites, readings, _, _ = world(0)
    scale = root_mean_square(readings)
    asked = np.zeros(SITES, bool)
    chosen = telling_sites(readings, PLACES[sites], asked, 5, (low, PLACES), scale)
    random = [np.random.default_rng(k).choice(SITES, 5, replace=False) for k in range(200)]

    def left(these):
        """Mean variance of the correction over the field, by the plain formula."""
        field = np.concatenate([readings[these], low]) / scale
        where = np.concatenate([PLACES[sites[these]], PLACES])
        alike = fidelity._alike(where, where)
        prior = fidelity.SLOPE**2 * np.outer(field, field) + fidelity.OFFSET**2 + fidelity.TYPICAL[0] ** 2 * alike
        seen = prior[:5, 5:]
        known = np.linalg.solve(prior[:5, :5] + fidelity.TYPICAL[1] ** 2 * np.eye(5), seen)
        return np.mean(np.diag(prior)[5:] - (seen * known).sum(axis=0))
    assert left(chosen) < np.quantile([left(these) for these in random], 0.03)
    asked[chosen[:3]] = True
    rest = telling_sites(readings, PLACES[sites], asked, 2, (low, PLACES), scale)
    np.testing.assert_array_equal(rest, chosen[3:])
    assert len(telling_sites(readings[:2], PLACES[sites[:2]], np.zeros(2, bool), 5, (low, PLACES), scale)) == 2


@pytest.mark.parametrize(("arguments", "count"), [
    ((6, 0, 0, float("nan"), False), 3), ((4, 0, 0, float("nan"), False), 3), ((2, 0, 0, float("nan"), False), 2),
    ((6, 3, 3, 0.1, False), 0), ((6, 3, 3, 0.7, False), 3), ((6, 3, 3, 0.1, True), 3), ((6, 1, 3, 0.1, False), 2),
    ((2, 0, 4, float("nan"), True), 0), ((10, 0, 0, float("nan"), False), 5)])
def test_half_of_them_come_first_the_rest_when_the_correction_is_what_is_not_known(arguments, count):
    assert due(*arguments) == count


@pytest.mark.parametrize(("low", "high"), [([], []), ([1.0], [np.nan])])
def test_a_correction_of_nothing_is_refused(low, high):
    with pytest.raises(ValueError, match="needs sites with finite energies of both levels"):
        Correction(np.array(low), np.array(high), np.zeros((len(low), 2)), 1.0)


def told(experiment, low, count=1):
    generator = np.random.default_rng(5)
    for _ in range(count):
        chosen = experiment.ask().candidates
        experiment.tell(chosen, low[chosen] + 0.1 * generator.normal(size=len(chosen)), np.full(len(chosen), 0.1))


def test_an_experiment_with_two_levels_maps_the_better_one_and_goes_on_from_a_checkpoint():
    low = world(2)[0]
    experiment = ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, PARAMETERS, 0)
    told(experiment, low)
    assert experiment.stop_reason(dataclasses.replace(SPENT, points=30),
                                  dataclasses.replace(experiment.budget(), target_standard_deviation=1e6)) == ""
    rows = experiment.deepen()
    assert len(rows) == 3
    before = experiment.input_hash()
    experiment.tell_high(rows, 0.8 * experiment.observations.values[rows, 0] + 0.5, np.zeros(3))
    assert experiment.input_hash() != before
    assert not len(experiment.deepen()) and len(experiment.deepen(ends=True)) == 1
    mean = experiment.predict()[0]
    np.testing.assert_allclose(mean, 0.8 * experiment.predict_low()[0] + 0.5, atol=0.12)
    again = ActiveExperiment.load_state(experiment.state_dict(), PARAMETERS)
    assert again.predict()[0].tobytes() == mean.tobytes() and again.input_hash() == experiment.input_hash()
    assert again.ask().candidates.tobytes() == experiment.ask().candidates.tobytes()
    np.testing.assert_array_equal(again.deepened, rows)
    with pytest.raises(ExperimentError, match="made with energetics"):
        ActiveExperiment.load_state(experiment.state_dict(),
                                    dataclasses.replace(PARAMETERS, energetics=Energetics(mapped=True)))
    patient = dataclasses.replace(PARAMETERS.energetics, timeout_s=999.0)
    ActiveExperiment.load_state(experiment.state_dict(), dataclasses.replace(PARAMETERS, energetics=patient))


def test_a_target_is_not_met_before_a_batch_that_was_predicted_beforehand():
    single = dataclasses.replace(PARAMETERS, energetics=Energetics(mapped=True))
    experiment = ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, single, 0)
    budget = dataclasses.replace(experiment.budget(), target_standard_deviation=1e6)
    told(experiment, world(2)[0])
    assert experiment.stop_reason(Spent(experiment.points), budget) == ""
    told(experiment, world(2)[0])
    assert experiment.stop_reason(Spent(experiment.points), budget) == "uncertainty_target"


def test_a_better_level_is_told_of_valid_rows_only():
    experiment = ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, PARAMETERS, 0)
    experiment.tell([1, 2], [1.0, np.nan], [0.1, 0.1])
    with pytest.raises(ExperimentError, match=r"rows \[1\] are not all valid ones of the 2 told"):
        experiment.tell_high([1], [2.0], [0.1])
    single = dataclasses.replace(PARAMETERS, energetics=Energetics(mapped=True))
    with pytest.raises(ExperimentError, match="has one level of energies"):
        ActiveExperiment(np.ones((1, SIDE, SIDE)), FIELD, single, 0).tell_high([0], [1.0], [0.1])
