"""Baselines that experiments are compared with: their order, their stopping, and what they are allowed."""

import numpy as np
import pytest
from measured_maps import particles

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.plain_deep_kernel import PlainDeepKernel
from edgetem_nodes.planner.simulation import low_discrepancy_order, simulate, smoothed, top_positions

PARAMETERS = Parameters(point_budget=60, initial_points=20, batch_points=10, acquisition_function="expected_improvement")


def made(strategy, maps, parameters=PARAMETERS, seed=0, **options):
    survey, values, errors = maps
    return simulate(survey, values, errors, ScanField((0.0, 0.0), (1e-9, 1e-9), values.shape), parameters, seed, strategy,
                    **options)


@pytest.mark.parametrize("shape", [(32, 32), (50, 40), (7, 3)])
def test_the_grid_takes_every_position_once(shape):
    order = low_discrepancy_order(shape, np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(shape[0] * shape[1]))


@pytest.mark.parametrize("count", [64, 150, 400])
def test_the_grid_lies_more_evenly_than_random_positions(count):
    """Variance of the number of points in blocks of 8 x 8: for random ones that of a hypergeometric distribution."""
    def variance(order):
        taken = np.zeros(64 * 64)
        taken[order[:count]] = 1
        return taken.reshape(8, 8, 8, 8).sum(axis=(1, 3)).var()
    grids = [variance(low_discrepancy_order((64, 64), np.random.default_rng(seed))) for seed in range(10)]
    share = 1 / 64
    random = count * share * (1 - share) * (4096 - count) / 4095
    assert np.mean(grids) < 0.35 * random


@pytest.mark.parametrize("strategy", ["configured", "random", "low_discrepancy", "brightness", "plain_deep_kernel"])
def test_no_strategy_measures_what_is_forbidden_or_twice(strategy):
    maps = particles()
    allowed = np.random.default_rng(5).random(maps[1].shape) < 0.5
    candidates = made(strategy, maps, allowed=allowed).candidates
    assert len(candidates) == 60 == len(np.unique(candidates))
    assert allowed.ravel()[candidates].all()


def test_a_run_ends_when_it_is_told_to():
    run = made("low_discrepancy", particles(), until=lambda measured: len(measured) >= 30)
    assert len(run.candidates) == 30


def test_without_learning_nothing_is_predicted():
    run = made("random", particles(), learn=False)
    assert np.isnan(run.mean).all()
    assert run.learning_curve == []


def test_plain_deep_kernel_chooses_one_by_one_after_the_same_initial_scan():
    maps = particles()
    plain, own = made("plain_deep_kernel", maps), made("configured", maps)
    assert np.array_equal(plain.candidates[:20], own.candidates[:20])
    top = top_positions(smoothed(maps[1], 1.0))
    random = made("random", maps).candidates
    assert np.isin(top, plain.candidates).sum() > np.isin(top, random).sum()


def test_plain_deep_kernel_is_the_gaussian_process_of_its_own_kernel():
    """Conditioning in textbook form: K* (K + s^2 I)^-1 y, Rasmussen and Williams (2006), equations 2.23 and 2.24."""
    survey, values, errors = particles()
    model = PlainDeepKernel(survey, 5, True, 0)
    candidates, valid = np.arange(0, 1024, 37), np.ones(28, bool)
    told = values.ravel()[candidates]
    model.tell(candidates[:27], told[:27], errors.ravel()[candidates[:27]], valid[:27])
    model.predict()
    # The last one comes after the training: the process takes it in, network and scale stay.
    model.tell(candidates[27:], told[27:], errors.ravel()[candidates[27:]], valid[27:])
    mean, deviation = model.predict()
    level, spread = told[:27].mean(), told[:27].std()
    inputs = model._embedded.numpy() / model._lengths.numpy()
    covariance = float(model._scale) * np.exp(-0.5 * np.square(inputs[:, None] - inputs[None]).sum(axis=-1))
    gain = covariance[:, candidates] @ np.linalg.inv(covariance[np.ix_(candidates, candidates)]
                                                     + float(model._noise) * np.eye(len(candidates)))
    expected = level + gain @ (told - level)
    variance = spread**2 * (covariance.diagonal() - (gain * covariance[:, candidates]).sum(axis=1))
    assert mean.ravel() == pytest.approx(expected, abs=1e-6 * spread)
    assert np.square(deviation.ravel()) == pytest.approx(variance, abs=1e-6 * spread**2)


def test_smoothing_keeps_a_constant_and_ignores_failures():
    values = np.full((12, 9), 3.0)
    values[4, 4] = np.nan
    result = smoothed(values, 1.0)
    assert np.isnan(result[4, 4])
    assert result[np.isfinite(values)] == pytest.approx(3.0)
