"""Stop rules: each by itself, any or all of them, the tightest budget, and budgets that end on a whole number of positions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetem_nodes.planner.stopping import REASONS, Budget, Evidence, Spent, affordable, stop_reason, targets_met

NONE = Evidence()


def deviation(value):
    return Evidence(largest_standard_deviation=value)


@pytest.mark.parametrize(("budget", "spent", "evidence", "left", "expected"), [
    (Budget(100), Spent(99), NONE, 9, ""),
    (Budget(100), Spent(100), NONE, 9, "point_budget"),
    (Budget(100, dose=50.0), Spent(10, dose=20.0), NONE, 9, ""),
    (Budget(100, dose=50.0), Spent(10, dose=49.0), NONE, 9, "dose_budget"),
    (Budget(100, dose=50.0), Spent(0, dose=50.0, survey_dose=50.0), NONE, 9, "dose_budget"),
    (Budget(100, time=1.0), Spent(10, time=0.95), NONE, 9, "time_budget"),
    (Budget(100, time=1.0), Spent(10, time=0.5), NONE, 9, ""),
    (Budget(100, target_standard_deviation=0.1), Spent(10), deviation(0.1), 9, "uncertainty_target"),
    (Budget(100, target_standard_deviation=0.1), Spent(10), deviation(0.11), 9, ""),
    (Budget(100, target_standard_deviation=0.1), Spent(10), NONE, 9, ""),
    (Budget(100), Spent(10), deviation(0.0), 9, ""),
    (Budget(100, predictability=0.8), Spent(10), Evidence(predictability=0.8), 9, "predictability_target"),
    (Budget(100, predictability=0.8), Spent(10), Evidence(predictability=0.79), 9, ""),
    (Budget(100, predictability=0.8), Spent(10), NONE, 9, ""),
    (Budget(100), Spent(10), Evidence(predictability=1.0), 9, ""),
    (Budget(100, convergence=0.1), Spent(10), Evidence(changes=(0.5, 0.1, 0.05, 0.1)), 9, "convergence"),
    (Budget(100, convergence=0.1), Spent(10), Evidence(changes=(0.1, 0.1, 0.11)), 9, ""),
    (Budget(100, convergence=0.1), Spent(10), Evidence(changes=(0.1, 0.1)), 9, ""),
    (Budget(100, convergence=0.1, convergence_batches=1), Spent(10), Evidence(changes=(0.9, 0.1)), 9, "convergence"),
    (Budget(100, convergence=0.1), Spent(10), Evidence(changes=(math.inf, 0.0, 0.0)), 9, ""),
    (Budget(100), Spent(10), Evidence(changes=(0.0, 0.0, 0.0)), 9, ""),
    (Budget(100), Spent(10), NONE, 0, "field_exhausted"),
    (Budget(100), Spent(100), NONE, 0, "point_budget"),
    (Budget(100, target_standard_deviation=0.1), Spent(100), deviation(0.05), 9, "uncertainty_target"),
])
def test_reason(budget, spent, evidence, left, expected):
    assert stop_reason(budget, spent, evidence, left) == expected
    assert not expected or expected in REASONS


MET = Evidence(0.05, 0.95, (0.01, 0.01, 0.01))
TARGETS = {"target_standard_deviation": 0.1, "predictability": 0.9, "convergence": 0.02}
MISSED = {"target_standard_deviation": Evidence(0.2, 0.95, MET.changes), "predictability": Evidence(0.05, 0.5, MET.changes),
          "convergence": Evidence(0.05, 0.95, (0.01, 0.5, 0.01))}


@given(st.sets(st.sampled_from(list(TARGETS)), min_size=1), st.sampled_from(["", *TARGETS]))
def test_any_of_the_targets_ends_it_or_all_of_them_together(chosen, missed):
    """Targets that are not set count neither way."""
    evidence = MISSED.get(missed, MET)
    values = {name: TARGETS[name] for name in chosen}
    met = chosen - {missed}
    any_, all_ = targets_met(Budget(100, **values), evidence), targets_met(Budget(100, **values, all_targets=True), evidence)
    assert bool(any_) == bool(met)
    assert bool(all_) == (met == chosen)
    assert all_ == ("all_targets" if len(chosen) > 1 and met == chosen else any_ if met == chosen else "")


def test_budgets_end_it_also_where_all_targets_are_asked_for():
    budget = Budget(100, all_targets=True, **TARGETS)
    assert stop_reason(budget, Spent(100), MISSED["convergence"], 9) == "point_budget"


def test_the_tightest_budget_counts_and_the_survey_is_no_position():
    budget = Budget(100, dose=100.0, time=10.0)
    assert affordable(budget, Spent(10, dose=30.0, time=1.0, survey_dose=20.0)) == (70, "dose_budget")
    assert affordable(budget, Spent(10, dose=21.0, time=2.0, survey_dose=20.0)) == (40, "time_budget")
    assert affordable(budget, Spent(60, dose=21.0, time=1.0, survey_dose=20.0)) == (40, "point_budget")
    assert affordable(Budget(0), Spent(10))[0] == math.inf


@given(st.integers(1, 500), st.integers(1, 500), st.floats(1e-6, 1e12))
def test_a_budget_of_exactly_n_positions_lets_n_be_measured(total, done, each):
    done = min(done, total)
    spent = Spent(done, dose=3.0 * each + done * each, survey_dose=3.0 * each)
    assert affordable(Budget(10_000, dose=3.0 * each + total * each), spent)[0] == total - done
