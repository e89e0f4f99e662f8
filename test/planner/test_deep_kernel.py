"""The training objective: against gpytorch, scipy's multivariate normal, and finite differences."""

import gpytorch
import numpy as np
import pytest
import torch
from deep_kernels import architecture, dense, drawn, measured, noise_of
from scipy.stats import multivariate_normal, norm

from edgetem_nodes.planner.surrogates.deep_kernel import DeepKernel, first_guess
from edgetem_nodes.planner.surrogates.marginal_likelihood import HOPELESS, Objective, Rows, maximise

FORMS = pytest.mark.parametrize("form", ["matern", "rbf"])


def peer_kernel(form, dimensions):
    """gpytorch's covariance of the same form."""
    made = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=dimensions) if form == "matern" else gpytorch.kernels.RBFKernel(
        ard_num_dims=dimensions)
    return made.double()


@FORMS
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("amplitude", [0, 2])
def test_gradient_is_that_of_finite_differences(form, outputs, hidden, amplitude):
    sizes = architecture(outputs, hidden, amplitude)
    prior, flat = drawn(sizes, seed=3)
    objective = Objective(sizes, prior, measured(sizes, 25), form)
    slope = objective(flat.numpy())[1]
    step = 1e-5
    differences = [(objective(flat.numpy() + step * unit)[0] - objective(flat.numpy() - step * unit)[0]) / (2 * step)
                   for unit in np.eye(sizes.size)]
    np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-7 * np.abs(slope).max())
    assert (slope != 0).all()


@FORMS
@pytest.mark.parametrize("hidden", [0, 5])
def test_objective_is_gpytorch_s_marginal_likelihood_and_the_prior(form, hidden):
    sizes = architecture(hidden=hidden, amplitude=0)
    prior, flat = drawn(sizes, seed=5)
    rows, p = measured(sizes, 30), sizes.split(flat)
    inputs = rows.inputs
    if hidden:
        patch = inputs[:, :sizes.components]
        network = torch.nn.Sequential(torch.nn.Linear(sizes.components, hidden), torch.nn.Tanh(),
                                      torch.nn.Linear(hidden, sizes.embedded, bias=False)).double()
        straight = torch.nn.Linear(sizes.components, sizes.embedded, bias=False).double()
        weights = {"0.weight": p["first"], "0.bias": p["bias"], "2.weight": p["second"]}
        network.load_state_dict(weights)
        straight.load_state_dict({"weight": p["linear"]})
        inputs = torch.cat([straight(patch) + network(patch), inputs[:, sizes.components:]], dim=1).detach()

    class Peer(gpytorch.models.ExactGP):
        def __init__(self):
            noise = rows.noise + torch.exp(p["noise"][0]) + 1e-5
            super().__init__(inputs, rows.values, gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise))
            self.mean_module = gpytorch.means.ConstantMean().double()
            self.covar_module = gpytorch.kernels.ScaleKernel(peer_kernel(form, inputs.shape[1])).double()
            self.mean_module.constant.data.fill_(float(p["mean"][0]))
            self.covar_module.outputscale = torch.exp(p["coregionalisation"][0, 0])
            self.covar_module.base_kernel.lengthscale = torch.exp(p["lengths"])

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    peer = Peer().train()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(peer.likelihood, peer)(peer(inputs), rows.values)
    log_likelihood = float(likelihood) * len(rows.values) + 0.5 * len(rows.values) * np.log(2 * np.pi)
    centre, spread = prior.centre.numpy(), prior.spread.numpy()
    log_prior = (norm.logpdf(flat.numpy(), centre, spread) - norm.logpdf(centre, centre, spread)).sum()
    assert Objective(sizes, prior, rows, form)(flat.numpy())[0] == pytest.approx(-log_likelihood - log_prior, rel=1e-6)


@FORMS
def test_objective_of_several_outputs_is_that_of_their_dense_normal_distribution(form):
    sizes = architecture(outputs=3, hidden=4)
    prior, flat = drawn(sizes, seed=2)
    rows, kernel = measured(sizes, 40), DeepKernel(sizes, flat, form)
    at, output = rows.inputs.numpy(), rows.outputs.numpy()
    matrix = dense(kernel, at, output, at, output) + np.diag(noise_of(kernel, rows))
    log_likelihood = multivariate_normal.logpdf(rows.values.numpy(), kernel.mean.numpy()[output], matrix)
    penalty = float(prior.penalty(flat)[0])
    expected = penalty - log_likelihood - 0.5 * len(rows.values) * np.log(2 * np.pi)
    assert Objective(sizes, prior, rows, form)(flat.numpy())[0] == pytest.approx(expected, rel=1e-9)


def test_covariance_between_outputs_is_gpytorch_s_intrinsic_model_of_coregionalisation():
    sizes = architecture(outputs=2, amplitude=0)
    _, flat = drawn(sizes, seed=4)
    kernel, rows = DeepKernel(sizes, flat, "matern"), measured(sizes, 20)
    lower = torch.tril(kernel.parameters["coregionalisation"], -1) + torch.diag(
        torch.exp(0.5 * kernel.parameters["coregionalisation"].diagonal()))
    index = gpytorch.kernels.IndexKernel(num_tasks=2, rank=1).double()
    index.covar_factor.data = lower[:, :1].clone()
    index.var = torch.tensor([1e-13, float(lower[1, 1]) ** 2], dtype=torch.float64)
    space = peer_kernel("matern", sizes.components + sizes.others)
    space.lengthscale = torch.exp(kernel.parameters["lengths"])
    with torch.no_grad():
        task = index.covar_matrix.to_dense()[rows.outputs][:, rows.outputs]
        expected = (space(rows.inputs).to_dense() * task).numpy()
    at, output = rows.inputs.numpy(), rows.outputs.numpy()
    np.testing.assert_allclose(dense(kernel, at, output, at, output), expected, atol=1e-7)
    np.testing.assert_allclose(kernel.between_outputs[rows.outputs][:, rows.outputs]
                               * kernel.correlation(kernel.place(rows.inputs), kernel.place(rows.inputs)), expected, atol=1e-7)


def test_the_prior_is_a_kernel_of_the_principal_components_without_a_network():
    sizes = architecture(hidden=6)
    prior, _ = drawn(sizes)
    kernel, inputs = DeepKernel(sizes, prior.centre, "matern"), measured(sizes, 10).inputs
    growing = torch.tensor([1.0, 1.5], dtype=torch.float64)  # the later a component, the less it matters
    expected = torch.cat([inputs[:, :2] / growing, inputs[:, 4:6] / 0.6], dim=1)
    torch.testing.assert_close(kernel.place(inputs), expected)
    assert bool((kernel.amplitude(inputs) == 1).all())
    guess = first_guess(sizes, prior, torch.Generator().manual_seed(0))
    assert bool((sizes.split(guess)["second"] != 0).all())
    assert float(prior.penalty(prior.centre)[0]) == 0.0 < float(prior.penalty(guess)[0]) < 2 * sizes.hidden


def test_patches_unlike_any_other_are_believed_to_vary_twentyfold_at_most():
    sizes = architecture()
    _, flat = drawn(sizes)
    kernel = DeepKernel(sizes, flat, "matern")
    far = 1e6 * torch.ones((1, sizes.components + sizes.others + sizes.amplitude), dtype=torch.float64)
    assert float(kernel.amplitude(torch.cat([far, -far])).log().abs().max()) == pytest.approx(3.0)


@FORMS
def test_training_climbs_to_a_point_without_slope(form):
    sizes = architecture(hidden=3, outputs=2)
    prior, flat = drawn(sizes)
    objective = Objective(sizes, prior, measured(sizes, 40), form)
    found, evaluations, value = maximise(objective, flat, 400)
    assert evaluations <= 420
    assert value < objective(flat.numpy())[0] - 1.0
    assert value == objective(found.numpy())[0]
    assert np.abs(objective(found.numpy())[1]).max() < 1e-2 * np.abs(objective(flat.numpy())[1]).max()
    assert maximise(objective, flat, 0) == (flat, 0, objective(flat.numpy())[0])


def test_a_matrix_that_does_not_factorise_turns_the_line_search_back():
    sizes = architecture()
    prior, flat = drawn(sizes)
    rows = measured(sizes, 6)
    broken = Rows(rows.inputs, rows.outputs, rows.values, torch.full((6,), -50.0, dtype=torch.float64))
    objective = Objective(sizes, prior, broken, "matern")
    assert objective(flat.numpy())[0] >= HOPELESS
    assert objective.failures == 1
    value, slope = Objective(sizes, prior, rows, "matern")(np.full(sizes.size, np.nan))
    assert value == HOPELESS
    assert not slope.any()
