"""Surrogate models: deep kernel learning on survey patches, and a plain Gaussian process as the second choice.

Deep kernel learning: Wilson, Hu, Salakhutdinov and Xing, AISTATS 2016. A small network maps the patch to a plane; an exact
Gaussian process works on that plane and the position. With few hundred points the marginal likelihood alone overfits the
network (Ober, Rasmussen and van der Wilk, UAI 2021), so all weights carry Gaussian priors centred on the map to the first
principal components, and training maximises the posterior. Every training starts afresh from the seed it is given: the
model is a pure function of survey, measurements, settings and seed.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field

import gpytorch
import numpy as np
import torch

from edgetem_nodes.planner.gaussian_process import Kernel, Posterior

SURROGATES = ("deep_kernel_learning", "gaussian_process")
KERNELS = ("matern", "rbf")

SMALLEST_NOISE = 1e-4
"""Floor of the learned noise variance, as a fraction of the measured values' variance."""


def one_deterministic_thread() -> None:
    """Make torch in this process repeat itself bit for bit: one thread, deterministic algorithms."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


@dataclass(frozen=True)
class SurrogateSettings:
    """What a surrogate is made of; all of it is recorded with every decision."""

    surrogate: str = "deep_kernel_learning"
    kernel: str = "matern"
    """"matern" (nu = 5/2) or "rbf"."""
    use_position: bool = True
    embedding: int = 2
    """Dimensions that the network maps a patch to."""
    hidden: int = 16
    """Units of the network's one hidden layer."""
    training_steps: int = 60
    learning_rate: float = 0.05


@dataclass(frozen=True)
class TrainedSurrogate:
    """A posterior over all candidates and how it came about."""

    posterior: Posterior
    description: str
    """JSON: settings, seed, learned hyperparameters."""
    training_failure: str = field(default="")
    """Why training stopped early and prior hyperparameters were taken; empty otherwise."""


class _Model(gpytorch.models.ExactGP):
    """Exact Gaussian process on [embedding of the patch components, position]; float64."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, likelihood: gpytorch.likelihoods.Likelihood,
                 components: int, settings: SurrogateSettings) -> None:
        super().__init__(inputs, targets, likelihood)
        self.components = components
        self.deep = settings.surrogate == "deep_kernel_learning" and components > 0
        positions = inputs.shape[1] - components
        embedded = min(settings.embedding, components) if self.deep else components
        self.mean_module = gpytorch.means.ConstantMean()
        form = (gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=embedded + positions) if settings.kernel == "matern"
                else gpytorch.kernels.RBFKernel(ard_num_dims=embedded + positions))
        self.covar_module = gpytorch.kernels.ScaleKernel(form)
        form.lengthscale = torch.tensor([1.0] * embedded + [0.4] * positions, dtype=torch.float64)
        self.initial_length = form.lengthscale.detach().clone()
        if self.deep:
            hidden, double = settings.hidden, {"dtype": torch.float64}
            self.identity = torch.eye(embedded, components, **double)
            self.linear = torch.nn.Parameter(self.identity.clone())
            self.first = torch.nn.Linear(components, hidden, **double)
            self.second = torch.nn.Linear(hidden, embedded, **double)
            with torch.no_grad():
                self.first.weight.normal_(0.0, 1.0 / math.sqrt(components))
                self.first.bias.zero_()
                self.second.weight.normal_(0.0, 0.1 / math.sqrt(hidden))
                self.second.bias.zero_()
            self.first_weight = self.first.weight.detach().clone()

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of the kernel, (points, embedding + 2)."""
        if not self.deep:
            return inputs
        patch = inputs[:, :self.components]
        plane = patch @ self.linear.T + self.second(torch.tanh(self.first(patch)))
        return torch.cat([plane, inputs[:, self.components:]], dim=1)

    def negative_log_prior(self) -> torch.Tensor:
        """Of weights (Gaussian), length scales (log-normal, factor e) and output scale (log-normal, factor e)."""
        scale = self.covar_module
        total = 0.5 * torch.log(scale.base_kernel.lengthscale / self.initial_length).square().sum()
        total = total + 0.5 * torch.log(scale.outputscale).square()
        if self.deep:
            hidden = self.second.weight.shape[1]
            total = total + 0.5 * ((self.linear - self.identity) / 0.3).square().sum()
            total = total + 0.5 * (self.first.weight - self.first_weight).square().sum() * self.components
            total = total + 0.5 * (self.second.weight / 0.3).square().sum() * hidden
        return total

    def forward(self, inputs: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        embedded = self.embed(inputs)
        return gpytorch.distributions.MultivariateNormal(self.mean_module(embedded), self.covar_module(embedded))


class Surrogate:
    """Learns the scalar from measurements at some candidates and predicts it at all.

    Parameters
    ----------
    components : (candidates, components) patch components.
    coordinates : (candidates, 2) position in units of the field's longer side.
    settings : what the model is made of.
    """

    def __init__(self, components: np.ndarray, coordinates: np.ndarray, settings: SurrogateSettings) -> None:
        if settings.surrogate not in SURROGATES:
            raise ValueError(f"unknown surrogate {settings.surrogate!r}: take one of {', '.join(SURROGATES)}")
        if settings.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {settings.kernel!r}: take one of {', '.join(KERNELS)}")
        contrast = components.shape[1] and bool(np.ptp(components) > 0)
        self.components = components if contrast else components[:, :0]
        columns = [self.components] + ([coordinates] if settings.use_position or not contrast else [])
        self._inputs = torch.tensor(np.concatenate(columns, axis=1), dtype=torch.float64)
        self.settings = settings

    def learn(self, measured: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, seed: int) -> TrainedSurrogate:
        """Train on measurements and give the posterior over all candidates.

        Parameters
        ----------
        measured : (measurements,) candidate indices; repeats are allowed.
        values : (measurements,) finite [scalar].
        standard_errors : (measurements,) [scalar]; not finite or negative counts as not known (zero).
        seed : of the network's initial weights.

        Raises
        ------
        ValueError : nothing measured, or values so large that float64 overflows.
        """
        if len(values) == 0:
            raise ValueError("a surrogate needs at least one valid measurement")
        level, spread = float(values.mean()), float(values.std())
        if not (math.isfinite(level) and math.isfinite(spread)):
            raise ValueError(f"measured values up to {np.abs(values).max():g} overflow: check the scalarizer")
        spread = spread if spread > 1e-12 * max(abs(level), 1e-300) else max(abs(level), 1.0)
        known = np.isfinite(standard_errors) & (standard_errors > 0)
        # An error far above the spread says "knows nothing"; the cap keeps the matrix well scaled.
        fixed = np.square(np.minimum(np.where(known, standard_errors, 0.0) / spread, 1e3))
        targets = (values - level) / spread
        model, noise, failure = self._train(measured, targets, fixed, seed)
        with torch.no_grad():
            inputs = model.embed(self._inputs).numpy()
            scale = float(model.covar_module.outputscale)
            lengths = model.covar_module.base_kernel.lengthscale.numpy().ravel().copy()
            offset = float(model.mean_module.constant)
        kernel = Kernel(self.settings.kernel, scale * spread**2, lengths)
        posterior = Posterior(inputs, kernel, level + offset * spread, measured, values, (fixed + noise) * spread**2)
        description = {"surrogate": self.settings.surrogate, "kernel": self.settings.kernel, "seed": seed,
                       "measurements": len(values), "training_steps": self.settings.training_steps,
                       "length_scales": [float(length) for length in lengths],
                       "prior_mean": level + offset * spread, "prior_standard_deviation": math.sqrt(scale) * spread,
                       "learned_noise": math.sqrt(noise) * spread, "jitter": posterior.jitter,
                       "log_likelihood": posterior.log_likelihood, "training_failure": failure}
        return TrainedSurrogate(posterior, json.dumps(description), failure)

    def _fresh_model(self, measured: np.ndarray, targets: np.ndarray, fixed: np.ndarray,
                     seed: int) -> tuple[_Model, gpytorch.likelihoods.FixedNoiseGaussianLikelihood]:
        one_deterministic_thread()
        torch.manual_seed(seed)
        constraint = gpytorch.constraints.GreaterThan(SMALLEST_NOISE)
        with warnings.catch_warnings():
            # gpytorch lifts errors below its floor and says so; the learned noise stands in for them anyway.
            warnings.simplefilter("ignore", gpytorch.utils.warnings.NumericalWarning)
            likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(
                torch.tensor(fixed, dtype=torch.float64), learn_additional_noise=True, noise_constraint=constraint)
        inputs = self._inputs[torch.tensor(measured, dtype=torch.int64)]
        model = _Model(inputs, torch.tensor(targets, dtype=torch.float64), likelihood, self.components.shape[1],
                       self.settings)
        model.double()
        likelihood.double()
        likelihood.second_noise_covar.noise = 0.05
        model.covar_module.outputscale = 1.0
        return model, likelihood

    def _train(self, measured: np.ndarray, targets: np.ndarray, fixed: np.ndarray,
               seed: int) -> tuple[_Model, float, str]:
        """The trained model, the learned noise variance (of standardised values), and why training failed, if it did."""
        model, likelihood = self._fresh_model(measured, targets, fixed, seed)
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.settings.learning_rate)
        inputs, outputs = model.train_inputs[0], model.train_targets
        model.train()
        likelihood.train()
        failure = ""
        try:
            with gpytorch.settings.fast_computations(False, False, False), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(self.settings.training_steps):
                    optimizer.zero_grad()
                    loss = model.negative_log_prior() / len(targets) - objective(model(inputs), outputs)
                    if not torch.isfinite(loss):
                        raise ValueError("the training objective is not finite")
                    loss.backward()
                    optimizer.step()
            if not all(torch.isfinite(p).all() for p in model.parameters()):
                raise ValueError("a hyperparameter is not finite")
        except (RuntimeError, ValueError) as error:
            # Covers linear_operator's NotPSDError and NanError, both RuntimeErrors: the prior's model always factorises.
            failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            model, likelihood = self._fresh_model(measured, targets, fixed, seed)
        return model, float(likelihood.second_noise_covar.noise.detach()), failure
