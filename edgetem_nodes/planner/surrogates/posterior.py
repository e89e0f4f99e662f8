"""Gaussian-process posteriors over all candidates: exact, through inducing points, and of an ensemble.

All offer the same: `mean`, `variance` (candidates,), `covariance(rows, columns)`, `prior_variance` and `noise_variance`, in
units of the scalar. Nothing stops at a matrix that is not positive definite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.planner.surrogates.deep_kernel import DeepKernel
from edgetem_nodes.planner.surrogates.marginal_likelihood import Rows

JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""Fractions of the largest diagonal entry that are added, in turn, until the matrix factorises."""
SMALLEST_VARIANCE = 1e-12
"""Of the posterior, as a fraction of the prior's."""


@dataclass(frozen=True)
class Scale:
    """How standardised values become scalars: value = level + spread * standardised."""

    level: float
    spread: float


def robust_cholesky(matrix: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Lower Cholesky factor, and the jitter that had to be added to the diagonal (absolute; 0 mostly).

    Raises
    ------
    ValueError : the matrix is not finite, or not positive definite even with 1 % of its largest diagonal entry added.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the covariance matrix has entries that are not finite: a measured value or a standard error "
                         "overflows; check the scalarizer")
    largest = float(matrix.diagonal().max())
    for jitter in JITTERS:
        shifted = matrix.clone()
        shifted.diagonal().add_(jitter * largest)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if not int(info):
            return factor, jitter * largest
    raise ValueError(f"the covariance matrix of {len(matrix)} measurements is not positive definite, even with "
                     f"{JITTERS[-1]:.0%} of its largest entry added to the diagonal")


class Posterior(ABC):
    """What all posteriors share.

    Attributes
    ----------
    mean, variance, prior_variance : (candidates,) [scalar, scalar squared]; of the latent scalar, noise not included.
    noise_variance : median variance of a measurement [scalar squared]. learned_noise_variance : what of it no standard
        error explains.
    jitter : what had to be added to a diagonal, standardised.
    """

    mean: np.ndarray
    variance: np.ndarray
    prior_variance: np.ndarray
    noise_variance: float
    learned_noise_variance: float = 0.0
    jitter: float = 0.0

    @property
    def standard_deviation(self) -> np.ndarray:
        """(candidates,) [scalar] of the latent scalar, measurement noise not included."""
        return np.sqrt(self.variance)

    @abstractmethod
    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Posterior covariance (rows, columns) [scalar squared] between candidates given by index."""


class _Gaussian(Posterior):
    """Prior covariance less what the measurements explain: k(x, x') - a(x) . a(x') [+ b(x) . b(x')]."""

    def __init__(self, kernel: DeepKernel, inputs: torch.Tensor, output: int, scale: Scale) -> None:
        self._kernel, self._scale = kernel, scale
        self._place, self._amplitude = kernel.place(inputs), kernel.amplitude(inputs)
        self._between = kernel.between_outputs[output, output]
        self.learned_noise_variance = scale.spread**2 * float(kernel.noise[output])
        self._parts: list[tuple[float, torch.Tensor]] = []

    def _finish(self, mean: torch.Tensor, output: int) -> None:
        prior = self._between * self._amplitude.square()
        variance = prior.clone()
        for sign, part in self._parts:
            variance.add_(part.square().sum(0), alpha=sign)
        variance = torch.maximum(variance, SMALLEST_VARIANCE * prior)
        square = self._scale.spread**2
        self.mean = self._scale.level + self._scale.spread * (mean + self._kernel.mean[output]).cpu().numpy()
        self.variance, self.prior_variance = square * variance.cpu().numpy(), square * prior.cpu().numpy()

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        device = self._place.device
        left, right = (torch.as_tensor(np.asarray(i, np.int64)).to(device) for i in (rows, columns))
        result = self._kernel.correlation(self._place[left], self._place[right])
        result *= torch.outer(self._amplitude[left], self._amplitude[right]) * self._between
        for sign, part in self._parts:
            result.addmm_(part[:, left].T, part[:, right], alpha=sign)
        return self._scale.spread**2 * result.cpu().numpy()


def cross_covariance(kernel: DeepKernel, rows: Rows, inputs: torch.Tensor, output: int) -> torch.Tensor:
    """Prior covariance (rows, candidates) of measured rows with one output at all inputs; standardised."""
    result = kernel.correlation(kernel.place(rows.inputs), kernel.place(inputs))
    left = kernel.amplitude(rows.inputs) * kernel.between_outputs[rows.outputs, output]
    return result.mul_(left[:, None]).mul_(kernel.amplitude(inputs)[None, :])


def signal_covariance(kernel: DeepKernel, rows: Rows) -> torch.Tensor:
    """Prior covariance (rows, rows) of the latent values of measured rows; standardised."""
    place, amplitude = kernel.place(rows.inputs), kernel.amplitude(rows.inputs)
    between = kernel.between_outputs[rows.outputs][:, rows.outputs]
    return kernel.correlation(place, place) * torch.outer(amplitude, amplitude) * between


class ExactPosterior(_Gaussian):
    """Rasmussen and Williams (2006), algorithm 2.1, equations 2.25 and 2.26.

    Parameters
    ----------
    kernel : trained. rows : every measurement. inputs : (candidates, inputs). output : which one is predicted.
    scale : of that output.
    """

    def __init__(self, kernel: DeepKernel, rows: Rows, inputs: torch.Tensor, output: int, scale: Scale) -> None:
        super().__init__(kernel, inputs, output, scale)
        matrix = signal_covariance(kernel, rows)
        noise = rows.noise + kernel.noise[rows.outputs]
        matrix.diagonal().add_(noise)
        factor, self.jitter = robust_cholesky(matrix)
        whitened = torch.linalg.solve_triangular(factor, cross_covariance(kernel, rows, inputs, output), upper=False)
        residual = (rows.values - kernel.mean[rows.outputs])[:, None]
        explained = torch.linalg.solve_triangular(factor, residual, upper=False)[:, 0]
        self._parts = [(-1.0, whitened)]
        self.noise_variance = scale.spread**2 * float(noise[rows.outputs == output].median())
        self._finish(explained @ whitened, output)


class InducingPosterior(_Gaussian):
    """Variational posterior through inducing points: Titsias, AISTATS 2009, equation 6, with a noise of its own a row.

    The points are the measurements that the ones before explain least, which is a pivoted Cholesky factorisation: Burt,
    Rasmussen and van der Wilk, J. Mach. Learn. Res. 21, 131 (2020), section 4.3.

    Parameters
    ----------
    count : inducing points at most; otherwise as `ExactPosterior`.
    """

    def __init__(self, kernel: DeepKernel, rows: Rows, inputs: torch.Tensor, output: int, scale: Scale, count: int) -> None:
        super().__init__(kernel, inputs, output, scale)
        chosen, known = _pivoted_cholesky(kernel, rows, count)
        noise = rows.noise + kernel.noise[rows.outputs]
        scaled = known / noise.sqrt()
        matrix = scaled @ scaled.T
        matrix.diagonal().add_(1.0)
        factor, self.jitter = robust_cholesky(matrix)
        residual = (rows.values - kernel.mean[rows.outputs]) / noise.sqrt()
        weights = torch.linalg.solve_triangular(factor, (scaled @ residual)[:, None], upper=False)[:, 0]
        points = Rows(rows.inputs[chosen], rows.outputs[chosen], rows.values[chosen], rows.noise[chosen])
        lower = torch.tril(known[:, chosen].T)
        seen = torch.linalg.solve_triangular(lower, cross_covariance(kernel, points, inputs, output), upper=False)
        learned = torch.linalg.solve_triangular(factor, seen, upper=False)
        self._parts = [(-1.0, seen), (1.0, learned)]
        self.noise_variance = scale.spread**2 * float(noise[rows.outputs == output].median())
        self._finish(weights @ learned, output)


def _pivoted_cholesky(kernel: DeepKernel, rows: Rows, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (points,) of the rows chosen, and the factor (points, rows) of their Nystroem approximation."""
    place, amplitude = kernel.place(rows.inputs), kernel.amplitude(rows.inputs)
    left = kernel.between_outputs.diagonal()[rows.outputs] * amplitude.square()
    floor = 1e-10 * float(left.max())
    factor = torch.zeros(min(count, len(left)), len(left), dtype=left.dtype, device=left.device)
    chosen = []
    for step in range(len(factor)):
        pick = int(left.argmax())
        if float(left[pick]) <= floor:
            break
        like = kernel.correlation(place[pick:pick + 1], place)[0]
        column = like * amplitude * amplitude[pick] * kernel.between_outputs[rows.outputs, rows.outputs[pick]]
        if step:
            column = column - factor[:step, pick] @ factor[:step]
        column = column / left[pick].sqrt()
        factor[step] = column
        left = (left - column.square()).clamp_(min=0.0)
        left[pick] = 0.0
        chosen.append(pick)
    return torch.tensor(chosen, dtype=torch.int64, device=left.device), factor[:len(chosen)]


class EnsemblePosterior(Posterior):
    """Equal mixture of the members: its mean, and its covariance, that between the members' means included.

    Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017, section 2.4.
    """

    def __init__(self, members: list[Posterior]) -> None:
        self._members = members
        means = np.stack([member.mean for member in members])
        self.mean = means.mean(axis=0)
        self._deviations = (means - self.mean) / np.sqrt(len(members))
        self.variance = (np.mean([member.variance for member in members], axis=0) + np.square(self._deviations).sum(axis=0))
        self.prior_variance = np.mean([member.prior_variance for member in members], axis=0)
        self.noise_variance = float(np.mean([member.noise_variance for member in members]))
        self.learned_noise_variance = float(np.mean([member.learned_noise_variance for member in members]))
        self.jitter = max(member.jitter for member in members)

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        within = np.mean([member.covariance(rows, columns) for member in self._members], axis=0)
        return within + self._deviations[:, rows].T @ self._deviations[:, columns]


class InflatedPosterior(Posterior):
    """A posterior whose variances are all larger by one factor: what is done about a model that proved overconfident."""

    def __init__(self, posterior: Posterior, factor: float) -> None:
        self._inner, self._factor = posterior, factor
        self.mean, self.variance = posterior.mean, factor * posterior.variance
        self.prior_variance, self.noise_variance = factor * posterior.prior_variance, posterior.noise_variance
        self.learned_noise_variance, self.jitter = posterior.learned_noise_variance, posterior.jitter

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self._factor * self._inner.covariance(rows, columns)
