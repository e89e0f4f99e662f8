"""Nucleation and growth against the theory of Avrami, and as an experiment would see it."""

import numpy as np
import pytest

from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.transition import Kinetics, Transition, holder_state, programme

KINETICS = Kinetics(800.0, bias_shift=-50.0, mobility=2e-11, hysteresis=10.0, wake=40.0)
POINTS = np.random.default_rng(1).uniform(0, 1e-6, (2000, 2))


def heated(elapsed, *rows):
    return Condition(elapsed, np.array(rows, float).reshape(-1, 3))


def measured(condition, seeds=range(6)):
    return np.mean([Transition(KINETICS, seed).transformed(POINTS, condition).mean() for seed in seeds])


@pytest.mark.parametrize("elapsed", [3, 6, 10, 15])
def test_a_quench_follows_avrami(elapsed):
    """X = 1 - exp(-pi N v^2 t^2), site-saturated, in two dimensions; sampling error of some thousand grains: 1.5 %."""
    woken = 1 - np.exp(-(40 / 40) ** 2)
    speed = 2e-11 * (50 - 10)
    theory = 1 - np.exp(-np.pi * KINETICS.nucleus_density * woken * (speed * elapsed) ** 2)
    assert measured(heated(elapsed, (0, 850, 0))) == pytest.approx(theory, abs=0.015)


def test_a_ramp_follows_avrami_with_nuclei_that_wake_one_after_the_other():
    """X = 1 - exp(-pi N integral of radius(threshold)^2 over the thresholds), the integral done by Monte Carlo."""
    rate, rows = 4.0, [(t, 800 + 4.0 * t, 0) for t in np.arange(0, 20, 0.25)]
    thresholds = 10 + 40 * np.random.default_rng(2).weibull(2.0, 200_000)
    for elapsed in (10, 14, 18):
        final = rate * elapsed
        awake = thresholds < final
        # speed = mobility (rate t - hysteresis) from the time the overdrive passes the threshold
        radius = np.where(awake, 2e-11 / (2 * rate) * ((final - 10) ** 2 - (thresholds - 10) ** 2), 0)
        theory = 1 - np.exp(-np.pi * KINETICS.nucleus_density * (radius ** 2).mean())
        assert measured(heated(elapsed, *rows)) == pytest.approx(theory, abs=0.02)


def test_nuclei_are_a_poisson_process_without_end():
    transition = Transition(KINETICS, 3)
    places, thresholds, identity = transition.nuclei(np.array([-2e-6, 5e-6]), np.array([-1e-6, 6e-6]))
    inside = ((places >= [-2e-6, 5e-6]) & (places < [-1e-6, 6e-6])).all(axis=1)
    expected = KINETICS.nucleus_density * 1e-12
    assert inside.sum() == pytest.approx(expected, abs=4 * np.sqrt(expected))
    counts = np.histogram2d(*((places[inside] - [-2e-6, 5e-6]) / 1e-6).T, 20, ((0, 1), (0, 1)))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.3)
    assert len(np.unique(identity)) == len(identity)
    assert (thresholds < 50).mean() == pytest.approx(1 - np.exp(-1), abs=0.05)


def test_the_front_does_not_depend_on_how_the_plane_is_cut():
    transition, condition = Transition(KINETICS, 3), heated(8, (0, 850, 0))
    distance, grain = transition.front(POINTS, condition)
    parts = [transition.front(part, condition) for part in np.split(POINTS[:60], 20)]
    assert np.array_equal(np.concatenate([d for d, _ in parts]), distance[:60])
    assert np.array_equal(np.concatenate([g for _, g in parts]), grain[:60])


def test_distance_is_that_of_the_front():
    """It grows by as much as one walks away, and the front moves at the speed of the kinetics."""
    transition = Transition(KINETICS, 3)
    line = np.column_stack([np.full(4000, 3e-7), np.linspace(0, 1e-6, 4000)])
    first, second = (transition.front(line, heated(t, (0, 850, 0)))[0] for t in (5, 6))
    assert abs(np.diff(first)).max() <= 1.0001 * 1e-6 / 3999
    outside = (first < 0.99 / np.sqrt(KINETICS.nucleus_density)) & (second > -6e-9)
    assert (first - second)[outside] == pytest.approx(2e-11 * 40, rel=1e-6)


def test_cooling_shrinks_the_new_phase_with_hysteresis():
    hot = (0, 850, 0)
    grown = measured(heated(10, hot))
    assert measured(heated(100, hot, (10, 795, 0))) == grown
    assert measured(heated(100, hot, (10, 805, 0))) == grown
    shrunk = measured(heated(14, hot, (10, 760, 0)))
    assert 0 < shrunk < grown
    assert measured(heated(60, hot, (10, 700, 0))) == 0
    # what has vanished must be woken anew: an overdrive that lets a grain grow does not bring one back
    assert measured(heated(200, hot, (10, 700, 0), (60, 811, 0))) < 0.05 < measured(heated(200, hot, (10, 811, 0)))


def test_a_sheet_that_is_all_new_transforms_back_soon():
    kept = heated(1e5, (0, 850, 0))
    assert measured(kept) > 0.999
    assert measured(heated(1e5 + 100, (0, 850, 0), (1e5, 700, 0))) == 0


def test_more_heat_never_undoes_growth():
    radius = np.linspace(10, 90, 9)
    transition = Transition(KINETICS, 0)
    steps = [transition.radii(radius, heated(t, (0, 815, 0), (400, 900, 0))) for t in np.linspace(0, 500, 101)]
    assert (np.diff(steps, axis=0) >= 0).all()


def test_bias_shifts_the_critical_temperature():
    assert measured(heated(10, (0, 780, 0))) == 0
    assert measured(heated(10, (0, 800, 1.0))) == pytest.approx(measured(heated(10, (0, 850, 0))))
    assert measured(heated(10, (0, 850, -1.0))) == 0


def test_nothing_happens_at_room_temperature_or_before_the_programme():
    assert measured(Condition(1e6)) == 0
    assert measured(heated(5, (10, 900, 0))) == 0
    distance, grain = Transition(KINETICS, 1).front(POINTS, Condition(1e6))
    assert (distance > 0).all() and (grain == 0).all()


def test_the_programme_holds_a_row_until_the_next():
    condition = heated(30, (10, 500, 1), (25, 400, 2), (40, 300, 3))
    assert programme(condition) == [(10, 293.15, 0), (15, 500, 1), (5, 400, 2)]
    assert holder_state(condition) == (400, 2)
    assert holder_state(Condition()) == (293.15, 0)


def test_a_soft_front_has_its_width():
    transition, condition = Transition(KINETICS, 3), heated(6, (0, 850, 0))
    distance, _ = transition.front(POINTS, condition)
    soft = transition.transformed(POINTS, condition, 2e-9)
    assert np.interp([-1e-9, 0, 1e-9], np.sort(distance), soft[np.argsort(distance)]) == pytest.approx(
        [0.5 * (1 + np.tanh(1)), 0.5, 0.5 * (1 - np.tanh(1))], abs=0.02)


@pytest.mark.parametrize(("change", "message"), [({"mobility": 0.0}, "mobility 0.0"),
                                                 ({"hysteresis": -1.0}, "hysteresis -1"),
                                                 ({"nucleus_density": -1.0}, "nucleus_density")])
def test_unphysical_kinetics_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Kinetics(**{"critical_temperature": 800.0, **change})


def test_a_programme_that_goes_back_in_time_is_refused():
    with pytest.raises(ValueError, match="back in time"):
        Transition(KINETICS, 0).transformed(POINTS, heated(5, (3, 400, 0), (2, 500, 0)))
