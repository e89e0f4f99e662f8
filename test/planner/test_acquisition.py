"""Acquisition functions against Monte Carlo, high precision and closed form; batches against brute-force conditioning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from edgetem_nodes.planner.acquisition import (BatchChooser, batch_functions, expected_improvement,
                                               log_expected_improvement, upper_confidence_bound)
from edgetem_nodes.planner.gaussian_process import Kernel, Posterior


def posterior(side=9, noise=0.1, measured=(0, 17, 40, 66), form="matern"):
    grid = np.stack(np.divmod(np.arange(side * side), side), axis=1) / side
    measured = np.array(measured)
    values = np.sin(5 * grid[measured, 0]) + grid[measured, 1]
    return Posterior(grid, Kernel(form, 1.3, np.array([0.3, 0.5])), 0.2, measured, values, np.full(len(measured), noise**2))


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


def test_upper_confidence_bound_is_a_quantile():
    mean, deviation = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    np.testing.assert_allclose(upper_confidence_bound(mean, deviation, norm.ppf(0.9)), norm.ppf(0.9, mean, deviation))


@pytest.mark.parametrize("function", ["expected_improvement", "upper_confidence_bound", "maximum_variance",
                                      "integrated_variance", "random"])
def test_no_two_positions_of_a_batch_are_alike_and_none_is_forbidden(function):
    given_ = posterior()
    allowed = np.ones(81, bool)
    allowed[[0, 17, 40, 66, 3, 4]] = False
    batch = BatchChooser(given_, allowed, 1.0, 2.0, np.random.default_rng(0)).choose([function] * 40)
    assert len(set(batch.candidates)) == len(batch.candidates) == len(batch.values) == 40
    assert allowed[batch.candidates].all()
    assert np.isnan(batch.acquisition[~allowed]).all()
    assert np.isfinite(batch.acquisition[allowed]).all()
    assert batch.values[0] == batch.acquisition[batch.candidates[0]] == np.nanmax(batch.acquisition)


def test_a_batch_by_maximum_variance_is_what_measuring_one_after_the_other_gives():
    measured = [0, 17, 40, 66]
    given_ = posterior(noise=0.3)
    batch = BatchChooser(given_, np.ones(81, bool), 0.0, 1.0, np.random.default_rng(0)).choose(["maximum_variance"] * 6)
    for pick, value in zip(batch.candidates, batch.values, strict=True):
        brute = posterior(noise=0.3, measured=measured)
        assert value == pytest.approx(brute.variance.max(), rel=1e-9)
        assert brute.variance[pick] == pytest.approx(brute.variance.max(), rel=1e-9)
        measured.append(int(pick))


def test_integrated_variance_is_the_fall_of_the_mean_variance_when_a_position_is_measured():
    given_ = posterior(noise=0.3)
    batch = BatchChooser(given_, np.ones(81, bool), 0.0, 1.0, np.random.default_rng(0)).choose(["integrated_variance"] * 3)
    measured = [0, 17, 40, 66]
    for pick, value in zip(batch.candidates, batch.values, strict=True):
        before = posterior(noise=0.3, measured=measured)
        falls = [before.variance.mean() - posterior(noise=0.3, measured=[*measured, c]).variance.mean() for c in range(81)]
        assert value == pytest.approx(max(falls), rel=1e-8)
        assert falls[pick] == pytest.approx(max(falls), rel=1e-8)
        measured.append(int(pick))


def test_shares_of_a_batch_are_spread_evenly():
    functions = batch_functions("a", 10, "b", 0.3)
    assert functions.count("b") == 3
    assert functions[0] == "a"
    assert batch_functions("a", 4, "b", 0.0) == ["a"] * 4
    assert batch_functions("a", 4, "b", 1.0) == ["b"] * 4


def test_errors_name_what_is_wrong():
    chooser = BatchChooser(posterior(), np.zeros(81, bool), 0.0, 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no candidate is left"):
        chooser.choose(["random"])
    chooser = BatchChooser(posterior(), np.ones(81, bool), 0.0, 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="'greedy': take one of expected_improvement"):
        chooser.choose(["greedy"])
