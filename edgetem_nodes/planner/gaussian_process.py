"""Exact Gaussian-process posterior over all candidates, in numpy: never stopped by a matrix that is not positive definite.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), Algorithm 2.1 and equations 4.9 and 4.17.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""Fractions of the largest diagonal entry that are added, in turn, until the matrix factorises."""


@dataclass(frozen=True)
class Kernel:
    """A stationary covariance: variance * form(distance), distance between inputs divided by the length scales."""

    form: str
    """"matern" (nu = 5/2) or "rbf"."""
    variance: float
    length_scales: np.ndarray
    """(inputs,)"""

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Covariance (left, right) of inputs (left, inputs) and (right, inputs)."""
        squared = np.zeros((len(left), len(right)))
        for axis, length in enumerate(self.length_scales):
            squared += np.square((left[:, axis, None] - right[None, :, axis]) / length)
        if self.form == "rbf":
            return self.variance * np.exp(-0.5 * squared)
        scaled = np.sqrt(5.0 * squared)
        return self.variance * (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)


def robust_cholesky(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Lower Cholesky factor, and the jitter that had to be added to the diagonal (absolute; 0 mostly).

    Raises
    ------
    ValueError : the matrix is not finite, or not positive definite even with 1 % of its largest diagonal entry added.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("the covariance matrix has entries that are not finite: a measured value or a standard error "
                         "overflows; check the scalarizer")
    largest = float(matrix.diagonal().max())
    for jitter in JITTERS:
        try:
            return np.linalg.cholesky(matrix + jitter * largest * np.eye(len(matrix))), jitter * largest
        except np.linalg.LinAlgError:
            continue
    raise ValueError(f"the covariance matrix of {len(matrix)} measurements is not positive definite, even with "
                     f"{JITTERS[-1]:.0%} of its largest entry added to the diagonal")


class Posterior:
    """Gaussian-process posterior of the latent scalar at every candidate, in units of the scalar.

    Parameters
    ----------
    inputs : (candidates, inputs) the kernel's inputs at every candidate.
    kernel : prior covariance, in units of the scalar squared.
    prior_mean : constant [scalar].
    measured : (measurements,) candidate index of each measurement; repeats are allowed.
    values : (measurements,) [scalar].
    noise_variances : (measurements,) [scalar squared], counting statistics and learned noise together.
    """

    def __init__(self, inputs: np.ndarray, kernel: Kernel, prior_mean: float, measured: np.ndarray, values: np.ndarray,
                 noise_variances: np.ndarray) -> None:
        self.kernel, self.inputs = kernel, inputs
        self.noise_variance = float(np.median(noise_variances))
        at = inputs[measured]
        self._factor, self.jitter = robust_cholesky(kernel(at, at) + np.diag(noise_variances))
        cross = kernel(at, inputs)
        weights = cho_solve((self._factor, True), values - prior_mean)
        self._whitened = solve_triangular(self._factor, cross, lower=True)
        self.mean = prior_mean + weights @ cross
        self.variance = np.maximum(kernel.variance - np.square(self._whitened).sum(axis=0), 1e-12 * kernel.variance)
        self.log_likelihood = float(-0.5 * (values - prior_mean) @ weights - np.log(self._factor.diagonal()).sum()
                                    - 0.5 * len(values) * np.log(2 * np.pi))

    @property
    def standard_deviation(self) -> np.ndarray:
        """(candidates,) [scalar] of the latent scalar, measurement noise not included."""
        return np.sqrt(self.variance)

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Posterior covariance (rows, columns) [scalar squared] between candidates given by index."""
        return (self.kernel(self.inputs[rows], self.inputs[columns])
                - self._whitened[:, rows].T @ self._whitened[:, columns])
