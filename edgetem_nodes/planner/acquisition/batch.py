"""Batches of positions, chosen one by one, each as if those before it had been measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.planner.acquisition import functions as f
from edgetem_nodes.planner.acquisition.functions import Goal
from edgetem_nodes.planner.parameters import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetem_nodes.planner.surrogates.posterior import Posterior

REFERENCES = 600
"""Largest number of grid points over which `integrated_posterior_variance` averages."""
SCREENED = 16384
"""Largest number of candidates that it is worked out for; of a larger field, so many spread evenly."""


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
    merit: float = 0.0
    """Sum over the batch of the values that its functions are proportional to, penalties and costs counted."""


@dataclass(frozen=True)
class Penalties:
    """What is taken off the merit of candidates.

    Attributes
    ----------
    log_weight : (candidates,) added to every merit: recency and the like; zeros by default.
    log_cost : given the candidate that was chosen last (None: none yet), (candidates,) logarithm of the cost of each.
    """

    log_weight: np.ndarray | float = 0.0
    log_cost: Callable[[int | None], np.ndarray | float] = field(default=lambda last: 0.0)


class BatchChooser:
    """Chooses positions one by one, each as if those before it had been measured and had come out as predicted.

    The "kriging believer" of Ginsbourger, Le Riche and Carraro (2010), Kriging is well-suited to parallelize optimization,
    section 2.3: a believed measurement leaves the mean as it is and shrinks the covariance, which rank-one updates give
    exactly. Thompson sampling draws a function of its own, from what is left, for every position.

    Parameters
    ----------
    posterior : over all candidates.
    allowed : (candidates,) bool, what may be chosen.
    goal : what is sought.
    generator : source of randomness.
    noise : variance of a measurement over that of the posterior's measurements: a longer dwell time is below 1.
    weigh_noise : whether values count for less where a measurement would leave much unknown: to compare settings.
    surprise : (candidates,) expected surprise, for `curiosity`.
    penalties : recency, travel, cost.
    ranges : lowest and highest value of functions that may be negative, by name, the same for all settings that are
        compared; of these candidates alone by default.
    sought : whose mean variance `integrated_posterior_variance` lowers, where that is not the candidates' own: covariance
        (rows, columns) of candidates' readings and of what is sought, one a candidate, both by index.
    """

    def __init__(self, posterior: Posterior, allowed: np.ndarray, goal: Goal, generator: np.random.Generator,
                 noise: float = 1.0, weigh_noise: bool = False, surprise: np.ndarray | None = None,
                 penalties: Penalties | None = None, ranges: dict[str, tuple[float, float]] | None = None,
                 sought: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None) -> None:
        self._posterior, self._allowed, self._goal = posterior, allowed.copy(), goal
        self._generator, self._surprise, self._penalties = generator, surprise, penalties or Penalties()
        self._noise, self._weigh_noise = noise * posterior.noise_variance, weigh_noise
        self._ranges = ranges or common_ranges([(posterior, allowed)], goal)
        self._variance = posterior.variance.copy()
        self._floor = 1e-12 * posterior.prior_variance
        self._sought = sought
        self._updates: list[np.ndarray] = []
        self._picks: list[int] = []
        self._sizes: list[float] = []
        self._of_references: list[np.ndarray] = []
        self._all = np.arange(len(self._variance))
        self._references: np.ndarray | None = None
        self._screened: np.ndarray | None = None
        self._covariance: np.ndarray | None = None

    def choose(self, functions: list[str]) -> Batch:
        """One position by each of the named functions, in turn; fewer where the allowed candidates run out.

        Raises
        ------
        ValueError : an unknown function, or nothing is allowed.
        """
        if not self._allowed.any():
            raise ValueError("no candidate is left to choose from: every position is measured, failed or forbidden")
        candidates, values, acquisition, total = [], [], None, 0.0
        for function in functions[:int(self._allowed.sum())]:
            merit, value = self._score(function)
            if acquisition is None:
                acquisition = np.where(self._allowed, value, np.nan)
            last = candidates[-1] if candidates else None
            merit = merit + self._penalties.log_weight - self._penalties.log_cost(last)
            # What is not finite is never the largest; among equals the first is taken.
            merit = np.where(self._allowed, np.nan_to_num(merit, nan=-1e300, posinf=1e300, neginf=-1e300), -np.inf)
            pick = int(np.argmax(merit))
            candidates.append(pick)
            values.append(float(value[pick]))
            total += float(np.exp(min(merit[pick], 700.0)))
            self._believe(pick)
        return Batch(np.array(candidates, np.int64), np.array(values), tuple(functions[:len(candidates)]), acquisition, total)

    def _score(self, function: str) -> tuple[np.ndarray, np.ndarray]:
        """Merit and value of an acquisition function at every candidate."""
        if function not in FUNCTIONS:
            raise ValueError(f"unknown acquisition function {function!r}: take one of {', '.join(FUNCTIONS)}")
        deviation = np.sqrt(self._variance)
        merit, value = getattr(self, f"_{function}")(self._posterior.mean, deviation)
        if self._weigh_noise and function != "integrated_posterior_variance":
            merit = merit + f.log_positive(f.augmentation(deviation, self._noise))
        return merit, value

    def _expected_improvement(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = f.log_expected_improvement(mean, deviation, self._goal.best)
        return score, np.exp(score)

    def _probability_of_improvement(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = f.log_probability_of_improvement(mean, deviation, self._goal.best)
        return score, np.exp(score)

    def _top_set(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of belonging to the top set: the batch that holds most of it on average is the one of the largest.

        Garnett et al., ICML 2012 (active search), the one-step policy.
        """
        score = f.log_probability_of_improvement(mean, deviation, self._goal.top_level)
        return score, np.exp(score)

    def _upper_confidence_bound(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = f.upper_confidence_bound(mean, deviation, self._goal.beta)
        return f.log_above_least(value, self._ranges["upper_confidence_bound"]), value

    def _level_set(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = f.straddle(mean, deviation, self._goal.level)
        return f.log_above_least(value, self._ranges["level_set"]), value

    def _maximum_variance(self, _: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = deviation**2
        return f.log_positive(value), value

    def _random(self, _: np.ndarray, __: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = self._generator.random(len(self._variance))
        return f.log_positive(value), value

    def _curiosity(self, _: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected surprise times what is not known: a place that was measured surprises no more."""
        surprise = np.ones_like(deviation) if self._surprise is None else self._surprise
        value = surprise * deviation
        return f.log_positive(value), value

    def _thompson_sampling(self, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A draw from the posterior at the likeliest candidates: Thompson, Biometrika 25, 285 (1933).

        The rest, whose upper confidence bounds are lowest, would hardly ever win; they keep their bound's order below.
        """
        bound = np.where(self._allowed, mean + 3.0 * deviation, -np.inf)
        kept = np.sort(np.argsort(-bound, kind="stable")[:min(REFERENCES, int(self._allowed.sum()))])
        covariance = self._posterior.covariance(kept, kept)
        for update in self._updates:
            covariance -= update[kept, None] * update[None, kept]
        values, vectors = np.linalg.eigh(covariance)
        draw = mean[kept] + vectors @ (np.sqrt(np.maximum(values, 0.0)) * self._generator.standard_normal(len(kept)))
        value = np.minimum(mean, float(draw.min()))
        value[kept] = draw
        return f.log_above_least(value, self._ranges["thompson_sampling"]), value

    def _integrated_posterior_variance(self, _: np.ndarray, __: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fall of the field's mean variance if a candidate were measured [scalar squared].

        Cohn, Ghahramani and Jordan, J. Artif. Intell. Res. 4, 129 (1996), section 3 (ALC).
        """
        if self._covariance is None:
            self._references = spread_evenly(len(self._all), REFERENCES)
            free = np.flatnonzero(self._allowed)
            self._screened = free[spread_evenly(len(free), SCREENED)]
            self._covariance = (self._sought or self._posterior.covariance)(self._screened, self._references)
            for update, pick in zip(self._updates, self._picks, strict=True):
                self._learn_of_references(update, pick)
        gain = np.einsum("ij,ij->i", self._covariance, self._covariance) / len(self._references)
        value = np.zeros(len(self._all))
        value[self._screened] = gain / (self._variance[self._screened] + self._noise)
        return f.log_positive(value), value

    def _learn_of_references(self, update: np.ndarray, pick: int) -> None:
        """Take from the covariance with the references what a believed measurement tells of it."""
        told = update[self._references]
        if self._sought is not None:
            number = len(self._of_references)
            told = self._sought(np.array([pick]), self._references)[0]
            for earlier, known in zip(self._updates[:number], self._of_references, strict=True):
                told = told - earlier[pick] * known
            told = told / self._sizes[number]
            self._of_references.append(told)
        self._covariance -= update[self._screened, None] * told[None]

    def _believe(self, pick: int) -> None:
        column = self._posterior.covariance(self._all, np.array([pick]))[:, 0]
        for update in self._updates:
            column = column - update * update[pick]
        self._sizes.append(float(np.sqrt(max(column[pick], self._floor[pick]) + self._noise)))
        update = column / self._sizes[-1]
        self._updates.append(update)
        self._picks.append(pick)
        if self._covariance is not None:
            self._learn_of_references(update, pick)
        self._variance = np.maximum(self._variance - update**2, self._floor)
        self._allowed[pick] = False


def spread_evenly(count: int, most: int) -> np.ndarray:
    """Indices (at most `most`,) into `count` things in a row, spread evenly; all where there are no more.

    Steps by the golden ratio (a Kronecker sequence) keep to no row or column of a grid.
    """
    if count <= most:
        return np.arange(count)
    return np.unique((np.arange(most) * 0.6180339887498949 % 1.0 * count).astype(np.int64))


def common_ranges(posteriors: list[tuple[Posterior, np.ndarray]], goal: Goal) -> dict[str, tuple[float, float]]:
    """Lowest and highest value, before anything is chosen, of functions that may be negative, by name.

    Parameters
    ----------
    posteriors : for each setting, the posterior and (candidates,) bool, what may be chosen.
    """
    found: dict[str, list[float]] = {name: [] for name in ("upper_confidence_bound", "level_set", "thompson_sampling")}
    for posterior, free in posteriors:
        if free.any():
            mean, deviation = posterior.mean[free], np.sqrt(posterior.variance[free])
            for name, value in (("upper_confidence_bound", f.upper_confidence_bound(mean, deviation, goal.beta)),
                                ("level_set", f.straddle(mean, deviation, goal.level)),
                                ("thompson_sampling", np.concatenate([mean - 4.0 * deviation, mean + 4.0 * deviation]))):
                finite = value[np.isfinite(value)]
                found[name] += [float(finite.min()), float(finite.max())] if len(finite) else []
    return {name: (min(values, default=0.0), max(values, default=0.0)) for name, values in found.items()}


def batch_functions(function: str, count: int, exploration: str, exploration_fraction: float) -> list[str]:
    """Which function chooses each of `count` positions: a share by `exploration`, spread evenly, the rest by `function`."""
    share = np.floor(exploration_fraction * np.arange(count + 1) + 0.5).astype(int)
    return [exploration if step else function for step in np.diff(share)]
