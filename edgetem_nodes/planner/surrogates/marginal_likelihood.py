"""The training objective: negative log posterior of a deep kernel's parameters, with its gradient, without autograd.

-log p(y | X, t) - log p(t) of Rasmussen and Williams (2006), equations 5.8 and 5.9. At the sizes of an experiment the
bookkeeping of automatic differentiation, and its backward pass through a Cholesky factor, cost more than the matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from edgetem_nodes.planner.surrogates.deep_kernel import (SMALLEST_NOISE, Architecture, DeepKernel, Prior, correlation,
                                                          lower_triangle, squared_distances)

HOPELESS = 1e10
"""Objective where the matrix does not factorise or nothing is finite: the line search turns back from it."""


@dataclass(frozen=True)
class Rows:
    """Standardised measurements.

    Attributes
    ----------
    inputs : (rows, inputs). outputs : (rows,) number of the output. values : (rows,) of zero mean and unit variance.
    noise : (rows,) variance of each from counting statistics, in the same units.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    values: torch.Tensor
    noise: torch.Tensor


class Objective:
    """Negative log posterior of the parameters.

    Parameters
    ----------
    architecture, prior : of the kernel. rows : what was measured. form : of the correlation.
    """

    def __init__(self, architecture: Architecture, prior: Prior, rows: Rows, form: str) -> None:
        self._architecture, self._prior, self._rows, self._form = architecture, prior, rows, form
        self._single = architecture.outputs == 1
        self.failures = 0
        """Evaluations at which the matrix did not factorise."""

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient (parameters,)."""
        with torch.no_grad():
            point = torch.from_numpy(np.array(flat, np.float64))
            value, slope = self._likelihood(point)
            penalty, pull = self._prior.penalty(point)
            total = float(value + penalty)
            if not np.isfinite(total):
                return HOPELESS, np.zeros(len(flat))
            return total, (slope + pull).numpy()

    def _likelihood(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, rows = self._architecture, self._rows
        kernel = DeepKernel(a, flat, self._form)
        p = kernel.parameters
        gradient = torch.zeros_like(flat)
        slope = a.split(gradient)
        patch = rows.inputs[:, :a.components]
        hidden = torch.tanh(patch @ p["first"].T + p["bias"]) if a.hidden else None
        lengths = torch.exp(p["lengths"])
        embedded = patch @ p["linear"].T + hidden @ p["second"].T if a.hidden else patch
        place = torch.cat([embedded, rows.inputs[:, a.components:a.components + a.others]], dim=1) / lengths
        amplitude = kernel.amplitude(rows.inputs)
        scale = self._scale(kernel, amplitude)
        like, steepness = correlation(squared_distances(place, place), self._form)
        signal = scale * like
        matrix = signal.clone()
        matrix.diagonal().add_(rows.noise + kernel.noise[rows.outputs])
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            self.failures += 1
            return torch.tensor(HOPELESS), gradient
        residual = rows.values - kernel.mean[rows.outputs]
        weights = torch.cholesky_solve(residual[:, None], factor)[:, 0]
        value = 0.5 * residual @ weights + factor.diagonal().log().sum()
        by_matrix = torch.cholesky_inverse(factor).sub_(torch.outer(weights, weights)).mul_(0.5)

        through = by_matrix * scale * steepness
        by_place = 4.0 * (through.sum(1)[:, None] * place - through @ place)
        slope["lengths"].copy_(-(by_place * place).sum(0))
        by_embedded = (by_place / lengths)[:, :a.embedded]
        by_signal = by_matrix * signal
        self._scale_slopes(slope, p, kernel, by_signal, by_matrix, like, amplitude)
        diagonal = by_matrix.diagonal()
        slope["noise"].index_add_(0, rows.outputs, diagonal).mul_(kernel.noise - SMALLEST_NOISE)
        slope["mean"].index_add_(0, rows.outputs, -weights)
        if a.hidden:
            slope["linear"].copy_(by_embedded.T @ patch)
            slope["second"].copy_(by_embedded.T @ hidden)
            by_hidden = by_embedded @ p["second"] * (1.0 - hidden.square())
            slope["first"].copy_(by_hidden.T @ patch)
            slope["bias"].copy_(by_hidden.sum(0))
        return value, gradient

    def _scale(self, kernel: DeepKernel, amplitude: torch.Tensor) -> torch.Tensor:
        """(rows, rows) prior covariance but for the correlation."""
        if self._single:
            amplitude = amplitude * kernel.between_outputs[0, 0].sqrt()
            return torch.outer(amplitude, amplitude)
        tasks = self._rows.outputs
        return torch.outer(amplitude, amplitude) * kernel.between_outputs[tasks][:, tasks]

    def _scale_slopes(self, slope: dict[str, torch.Tensor], p: dict[str, torch.Tensor], kernel: DeepKernel,
                      by_signal: torch.Tensor, by_matrix: torch.Tensor, like: torch.Tensor, amplitude: torch.Tensor) -> None:
        a, rows = self._architecture, self._rows
        if a.amplitude:
            inside = (amplitude.log().abs() < 3.0).to(by_signal.dtype)
            slope["amplitude"].copy_(2.0 * rows.inputs[:, -a.amplitude:].T @ (by_signal.sum(1) * inside))
        if self._single:
            slope["coregionalisation"].fill_(by_signal.sum())
            return
        between = by_matrix * like * torch.outer(amplitude, amplitude)
        summed = torch.zeros(a.outputs, len(rows.values), dtype=between.dtype).index_add_(0, rows.outputs, between)
        by_between = torch.zeros(a.outputs, a.outputs, dtype=between.dtype).index_add_(1, rows.outputs, summed)
        lower = lower_triangle(p["coregionalisation"])
        by_lower = torch.tril((by_between + by_between.T) @ lower)
        by_lower.diagonal().mul_(0.5 * lower.diagonal())
        slope["coregionalisation"].copy_(by_lower)


def maximise(objective: Objective, start: torch.Tensor, evaluations: int) -> tuple[torch.Tensor, int, float]:
    """Parameters of largest posterior, evaluations used, and the objective there; L-BFGS (Liu and Nocedal 1989)."""
    if not evaluations:
        return start, 0, objective(start.numpy())[0]
    options = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": 20}
    result = minimize(objective, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(np.array(result.x, np.float64)), int(result.nfev), float(result.fun)
