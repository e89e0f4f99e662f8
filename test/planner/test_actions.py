"""What is free besides the position: settings, their costs, short tours, and which setting a batch is given."""

import dataclasses
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_maps import particles

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import choosing
from edgetem_nodes.planner.actions import ActionSpace, short_tour
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.parameters import FUNCTIONS, Actions, Model, Parameters

SURVEY, TRUTH, _ = particles(side=24)
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), TRUTH.shape)
MODEL = Model(training_steps=10)


def test_settings_are_all_combinations_in_si_units():
    space = ActionSpace(Actions(dwell_ms=[1.0, 4.0], probe_current_pA=[50.0], defocus_nm=[-10.0, 0.0, 30.0],
                                camera_length_mm=[150.0, 300.0], alpha_mrad=[5.0]))
    assert len(space) == len(set(map(str, space.settings))) == 12
    assert {s.dwell_time for s in space.settings} == {1e-3, 4e-3}
    assert {s.optics["defocus"] for s in space.settings} == {-10.0 * 1e-9, 0.0, 30.0 * 1e-9}
    assert {s.optics["camera_length"] for s in space.settings} == {0.15, 0.3}
    assert {(s.optics["probe_current"], s.stage["alpha"]) for s in space.settings} == {(50e-12, 5e-3)}
    assert len(ActionSpace(Actions())) == 1
    assert str(ActionSpace(Actions()).settings[0]) == "as configured"


def test_dose_is_dwell_times_current_and_neither_is_a_feature():
    space = ActionSpace(Actions(dwell_ms=[1.0, 4.0], probe_current_pA=[50.0, 25.0], defocus_nm=[0.0, 20.0, 80.0]))
    for index, setting in enumerate(space.settings):
        dose = setting.dwell_time * setting.optics["probe_current"] / (1e-3 * 50e-12)
        assert space.relative_dose(index) == pytest.approx(dose)
        assert space.features[index] == pytest.approx([setting.optics["defocus"] / 80e-9])
        same = [s.optics["defocus"] == setting.optics["defocus"] for s in space.settings]
        np.testing.assert_array_equal(space.alike(index), same)


def test_time_of_changes_visits_and_travel():
    space = ActionSpace(Actions(dwell_ms=[1.0, 4.0], defocus_nm=[0.0, 20.0], camera_length_mm=[150.0, 300.0],
                                alpha_mrad=[0.0, 5.0], optics_change_s=0.5, camera_length_change_s=2.0, stage_change_s=10.0,
                                settling_ms=0.25, travel_ms_per_um=3.0))
    names = [(s.dwell_time, s.optics["defocus"], s.optics["camera_length"], s.stage["alpha"]) for s in space.settings]
    first = names.index((1e-3, 0.0, 0.15, 0.0))
    for index, (dwell, defocus, length, alpha) in enumerate(names):
        expected = 0.5 * (defocus != 0.0) + 2.0 * (length != 0.15) + 10.0 * (alpha != 0.0)
        assert space.change_time(first, index) == space.change_time(index, first) == expected
        assert space.visit_time(index) == pytest.approx(dwell + 0.25e-3)
    with pytest.raises(ValueError, match="actions.dwell_ms is empty"):
        ActionSpace(Actions(cost="time"))
    assert space.travel_time(np.array([0.0, 2e-6])) == pytest.approx([0.0, 6e-3])


def test_too_many_settings_and_repeated_values_are_refused():
    with pytest.raises(ValueError, match=r"combine to 100 settings, at most 64 are possible: free fewer quantities"):
        ActionSpace(Actions(defocus_nm=[float(i) for i in range(10)], alpha_mrad=[float(i) for i in range(10)]))
    with pytest.raises(ValueError, match=r"actions.dwell_ms = \[1.0, 1.0\] repeats a value"):
        ActionSpace(Actions(dwell_ms=[1.0, 1.0]))


def length(positions, start):
    return np.hypot(*np.diff(np.vstack([start, positions]), axis=0).T).sum()


def nearest_neighbour(positions, start):
    left, path, here = list(map(tuple, positions)), [], tuple(start)
    while left:
        left.sort(key=lambda p: math.dist(p, here))
        path.append(here := left.pop(0))
    return np.array(path)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25, unique=True),
       st.tuples(st.integers(0, 30), st.integers(0, 30)))
@settings(deadline=None)
def test_a_tour_visits_all_once_and_is_no_longer_than_always_going_to_the_nearest(points, start):
    points, start = np.array(points, float) * 1e-9, np.array(start, float) * 1e-9
    order = short_tour(points, start)
    assert sorted(order) == list(range(len(points)))
    # Ties between equally near positions may be broken in another way: some slack for those.
    distances = {round(math.dist(p, q) * 1e9, 6) for p, q in permutations(map(tuple, [*points, start]), 2)}
    unambiguous = len(distances) == len(points) * (len(points) + 1) // 2
    slack = 1e-15 if unambiguous else 1.0 * length(points, start)
    assert length(points[order], start) <= length(nearest_neighbour(points, start), start) + slack


def test_a_tour_of_random_points_has_no_crossing_left_and_is_near_the_best():
    generator = np.random.default_rng(0)
    ratios, gains = [], []
    for _ in range(20):
        points, start = generator.random((7, 2)), generator.random(2)
        mine = length(points[short_tour(points, start)], start)
        best = min(length(points[list(order)], start) for order in permutations(range(7)))
        ratios.append(mine / best)
        many = generator.random((60, 2))
        gains.append(length(many[short_tour(many, start)], start) / length(nearest_neighbour(many, start), start))
    assert min(ratios) >= 1 - 1e-12
    assert np.mean(ratios) < 1.12
    assert max(gains) <= 1 + 1e-12
    assert np.mean(gains) < 0.95


# ---- the choice of a setting ----------------------------------------------------------------------------------


def begun(actions, error, seed=0, told=((0, 40),), **changes):
    """An experiment with rows of each of the settings told, whose errors fall with the dose."""
    changes = {"acquisition_function": "maximum_variance", "batch_points": 10, **changes}
    experiment = ActiveExperiment(SURVEY, FIELD, Parameters(point_budget=500, initial_points=40, model=MODEL, actions=actions,
                                                            **changes), seed)
    order, generator = np.random.default_rng(seed).permutation(TRUTH.size), np.random.default_rng(seed + 1)
    for setting, count in told:
        now, order = order[:count], order[count:]
        errors = np.full(count, error / np.sqrt(experiment.actions.relative_dose(setting)))
        experiment.tell(now, TRUTH.ravel()[now] + errors * generator.normal(size=count), errors, setting=setting)
    return experiment


@pytest.mark.parametrize("function", ["maximum_variance", "integrated_posterior_variance", "expected_improvement"])
def test_noise_calls_for_the_longest_dwell_where_it_costs_nothing_and_for_the_shortest_where_it_is_no_noise(function):
    dwells = [1.0, 3.0, 10.0]
    noisy = begun(Actions(dwell_ms=dwells, cost="none"), 2.0, acquisition_function=function).ask()
    assert noisy.setting.dwell_time == pytest.approx(10e-3)
    assert noisy.setting_index == 2
    assert "dwell time 10 ms" in noisy.reason
    clean = begun(Actions(dwell_ms=dwells, cost="dose"), 0.02, acquisition_function=function).ask()
    assert clean.setting.dwell_time == pytest.approx(1e-3)
    slow = begun(Actions(dwell_ms=dwells, cost="time"), 0.02, acquisition_function=function).ask()
    assert slow.setting.dwell_time == pytest.approx(1e-3)


def test_settling_time_makes_longer_dwells_worth_it():
    """At a settling time of a second, ten milliseconds more are nothing: noise decides."""
    actions = Actions(dwell_ms=[1.0, 10.0], cost="time")
    short = begun(actions, 0.3).ask()
    settled = begun(dataclasses.replace(actions, settling_ms=1000.0), 0.3).ask()
    assert (short.setting.dwell_time, settled.setting.dwell_time) == (pytest.approx(1e-3), pytest.approx(10e-3))


@pytest.mark.parametrize("told", [((0, 40),), ((0, 40), (1, 20)), ((1, 40), (0, 20))])
def test_the_noise_of_a_setting_is_that_of_its_own_measurements_whichever_were_made_last(told, monkeypatch):
    seen = {}

    class Chooser(choosing.BatchChooser):
        def __init__(self, posterior, allowed, goal, generator, noise, *rest):
            # The rest is what the model could not explain, which no dwell time removes.
            seen[len(seen)] = noise * posterior.noise_variance - posterior.learned_noise_variance
            super().__init__(posterior, allowed, goal, generator, noise, *rest)
    monkeypatch.setattr(choosing, "BatchChooser", Chooser)
    begun(Actions(dwell_ms=[1.0, 10.0]), 2.0, told=told).ask()
    assert seen == {0: pytest.approx(2.0**2), 1: pytest.approx(2.0**2 / 10)}


def test_where_no_standard_error_is_known_all_noise_falls_with_the_dose(monkeypatch):
    noises = []

    class Chooser(choosing.BatchChooser):
        def __init__(self, posterior, allowed, goal, generator, noise, *rest):
            noises.append(noise)
            super().__init__(posterior, allowed, goal, generator, noise, *rest)
    monkeypatch.setattr(choosing, "BatchChooser", Chooser)
    experiment = begun(Actions(dwell_ms=[1.0, 10.0]), 0.5, told=())
    now = np.arange(0, TRUTH.size, 12)
    experiment.tell(now, TRUTH.ravel()[now], np.full(len(now), np.nan))
    experiment.ask()
    assert noises == [1.0, 0.1]


def test_at_equal_value_nearer_positions_come_first():
    """Curiosity aside: at a cost in time the batch of a plain field stays near where the probe is."""
    reach = {}
    for cost in ("none", "time"):
        actions = Actions(dwell_ms=[1.0], cost=cost, travel_ms_per_um=1e6)
        experiment = begun(actions, 0.1, acquisition_function="random", exploration="random")
        last = FIELD.positions(experiment.observations.candidates[-1:])[0]
        reach[cost] = np.mean([length(experiment.ask(10).positions, last) for _ in range(4)])
    assert reach["time"] < 0.7 * reach["none"]


def test_the_batch_is_ordered_into_a_short_tour_where_travel_takes_time():
    experiment = begun(Actions(travel_ms_per_um=1.0), 0.1)
    last = FIELD.positions(experiment.observations.candidates[-1:])[0]
    proposal = experiment.ask()
    plain = begun(Actions(), 0.1).ask()
    assert set(proposal.candidates) == set(plain.candidates)
    values = [dict(zip(each.candidates, each.values, strict=True)) for each in (proposal, plain)]
    assert values[0] == values[1]
    assert length(proposal.positions, last) <= length(nearest_neighbour(plain.positions, last), last) + 1e-15
    np.testing.assert_array_equal(proposal.predicted, experiment.predict()[0].ravel()[proposal.candidates])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_batch_has_one_setting_which_is_told_with_it(function):
    actions = Actions(dwell_ms=[1.0, 3.0], defocus_nm=[0.0, 50.0], cost="time")
    experiment = begun(actions, 0.5, acquisition_function=function)
    for _ in range(2):
        proposal = experiment.ask(4)
        assert proposal.setting == experiment.actions.settings[proposal.setting_index]
        assert len(proposal.candidates) == 4
        experiment.tell(proposal.candidates, TRUTH.ravel()[proposal.candidates], np.full(4, 0.5),
                        setting=proposal.setting_index)
    np.testing.assert_array_equal(experiment.observations.settings[-4:], proposal.setting_index)


def test_a_position_is_measured_again_with_other_optics_but_not_with_another_dwell():
    experiment = begun(Actions(dwell_ms=[1.0, 10.0], defocus_nm=[0.0, 50.0]), 0.5)
    measured = experiment.measured
    names = [(s.dwell_time, s.optics["defocus"]) for s in experiment.actions.settings]
    for setting, (_, defocus) in enumerate(names):
        assert experiment.available(setting)[measured].all() == (defocus != 0.0)
        assert experiment.available(setting)[measured].any() == (defocus != 0.0)


def test_a_change_that_takes_long_is_made_only_where_it_pays():
    """Both settings know as little; the column takes an hour to change."""
    actions = Actions(dwell_ms=[1.0], defocus_nm=[0.0, 50.0], cost="time", optics_change_s=3600.0)
    assert begun(actions, 0.1, told=((0, 40), (1, 40), (0, 1))).ask().setting_index == 0
    assert begun(actions, 0.1, told=((0, 40), (1, 40))).ask().setting_index == 1
    free = dataclasses.replace(actions, optics_change_s=0.0)
    assert begun(free, 0.1, told=((0, 80), (1, 8))).ask().setting_index == 1  # where less is known


def test_another_setting_is_another_map():
    experiment = begun(Actions(defocus_nm=[0.0, 50.0]), 0.1, told=())
    order = np.random.default_rng(0).permutation(TRUTH.size)
    for setting, sign in ((0, 1.0), (1, -1.0)):
        now = order[setting * 80:(setting + 1) * 80]
        experiment.tell(now, sign * TRUTH.ravel()[now], np.full(80, 0.1), setting=setting)
    maps = [experiment.predict(setting=setting)[0] for setting in (0, 1)]
    assert np.corrcoef(maps[0].ravel(), TRUTH.ravel())[0, 1] > 0.7
    assert np.corrcoef(maps[1].ravel(), TRUTH.ravel())[0, 1] < -0.7


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ExperimentError, match="setting 2 is not one of the experiment's 2"):
        begun(Actions(dwell_ms=[1.0, 2.0]), 0.1).tell([3], [1.0], [1.0], setting=2)
