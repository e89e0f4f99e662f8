"""Watchdogs: how often they bark at a model that is right, by Monte Carlo, and that each failure is found and met."""

import dataclasses

import numpy as np
import pytest
from deep_kernels import on_grid
from measured_maps import particles

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.belief import overconfidence, prequential_r_squared, trapped
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.observations import Observations
from edgetem_nodes.planner.parameters import Model, Parameters
from edgetem_nodes.planner.surrogates import TrainedSurrogate

SURVEY, TRUTH, ERROR = particles()
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), TRUTH.shape)
PARAMETERS = Parameters(point_budget=400, initial_points=30, batch_points=10, acquisition_function="expected_improvement",
                        model=Model("deep_kernel_learning", training_steps=5))


def rows(values, predicted, deviations, errors=0.0, candidates=None, batch=1):
    count = len(values)
    whole = np.zeros(count, np.int64)
    return Observations(np.arange(count) if candidates is None else np.asarray(candidates), whole, np.arange(count) // batch,
                        np.asarray(values, float)[:, None], np.full((count, 1), errors), np.isfinite(values),
                        np.zeros(count), np.asarray(predicted, float), np.broadcast_to(deviations, count).astype(float))


def predictions(generator, count, too_small=1.0):
    """Readings of which a model predicted mean and deviation, with errors and unexplained noise; deviations of all sizes."""
    deviations, errors, noise = generator.uniform(0.1, 3.0, count), 0.7, 0.4
    predicted = generator.normal(size=count)
    values = predicted + too_small * np.sqrt(deviations**2 + errors**2 + noise**2) * generator.standard_normal(count)
    return rows(values, predicted, deviations, errors), noise**2


@pytest.mark.parametrize("count", [15, 25, 40, 200])
def test_a_model_that_is_right_is_hardly_ever_called_overconfident(count):
    generator, runs = np.random.default_rng(count), 4000
    alarms = np.mean([overconfidence(*predictions(generator, count)) > 1.0 for _ in range(runs)])
    assert alarms <= 0.001 + 3 * np.sqrt(0.001 / runs)


def test_a_right_model_whose_batches_are_correlated_is_hardly_called_overconfident_either():
    """Positions of a batch are predicted from the same measurements, and neighbours err together."""
    generator, side = np.random.default_rng(0), 9
    prior = on_grid(side, [80], [0.0], 1e6)  # next to nothing is known
    factor = np.linalg.cholesky(prior.covariance(np.arange(81), np.arange(81)) + 1e-8 * np.eye(81))
    alarms = []
    for _ in range(150):
        truth = factor @ generator.standard_normal(81)
        order = generator.permutation(81)[:50]
        readings = truth[order] + 0.3 * generator.standard_normal(50)
        predicted, deviations = np.full(50, np.nan), np.full(50, np.nan)
        for start in range(10, 50, 10):
            batch = order[start:start + 10]
            posterior = on_grid(side, list(order[:start]), readings[:start] / 1.3, 0.09 / 1.3**2)
            predicted[start:start + 10], deviations[start:start + 10] = (posterior.mean[batch],
                                                                         posterior.standard_deviation[batch])
        alarms.append(overconfidence(rows(readings, predicted, deviations, 0.3), 0.0) > 1.0)
    assert np.mean(alarms) <= 0.03


@pytest.mark.parametrize("too_small", [2.0, 3.0, 4.0])
def test_deviations_that_are_far_too_small_are_found_and_the_factor_is_about_right(too_small):
    generator = np.random.default_rng(1)
    factors = [overconfidence(*predictions(generator, 40, too_small)) for _ in range(500)]
    assert np.mean(np.array(factors) > 1.0) > 0.97
    assert np.median(factors) == pytest.approx(too_small**2, rel=0.25)
    assert max(factors) <= 25.0


def test_one_wild_reading_makes_no_model_overconfident():
    generator = np.random.default_rng(2)
    for _ in range(200):
        judged, noise = predictions(generator, 40)
        judged.values[17, 0] = 1e9
        assert overconfidence(judged, noise) == 1.0


def test_too_few_predictions_and_unpredicted_rows_say_nothing():
    generator = np.random.default_rng(3)
    few, noise = predictions(generator, 14, too_small=50.0)
    assert overconfidence(few, noise) == 1.0
    assert np.isnan(prequential_r_squared(few))
    many, noise = predictions(generator, 60, too_small=50.0)
    unpredicted = dataclasses.replace(many, predicted=np.full(60, np.nan))
    assert overconfidence(unpredicted, noise) == 1.0
    assert np.isnan(prequential_r_squared(unpredicted))
    assert np.isnan(prequential_r_squared(rows(np.ones(30), np.ones(30), 1.0)))


def test_predictability_is_the_share_of_the_variance_that_predictions_explained():
    generator = np.random.default_rng(4)
    values = generator.normal(size=40)
    assert prequential_r_squared(rows(values, values, 1.0)) == 1.0
    assert prequential_r_squared(rows(values, np.full(40, values.mean()), 1.0)) == pytest.approx(0.0)
    predicted = values + 0.5 * generator.normal(size=40)
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    assert prequential_r_squared(rows(values, predicted, 1.0)) == pytest.approx(sklearn.r2_score(values, predicted))


def test_an_experiment_is_trapped_where_its_latest_rows_huddle_without_reaching_what_is_sought():
    at = np.stack(np.divmod(np.arange(1600), 40), axis=1) / 39.0
    huddle, spread, free = [0, 1, 2, 40, 41, 42, 80, 81, 82, 120], list(range(150, 1600, 150)), np.ones(1600, bool)
    caught = rows(np.zeros(20), np.zeros(20), 1.0, candidates=[*spread, *huddle])
    np.testing.assert_allclose(trapped(caught, at, free, 5.0, 10), at[huddle].mean(axis=0))
    np.testing.assert_allclose(trapped(caught, at, free, None, 10), at[huddle].mean(axis=0))
    found = dataclasses.replace(caught, values=np.r_[np.zeros(10), np.full(10, 6.0)][:, None])
    assert not len(trapped(found, at, free, 5.0, 10))  # what is sought is there: no trap
    assert len(trapped(found, at, free, None, 10))
    assert not len(trapped(caught, at, free, 5.0, 11))  # too few rows to say
    assert not len(trapped(caught, at, np.zeros(1600, bool), 5.0, 10))
    apart = [40 * 4 * row + 4 * column for row in range(2) for column in range(5)]
    loose = rows(np.zeros(20), np.zeros(20), 1.0, candidates=[*spread, *apart])
    assert not len(trapped(loose, at, free, 5.0, 10))  # every fourth position is no huddle


@pytest.mark.parametrize("side", [30, 64, 200])
@pytest.mark.parametrize("recent", [12, 40])
def test_a_full_disc_of_positions_is_a_trap_in_small_and_large_fields_and_random_ones_are_not(side, recent):
    at = np.stack(np.divmod(np.arange(side**2), side), axis=1) / (side - 1)
    disc = np.argsort(np.square(at - at[side * side // 2 + side // 3]).sum(axis=1), kind="stable")[:recent]
    anywhere = np.random.default_rng(0).permutation(side**2)[:recent]
    nothing = np.zeros(2 * recent)
    everywhere = np.ones(side**2, bool)
    assert len(trapped(rows(nothing, nothing, 1.0, candidates=[*anywhere, *disc]), at, everywhere, 1.0, recent))
    assert not len(trapped(rows(nothing, nothing, 1.0, candidates=[*disc, *anywhere]), at, everywhere, 1.0, recent))


def told(experiment, candidates, values=None):
    values = TRUTH.ravel()[candidates] if values is None else values
    experiment.tell(candidates, values, np.full(len(candidates), 0.3))


def test_a_collapsed_embedding_is_named_and_the_decision_made_without_the_network(monkeypatch):
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0)
    told(experiment, experiment.ask().candidates)
    sound = ActiveExperiment(SURVEY, FIELD, dataclasses.replace(PARAMETERS, model=Model(
        training_steps=5, surrogate="gaussian_process")), 0)
    told(sound, sound.ask().candidates)
    monkeypatch.setattr(TrainedSurrogate, "extent", 0.01)
    proposal = experiment.ask()
    assert [w for w in proposal.watchdogs if w.startswith("collapsed embedding: the model spreads the whole field over 0.01")]
    assert not sound.ask().watchdogs  # there is no network that could collapse
    assert experiment._belief().trained.deep is False
    np.testing.assert_array_equal(experiment.predict()[0], sound.predict()[0])


def test_length_scales_far_beyond_the_field_are_a_collapsed_embedding(monkeypatch):
    """The prior held to a length scale of a thousand fields, for the network and the position alike."""
    from edgetem_nodes.planner.surrogates import learning
    prior_of = learning.prior_of

    def stretched(architecture, lengths, generator):
        prior = prior_of(architecture, lengths, generator)
        if architecture.hidden:
            architecture.split(prior.centre)["lengths"].fill_(np.log(1e3))
            architecture.split(prior.spread)["lengths"].fill_(1e-3)
        return prior
    monkeypatch.setattr(learning, "prior_of", stretched)
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0)
    told(experiment, experiment.ask().candidates)
    proposal = experiment.ask()
    assert any(w.startswith("collapsed embedding") for w in proposal.watchdogs)
    assert np.ptp(experiment.predict()[0]) > 1.0  # the model in use tells places apart


def test_an_overconfident_model_is_named_and_its_variances_widened():
    """Every reading after the initial scan is ten standard deviations from what was predicted."""
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0)
    told(experiment, experiment.ask().candidates)
    generator = np.random.default_rng(0)
    for _ in range(2):
        proposal = experiment.ask()
        noise = np.sqrt(proposal.predicted_deviations**2 + 0.09)
        told(experiment, proposal.candidates, proposal.predicted + 10 * noise * generator.choice([-1, 1], 10))
    rows_ = experiment.observations
    far = dataclasses.replace(rows_, predicted=np.where(np.isnan(rows_.predicted), np.nan, 1e3))
    experiment.observations = far
    proposal = experiment.ask()
    assert any(w.startswith("overconfident: the latest predictions missed by") for w in proposal.watchdogs)
    belief = experiment._belief()
    assert belief.inflation == 25.0
    np.testing.assert_allclose(belief.posterior().variance, 25.0 * belief.trained.predict().variance)
    np.testing.assert_allclose(experiment.predict()[1].ravel() ** 2, belief.posterior().variance)


@pytest.mark.parametrize("function", ["expected_improvement", "maximum_variance"])
def test_an_experiment_caught_in_one_place_is_sent_elsewhere(function):
    """Twenty rows of a corner that reach nothing, after a spread scan that did."""
    side = 40
    field, generator = ScanField((0.0, 0.0), (1e-9, 1e-9), (side, side)), np.random.default_rng(0)
    survey = generator.poisson(50.0, (1, side, side)).astype(float)
    experiment = ActiveExperiment(survey, field, dataclasses.replace(PARAMETERS, acquisition_function=function), 0)
    corner = np.array([row * side + column for row in range(4) for column in range(5)])
    spread = np.setdiff1d(generator.permutation(side * side)[:40], corner)
    told(experiment, spread, 5.0 + generator.normal(size=len(spread)))
    told(experiment, corner, np.full(20, -5.0))
    proposal = experiment.ask()
    assert any(w.startswith("trapped: the latest measurements all lie around one place") for w in proposal.watchdogs)
    assert ("without reaching" in "".join(proposal.watchdogs)) == (function == "expected_improvement")
    at = np.stack(np.divmod(proposal.candidates, side), axis=1)
    assert np.hypot(*(at - [1.5, 2.0]).T).min() > 4
    assert "5 by integrated_posterior_variance" in proposal.reason


def test_a_sound_experiment_raises_no_watchdog():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 3)
    for _ in range(8):
        proposal = experiment.ask()
        assert not proposal.watchdogs
        told(experiment, proposal.candidates)


def test_errors_that_a_batch_shares_are_no_overconfidence():
    """The worst case of one posterior for a batch: all its errors are the same one. Alarms stay as rare as promised."""
    generator = np.random.default_rng(4)
    alarms = 0
    for _ in range(2000):
        shared = np.repeat(generator.standard_normal(5), 20)
        alarms += overconfidence(rows(shared, np.zeros(100), 1.0, batch=20), 0.0) > 1.0
    assert alarms <= 8  # 0.001 of 2000 is 2


def test_constant_data_are_reported():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0)
    candidates = experiment.ask().candidates
    experiment.tell(candidates, np.full(len(candidates), 3.0), np.full(len(candidates), 0.1))
    assert [w for w in experiment.ask().watchdogs if w.startswith("constant data: all 30 readings are 3")]
