"""How many more positions the budgets allow with one setting: settings differ in what a position costs. Knows no ROS."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.planner.actions import ActionSpace
from edgetem_nodes.planner.observations import Observations
from edgetem_nodes.planner.stopping import Budget, Spent, affordable


def affordable_with(budget: Budget, spent: Spent, rows: Observations, actions: ActionSpace, setting: int) -> int:
    """Positions that every budget still pays for if all are measured with a setting; a large number without a limit.

    Dose scales with dwell time and current; what came on top of it (reference images), and the time that a position took
    beside its dwell time, is charged to each position as it was so far. Before anything is measured costs are not known, and
    only what is spent already counts.
    """
    unlimited = Budget(budget.points)
    count = affordable(unlimited if spent.points else budget, spent)[0]
    if spent.points:
        doses = np.array([actions.relative_dose(int(each)) for each in rows.settings])
        dwells = np.array([actions.settings[int(each)].dwell_time for each in rows.settings])
        acquired = float(rows.doses.sum())
        beside = (spent.dose - spent.survey_dose - acquired) / spent.points
        dose = actions.relative_dose(setting) * acquired / float(doses.sum()) + beside
        time = actions.settings[setting].dwell_time + (spent.time - float(dwells.sum())) / spent.points
        for limit, used, each in ((budget.dose, spent.dose, dose), (budget.time, spent.time, time)):
            if limit > 0 and each > 0:
                # The small allowance keeps a budget of exactly n positions from losing the last one to rounding.
                count = min(count, np.floor((limit - used) / each + 1e-9))
            elif limit > 0 and used >= limit:
                count = 0
    return int(min(max(count, 0), 2**31))


def affordable_batch(budget: Budget, spent: Spent, rows: Observations, actions: ActionSpace) -> int:
    """Positions of the next batch that every budget pays for, whichever setting is chosen; at least one.

    A batch is sized before its setting is known, so the costliest setting counts: sized again afterwards, the choice would
    draw random numbers twice, and a decision could not be repeated from its number of positions alone.
    """
    return max(1, min(affordable_with(budget, spent, rows, actions, setting) for setting in range(len(actions))))
