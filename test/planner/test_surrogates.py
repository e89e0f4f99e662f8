"""Surrogates: against gpytorch's own prediction, repeatable bit for bit, never stopped by a bad matrix, calibrated."""

import json

import gpytorch
import numpy as np
import pytest
import torch
from measured_maps import particles

from edgetem_nodes.planner.patches import grid_coordinates, patch_components
from edgetem_nodes.planner.surrogates import Surrogate, SurrogateSettings


def surrogate(**settings):
    survey, truth, error = particles()
    inputs = patch_components(survey, 5, 8), grid_coordinates(truth.shape, (1.0, 1.0))
    return Surrogate(*inputs, SurrogateSettings(**settings)), truth.ravel(), error.ravel()


@pytest.mark.parametrize("name", ["deep_kernel_learning", "gaussian_process"])
@pytest.mark.parametrize("kernel", ["matern", "rbf"])
def test_posterior_is_what_gpytorch_predicts_with_the_same_hyperparameters(name, kernel, monkeypatch):
    model, truth, error = surrogate(surrogate=name, kernel=kernel, training_steps=15)
    measured = np.random.default_rng(0).permutation(truth.size)[:60]
    kept = []
    train = model._train
    monkeypatch.setattr(model, "_train", lambda *a: kept.append((*train(*a), a)) or kept[-1][:3])
    result = model.learn(measured, truth[measured], error[measured], seed=4).posterior
    peer, noise, failure, (_, targets, fixed, _) = kept[0]
    assert failure == ""
    peer.eval()
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.tensor(fixed + noise))
    peer.likelihood = likelihood.eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        prediction = peer(model._inputs)
    level, spread = truth[measured].mean(), truth[measured].std()
    np.testing.assert_allclose(result.mean, prediction.mean.numpy() * spread + level, atol=1e-5 * spread)
    np.testing.assert_allclose(result.standard_deviation, prediction.stddev.numpy() * spread, atol=1e-4 * spread)


@pytest.mark.parametrize("name", ["deep_kernel_learning", "gaussian_process"])
def test_training_repeats_itself_bit_for_bit_and_leaves_no_trace(name):
    model, truth, error = surrogate(surrogate=name)
    measured = np.random.default_rng(0).permutation(truth.size)[:80]
    first = model.learn(measured, truth[measured], error[measured], seed=7)
    padding = [np.zeros(n) for n in (3, 1001, 77777)]  # another layout of the heap
    model.learn(measured[:20], truth[measured[:20]], error[measured[:20]], seed=1)
    torch.rand(5)
    second = surrogate(surrogate=name)[0].learn(measured.copy(), truth[measured], error[measured], seed=7)
    assert first.posterior.mean.tobytes() == second.posterior.mean.tobytes()
    assert first.posterior.variance.tobytes() == second.posterior.variance.tobytes()
    assert first.description == second.description
    assert len(padding) == 3


def test_another_seed_gives_other_initial_weights():
    model, truth, error = surrogate()
    measured = np.arange(0, truth.size, 17)
    means = [model.learn(measured, truth[measured], error[measured], seed).posterior.mean for seed in (1, 2)]
    assert not np.array_equal(*means)


@pytest.mark.parametrize("name", ["deep_kernel_learning", "gaussian_process"])
def test_patches_tell_more_than_position_alone(name):
    """The survey shows where particles are: the map's error falls against the same model without it."""
    survey, truth, error = particles()
    coordinates = grid_coordinates(truth.shape, (1.0, 1.0))
    measured = np.random.default_rng(2).permutation(truth.size)[:50]
    errors = []
    for components in (patch_components(survey, 5, 8), np.zeros((truth.size, 1))):
        model = Surrogate(components, coordinates, SurrogateSettings(surrogate=name))
        mean = model.learn(measured, truth.ravel()[measured], error.ravel()[measured], 0).posterior.mean
        errors.append(np.sqrt(np.mean((mean - truth.ravel()) ** 2)))
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("values", [np.zeros(12), np.full(12, 3.7), np.r_[np.zeros(11), 1e6], np.arange(12) * 1e-30,
                                    np.arange(12) * 1e12])
@pytest.mark.parametrize("errors", [np.zeros(12), np.full(12, np.nan), np.full(12, 1e9), np.full(12, 1e-300)])
def test_duplicate_points_and_degenerate_values_never_stop_it(values, errors):
    model, *_ = surrogate(training_steps=10)
    result = model.learn(np.array([5] * 6 + [6] * 6), values, errors, seed=0)
    assert np.isfinite(result.posterior.mean).all()
    assert (result.posterior.variance > 0).all()
    json.loads(result.description)


def test_failed_training_falls_back_to_the_prior_and_says_so(monkeypatch):
    model, truth, error = surrogate()
    measured = np.arange(0, truth.size, 17)

    def fail(*_):
        raise gpytorch.utils.errors.NotPSDError("Matrix not positive definite after repeatedly adding jitter")
    monkeypatch.setattr(gpytorch.mlls.ExactMarginalLogLikelihood, "forward", fail)
    result = model.learn(measured, truth[measured], error[measured], seed=0)
    assert "NotPSDError" in result.training_failure
    assert np.isfinite(result.posterior.mean).all()
    assert np.corrcoef(result.posterior.mean, truth)[0, 1] > 0.5


def test_one_measurement_is_enough_none_is_not():
    model, truth, error = surrogate()
    assert np.isfinite(model.learn(np.array([3]), truth[[3]], error[[3]], 0).posterior.mean).all()
    with pytest.raises(ValueError, match="at least one valid measurement"):
        model.learn(np.zeros(0, int), np.zeros(0), np.zeros(0), 0)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="unknown surrogate 'forest'"):
        surrogate(surrogate="forest")
    with pytest.raises(ValueError, match="unknown kernel 'linear'"):
        surrogate(kernel="linear")
