"""Acquisition functions against Monte Carlo, high precision and closed form; batches against brute-force conditioning."""

import numpy as np
import pytest
from deep_kernels import on_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from edgetem_nodes.planner.acquisition import BatchChooser, Goal, batch_functions
from edgetem_nodes.planner.acquisition.batch import Penalties
from edgetem_nodes.planner.acquisition.functions import (augmentation, curiosity, expected_improvement,
                                                         log_expected_improvement, log_probability_of_improvement, straddle,
                                                         upper_confidence_bound)
from edgetem_nodes.planner.parameters import FUNCTIONS

MEASURED = [0, 17, 40, 66]
VALUES = [0.2, 1.0, -0.4, 0.7]
GOAL = Goal(best=0.9, beta=2.0, level=0.3, top_level=1.1)


def posterior(noise=0.09, measured=(), values=()):
    return on_grid(9, [*MEASURED, *measured], [*VALUES, *values], noise)


def chooser(given_, allowed=None, seed=0, **rest):
    allowed = np.ones(len(given_.mean), bool) if allowed is None else allowed
    return BatchChooser(given_, allowed, GOAL, np.random.default_rng(seed), **rest)


def test_expected_improvement_is_the_mean_improvement_of_random_draws():
    generator = np.random.default_rng(1)
    mean, deviation, best = np.array([0.0, 1.0, -0.5]), np.array([1.0, 0.3, 2.0]), 0.8
    draws = mean + deviation * generator.standard_normal((400_000, 3))
    improvement = np.maximum(draws - best, 0)
    error = improvement.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(expected_improvement(mean, deviation, best) - improvement.mean(axis=0)) < 4 * error).all()


@given(st.floats(-6, 6), st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None, max_examples=60)
def test_expected_improvement_is_the_integral_of_its_definition(mean, deviation, best):
    reference = quad(lambda x: (x - best) * norm.pdf(x, mean, deviation), best, max(best, mean) + 12 * deviation,
                     points=[max(best, mean)], limit=200, epsabs=0, epsrel=1e-10)[0]
    value = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
    assert value == pytest.approx(reference, rel=1e-7, abs=1e-30)


def test_its_logarithm_stays_finite_and_monotonic_where_the_improvement_underflows():
    z = -np.geomspace(0.5, 1e6, 4000)
    value = log_expected_improvement(z, np.ones_like(z), 0.0)
    assert np.isfinite(value).all()
    assert (np.diff(value) < 0).all()
    far = z < -50
    z, value = z[far], value[far]
    # Mills ratio: phi(z) / z^2 (1 - 3/z^2 + 15/z^4 - 105/z^6)
    asymptote = norm.logpdf(z) + np.log(1 - 3 / z**2 + 15 / z**4 - 105 / z**6) - 2 * np.log(-z)
    np.testing.assert_allclose(value, asymptote, rtol=1e-12)


def test_probability_of_improvement_is_the_share_of_random_draws_above():
    mean, deviation, best = np.array([0.0, 1.0, -0.5]), np.array([1.0, 0.3, 2.0]), 0.8
    share = (mean + deviation * np.random.default_rng(2).standard_normal((400_000, 3)) > best).mean(axis=0)
    np.testing.assert_allclose(np.exp(log_probability_of_improvement(mean, deviation, best)), share, atol=0.003)
    assert np.isfinite(log_probability_of_improvement(np.array([-1e6]), np.ones(1), 0.0)).all()


def test_upper_confidence_bound_is_a_quantile():
    mean, deviation = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    np.testing.assert_allclose(upper_confidence_bound(mean, deviation, norm.ppf(0.9)), norm.ppf(0.9, mean, deviation))


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5))
def test_straddle_is_positive_where_the_level_is_inside_the_95_percent_interval(mean, deviation, level):
    low, high = norm.interval(0.95, mean, deviation)
    value = straddle(np.array([mean]), np.array([deviation]), level)[0]
    if min(abs(level - low), abs(level - high)) > 1e-3:
        assert (value > 0) == (low < level < high)
    assert value <= straddle(np.array([level]), np.array([deviation]), level)[0]


def test_augmentation_is_huang_s_factor_and_vanishes_where_noise_hides_everything():
    deviation = np.array([1e-6, 0.5, 3.0, 1e6])
    np.testing.assert_allclose(augmentation(deviation, 0.25), 1 - 0.5 / np.sqrt(0.25 + deviation**2))
    assert augmentation(np.array([0.5]), 0.25)[0] == pytest.approx(1 - np.sqrt(0.5))
    assert (np.diff(augmentation(deviation, 0.25)) > 0).all()
    np.testing.assert_array_equal(augmentation(deviation, 0.0), 1.0)


def test_curiosity_is_the_bound_of_a_gaussian_process_over_the_surprises():
    generator = np.random.default_rng(3)
    at = generator.random((20, 2))
    covariance = np.exp(-np.square(at[:, None] - at[None]).sum(axis=2) / 0.1)
    rows, surprise = covariance[:6], np.abs(generator.normal(size=6))
    among, across = covariance[:6, :6], covariance[:6, 6:]
    gain = across.T @ np.linalg.inv(among + 0.3 * np.eye(6))
    mean = surprise.mean() + gain @ (surprise - surprise.mean())
    left = np.diag(covariance[6:, 6:] - gain @ across)
    np.testing.assert_allclose(curiosity(rows, surprise), np.maximum(mean, 0) + surprise.std() * np.sqrt(left))


def test_curiosity_goes_where_the_structure_predicted_worst():
    given_ = posterior()
    surprise = np.ones(81)
    surprise[50:56] = 3.0
    batch = chooser(given_, surprise=surprise).choose(["curiosity"] * 3)
    assert set(batch.candidates) <= set(range(50, 56))
    everywhere = chooser(given_).choose(["curiosity"])
    assert everywhere.candidates[0] == given_.variance.argmax()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_two_positions_of_a_batch_are_alike_and_none_is_forbidden(function):
    allowed = np.ones(81, bool)
    allowed[[0, 17, 40, 66, 3, 4]] = False
    batch = chooser(posterior(), allowed).choose([function] * 40)
    assert len(set(batch.candidates)) == len(batch.candidates) == len(batch.values) == 40
    assert batch.functions == (function,) * 40
    assert allowed[batch.candidates].all()
    assert np.isnan(batch.acquisition[~allowed]).all()
    assert np.isfinite(batch.acquisition[allowed]).all()
    assert batch.values[0] == batch.acquisition[batch.candidates[0]] == np.nanmax(batch.acquisition)
    few = chooser(posterior(), np.arange(81) < 3).choose([function] * 40)
    assert sorted(few.candidates) == [0, 1, 2]


BELIEVED = {"maximum_variance": lambda p: p.variance,
            "expected_improvement": lambda p: expected_improvement(p.mean, p.standard_deviation, GOAL.best),
            "probability_of_improvement": lambda p: norm.sf(GOAL.best, p.mean, p.standard_deviation),
            "top_set": lambda p: norm.sf(GOAL.top_level, p.mean, p.standard_deviation),
            "upper_confidence_bound": lambda p: norm.ppf(norm.cdf(GOAL.beta), p.mean, p.standard_deviation),
            "level_set": lambda p: 1.96 * p.standard_deviation - np.abs(p.mean - GOAL.level)}


@pytest.mark.parametrize("function", BELIEVED)
def test_a_batch_is_what_measuring_one_after_the_other_as_predicted_would_give(function):
    """Kriging believer: refitted from the beginning with every believed value."""
    batch = chooser(posterior()).choose([function] * 6)
    measured, values = [], []
    for pick, value in zip(batch.candidates, batch.values, strict=True):
        refitted = posterior(measured=measured, values=values)
        score = BELIEVED[function](refitted)
        score[measured] = -np.inf
        assert value == pytest.approx(score.max(), rel=1e-7)
        assert score[pick] == pytest.approx(score.max(), rel=1e-7)
        measured.append(int(pick))
        values.append(refitted.mean[pick] / 1.3)  # the grid's scale is 1.3


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_integrated_posterior_variance_is_the_fall_of_the_mean_variance_when_a_position_is_measured(factor):
    """Also where the measurement would be a more precise one than those before."""
    given_ = posterior(noise=0.4)
    value = chooser(given_, noise=factor).choose(["integrated_posterior_variance"]).acquisition
    falls = []
    for candidate in range(81):
        column = given_.covariance(np.arange(81), np.array([candidate]))[:, 0]
        falls.append(np.mean(column**2) / (column[candidate] + factor * 0.4 * 1.3**2))
        if factor == 1.0:
            after = on_grid(9, [*MEASURED, candidate], [*VALUES, 0.0], 0.4).variance
            assert given_.variance.mean() - after.mean() == pytest.approx(falls[-1], rel=1e-8)
    np.testing.assert_allclose(value, falls, rtol=1e-8)


def test_a_batch_by_integrated_posterior_variance_takes_the_largest_fall_each_time():
    batch = chooser(posterior(noise=0.3)).choose(["integrated_posterior_variance"] * 3)
    measured = []
    for pick, value in zip(batch.candidates, batch.values, strict=True):
        before = posterior(noise=0.3, measured=measured, values=[0.0] * len(measured)).variance.mean()
        falls = [before - posterior(noise=0.3, measured=[*measured, c], values=[0.0] * (len(measured) + 1)).variance.mean()
                 for c in range(81)]
        assert value == pytest.approx(max(falls), rel=1e-8)
        assert falls[pick] == pytest.approx(max(falls), rel=1e-8)
        measured.append(int(pick))


def test_over_a_large_field_integrated_posterior_variance_still_ranks_as_the_whole_would():
    side, measured = 40, [0, 700, 1599]
    given_ = on_grid(side, measured, [0.0, 1.0, 0.0], 0.1, lengths=(0.1, 0.2))
    value = chooser(given_).choose(["integrated_posterior_variance"]).acquisition
    column = given_.covariance(np.arange(1600), np.arange(1600))
    whole = np.square(column).mean(axis=0) / (given_.variance + 0.1 * 1.3**2)
    assert np.corrcoef(value, whole)[0, 1] > 0.99
    assert whole[np.argmax(value)] > 0.97 * whole.max()


def test_thompson_sampling_picks_each_position_as_often_as_it_is_the_largest():
    given_ = on_grid(4, [0, 5, 15], [0.2, 0.6, -0.3], 0.05)
    every, runs = np.arange(16), 3000
    generator = np.random.default_rng(7)
    batches = [BatchChooser(given_, np.ones(16, bool), GOAL, generator).choose(["thompson_sampling"]) for _ in range(runs)]
    picked, maps = [batch.candidates[0] for batch in batches], np.array([batch.acquisition for batch in batches])
    covariance = given_.covariance(every, every)
    np.testing.assert_allclose(maps.mean(axis=0), given_.mean, atol=4.5 * given_.standard_deviation.max() / np.sqrt(runs))
    np.testing.assert_allclose(np.cov(maps.T), covariance, atol=0.12 * covariance.max())
    draws = np.random.default_rng(8).multivariate_normal(given_.mean, covariance, 200_000, method="eigh")
    expected = np.bincount(draws.argmax(axis=1), minlength=16) / 200_000
    share = np.bincount(picked, minlength=16) / runs
    assert (np.abs(share - expected) < 4.5 * np.sqrt(expected * (1 - expected) / runs) + 2e-3).all()


def test_positions_of_a_thompson_batch_differ_from_draw_to_draw():
    batches = [chooser(posterior(), seed=seed).choose(["thompson_sampling"] * 8) for seed in range(3)]
    assert len({tuple(batch.candidates) for batch in batches}) == 3


def test_top_set_goes_where_membership_is_likely_expected_improvement_where_the_gain_is():
    """Of two positions, one surely a little above the level, one that may be far above: each function takes its own."""
    class Two:
        mean, variance = np.array([1.2, 0.5]), np.array([0.04**2, 2.0**2])
        prior_variance, noise_variance = np.full(2, 4.0), 0.01

        def covariance(self, rows, columns):
            return np.diag(self.variance)[np.ix_(rows, columns)]
    goal = Goal(best=1.1, top_level=1.1)
    picks = {name: BatchChooser(Two(), np.ones(2, bool), goal, np.random.default_rng(0)).choose([name]).candidates[0]
             for name in ("top_set", "probability_of_improvement", "expected_improvement")}
    assert picks == {"top_set": 0, "probability_of_improvement": 0, "expected_improvement": 1}


def test_weights_and_costs_divide_the_value():
    given_ = posterior()
    weight, cost = np.random.default_rng(0).random(81), 1 + np.random.default_rng(1).random(81)
    seen = []

    def log_cost(last):
        seen.append(last)
        return np.log(cost)
    batch = chooser(given_, penalties=Penalties(np.log(weight), log_cost)).choose(["maximum_variance"] * 2)
    assert batch.candidates[0] == np.argmax(given_.variance * weight / cost)
    assert seen == [None, batch.candidates[0]]
    first = (given_.variance * weight / cost)[batch.candidates[0]]
    assert first < batch.merit < 2 * first
    assert batch.values[0] == given_.variance[batch.candidates[0]]  # what is reported is not penalised


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_value_that_is_not_finite_is_never_chosen_before_one_that_is(function):
    class Broken:
        mean = np.r_[np.nan, np.arange(8.0)]
        variance, prior_variance, noise_variance = np.r_[np.nan, np.ones(8)], np.ones(9), 0.1

        def covariance(self, rows, columns):
            return np.eye(9)[np.ix_(rows, columns)]
    allowed = np.arange(9) > 0
    batch = BatchChooser(Broken(), allowed, GOAL, np.random.default_rng(0)).choose([function] * 8)
    assert sorted(batch.candidates) == list(range(1, 9))


def test_shares_of_a_batch_are_spread_evenly():
    functions = batch_functions("a", 10, "b", 0.3)
    assert functions.count("b") == 3
    assert functions[0] == "a"
    assert batch_functions("a", 4, "b", 0.0) == ["a"] * 4
    assert batch_functions("a", 4, "b", 1.0) == ["b"] * 4


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="no candidate is left"):
        chooser(posterior(), np.zeros(81, bool)).choose(["random"])
    with pytest.raises(ValueError, match="'greedy': take one of expected_improvement"):
        chooser(posterior()).choose(["greedy"])
