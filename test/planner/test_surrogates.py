"""Surrogates: repeatable bit for bit, never stopped by bad numbers, better for what they are told, calibrated."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_maps import particles

from edgetem_nodes.planner.patches import grid_coordinates, patch_components
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings, learning
from edgetem_nodes.planner.surrogates.posterior import EnsemblePosterior, ExactPosterior, InducingPosterior

NAMES = pytest.mark.parametrize("name", ["deep_kernel_learning", "gaussian_process"])


def surrogate(**changes):
    survey, truth, error = particles()
    inputs = Inputs(patch_components(survey, 5, 8), grid_coordinates(truth.shape, (1.0, 1.0)))
    return Surrogate(inputs, SurrogateSettings(**changes)), truth.ravel(), error.ravel()


def plane(features=None, side=20, **changes):
    """A surrogate of the position alone, and the coordinates."""
    at = grid_coordinates((side, side), (1.0, 1.0))
    return Surrogate(Inputs(np.zeros((side * side, 0)), at, features), SurrogateSettings(**changes)), at


def bytes_of(result):
    return result.posterior.mean.tobytes(), result.posterior.variance.tobytes(), result.description


@NAMES
@pytest.mark.parametrize("members", [1, 3])
def test_training_repeats_itself_bit_for_bit_and_leaves_no_trace(name, members):
    model, truth, error = surrogate(surrogate=name, members=members)
    measured = np.random.default_rng(0).permutation(truth.size)[:80]
    first = model.learn(measured, truth[measured], error[measured], seed=7)
    padding = [np.zeros(n) for n in (3, 1001, 77777)]  # another layout of the heap
    model.learn(measured[:20], truth[measured[:20]], error[measured[:20]], seed=1)
    torch.rand(5)
    again = surrogate(surrogate=name, members=members)[0].learn(measured.copy(), truth[measured], error[measured], seed=7)
    assert bytes_of(first) == bytes_of(again)
    assert len(padding) == 3


def test_another_seed_gives_other_initial_weights():
    model, truth, error = surrogate(surrogate="deep_kernel_learning")
    measured = np.arange(0, truth.size, 17)
    means = [model.learn(measured, truth[measured], error[measured], seed).posterior.mean for seed in (1, 2)]
    assert not np.array_equal(*means)


@NAMES
def test_patches_tell_more_than_position_alone(name):
    """The survey shows where particles are: the map's error falls against the same model without it."""
    survey, truth, error = particles()
    coordinates = grid_coordinates(truth.shape, (1.0, 1.0))
    measured = np.random.default_rng(2).permutation(truth.size)[:50]
    errors = []
    for components in (patch_components(survey, 5, 8), np.zeros((truth.size, 1))):
        model = Surrogate(Inputs(components, coordinates), SurrogateSettings(surrogate=name))
        mean = model.learn(measured, truth.ravel()[measured], error.ravel()[measured], 0).posterior.mean
        errors.append(np.sqrt(np.mean((mean - truth.ravel()) ** 2)))
    assert errors[0] < 0.9 * errors[1]


def test_descriptors_known_everywhere_tell_more_whatever_their_unit():
    at = grid_coordinates((20, 20), (1.0, 1.0))
    hidden = np.random.default_rng(4).normal(size=400)  # no neighbour says anything of it
    measured, errors = np.arange(0, 400, 9), []
    for descriptors in (None, 1e9 * hidden[:, None] + 5.0):
        model = Surrogate(Inputs(np.zeros((400, 0)), at, descriptors=descriptors), SurrogateSettings())
        mean = model.learn(measured, hidden[measured], np.full(len(measured), 0.05), 0).posterior.mean
        errors.append(np.sqrt(np.mean((mean - hidden) ** 2)))
    assert errors[1] < 0.2 * errors[0]


@NAMES
def test_the_scale_and_level_of_values_do_not_matter(name):
    model, truth, error = surrogate(surrogate=name)
    measured = np.arange(0, truth.size, 17)
    plain = model.learn(measured, truth[measured], error[measured], 0).posterior
    for factor, shift in ((1e-19, 0.0), (1e12, -5e12), (-1.0, 3.0)):
        scaled = model.learn(measured, factor * truth[measured] + shift, abs(factor) * error[measured], 0).posterior
        tolerance = 1e-3 * plain.standard_deviation.mean()
        if factor > 0:
            np.testing.assert_allclose((scaled.mean - shift) / factor, plain.mean, atol=tolerance)
            np.testing.assert_allclose(scaled.standard_deviation / factor, plain.standard_deviation, atol=tolerance)
        else:
            assert np.corrcoef((scaled.mean - shift) / factor, plain.mean)[0, 1] > 0.98


@pytest.mark.parametrize("values", [np.zeros(12), np.full(12, 3.7), np.r_[np.zeros(11), 1e6], np.arange(12) * 1e-30,
                                    np.arange(12) * 1e12, np.arange(12) * 1e-200, np.r_[np.zeros(11), 1e60]])
@pytest.mark.parametrize("errors", [np.zeros(12), np.full(12, np.nan), np.full(12, 1e9), np.full(12, 1e-300)])
def test_duplicate_points_and_degenerate_values_never_stop_it(values, errors):
    model, *_ = surrogate(training_steps=10)
    result = model.learn(np.array([5] * 6 + [6] * 6), values, errors, seed=0)
    assert np.isfinite(result.posterior.mean).all()
    assert (result.posterior.variance > 0).all()
    json.loads(result.description)


@given(st.integers(1, 14), st.sampled_from(["one place", "row", "anywhere"]), st.booleans(), st.integers(0, 99),
       st.sampled_from(["deep_kernel_learning", "gaussian_process"]), st.integers(1, 2), st.integers(1, 2),
       st.lists(st.sampled_from([0.0, 1.0, -3.0, 1e-60, 1e60, -1e60, np.nan]), min_size=28, max_size=28),
       st.sampled_from([0.0, 0.1, np.nan, np.inf, -1.0, 1e300]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_no_measurements_stop_it(count, kind, inducing, seed, name, outputs, members, values, error, alike):
    model, *_ = surrogate(surrogate=name, training_steps=4, members=members)
    if inducing:
        model, *_ = surrogate(surrogate=name, training_steps=4, members=members, exact_points=10, inducing_points=10)
    generator = np.random.default_rng(seed)
    measured = {"one place": np.full(count, 7), "row": 32 + np.arange(count),
                "anywhere": generator.integers(0, 1024, count)}[kind]
    values = np.array(values[:count * outputs]).reshape(count, outputs)
    if alike:
        values[:] = values[0]
    values[0, 0] = 1.5
    result = model.learn(measured, values, np.full(values.shape, error), seed)
    for output in range(outputs):
        posterior = result.predict(output=output)
        assert np.isfinite(posterior.mean).all()
        assert np.isfinite(posterior.variance).all()
        assert (posterior.variance > 0).all()
    correlations, surprise = result.surprise()
    assert np.isfinite(correlations).all()
    assert np.isfinite(surprise).all()


def test_values_too_large_to_be_squared_are_refused():
    model, *_ = surrogate()
    with pytest.raises(ValueError, match="measured values up to 1e\\+300 overflow, 1e\\+60 at most"):
        model.learn(np.arange(3), np.array([1.0, 1e300, 2.0]), np.ones(3), 0)


def test_failed_training_falls_back_to_the_prior_and_says_so(monkeypatch):
    model, truth, error = surrogate()
    measured = np.arange(0, truth.size, 17)
    monkeypatch.setattr(learning.Objective, "__call__", lambda self, flat: (learning.HOPELESS, np.zeros(len(flat))))
    result = model.learn(measured, truth[measured], error[measured], seed=0)
    assert "no parameters were found for which the matrix of 61 measurements factorises" in result.training_failure
    assert np.isfinite(result.posterior.mean).all()
    assert np.corrcoef(result.posterior.mean, truth)[0, 1] > 0.5


def test_one_measurement_is_enough_none_is_not():
    model, truth, error = surrogate()
    assert np.isfinite(model.learn(np.array([3]), truth[[3]], error[[3]], 0).posterior.mean).all()
    with pytest.raises(ValueError, match="at least one valid measurement"):
        model.learn(np.zeros(0, int), np.zeros(0), np.zeros(0), 0)


def test_unknown_models_and_inputs_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="unknown surrogate 'forest'"):
        surrogate(surrogate="forest")
    with pytest.raises(ValueError, match="unknown kernel 'linear'"):
        surrogate(kernel="linear")
    with pytest.raises(ValueError, match="no contrast and the position is not used"):
        Inputs(np.zeros((9, 2)), None)


def test_a_measurement_with_a_large_standard_error_says_little():
    model, at = plane()
    measured = np.arange(0, 400, 7)
    truth = np.sin(6 * at[:, 0])
    values, errors = truth[measured].copy(), np.full(len(measured), 0.05)
    values[::3], errors[::3] = 30.0, 1e3
    mean = model.learn(measured, values, errors, 0).posterior.mean
    without = model.learn(np.delete(measured, np.s_[::3]), np.delete(values, np.s_[::3]), np.delete(errors, np.s_[::3]),
                          0).posterior.mean
    assert np.sqrt(np.mean((without - truth) ** 2)) < 0.1
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.3  # the wild third: 30 +- 1000


def test_a_correlated_output_that_is_measured_more_often_improves_the_first():
    """The first is known at 8 places, the second, a multiple of it and more, at 100."""
    model, at = plane()
    truth = np.sin(9 * at[:, 0]) * np.cos(7 * at[:, 1])
    generator, alone, together = np.random.default_rng(0), [], []
    for seed in range(3):
        measured = generator.permutation(400)[:100]
        values = np.stack([truth, -2.0 * truth + 1.0], axis=1)[measured] + 0.02 * generator.normal(size=(100, 2))
        values[8:, 0] = np.nan
        errors = np.full(values.shape, 0.02)
        joint = model.learn(measured, values, errors, seed).predict(output=0).mean
        single = model.learn(measured[:8], values[:8, 0], errors[:8, 0], seed).predict().mean
        together.append(np.sqrt(np.mean((joint - truth) ** 2)))
        alone.append(np.sqrt(np.mean((single - truth) ** 2)))
    assert np.median(together) < 0.4 * np.median(alone)


def test_an_unrelated_output_does_no_harm_and_one_never_measured_is_only_uncertain():
    model, at = plane()
    truth, generator = np.sin(9 * at[:, 0]), np.random.default_rng(1)
    measured = generator.permutation(400)[:60]
    values = np.stack([truth[measured], generator.normal(size=60)], axis=1)
    single = np.sqrt(np.mean((model.learn(measured, values[:, 0], np.full(60, 0.05), 0).posterior.mean - truth) ** 2))
    joint = model.learn(measured, values, np.full((60, 2), 0.05), 0).predict(output=0).mean
    assert np.sqrt(np.mean((joint - truth) ** 2)) < single + 0.05
    values[:, 1] = np.nan
    unknown = model.learn(measured, values, np.full((60, 2), 0.05), 0).predict(output=1)
    np.testing.assert_allclose(unknown.variance, unknown.prior_variance, rtol=0.2)


def test_settings_that_change_what_is_measured_are_told_apart():
    """At the second setting the scalar is another function: each prediction follows its own measurements."""
    features = np.array([[0.0], [1.0]])
    model, at = plane(features)
    truths = np.sin(6 * at[:, 0]), 2.0 - np.sin(6 * at[:, 0])
    measured = np.arange(0, 400, 3)
    which = measured % 2
    values = np.where(which, truths[1][measured], truths[0][measured])
    trained = model.learn(measured, values, np.full(len(measured), 0.02), 0, which)
    for setting, truth in enumerate(truths):
        assert np.corrcoef(trained.predict(setting).mean, truth)[0, 1] > 0.97
    blind = plane()[0].learn(measured, values, np.full(len(measured), 0.02), 0)
    assert np.corrcoef(blind.predict().mean, truths[0])[0, 1] < 0.7


def test_many_measurements_go_through_inducing_points():
    model, truth, error = surrogate(exact_points=100, inducing_points=80)
    few, many = np.arange(0, 1024, 11), np.arange(0, 1024, 2)
    assert isinstance(model.learn(few, truth[few], error[few], 0).posterior, ExactPosterior)
    posterior = model.learn(many, truth[many], error[many], 0).posterior
    assert isinstance(posterior, InducingPosterior)
    exact = surrogate()[0].learn(many, truth[many], error[many], 0).posterior
    assert np.corrcoef(posterior.mean, exact.mean)[0, 1] > 0.98


def test_surprise_is_how_far_each_measurement_is_from_what_the_others_predict():
    """Against leaving each out and predicting it anew with the same hyperparameters."""
    model, truth, error = surrogate(training_steps=15)
    measured = np.random.default_rng(3).permutation(truth.size)[:25]
    trained = model.learn(measured, truth[measured], error[measured], 0)
    correlations, surprise = trained.surprise()
    kernel, rows, inputs = trained._members[0].kernel, trained._rows, trained._inputs.everywhere(0)
    for left_out in range(25):
        rest = np.delete(np.arange(25), left_out)
        others = learning.Rows(rows.inputs[rest], rows.outputs[rest], rows.values[rest], rows.noise[rest])
        posterior = ExactPosterior(kernel, others, inputs, 0, learning.Scale(0.0, 1.0))
        candidate = measured[left_out]
        deviation = np.sqrt(posterior.variance[candidate] + float(rows.noise[left_out]) + float(kernel.noise[0]))
        assert surprise[left_out] == pytest.approx(abs(float(rows.values[left_out]) - posterior.mean[candidate]) / deviation,
                                                   rel=1e-6)
    np.testing.assert_allclose(correlations[np.arange(25), 25 + measured], 1.0, atol=1e-6)
    np.testing.assert_allclose(correlations[:, :25], correlations[:, 25 + measured], atol=1e-6)


def test_members_of_an_ensemble_differ_and_predict_together():
    model, truth, error = surrogate(members=4)
    measured = np.random.default_rng(0).permutation(truth.size)[:60]
    trained = model.learn(measured, truth[measured], error[measured], 0)
    assert isinstance(trained.posterior, EnsemblePosterior)
    described = json.loads(trained.description)["members"]
    assert len({tuple(member["length_scales"]) for member in described}) == 4


@pytest.mark.slow
def test_an_ensemble_covers_unseen_values_no_worse_than_one_network():
    """Share of the particles' unseen readings inside 90 % intervals, and their log score, over ten surveys."""
    covered, scores = {1: [], 5: []}, {1: [], 5: []}
    for seed in range(10):
        survey, truth, error = particles(seed)
        inputs = Inputs(patch_components(survey, 5, 8), grid_coordinates(truth.shape, (1.0, 1.0)))
        order = np.random.default_rng(seed).permutation(truth.size)
        measured, unseen = order[:60], order[60:]
        truth, error = truth.ravel(), error.ravel()
        for members in covered:
            model = Surrogate(inputs, SurrogateSettings(members=members))
            posterior = model.learn(measured, truth[measured], error[measured], seed).posterior
            variance = posterior.variance[unseen] + error[unseen] ** 2 + posterior.learned_noise_variance
            z = (truth[unseen] - posterior.mean[unseen]) / np.sqrt(variance)
            covered[members].append(np.mean(np.abs(z) < 1.645))
            scores[members].append(np.mean(z**2 + np.log(variance)))
    off = {members: abs(np.mean(shares) - 0.9) for members, shares in covered.items()}
    assert off[5] <= off[1] + 0.01
    assert np.median(scores[5]) <= np.median(scores[1]) + 0.1
    assert 0.84 < np.mean(covered[5]) < 0.96
