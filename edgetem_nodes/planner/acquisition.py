"""Acquisition functions, and batches of positions no two of which are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, ndtr

from edgetem_nodes.planner.gaussian_process import Posterior

FUNCTIONS = ("expected_improvement", "upper_confidence_bound", "maximum_variance", "integrated_variance", "random")
REFERENCES = 512
"""Largest number of grid points over which `integrated_variance` averages."""

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)


def log_expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement over `best`, also where the improvement itself underflows.

    EI = s h(z), h(z) = phi(z) + z Phi(z), z = (mean - best) / s: Jones, Schonlau and Welch, J. Global Optim. 13, 455
    (1998), equation 15. The stable form of log h: Ament et al., NeurIPS 36 (2023), equation 9.

    Parameters
    ----------
    mean, deviation : (candidates,) [scalar], deviation > 0.
    best : the value to improve on [scalar].
    """
    z = (mean - best) / deviation
    near = np.maximum(z, -1.0)
    density = np.exp(-0.5 * near**2 - _LOG_SQRT_2PI)
    ordinary = np.log(density + near * ndtr(near))
    far = np.minimum(z, -1.0)
    # 1 + z Phi/phi loses all digits for z << -1, where its series is 1/z^2 - 3/z^4 + ...
    ratio = 1.0 + far * np.sqrt(0.5 * np.pi) * erfcx(-far / np.sqrt(2.0))
    series = (1.0 - 3.0 / far**2 + 15.0 / far**4) / far**2
    tail = -0.5 * far**2 - _LOG_SQRT_2PI + np.log(np.where(far < -100.0, series, np.maximum(ratio, 1e-300)))
    return np.log(deviation) + np.where(z > -1.0, ordinary, tail)


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Expected improvement over `best` [scalar]; Jones, Schonlau and Welch (1998), equation 15."""
    return np.exp(log_expected_improvement(mean, deviation, best))


def upper_confidence_bound(mean: np.ndarray, deviation: np.ndarray, beta: float) -> np.ndarray:
    """mean + beta * deviation [scalar]; Srinivas et al., ICML 2010, equation 6, beta standing for their sqrt(beta_t)."""
    return mean + beta * deviation


@dataclass(frozen=True)
class Batch:
    """Positions chosen together."""

    candidates: np.ndarray
    """(count,) int64, no two alike, in order of choice."""
    values: np.ndarray
    """(count,) acquisition value of each when it was chosen."""
    functions: tuple[str, ...]
    """(count,) the function that chose each."""
    acquisition: np.ndarray
    """(candidates of the grid,) value of the first position's function before anything was chosen; NaN where not allowed."""


class BatchChooser:
    """Chooses positions one by one, each as if those before it had been measured and had come out as predicted.

    The "kriging believer" of Ginsbourger, Le Riche and Carraro (2010), Kriging is well-suited to parallelize optimization,
    section 2.3: a believed measurement leaves the mean as it is and shrinks the covariance, which rank-one updates give
    exactly.

    Parameters
    ----------
    posterior : over all candidates.
    allowed : (candidates,) bool, what may be chosen.
    best : value to improve on [scalar].
    beta : of the upper confidence bound.
    generator : source of randomness.
    """

    def __init__(self, posterior: Posterior, allowed: np.ndarray, best: float, beta: float,
                 generator: np.random.Generator) -> None:
        self._posterior, self._allowed = posterior, allowed.copy()
        self._variance = posterior.variance.copy()
        self._floor = 1e-12 * float(posterior.kernel.variance)
        self._best, self._beta, self._generator = best, beta, generator
        self._updates: list[np.ndarray] = []
        self._all = np.arange(len(self._variance))
        self._references: np.ndarray | None = None
        self._covariance: np.ndarray | None = None

    def choose(self, functions: list[str]) -> Batch:
        """One position by each of the named functions, in turn; fewer where the allowed candidates run out.

        Raises
        ------
        ValueError : an unknown function, or nothing is allowed.
        """
        if not self._allowed.any():
            raise ValueError("no candidate is left to choose from: every position is measured, failed or forbidden")
        candidates, values, acquisition = [], [], None
        for function in functions[:int(self._allowed.sum())]:
            score, value = self._score(function)
            if acquisition is None:
                acquisition = np.where(self._allowed, value, np.nan)
            pick = int(np.argmax(np.where(self._allowed, score, -np.inf)))
            candidates.append(pick)
            values.append(float(value[pick]))
            self._believe(pick)
        return Batch(np.array(candidates, np.int64), np.array(values), tuple(functions[:len(candidates)]), acquisition)

    def _score(self, function: str) -> tuple[np.ndarray, np.ndarray]:
        """What is maximised, and the acquisition function's value, at every candidate."""
        deviation = np.sqrt(self._variance)
        if function == "expected_improvement":
            score = log_expected_improvement(self._posterior.mean, deviation, self._best)
            return score, np.exp(score)
        if function == "upper_confidence_bound":
            value = upper_confidence_bound(self._posterior.mean, deviation, self._beta)
        elif function == "maximum_variance":
            value = self._variance.copy()
        elif function == "integrated_variance":
            value = self._integrated_variance()
        elif function == "random":
            value = self._generator.random(len(self._variance))
        else:
            raise ValueError(f"unknown acquisition function {function!r}: take one of {', '.join(FUNCTIONS)}")
        return value, value

    def _integrated_variance(self) -> np.ndarray:
        """Fall of the field's mean variance if a candidate were measured [scalar squared].

        Cohn, Ghahramani and Jordan, J. Artif. Intell. Res. 4, 129 (1996), section 3 (ALC).
        """
        if self._covariance is None:
            stride = max(1, -(-len(self._all) // REFERENCES))
            # An even stride would keep to some columns of the grid.
            self._references = self._all[::stride + 1 - stride % 2]
            self._covariance = self._posterior.covariance(self._all, self._references)
            for update in self._updates:
                self._covariance -= update[:, None] * update[None, self._references]
        gain = np.square(self._covariance).mean(axis=1)
        return gain / (self._variance + self._posterior.noise_variance)

    def _believe(self, pick: int) -> None:
        column = self._posterior.covariance(self._all, np.array([pick]))[:, 0]
        for update in self._updates:
            column = column - update * update[pick]
        update = column / np.sqrt(max(column[pick], self._floor) + self._posterior.noise_variance)
        self._updates.append(update)
        if self._covariance is not None:
            self._covariance -= update[:, None] * update[None, self._references]
        self._variance = np.maximum(self._variance - update**2, self._floor)
        self._allowed[pick] = False


def batch_functions(function: str, count: int, exploration: str, exploration_fraction: float) -> list[str]:
    """Which function chooses each of `count` positions: a share by `exploration`, spread evenly, the rest by `function`."""
    share = np.floor(exploration_fraction * np.arange(count + 1) + 0.5).astype(int)
    return [exploration if step else function for step in np.diff(share)]
