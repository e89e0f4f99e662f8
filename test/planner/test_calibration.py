"""Coverage, score and regions against closed forms, numerical integrals and Monte Carlo."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from edgetem_nodes.planner.calibration import (
    REGIONS,
    calibrate,
    gaussian_crps,
    interval_coverage,
    otsu_threshold,
    reserved_positions,
    segment,
)


@pytest.mark.parametrize(("mean", "deviation", "value"), [(0.0, 1.0, 0.0), (2.0, 0.5, 3.7), (-1.0, 3.0, -9.0)])
def test_score_is_the_integral_of_the_squared_difference_of_distributions(mean, deviation, value):
    def difference(x):
        return (norm.cdf(x, mean, deviation) - (x >= value)) ** 2
    low, high = mean - 12 * deviation, mean + 12 * deviation
    expected = quad(difference, low, value, limit=200)[0] + quad(difference, value, high, limit=200)[0]
    assert gaussian_crps(np.array([mean]), np.array([deviation]), np.array([value])) == pytest.approx([expected], abs=1e-7)


def test_score_without_deviation_is_the_absolute_error():
    assert gaussian_crps(np.array([1.0, 2.0]), np.zeros(2), np.array([4.0, 2.0])) == pytest.approx([3.0, 0.0])


def test_expected_score_of_the_true_distribution_is_its_minimum():
    # Of N(0, 1) for itself: 1 / sqrt(pi), half the mean distance of two draws.
    values = np.random.default_rng(0).standard_normal(200_000)
    scores = [gaussian_crps(np.zeros_like(values), np.full_like(values, s), values).mean() for s in (0.7, 1.0, 1.4)]
    assert scores[1] == pytest.approx(1 / np.sqrt(np.pi), abs=4e-3)
    assert scores[1] < min(scores[0], scores[2])


def test_coverage_of_too_narrow_an_interval():
    # A deviation stated half as large as it is: the 90 % interval holds 2 Phi(0.5 * 1.6449) - 1.
    values = 2.0 * np.random.default_rng(1).standard_normal(100_000)
    stated = np.ones_like(values)
    expected = 2 * norm.cdf(0.5 * norm.ppf(0.95)) - 1
    assert interval_coverage(np.zeros_like(values), stated, values) == pytest.approx(expected, abs=5e-3)


def test_the_measurement_s_own_noise_counts():
    generator = np.random.default_rng(2)
    latent = 0.3 * generator.standard_normal(50_000)
    errors = generator.uniform(0.1, 2.0, latent.size)
    values = latent + errors * generator.standard_normal(latent.size)
    judged = calibrate(np.zeros_like(latent), np.hypot(0.3, errors), values)
    assert judged["all"].coverage == pytest.approx(0.9, abs=5e-3)
    assert judged["all"].count == 50_000


def test_regions_are_told_apart_and_failures_left_out():
    mean, deviation = np.zeros(6), np.ones(6)
    values = np.array([0.0, 5.0, 0.5, np.nan, 9.0, 0.1])
    judged = calibrate(mean, deviation, values, np.array([0, 0, 1, 1, 2, 2]))
    assert {name: (one.coverage, one.count) for name, one in judged.items()} == {
        "all": (0.6, 5), "field": (0.5, 2), "interface": (1.0, 1), "particle": (0.5, 2)}
    empty = calibrate(mean[:1], deviation[:1], values[:1], np.array([0]))["particle"]
    assert empty.count == 0
    assert np.isnan(empty.coverage)


def test_reserved_positions_are_a_random_tenth():
    chosen = [reserved_positions(1000, 0.1, np.random.default_rng(seed)) for seed in range(300)]
    assert all(one.sum() == 100 for one in chosen)
    # Each position is reserved with probability 0.1: 30 of 300, standard deviation 5.2.
    assert np.abs(np.sum(chosen, axis=0) - 30).max() < 30


def test_threshold_lies_between_two_classes():
    generator = np.random.default_rng(3)
    values = np.concatenate([generator.normal(0, 0.1, 900), generator.normal(4, 0.1, 100)])
    assert 0.5 < otsu_threshold(values) < 3.5
    assert otsu_threshold(np.full(5, 7.0)) == 7.0


def test_threshold_maximises_the_variance_between_classes():
    values = np.random.default_rng(4).gamma(2.0, size=4000)
    threshold = otsu_threshold(values)

    def between(level):
        low, high = values[values <= level], values[values > level]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2
    best = max(between(level) for level in np.linspace(values.min(), values.max(), 500)[1:-1])
    assert between(threshold) > 0.995 * best


def test_a_disc_has_an_inside_a_rim_and_an_outside():
    rows, columns = np.mgrid[:60, :60]
    radius = np.hypot(rows - 30, columns - 30)
    names = np.array(REGIONS)[segment(np.where(radius < 15, 1.0, 0.0))]
    assert set(names[radius < 11]) == {"particle"}
    assert set(names[np.abs(radius - 15) < 0.5]) == {"interface"}
    assert set(names[radius > 19]) == {"field"}


def test_what_is_not_known_is_field():
    truth = np.zeros((20, 20))
    truth[5:10, 5:10] = np.nan
    assert (segment(truth) == 0).all()
    assert (segment(np.full((5, 5), np.nan)) == 0).all()
