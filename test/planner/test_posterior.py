"""Posteriors against gpytorch, scikit-learn, the textbook, Titsias' formula and Monte Carlo; hopeless matrices."""

import gpytorch
import numpy as np
import pytest
import torch
from deep_kernels import architecture, dense, drawn, measured, noise_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.planner.surrogates.deep_kernel import DeepKernel
from edgetem_nodes.planner.surrogates.marginal_likelihood import Rows
from edgetem_nodes.planner.surrogates.posterior import (EnsemblePosterior, ExactPosterior, InducingPosterior,
                                                        InflatedPosterior, Scale, robust_cholesky)

FORMS = pytest.mark.parametrize("form", ["matern", "rbf"])
SCALE = Scale(-3.0, 2.5)


def case(outputs=1, hidden=0, amplitude=2, count=30, candidates=25, seed=1, form="matern"):
    sizes = architecture(outputs, hidden, amplitude)
    kernel = DeepKernel(sizes, drawn(sizes, seed)[1], form)
    return kernel, measured(sizes, count, seed), measured(sizes, candidates, seed + 1).inputs


def textbook(kernel, rows, inputs, output):
    """Mean and covariance at all inputs: Rasmussen and Williams (2006), equations 2.25 and 2.26, by explicit inversion."""
    at, outputs, where = rows.inputs.numpy(), rows.outputs.numpy(), inputs.numpy()
    these = np.full(len(where), output)
    matrix = dense(kernel, at, outputs, at, outputs) + np.diag(noise_of(kernel, rows))
    gain = dense(kernel, where, these, at, outputs) @ np.linalg.inv(matrix)
    mean = kernel.mean.numpy()[output] + gain @ (rows.values.numpy() - kernel.mean.numpy()[outputs])
    return mean, dense(kernel, where, these, where, these) - gain @ dense(kernel, at, outputs, where, these)


@FORMS
@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("output", [0, 1])
def test_exact_posterior_is_the_textbook_formula(form, hidden, output):
    kernel, rows, inputs = case(outputs=2, hidden=hidden, form=form)
    result = ExactPosterior(kernel, rows, inputs, output, SCALE)
    mean, covariance = textbook(kernel, rows, inputs, output)
    np.testing.assert_allclose(result.mean, SCALE.level + SCALE.spread * mean, atol=1e-9)
    np.testing.assert_allclose(result.variance, SCALE.spread**2 * np.diag(covariance), atol=1e-9)
    some = np.array([1, 5, 20])
    np.testing.assert_allclose(result.covariance(some, np.arange(25)), SCALE.spread**2 * covariance[some], atol=1e-9)
    prior = dense(kernel, inputs.numpy(), np.full(25, output), inputs.numpy(), np.full(25, output))
    np.testing.assert_allclose(result.prior_variance, SCALE.spread**2 * np.diag(prior))
    mine = noise_of(kernel, rows)[rows.outputs.numpy() == output]
    assert SCALE.spread**2 * np.sort(mine)[(len(mine) - 1) // 2] == pytest.approx(result.noise_variance)
    learned = np.exp(float(kernel.parameters["noise"][output])) + 1e-5
    assert result.learned_noise_variance == pytest.approx(SCALE.spread**2 * learned)


@FORMS
def test_exact_posterior_is_what_gpytorch_predicts(form):
    kernel, rows, inputs = case(amplitude=0, form=form)
    p, noise = kernel.parameters, torch.tensor(noise_of(kernel, rows))

    class Peer(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(rows.inputs, rows.values, gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise))
            base = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=6) if form == "matern" else gpytorch.kernels.RBFKernel(
                ard_num_dims=6)
            self.mean_module = gpytorch.means.ConstantMean().double()
            self.covar_module = gpytorch.kernels.ScaleKernel(base).double()
            self.mean_module.constant.data.fill_(float(p["mean"][0]))
            self.covar_module.outputscale = torch.exp(p["coregionalisation"][0, 0])
            self.covar_module.base_kernel.lengthscale = torch.exp(p["lengths"])

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    peer = Peer().eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        prediction = peer(inputs)
        mean, covariance = prediction.mean.numpy(), prediction.covariance_matrix.numpy()
    result = ExactPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0))
    np.testing.assert_allclose(result.mean, mean, atol=1e-6)
    np.testing.assert_allclose(result.covariance(np.arange(25), np.arange(25)), covariance, atol=1e-6)


def test_exact_posterior_is_that_of_scikit_learn():
    process = pytest.importorskip("sklearn.gaussian_process", reason="scikit-learn is not installed")
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    kernel, rows, inputs = case(amplitude=0)
    p = kernel.parameters
    form = ConstantKernel(float(torch.exp(p["coregionalisation"][0, 0]))) * Matern(torch.exp(p["lengths"]).numpy(), nu=2.5)
    peer = process.GaussianProcessRegressor(form, alpha=noise_of(kernel, rows), optimizer=None)
    level = float(p["mean"][0])
    mean, deviation = peer.fit(rows.inputs.numpy(), rows.values.numpy() - level).predict(inputs.numpy(), return_std=True)
    result = ExactPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0))
    np.testing.assert_allclose(result.mean, mean + level, atol=1e-8)
    np.testing.assert_allclose(result.standard_deviation, deviation, rtol=1e-7)


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("output", [0, 1])
def test_inducing_posterior_with_every_row_is_the_exact_one(hidden, output):
    kernel, rows, inputs = case(outputs=2, hidden=hidden)
    exact = ExactPosterior(kernel, rows, inputs, output, SCALE)
    result = InducingPosterior(kernel, rows, inputs, output, SCALE, count=len(rows.values))
    np.testing.assert_allclose(result.mean, exact.mean, atol=1e-7)
    np.testing.assert_allclose(result.variance, exact.variance, rtol=1e-6)
    every = np.arange(25)
    np.testing.assert_allclose(result.covariance(every, every), exact.covariance(every, every), atol=1e-7)
    assert result.noise_variance == exact.noise_variance


@FORMS
def test_inducing_posterior_is_titsias_formula_at_the_points_least_explained(form):
    kernel, rows, inputs = case(outputs=2, count=40, form=form)
    at, outputs, noise = rows.inputs.numpy(), rows.outputs.numpy(), noise_of(kernel, rows)
    prior = dense(kernel, at, outputs, at, outputs)
    chosen = []
    for _ in range(9):  # each time the row whose variance, given the rows chosen before, is largest
        inner = np.linalg.pinv(prior[np.ix_(chosen, chosen)])
        chosen.append(int(np.argmax(np.diag(prior) - np.einsum("ij,jk,ik->i", prior[:, chosen], inner, prior[:, chosen]))))
    among = prior[np.ix_(chosen, chosen)]
    where, these = inputs.numpy(), np.zeros(25, int)
    cross = dense(kernel, at[chosen], outputs[chosen], where, these)
    # Titsias (2009), equation 6, with diag(1 / noise) for 1 / sigma^2.
    inner = np.linalg.inv(among + prior[chosen] / noise @ prior[:, chosen])
    residual = rows.values.numpy() - kernel.mean.numpy()[outputs]
    mean = kernel.mean.numpy()[0] + cross.T @ inner @ (prior[chosen] / noise) @ residual
    covariance = (dense(kernel, where, these, where, these) - cross.T @ np.linalg.inv(among) @ cross + cross.T @ inner @ cross)
    result = InducingPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0), count=9)
    np.testing.assert_allclose(result.mean, mean, atol=1e-7)
    np.testing.assert_allclose(result.variance, np.diag(covariance), atol=1e-7)
    np.testing.assert_allclose(result.covariance(np.arange(25), np.arange(25)), covariance, atol=1e-7)


def smooth(count, candidates=200):
    """A smooth function on the unit square, its kernel's length a fifth of it."""
    sizes = architecture(components=0, others=2, amplitude=0)
    flat = torch.zeros(sizes.size, dtype=torch.float64)
    sizes.split(flat)["lengths"].fill_(np.log(0.2))
    sizes.split(flat)["noise"].fill_(np.log(1e-2))
    generator = np.random.default_rng(0)
    at = torch.tensor(generator.random((count + candidates, 2)))
    truth = torch.sin(7.0 * at[:, 0]) * torch.cos(5.0 * at[:, 1])
    noise = torch.tensor(0.02 * generator.random(count))
    values = truth[:count] + torch.tensor(generator.normal(size=count)) * noise.sqrt()
    rows = Rows(at[:count], torch.zeros(count, dtype=torch.int64), values, noise)
    return DeepKernel(sizes, flat, "matern"), rows, at[count:], truth[count:].numpy()


def test_three_hundred_points_stand_for_fifteen_hundred_measurements():
    kernel, rows, inputs, truth = smooth(1500)
    exact = ExactPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0))
    result = InducingPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0), count=300)
    few = InducingPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0), count=30)
    apart = (result.mean - exact.mean) / exact.standard_deviation
    assert np.sqrt(np.mean(apart**2)) < 0.1
    assert np.abs(apart).max() < 0.5
    ratio = result.standard_deviation / exact.standard_deviation
    assert 0.98 < np.median(ratio) < 1.05
    assert ((ratio > 0.9) & (ratio < 1.4)).all()
    assert np.sqrt(np.mean((result.mean - truth) ** 2)) < 0.05
    assert np.median(few.standard_deviation / exact.standard_deviation) > 3.0  # fewer points do not claim to know as much


def test_six_thousand_measurements_are_taken_in():
    kernel, rows, inputs, truth = smooth(6000)
    result = InducingPosterior(kernel, rows, inputs, 0, Scale(0.0, 1.0), count=200)
    assert np.sqrt(np.mean((result.mean - truth) ** 2)) < 0.04
    assert np.isfinite(result.standard_deviation).all()


def test_ninety_percent_intervals_hold_ninety_percent():
    """Of functions drawn from the prior: the definition of a posterior."""
    kernel, rows, inputs = case(count=40, candidates=150)
    generator, held = np.random.default_rng(5), []
    at = np.vstack([rows.inputs.numpy(), inputs.numpy()])
    zeros = np.zeros(len(at), int)
    factor = np.linalg.cholesky(dense(kernel, at, zeros, at, zeros) + 1e-9 * np.eye(len(at)))
    for _ in range(40):
        truth = float(kernel.mean[0]) + factor @ generator.standard_normal(len(at))
        values = truth[:40] + np.sqrt(noise_of(kernel, rows)) * generator.standard_normal(40)
        drawn_rows = Rows(rows.inputs, rows.outputs, torch.tensor(values), rows.noise)
        result = ExactPosterior(kernel, drawn_rows, inputs, 0, Scale(0.0, 1.0))
        held.append(np.mean(np.abs(truth[40:] - result.mean) < 1.645 * result.standard_deviation))
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_moments_of_an_ensemble_are_those_of_draws_from_a_member_drawn_at_random():
    kernel, rows, inputs = case(candidates=3)
    members = [ExactPosterior(DeepKernel(kernel.architecture, drawn(kernel.architecture, seed)[1], "matern"), rows, inputs, 0,
                              SCALE) for seed in range(4)]
    result = EnsemblePosterior(members)
    generator, every, count = np.random.default_rng(0), np.arange(3), 200_000
    draws = np.concatenate([generator.multivariate_normal(m.mean, m.covariance(every, every), count) for m in members])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - result.mean) < 4 * error).all()
    np.testing.assert_allclose(result.covariance(every, every), np.cov(draws.T), atol=0.02 * result.variance.max())
    np.testing.assert_allclose(result.variance, np.diag(result.covariance(every, every)))
    assert (result.variance > np.mean([m.variance for m in members], axis=0)).all()


def test_an_inflated_posterior_has_every_variance_multiplied_and_nothing_else_changed():
    kernel, rows, inputs = case()
    inner = ExactPosterior(kernel, rows, inputs, 0, SCALE)
    result, some = InflatedPosterior(inner, 4.0), np.arange(5)
    np.testing.assert_allclose(result.standard_deviation, 2.0 * inner.standard_deviation)
    np.testing.assert_allclose(result.covariance(some, some), 4.0 * inner.covariance(some, some))
    np.testing.assert_array_equal(result.mean, inner.mean)
    assert result.noise_variance == inner.noise_variance


@given(st.integers(1, 12), st.sampled_from(["alike", "line", "near", "random"]), st.booleans(), st.integers(0, 99),
       st.sampled_from(["matern", "rbf"]), st.sampled_from([0.0, 1e-300, 1e-9, 1e6]), st.integers(1, 2))
@settings(deadline=None, max_examples=80)
def test_no_arrangement_of_measurements_stops_a_posterior(count, kind, constant, seed, form, noise, outputs):
    sizes = architecture(outputs)
    kernel = DeepKernel(sizes, drawn(sizes, seed)[1], form)
    generator = np.random.default_rng(seed)
    along = {"alike": np.zeros((count, 1)), "line": np.arange(count)[:, None] * 1e-3,
             "near": 1e-13 * generator.random((count, 1)), "random": generator.normal(size=(count, 8))}[kind]
    at = torch.tensor(np.ones((count, 8)) * along)
    values = torch.tensor(np.ones(count) if constant else 1e3 * generator.normal(size=count))
    rows = Rows(at, torch.tensor(generator.integers(0, outputs, count)), values, torch.full((count,), noise).double())
    inputs = torch.cat([at, at + 0.5])
    for result in (ExactPosterior(kernel, rows, inputs, 0, SCALE), InducingPosterior(kernel, rows, inputs, 0, SCALE, 7)):
        assert np.isfinite(result.mean).all()
        assert (result.variance > 0).all()
        assert (result.variance <= result.prior_variance * (1 + 1e-9)).all()
        assert np.isfinite(result.covariance(np.arange(count), np.arange(count))).all()


def test_a_singular_matrix_is_factorised_with_the_least_jitter_that_does():
    factor, jitter = robust_cholesky(torch.ones((3, 3), dtype=torch.float64) * 4.0)
    assert 0 < jitter <= 4e-8
    torch.testing.assert_close(factor @ factor.T, 4.0 * torch.ones((3, 3), dtype=torch.float64) + jitter * torch.eye(3))
    assert robust_cholesky(torch.eye(3, dtype=torch.float64))[1] == 0.0


def test_matrices_beyond_repair_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="not finite: a measured value or a standard error overflows"):
        robust_cholesky(torch.tensor([[np.nan, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="of 2 measurements is not positive definite, even with 1% of its largest"):
        robust_cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
