"""The verdict: how often it errs, by Monte Carlo, what it finds, and what it makes of values that cannot be tested."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from edgetem_nodes.planner.discovery import above, verdict
from edgetem_nodes.planner.parameters import Discovery


@given(st.lists(st.tuples(st.floats(-6, 6), st.floats(0.01, 3)), min_size=1, max_size=30), st.floats(0.5, 0.999))
def test_what_is_above_is_what_holm_s_procedure_rejects(pairs, confidence):
    values, errors = np.array(pairs).T
    chance = norm.sf(values, 0.5, errors)
    # By adjusted chances: the largest over all that are no larger, each times the number of tests from it on.
    adjusted = np.array([max(q * np.sum(chance >= q) for q in chance[chance <= p]) for p in chance])
    clear = np.abs(adjusted - (1 - confidence)) > 1e-9
    np.testing.assert_array_equal(above(values, errors, 0.5, confidence)[clear], (adjusted <= 1 - confidence)[clear])


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_where_nothing_is_above_the_level_it_is_said_to_be_so_no_more_often_than_allowed(confidence):
    """All true values at the level exactly, the hardest case; standard errors of every size."""
    generator, runs, count = np.random.default_rng(0), 4000, 60
    errors = generator.uniform(0.1, 5.0, (runs, count))
    values = 2.0 + errors * generator.standard_normal((runs, count))
    wrong = np.mean([above(v, e, 2.0, confidence).any() for v, e in zip(values, errors, strict=True)])
    allowed = 1 - confidence
    assert wrong <= allowed + 3 * np.sqrt(allowed / runs)
    assert wrong >= 0.7 * allowed  # nor is it more cautious than it says


def test_among_true_discoveries_a_wrong_one_is_as_rare():
    generator, runs = np.random.default_rng(1), 4000
    truth = np.r_[np.full(10, 9.0), np.zeros(50)]
    called = np.array([above(truth + generator.standard_normal(60), np.ones(60), 0.0, 0.95) for _ in range(runs)])
    assert called[:, 10:].any(axis=1).mean() <= 0.05 + 3 * np.sqrt(0.05 / runs)
    assert called[:, :10].mean() > 0.99


def test_power_is_that_of_a_single_test_at_the_corrected_level():
    """One position of 200 is four and a half standard errors above."""
    generator, runs = np.random.default_rng(2), 3000
    truth = np.r_[4.5, np.full(199, -3.0)]
    found = np.mean([above(truth + generator.standard_normal(200), np.ones(200), 0.0, 0.95)[0] for _ in range(runs)])
    expected = norm.sf(norm.isf(0.05 / 200) - 4.5)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / runs))


def test_values_without_a_standard_error_are_never_above():
    values = np.array([1e9, 1e9, 1e9, 1e9, 8.0])
    errors = np.array([np.nan, 0.0, -1.0, np.inf, 1.0])
    np.testing.assert_array_equal(above(values, errors, 0.0, 0.95), [False, False, False, False, True])
    np.testing.assert_array_equal(above(np.array([2.0, -2.0]), np.full(2, 1e-320), 0.0, 0.95), [True, False])


def test_the_verdict_says_what_was_asked_for_and_what_was_found():
    errors = np.full(4, 0.5)
    test = Discovery(level=10.0, confidence=0.99, positions=2)
    found = verdict(test, np.arange(4), np.array([30.0, 3.0, 20.0, 1.0]), errors)
    assert found == ("discovery: 2 of 4 measured positions are above 10 with 0.99 confidence for all together, 2 asked for; "
                     "the largest is 30 +- 0.5")
    assert verdict(test, np.arange(4), np.array([30.0, 3.0, 10.5, 1.0]), errors).startswith("no discovery: 1 of 4 measured positions")
    assert verdict(test, np.zeros(0, int), np.zeros(0), np.zeros(0)) == "no discovery: nothing was measured"
    assert verdict(Discovery(), np.zeros(1, int), np.array([30.0]), np.ones(1)) == ""


def test_a_position_that_was_read_twice_is_one_position():
    test = Discovery(level=10.0, confidence=0.95, positions=2)
    found = verdict(test, np.array([7, 7]), np.array([30.0, 31.0]), np.array([1.0, 1.0]))
    assert found.startswith("no discovery: 1 of 1 measured positions"), found
    assert "30.5 +- 0.71" in found  # the mean of two equal readings, its error smaller by the root of two
