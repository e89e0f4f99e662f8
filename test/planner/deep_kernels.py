"""Deep kernels with drawn or given parameters, and the same covariance by plain numpy: for tests of the planner's core."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist

from edgetem_nodes.planner.surrogates.deep_kernel import Architecture, DeepKernel, prior_of
from edgetem_nodes.planner.surrogates.marginal_likelihood import Rows
from edgetem_nodes.planner.surrogates.posterior import ExactPosterior, Scale


def architecture(outputs: int = 1, hidden: int = 0, amplitude: int = 2, components: int = 4, others: int = 2) -> Architecture:
    """Four components, two of them embedded where there is a network, and two further inputs."""
    return Architecture(components, others, 2 if hidden else components, hidden, amplitude, outputs)


def drawn(sizes: Architecture, seed: int = 0):
    """Prior of a kernel and parameters (parameters,) drawn around it."""
    prior = prior_of(sizes, torch.full((sizes.others,), 0.6, dtype=torch.float64), torch.Generator().manual_seed(seed))
    away = torch.randn(sizes.size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return prior, prior.centre + 0.6 * prior.spread * away


def measured(sizes: Architecture, count: int, seed: int = 0, noise: float = 0.05) -> Rows:
    """Rows of random inputs, outputs, values, and a noise of its own each."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(count, sizes.components + sizes.others + sizes.amplitude))
    outputs = generator.integers(0, sizes.outputs, count)
    values = np.sin(2.0 * inputs[:, 0]) + 0.3 * inputs[:, sizes.components] + 0.4 * outputs + 0.1 * generator.normal(size=count)
    return Rows(torch.tensor(inputs), torch.tensor(outputs), torch.tensor(values),
                torch.tensor(noise * generator.random(count)))


def dense(kernel: DeepKernel, left: np.ndarray, left_outputs: np.ndarray, right: np.ndarray,
          right_outputs: np.ndarray) -> np.ndarray:
    """Prior covariance a(p) a(p') B[i, j] c(|z - z'|) by numpy."""
    p = {name: value.numpy() for name, value in kernel.parameters.items()}
    sizes = kernel.architecture

    def place(inputs):
        patch = inputs[:, :sizes.components]
        if sizes.hidden:
            patch = patch @ p["linear"].T + np.tanh(patch @ p["first"].T + p["bias"]) @ p["second"].T
        return np.hstack([patch, inputs[:, sizes.components:sizes.components + sizes.others]]) * np.exp(-p["lengths"])

    def amplitude(inputs):
        return np.exp(np.clip(inputs[:, inputs.shape[1] - sizes.amplitude:] @ p["amplitude"], -3, 3))
    distance = cdist(place(left), place(right))
    scaled = np.sqrt(5.0) * distance
    like = np.exp(-0.5 * distance**2) if kernel.form == "rbf" else (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    lower = np.tril(p["coregionalisation"], -1) + np.diag(np.exp(0.5 * np.diag(p["coregionalisation"])))
    between = (lower @ lower.T)[np.ix_(left_outputs, right_outputs)]
    return np.outer(amplitude(left), amplitude(right)) * between * like


def noise_of(kernel: DeepKernel, rows: Rows) -> np.ndarray:
    """(rows,) variance of each measurement: its own and the learned one."""
    learned = np.exp(kernel.parameters["noise"].numpy()) + 1e-5
    return rows.noise.numpy() + learned[rows.outputs.numpy()]


def on_grid(side: int, measured: list[int], values: np.ndarray, noise: float, lengths=(0.3, 0.5)) -> ExactPosterior:
    """Posterior over a side x side grid on the unit square; every measurement has the noise variance `noise`, >= 1e-5."""
    sizes = Architecture(0, 2, 0, 0, 0, 1)
    flat = torch.zeros(sizes.size, dtype=torch.float64)
    p = sizes.split(flat)
    p["lengths"].copy_(torch.log(torch.tensor(lengths, dtype=torch.float64)))
    p["noise"].fill_(-800.0)
    grid = torch.tensor(np.stack(np.divmod(np.arange(side * side), side), axis=1) / side)
    rows = Rows(grid[torch.tensor(measured)], torch.zeros(len(measured), dtype=torch.int64),
                torch.tensor(np.asarray(values, float)), torch.full((len(measured),), noise - 1e-5, dtype=torch.float64))
    return ExactPosterior(DeepKernel(sizes, flat, "matern"), rows, grid, 0, Scale(0.0, 1.3))
