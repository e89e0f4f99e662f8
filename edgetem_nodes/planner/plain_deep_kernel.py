"""Deep kernel learning as the field practises it, to be compared with: nothing of the planner's own model is in it.

A network maps survey patches to a plane, a Gaussian process with a squared exponential kernel works on the plane alone,
and both are trained by the marginal likelihood without priors (Wilson et al., AISTATS 2016; in microscopy Liu et al.,
Nat. Mach. Intell. 4, 341, 2022, and Roccapriore et al., Adv. Sci. 9, 2203422, 2022). One position is chosen at a time.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from edgetem_nodes.planner.acquisition.functions import log_expected_improvement
from edgetem_nodes.planner.patches import patches

HIDDEN = 32
EMBEDDING = 2
TRAINING_STEPS = 100
LEARNING_RATE = 0.02
RETRAIN = 0.1
"""Growth of the number of measurements between two trainings; the Gaussian process takes every one in at once."""
_SMALLEST_NOISE = 1e-3
"""Of the variance of the measured values; keeps every matrix positive definite."""


class PlainDeepKernel:
    """Chooses by expected improvement over the best value measured, or by the largest variance.

    Parameters
    ----------
    survey : (channels, rows, columns) [counts]. patch_size : edge of the patch [pixel], odd.
    extremes : expected improvement; else maximum variance.
    seed : of the network's weights.
    """

    def __init__(self, survey: np.ndarray, patch_size: int, extremes: bool, seed: int) -> None:
        flat = patches(np.asarray(survey, np.float64), patch_size)
        spread = flat.std()
        self._inputs = torch.tensor((flat - flat.mean()) / (spread if spread > 0 else 1.0))
        self._extremes, self._seed, self._shape = extremes, seed, survey.shape[1:]
        self._measured, self._values = np.zeros(0, np.int64), np.zeros(0)
        self._trained = self._taken = 0
        self._embedded = torch.zeros((len(flat), EMBEDDING), dtype=torch.float64)
        self._lengths, self._scale, self._noise = torch.ones(EMBEDDING, dtype=torch.float64), 1.0, 0.1

    def tell(self, candidates: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray) -> None:
        """Add measurements (n,) at flat grid indices (n,); the standard errors are not used: the noise is learned."""
        finite = valid & np.isfinite(values)
        self._measured = np.concatenate([self._measured, candidates[finite]])
        self._values = np.concatenate([self._values, values[finite]])

    def choose(self, free: np.ndarray) -> int:
        """The next position among `free` (candidates,) bool: the best by acquisition."""
        mean, deviation = self.predict()
        mean, deviation = mean.ravel(), deviation.ravel()
        score = log_expected_improvement(mean, deviation, self._values.max()) if self._extremes else deviation
        return int(np.argmax(np.where(free, score, -np.inf)))

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [scalar], two (rows, columns) arrays."""
        if len(self._values) >= math.ceil((1 + RETRAIN) * self._trained) or not self._trained:
            self._train()
        with torch.no_grad():
            while self._taken < len(self._values):
                self._take(int(self._measured[self._taken]), float(self._values[self._taken]))
        deviation = self._variance.clamp_min(1e-9).sqrt()
        return ((self._level + self._spread * self._mean.numpy()).reshape(self._shape),
                (self._spread * deviation.numpy()).reshape(self._shape))

    def predict_measurement(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a further measurement [scalar], two (rows, columns) arrays."""
        mean, deviation = self.predict()
        return mean, np.sqrt(np.square(deviation) + float(self._noise) * self._spread**2)

    def _take(self, candidate: int, value: float) -> None:
        """Condition on one more measurement: one more row of the whitened covariance (chained conditioning)."""
        # What is known of the candidate is in the rows so far: its covariance with everything else, and its variance.
        known = self._whitened[:self._taken]
        row = (self._kernel(self._embedded[candidate:candidate + 1], self._embedded)[0] - known[:, candidate] @ known)
        scale = (row[candidate] + self._noise).sqrt()
        row = row / scale
        surprise = ((value - self._level) / self._spread - self._mean[candidate]) / scale
        self._mean, self._variance = self._mean + row * surprise, self._variance - row.square()
        if self._taken == len(self._whitened):
            self._whitened = torch.cat([self._whitened, torch.zeros_like(self._whitened)])
        self._whitened[self._taken] = row
        self._taken += 1

    def _kernel(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        left, right = left / self._lengths, right / self._lengths
        squared = left.square().sum(1)[:, None] + right.square().sum(1)[None, :] - 2 * left @ right.T
        return self._scale * torch.exp(-0.5 * squared.clamp_min(0.0))

    def _train(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(self._seed)
        double = {"dtype": torch.float64}
        network = torch.nn.Sequential(torch.nn.Linear(self._inputs.shape[1], HIDDEN, **double), torch.nn.Tanh(),
                                      torch.nn.Linear(HIDDEN, HIDDEN, **double), torch.nn.Tanh(),
                                      torch.nn.Linear(HIDDEN, EMBEDDING, **double))
        logs = torch.nn.Parameter(torch.tensor([0.0] * EMBEDDING + [0.0, np.log(0.1)], **double))
        optimizer = torch.optim.Adam([*network.parameters(), logs], lr=LEARNING_RATE)
        self._level, spread = float(self._values.mean()), float(self._values.std())
        self._spread = spread if spread > 0 else 1.0
        inputs = self._inputs[torch.as_tensor(self._measured)]
        targets = torch.as_tensor((self._values - self._level) / self._spread)
        identity = torch.eye(len(targets), **double)
        for _ in range(TRAINING_STEPS):
            optimizer.zero_grad()
            self._hyperparameters(logs)
            embedded = network(inputs)
            factor = torch.linalg.cholesky(self._kernel(embedded, embedded) + self._noise * identity)
            white = torch.linalg.solve_triangular(factor, targets[:, None], upper=False)
            loss = (0.5 * white.square().sum() + factor.diagonal().log().sum()) / len(targets)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            self._hyperparameters(logs.detach())
            self._embedded = network(self._inputs)
            self._mean = torch.zeros(len(self._inputs), **double)
            self._variance = self._scale * torch.ones(len(self._inputs), **double)
        self._whitened = torch.zeros((2 * len(targets), len(self._inputs)), **double)
        self._trained, self._taken = len(self._values), 0

    def _hyperparameters(self, logs: torch.Tensor) -> None:
        values = logs.clamp(-7.0, 5.0).exp()
        self._lengths, self._scale, self._noise = values[:EMBEDDING], values[EMBEDDING], values[EMBEDDING + 1] + _SMALLEST_NOISE
