"""The choice of a batch: which setting, which positions, at which penalties and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.acquisition import BatchChooser, Goal, batch_functions
from edgetem_nodes.planner.acquisition.batch import Batch, Penalties, common_ranges
from edgetem_nodes.planner.acquisition.functions import curiosity
from edgetem_nodes.planner.actions import ActionSpace
from edgetem_nodes.planner.belief import Belief, trapped
from edgetem_nodes.planner.observations import Observations
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.surrogates.posterior import Posterior

if TYPE_CHECKING:
    from edgetem_nodes.planner.seen_map import NextReadings

SEEKERS = ("expected_improvement", "probability_of_improvement", "top_set", "upper_confidence_bound", "thompson_sampling")
"""Functions that look for large values; the others map."""


@dataclass(frozen=True)
class Choice:
    """A batch and why it was chosen."""

    batch: Batch
    setting: int
    posterior: Posterior
    reason: str
    watchdogs: tuple[str, ...]


@dataclass(frozen=True)
class Situation:
    """All that a choice depends on besides the belief.

    Attributes
    ----------
    parameters, actions, field : of the experiment. observations : rows told so far.
    allowed : (candidates,) bool, where measurements count. free : for every setting, (candidates,) bool.
    present : setting of the last batch. visit_region : name of the region that is to be looked at; empty: none.
    coordinates : (candidates, 2) position in units of the field's longer side.
    readings : of an averaged map, what readings will be and tell of it; None: readings are of the map itself.
    """

    parameters: Parameters
    actions: ActionSpace
    field: ScanField
    observations: Observations
    allowed: np.ndarray
    free: list[np.ndarray]
    present: int
    visit_region: str
    coordinates: np.ndarray
    readings: NextReadings | None = None


def choose(belief: Belief, situation: Situation, count: int, generator: np.random.Generator) -> Choice:
    """The batch of largest value for its cost, over all settings."""
    p = situation.parameters
    reference = belief.posterior()
    goal, sought = _goal(p, reference.mean, situation)
    functions = batch_functions(p.acquisition_function, count, p.exploration, p.exploration_fraction)
    seeks = p.acquisition_function in SEEKERS
    caught = trapped(situation.observations, situation.coordinates, situation.free[situation.present],
                     goal.top_level if seeks else None, max(2 * p.batch_points, 12))
    watchdogs, reach = belief.watchdogs, f" without reaching {goal.top_level:.4g}" if seeks else ""
    weight = _recency(situation)
    if len(caught):
        functions = batch_functions(p.acquisition_function, count, p.exploration, max(0.5, p.exploration_fraction))
        weight = weight + _away_from(caught, situation.coordinates)
        watchdogs += (f"trapped: the latest measurements all lie around one place{reach}; this batch keeps away from it, "
                      "and half of it explores",)
    relative = np.array([situation.actions.relative_dose(setting) for setting in range(len(situation.actions))])
    typical = float(np.median(1.0 / relative[situation.observations.only_valid().settings]))
    ranges = common_ranges([(belief.posterior(number), free) for number, free in enumerate(situation.free)], goal)
    choices = []
    for setting, free in enumerate(situation.free):
        if not free.any():
            continue
        posterior = situation.readings or belief.posterior(setting)
        chooser = BatchChooser(posterior, free, goal, generator, _noise(posterior, relative[setting] * typical),
                               len(situation.free) > 1, _surprise(p, belief, situation),
                               Penalties(weight, _costs(situation, setting)), ranges,
                               situation.readings.with_discs if situation.readings else None)
        choices.append((chooser.choose(functions), setting, belief.posterior(setting)))
    batch, setting, posterior = max(choices, key=lambda entry: entry[0].merit)
    return Choice(batch, setting, posterior, _reason(batch, situation, sought, setting), watchdogs)


def _noise(posterior: Posterior, dose: float) -> float:
    """Variance of a measurement at `dose` times the dose of those made, by median, over theirs.

    Counting statistics fall with the dose. What no standard error explains does not, unless no standard error is known.
    """
    counted = 1.0 - posterior.learned_noise_variance / posterior.noise_variance
    return 1.0 / dose if counted <= 0.0 else 1.0 - counted + counted / dose


def _goal(p: Parameters, mean: np.ndarray, situation: Situation) -> tuple[Goal, str]:
    """Levels that acquisition functions refer to, and what the one in use is, for people."""
    fraction = p.target_fraction
    top = float(np.quantile(mean[situation.allowed], 1.0 - (fraction or 0.02)))
    if fraction > 0:
        # A set of positions is sought, not the one best: improvement counts from the level that the set exceeds.
        best, what = top, f"level of the highest {fraction:.3g} of the field {top:.6g}"
    else:
        # Plug-in incumbent for noisy values: the best prediction at a measured position, not the luckiest reading.
        # Picheny, Wagner and Ginsbourger, Struct. Multidiscip. Optim. 48, 607 (2013), section 3.1.
        best = float(mean[situation.observations.only_valid().candidates].max())
        what = f"best prediction {best:.6g}"
    if p.acquisition_function == "level_set":
        what = f"level {p.level:.6g}"
    return Goal(best, p.confidence, p.level, top), what


def _recency(situation: Situation) -> np.ndarray:
    """Logarithm of a weight (candidates,) that is small near what was measured lately and recovers batch by batch."""
    p, rows = situation.parameters, situation.observations
    if not p.recency_length or not len(rows):
        return np.zeros(len(situation.coordinates))
    age = rows.batches.max() - rows.batches
    latest = age < p.recency_batches
    weight = np.ones(len(situation.coordinates))
    for candidate, years in zip(rows.candidates[latest], age[latest], strict=True):
        squared = np.square(situation.coordinates - situation.coordinates[candidate]).sum(axis=1)
        share = 1.0 - years / p.recency_batches
        weight = np.minimum(weight, 1.0 - share * np.exp(-0.5 * squared / p.recency_length**2))
    return np.log(np.maximum(weight, 1e-6))


def _away_from(place: np.ndarray, coordinates: np.ndarray, radius: float = 0.15) -> np.ndarray:
    """The same for a batch that is to keep away from one place."""
    squared = np.square(coordinates - place).sum(axis=1)
    return np.log(np.maximum(1.0 - np.exp(-0.5 * squared / radius**2), 1e-6))


def _costs(situation: Situation, setting: int):  # noqa: ANN202  (see Penalties)
    """Logarithm of what a measurement with one setting costs, given the last position."""
    actions, p = situation.actions, situation.parameters
    kind = p.actions.cost
    if kind == "dose":
        return lambda last: np.log(actions.relative_dose(setting))
    if kind == "none":
        return lambda last: 0.0
    positions = situation.field.positions()
    rows = situation.observations.candidates
    share = actions.change_time(situation.present, setting) / max(p.batch_points, 1)
    each = max(actions.visit_time(setting) + share, 1e-9)

    def cost(last: int | None) -> np.ndarray:
        last = int(rows[-1]) if last is None and len(rows) else last
        distance = 0.0 if last is None else np.hypot(*(positions - positions[last]).T)
        return np.log(each + actions.travel_time(distance))
    return cost


def _surprise(p: Parameters, belief: Belief, situation: Situation) -> np.ndarray | None:
    """Expected surprise (candidates,) in standard deviations, where `curiosity` is in use."""
    if "curiosity" not in (p.acquisition_function, p.exploration if p.exploration_fraction else ""):
        return None
    correlations, error = belief.trained.surprise()
    return curiosity(correlations, error)


def _reason(batch: Batch, situation: Situation, sought: str, setting: int) -> str:
    used = list(dict.fromkeys(batch.functions))
    shares = " and ".join(f"{batch.functions.count(name)} by {name}" for name in used)
    reason = f"{shares}, from {len(situation.observations.only_valid())} measurements; {sought}"
    if situation.visit_region:
        reason += f"; inside region {situation.visit_region!r}"
    if len(situation.actions) > 1:
        reason += f"; {situation.actions.settings[setting]}"
    return reason
