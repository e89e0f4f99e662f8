"""When an experiment ends, and how many more positions its budgets allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

POINT_BUDGET = "point_budget"
DOSE_BUDGET = "dose_budget"
TIME_BUDGET = "time_budget"
UNCERTAINTY_TARGET = "uncertainty_target"
FIELD_EXHAUSTED = "field_exhausted"
OPERATOR = "operator"

REASONS = {
    POINT_BUDGET: "the point budget is spent",
    DOSE_BUDGET: "the dose budget allows no further position",
    TIME_BUDGET: "the time budget allows no further position",
    UNCERTAINTY_TARGET: "the map's standard deviation is below the target at every position",
    FIELD_EXHAUSTED: "every position is measured, failed or forbidden",
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


def stop_reason(budget: Budget, spent: Spent, largest_standard_deviation: float, left: int) -> str:
    """Why the experiment ends now; empty while it goes on.

    Parameters
    ----------
    largest_standard_deviation : over the whole field [scalar]; NaN without a model.
    left : positions that could still be asked for.
    """
    if budget.target_standard_deviation > 0 and largest_standard_deviation <= budget.target_standard_deviation:
        return UNCERTAINTY_TARGET
    count, reason = affordable(budget, spent)
    if count < 1:
        return reason
    return "" if left else FIELD_EXHAUSTED
