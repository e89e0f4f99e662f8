"""When an experiment ends, and how many more positions its budgets allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

POINT_BUDGET = "point_budget"
DOSE_BUDGET = "dose_budget"
TIME_BUDGET = "time_budget"
UNCERTAINTY_TARGET = "uncertainty_target"
PREDICTABILITY_TARGET = "predictability_target"
CONVERGENCE = "convergence"
ALL_TARGETS = "all_targets"
FIELD_EXHAUSTED = "field_exhausted"
OPERATOR = "operator"

TARGETS = (UNCERTAINTY_TARGET, PREDICTABILITY_TARGET, CONVERGENCE, ALL_TARGETS)
"""Reasons that say the experiment has reached what it was for."""

REASONS = {
    POINT_BUDGET: "the point budget is spent",
    DOSE_BUDGET: "the dose budget allows no further position",
    TIME_BUDGET: "the time budget allows no further position",
    UNCERTAINTY_TARGET: "the map's standard deviation is below the target at every position",
    PREDICTABILITY_TARGET: "what is measured next is predicted as well as was required",
    CONVERGENCE: "the map changes no more with further measurements",
    ALL_TARGETS: "every target that was set is met at once",
    FIELD_EXHAUSTED: "every position is measured, failed, forbidden, reserved or at its dose limit",
    OPERATOR: "the operator stopped the experiment",
}
"""What each stop reason means, for people."""


@dataclass(frozen=True)
class Budget:
    """Limits of an experiment; 0 means none."""

    points: int
    """Positions visited, initial ones and failures counted."""
    dose: float = 0.0
    """[electrons], survey counted."""
    time: float = 0.0
    """[s] of acquisition time."""
    target_standard_deviation: float = 0.0
    """[scalar], to be met at every position of the field."""
    predictability: float = 0.0
    """Prequential R² to be reached."""
    convergence: float = 0.0
    """Change of the map from batch to batch, over its standard deviation, to be undercut `convergence_batches` times."""
    convergence_batches: int = 3
    all_targets: bool = False
    """Whether all targets together end the experiment, not any of them."""


@dataclass(frozen=True)
class Evidence:
    """What targets are compared with; NaN where not known.

    Attributes
    ----------
    largest_standard_deviation : of the map, over the whole field [scalar].
    predictability : prequential R². changes : (batches,) of the map, over its standard deviation, the latest last.
    """

    largest_standard_deviation: float = math.nan
    predictability: float = math.nan
    changes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What an experiment has cost so far."""

    points: int = 0
    """Positions visited."""
    dose: float = 0.0
    """[electrons], survey counted."""
    time: float = 0.0
    """[s] of acquisition time."""
    survey_dose: float = 0.0
    """[electrons] of it that the survey cost."""


def affordable(budget: Budget, spent: Spent) -> tuple[float, str]:
    """How many more positions every budget allows, at the cost a position has had so far, and the tightest budget's reason.

    Before anything is measured the cost of a position is not known: dose and time then count only once they are spent.
    """
    limits = [(float(budget.points - spent.points) if budget.points else math.inf, POINT_BUDGET)]
    for limit, used, base, reason in ((budget.dose, spent.dose, spent.survey_dose, DOSE_BUDGET),
                                      (budget.time, spent.time, 0.0, TIME_BUDGET)):
        if limit > 0:
            each = (used - base) / spent.points if spent.points else 0.0
            left = limit - used
            # The small allowance keeps a budget of exactly n positions from losing the last one to rounding.
            count = math.floor(left / each + 1e-9) if each > 0 else math.inf if left > 0 else 0.0
            limits.append((count, reason))
    return min(limits, key=lambda entry: entry[0])


def targets_met(budget: Budget, evidence: Evidence) -> str:
    """The target that ends the experiment; empty where none does. Targets that are not set count neither way."""
    changes = evidence.changes[-budget.convergence_batches:]
    met = {}
    if budget.target_standard_deviation > 0:
        met[UNCERTAINTY_TARGET] = evidence.largest_standard_deviation <= budget.target_standard_deviation
    if budget.predictability > 0:
        met[PREDICTABILITY_TARGET] = evidence.predictability >= budget.predictability
    if budget.convergence > 0:
        met[CONVERGENCE] = len(changes) == budget.convergence_batches and max(changes) <= budget.convergence
    if budget.all_targets and len(met) > 1:
        return ALL_TARGETS if all(met.values()) else ""
    return next((reason for reason, is_met in met.items() if is_met), "")


def stop_reason(budget: Budget, spent: Spent, evidence: Evidence, left: int) -> str:
    """Why the experiment ends now; empty while it goes on.

    Parameters
    ----------
    left : positions that could still be asked for.
    """
    reason = targets_met(budget, evidence)
    if reason:
        return reason
    count, reason = affordable(budget, spent)
    if count < 1:
        return reason
    return "" if left else FIELD_EXHAUSTED
