"""The exact posterior against the textbook formula, gpytorch and scikit-learn; factorisation of hopeless matrices."""

import gpytorch
import numpy as np
import pytest
import torch

from edgetem_nodes.planner.gaussian_process import Kernel, Posterior, robust_cholesky


def case(count=12, points=40):
    generator = np.random.default_rng(3)
    inputs = generator.random((points, 2))
    measured = generator.permutation(points)[:count]
    return inputs, measured, np.sin(6 * inputs[measured, 0]) + inputs[measured, 1], generator.random(count) * 0.05 + 0.01


@pytest.mark.parametrize("form", ["matern", "rbf"])
def test_kernel_is_that_of_gpytorch(form):
    inputs, *_ = case()
    lengths = np.array([0.3, 0.8])
    peer = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2) if form == "matern" else gpytorch.kernels.RBFKernel(
        ard_num_dims=2)
    peer = peer.double()
    peer.lengthscale = torch.tensor(lengths)
    expected = peer(torch.tensor(inputs)).to_dense().detach().numpy()
    np.testing.assert_allclose(Kernel(form, 2.0, lengths)(inputs, inputs), 2.0 * expected, atol=1e-7)


def test_posterior_is_the_textbook_formula():
    inputs, measured, values, noise = case()
    kernel = Kernel("matern", 1.7, np.array([0.4, 0.9]))
    result = Posterior(inputs, kernel, 0.25, measured, values, noise)
    covariance = kernel(inputs[measured], inputs[measured]) + np.diag(noise)
    cross = kernel(inputs, inputs[measured])
    inverse = np.linalg.inv(covariance)
    np.testing.assert_allclose(result.mean, 0.25 + cross @ inverse @ (values - 0.25), rtol=1e-9)
    expected = kernel(inputs, inputs) - cross @ inverse @ cross.T
    np.testing.assert_allclose(result.variance, np.diag(expected), atol=1e-10)
    some = np.array([1, 5, 30])
    np.testing.assert_allclose(result.covariance(some, np.arange(40)), expected[some], atol=1e-10)
    sign, determinant = np.linalg.slogdet(covariance)
    evidence = -0.5 * ((values - 0.25) @ inverse @ (values - 0.25) + determinant + len(values) * np.log(2 * np.pi))
    assert sign == 1
    assert result.log_likelihood == pytest.approx(evidence)


def test_posterior_is_that_of_scikit_learn():
    process = pytest.importorskip("sklearn.gaussian_process", reason="scikit-learn is not installed")
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    inputs, measured, values, noise = case()
    peer = process.GaussianProcessRegressor(ConstantKernel(1.7) * Matern([0.4, 0.9], nu=2.5), alpha=noise, optimizer=None)
    mean, deviation = peer.fit(inputs[measured], values).predict(inputs, return_std=True)
    result = Posterior(inputs, Kernel("matern", 1.7, np.array([0.4, 0.9])), 0.0, measured, values, noise)
    np.testing.assert_allclose(result.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(result.standard_deviation, deviation, rtol=1e-7)


def test_ninety_percent_intervals_hold_ninety_percent():
    generator = np.random.default_rng(5)
    inputs, kernel = generator.random((300, 2)), Kernel("matern", 1.0, np.array([0.3, 0.3]))
    held = []
    for _ in range(20):
        truth = np.linalg.cholesky(kernel(inputs, inputs) + 1e-9 * np.eye(300)) @ generator.standard_normal(300)
        measured = generator.permutation(300)[:40]
        values = truth[measured] + 0.2 * generator.standard_normal(40)
        result = Posterior(inputs, kernel, 0.0, measured, values, np.full(40, 0.04))
        held.append(np.mean(np.abs(truth - result.mean) < 1.645 * result.standard_deviation))
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_repeated_positions_without_noise_still_factorise():
    inputs = np.zeros((3, 1)) + np.array([[0.0], [0.0], [1e-12]])
    result = Posterior(inputs, Kernel("rbf", 1.0, np.array([1.0])), 0.0, np.array([0, 0, 1, 2]), np.ones(4), np.zeros(4))
    assert result.jitter > 0
    np.testing.assert_allclose(result.mean, 1.0, atol=1e-3)


def test_matrices_beyond_repair_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="not finite"):
        robust_cholesky(np.array([[np.nan, 0], [0, 1]]))
    with pytest.raises(ValueError, match="of 2 measurements is not positive definite"):
        robust_cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))
