"""Stop rules: each by itself, the tightest of several, and budgets that end on a whole number of positions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetem_nodes.planner.stopping import REASONS, Budget, Spent, affordable, stop_reason

NAN = float("nan")


@pytest.mark.parametrize(("budget", "spent", "deviation", "left", "expected"), [
    (Budget(100), Spent(99), NAN, 9, ""),
    (Budget(100), Spent(100), NAN, 9, "point_budget"),
    (Budget(100, dose=50.0), Spent(10, dose=20.0), NAN, 9, ""),
    (Budget(100, dose=50.0), Spent(10, dose=49.0), NAN, 9, "dose_budget"),
    (Budget(100, dose=50.0), Spent(0, dose=50.0, survey_dose=50.0), NAN, 9, "dose_budget"),
    (Budget(100, time=1.0), Spent(10, time=0.95), NAN, 9, "time_budget"),
    (Budget(100, time=1.0), Spent(10, time=0.5), NAN, 9, ""),
    (Budget(100, target_standard_deviation=0.1), Spent(10), 0.1, 9, "uncertainty_target"),
    (Budget(100, target_standard_deviation=0.1), Spent(10), 0.11, 9, ""),
    (Budget(100, target_standard_deviation=0.1), Spent(10), NAN, 9, ""),
    (Budget(100), Spent(10), 0.0, 9, ""),
    (Budget(100), Spent(10), NAN, 0, "field_exhausted"),
])
def test_reason(budget, spent, deviation, left, expected):
    assert stop_reason(budget, spent, deviation, left) == expected
    assert not expected or expected in REASONS


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
