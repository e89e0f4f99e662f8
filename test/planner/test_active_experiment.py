"""Ask and tell: one seed one sequence of decisions, restarts at any decision, failures, masks, errors, and what it finds."""

import dataclasses
import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from measured_maps import particles

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.parameters import FUNCTIONS, Discovery, Energetics, Model, Parameters
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.simulation import found_fraction, map_correlation, simulate, top_positions
from edgetem_nodes.planner.stopping import Spent

SURVEY, TRUTH, ERROR = particles(hidden=8.0)
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), TRUTH.shape)
PARAMETERS = Parameters(point_budget=90, initial_points=30, batch_points=15, acquisition_function="expected_improvement",
                        exploration_fraction=0.2, model=Model(training_steps=10))


SMALL = particles(side=16, hidden=8.0)
"""For what every acquisition function must do: a draw of Thompson sampling takes the cube of the field's size."""


def tell(experiment, proposal, valid=None, truth=TRUTH):
    c = proposal.candidates
    experiment.tell(c, truth.ravel()[c], ERROR.ravel()[:len(c)], valid)


def decisions(experiment, count, truth=TRUTH):
    made = []
    for _ in range(count):
        made.append(experiment.ask())
        tell(experiment, made[-1], truth=truth)
    return made


def same(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.tobytes() == right.tobytes(), field.name
        else:
            assert left == right, field.name
    return True


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_seed_gives_one_sequence_of_decisions(function):
    parameters = dataclasses.replace(PARAMETERS, acquisition_function=function)
    survey, truth, _ = SMALL
    field = ScanField((0.0, 0.0), (1e-9, 1e-9), truth.shape)
    runs = [decisions(ActiveExperiment(survey, field, parameters, seed=5), 4, truth) for _ in range(2)]
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    asked = np.concatenate([p.candidates for p in runs[0]])
    assert len(set(asked)) == len(asked) == 30 + 3 * 15
    other = ActiveExperiment(survey, field, parameters, seed=6).ask()
    assert not np.array_equal(other.candidates, runs[0][0].candidates)


def test_another_process_decides_the_same():
    made = decisions(ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=5), 3)
    mine = hashlib.sha256(b"".join(p.candidates.tobytes() + p.values.tobytes() + p.model.encode() for p in made)).hexdigest()
    script = ("import sys; sys.path[:0] = sys.argv[1:]\n"
              "from edgetem_nodes.graph.environment import prepare; prepare()\n"
              "import hashlib, test_active_experiment as t\n"
              "made = t.decisions(t.ActiveExperiment(t.SURVEY, t.FIELD, t.PARAMETERS, seed=5), 3)\n"
              "print(hashlib.sha256(b''.join(p.candidates.tobytes() + p.values.tobytes() + p.model.encode() "
              "for p in made)).hexdigest())")
    paths = [p for p in sys.path if p]
    output = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True, timeout=120)
    assert output.stdout.split()[-1] == mine


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_a_restart_from_any_checkpoint_makes_the_same_decisions(stop_at):
    whole = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2)
    first = decisions(whole, stop_at)
    file = io.BytesIO()
    np.savez(file, **whole.state_dict())
    rest = decisions(whole, 4 - stop_at)
    file.seek(0)
    restarted = ActiveExperiment.load_state(dict(np.load(file, allow_pickle=False)))
    assert len(first) == stop_at
    assert all(same(a, b) for a, b in zip(rest, decisions(restarted, 4 - stop_at), strict=True))
    assert whole.input_hash() == restarted.input_hash()
    assert [m.tobytes() for m in whole.predict()] == [m.tobytes() for m in restarted.predict()]


def test_looking_at_the_map_changes_no_decision():
    curious, plain = (ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2) for _ in range(2))
    for _ in range(3):
        if curious.points:
            curious.predict()
            curious.model_description()
            curious.most_telling()
            curious.stop_reason(Spent(curious.points))
        a, b = curious.ask(), plain.ask()
        assert same(a, b)
        tell(curious, a)
        tell(plain, b)


def test_what_was_not_asked_for_changes_no_decision():
    """Only rows that were told count: the same rows from an altered map give the same decisions."""
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2)
    asked = np.concatenate([p.candidates for p in decisions(experiment, 4)])
    altered = np.random.default_rng(0).normal(size=TRUTH.size) * 1e6
    altered[asked] = TRUTH.ravel()[asked]
    run = simulate(SURVEY, altered.reshape(TRUTH.shape), ERROR, FIELD, dataclasses.replace(PARAMETERS, point_budget=75), 2)
    np.testing.assert_array_equal(run.candidates, asked)


def test_the_input_hash_names_exactly_what_was_told():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    experiment.tell([3, 40], [1.5, 7.0], [0.1, 0.2], [True, False])
    digest = hashlib.sha256(np.array(SURVEY.shape, "<u8").tobytes())
    positions = np.array([[0, 3 * 1e-9], [1e-9, 8 * 1e-9]])
    for array in (SURVEY, positions, np.zeros(2), np.array([1.5, np.nan]), np.array([0.1, np.nan])):
        digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    assert experiment.input_hash() == digest.digest()
    assert experiment.input_rows == 2
    other = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    other.tell([3, 40], [np.nextafter(1.5, 2), 7.0], [0.1, 0.2], [True, False])
    assert other.input_hash() != experiment.input_hash()


def test_a_failed_position_is_asked_again_so_often_and_never_more():
    parameters = dataclasses.replace(PARAMETERS, failure_retries=2, initial_points=12, point_budget=500)
    allowed = np.zeros(TRUTH.shape, bool)
    allowed[:4, :5] = True
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0, allowed=allowed)
    bad, asked = {0, 1, 32}, []
    while not experiment.stop_reason(Spent(experiment.points)):
        proposal = experiment.ask()
        asked += list(proposal.candidates)
        tell(experiment, proposal, [c not in bad for c in proposal.candidates])
    counts = {c: asked.count(c) for c in set(asked)}
    assert set(counts) == set(np.flatnonzero(allowed))
    assert all(count == (3 if c in bad else 1) for c, count in counts.items())
    assert experiment.stop_reason(Spent(experiment.points)) == "field_exhausted"
    with pytest.raises(ExperimentError, match="no position is left"):
        experiment.ask()


def test_values_that_are_not_finite_are_failures():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    experiment.tell([1, 2, 3], [1.0, np.nan, np.inf], [0.1, 0.1, 0.1])
    np.testing.assert_array_equal(experiment.measured, [1])
    assert experiment.best_value == 1.0


def test_without_one_valid_measurement_it_says_so():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    tell(experiment, experiment.ask(), np.zeros(30, bool))
    with pytest.raises(ExperimentError, match="none of the 30 measurements so far is valid"):
        experiment.ask()


def test_the_last_batch_keeps_to_the_point_budget():
    parameters = dataclasses.replace(PARAMETERS, point_budget=37)
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    sizes = []
    while not experiment.stop_reason(Spent(experiment.points)):
        sizes.append(len(decisions(experiment, 1)[0].candidates))
    assert sizes == [30, 7]


def test_an_uncertainty_target_holds_over_the_whole_field():
    parameters = dataclasses.replace(PARAMETERS, acquisition_function="maximum_variance", point_budget=1000,
                                     target_standard_deviation=0.8)
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    while not (reason := experiment.stop_reason(Spent(experiment.points))):
        decisions(experiment, 1)
    assert reason == "uncertainty_target"
    assert experiment.predict()[1].max() <= 0.8
    assert experiment.points < 1000


def test_the_most_telling_positions_are_measured_large_and_apart():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    decisions(experiment, 4)
    chosen = experiment.most_telling(separation=0.2)
    assert set(chosen) <= set(experiment.measured)
    mean = experiment.predict()[0].ravel()
    assert mean[chosen[0]] == mean[experiment.measured].max()
    assert (np.diff(mean[chosen]) <= 0).all()
    positions = FIELD.positions(chosen)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2) + np.eye(len(chosen))
    assert distances.min() >= 0.2 * 31e-9 - 1e-15


def test_expected_improvement_finds_a_hidden_extreme_that_random_sampling_misses():
    found = {s: [] for s in ("configured", "random", "brightness")}
    for seed in range(5):
        for strategy, shares in found.items():
            run = simulate(SURVEY, TRUTH, ERROR, FIELD, PARAMETERS, seed, strategy)
            assert len(set(run.candidates)) == 90
            shares.append(found_fraction(run.candidates, TRUTH))
    assert np.median(found["configured"]) >= 0.7
    assert min(found["configured"]) > max(found["random"] + found["brightness"]) + 0.3


def test_integrated_posterior_variance_maps_better_than_random_sampling():
    parameters = dataclasses.replace(PARAMETERS, acquisition_function="integrated_posterior_variance", exploration_fraction=0.0)
    scores = [[map_correlation(simulate(SURVEY, TRUTH, ERROR, FIELD, parameters, seed, s).mean, TRUTH) for seed in range(4)]
              for s in ("configured", "random")]
    assert np.median(scores[0]) > np.median(scores[1])


def test_top_positions_take_ties_leave_out_unknowns_and_smooth():
    truth = np.arange(100.0).reshape(10, 10)
    np.testing.assert_array_equal(top_positions(truth, 0.03), [97, 98, 99])
    truth[9, 6] = 98.0
    truth[9, 9] = np.nan
    np.testing.assert_array_equal(top_positions(truth, 0.02), [96, 98])
    peaks = np.zeros((9, 9))
    peaks[2, 2], peaks[5:8, 5:8] = 2.0, 1.0
    np.testing.assert_array_equal(top_positions(peaks, 0.01), [2 * 9 + 2])
    np.testing.assert_array_equal(top_positions(peaks, 0.01, smoothing=1.0), [6 * 9 + 6])


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("rows_values"), "incomplete or damaged: TypeError .*values"),
    (lambda s: s.pop("expected"), "incomplete or damaged: KeyError 'expected'"),
    (lambda s: s.update(rows_colour=np.zeros(3)), "incomplete or damaged: TypeError .*colour"),
    (lambda s: s.update(experiment=np.array("{")), "incomplete or damaged: JSONDecodeError"),
    (lambda s: s.update(experiment=np.array(str(s["experiment"]).replace('"visits"', '"visit"'))), "KeyError 'visits'"),
    (lambda s: s.update(experiment=np.array(str(s["experiment"]).replace('"version": 4', '"version": 9'))), "version 9"),
])
def test_a_damaged_checkpoint_is_refused(change, message):
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    state = experiment.state_dict()
    change(state)
    with pytest.raises(ExperimentError, match=message):
        ActiveExperiment.load_state(state)


def test_a_checkpoint_goes_on_with_other_budgets_and_with_nothing_else_changed():
    state = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=3).state_dict()
    longer = dataclasses.replace(PARAMETERS, point_budget=500, energetics=Energetics(points=2), seed=99)
    resumed = ActiveExperiment.load_state(state, longer)
    assert resumed.seed == 3
    assert resumed.parameters.point_budget == 500
    with pytest.raises(ExperimentError, match="made with batch_points = 15, the configuration says 16"):
        ActiveExperiment.load_state(state, dataclasses.replace(PARAMETERS, batch_points=16))
    with pytest.raises(ExperimentError, match="made with model"):
        ActiveExperiment.load_state(state, dataclasses.replace(PARAMETERS, model=Model(patch_size=7)))


def test_a_snapshot_stays_as_it_was_while_the_experiment_goes_on():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2)
    decisions(experiment, 1)
    asked = experiment.ask()
    state = experiment.state_dict()
    before = {name: np.array(array) for name, array in state.items()}
    tell(experiment, asked)
    decisions(experiment, 1)
    assert all(np.array(state[name]).tobytes() == array.tobytes() for name, array in before.items())


@pytest.mark.parametrize("then", ["reject", "withdraw"])
def test_a_batch_that_is_dropped_changes_no_model_also_after_a_restart(then):
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2)
    decisions(experiment, 2)
    first = experiment.ask()
    getattr(experiment, then)()
    resumed = ActiveExperiment.load_state(experiment.state_dict())
    proposals = experiment.ask(), resumed.ask()
    assert same(*proposals)
    assert proposals[0].model == first.model
    if then == "reject":
        assert not np.isin(proposals[0].candidates, first.candidates).any()


def test_convergence_is_judged_by_batches_that_were_measured():
    parameters = dataclasses.replace(PARAMETERS, point_budget=1000, convergence_target=0.06, convergence_batches=2)
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    decisions(experiment, 2)
    for _ in range(4):  # the operator takes none of the batches: nothing is known better
        experiment.ask()
        experiment.withdraw()
        assert experiment.stop_reason(Spent(experiment.points)) == ""
    maps = [experiment.predict()[0]]
    while not experiment.stop_reason(Spent(experiment.points)):
        decisions(experiment, 1)
        maps.append(experiment.predict()[0])
    assert experiment.stop_reason(Spent(experiment.points)) == "convergence"
    changes = [np.sqrt(np.mean((b - a) ** 2)) / b.std() for a, b in zip(maps, maps[1:], strict=False)]
    assert max(changes[-2:]) <= 0.06 < max(changes[-3:-1])


def test_what_is_predicted_well_enough_ends_it():
    parameters = dataclasses.replace(PARAMETERS, point_budget=1000, predictability_target=0.5,
                                     acquisition_function="random")
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    predicted, read = [], []
    while not (reason := experiment.stop_reason(Spent(experiment.points))):
        proposal = decisions(experiment, 1)[0]
        predicted, read = [*predicted, *proposal.predicted], [*read, *TRUTH.ravel()[proposal.candidates]]
    assert reason == "predictability_target"
    misses = (np.array(predicted) - np.array(read))[-40:]
    missed = np.nanmean(misses**2) / experiment.values.var()
    assert experiment.predictability == pytest.approx(1 - missed)
    assert experiment.predictability >= 0.5


def test_another_scalar_is_learned_as_if_it_had_been_measured_from_the_start():
    """Same rows, same seed: the map after `retell` is that of an experiment that was told so in the first place."""
    experiment, other = (ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=2) for _ in range(2))
    decisions(experiment, 3)
    rows = experiment.observations
    values = 5.0 - 2.0 * rows.values[:, 0]
    experiment.retell(values, 2.0 * rows.standard_errors[:, 0], rows.valid)
    other.tell(rows.candidates, values, 2.0 * rows.standard_errors[:, 0])
    assert [m.tobytes() for m in experiment.predict()] == [m.tobytes() for m in other.predict()]
    assert experiment.input_hash() == other.input_hash()
    assert np.isnan(experiment.predictability)  # it was another scalar that was predicted
    assert not np.isin(experiment.ask().candidates, rows.candidates).any()


def test_recent_places_are_left_alone_for_some_batches():
    """The mean distance of a batch from the one before it grows with the length of the penalty."""
    coordinates = grid_coordinates(TRUTH.shape, (1.0, 1.0))
    nearest = {}
    for length in (0.0, 0.15):
        parameters = dataclasses.replace(PARAMETERS, recency_length=length, batch_points=5, exploration_fraction=0.0,
                                         acquisition_function="upper_confidence_bound", point_budget=500)
        experiment, apart = ActiveExperiment(SURVEY, FIELD, parameters, seed=1), []
        decisions(experiment, 1)
        before = decisions(experiment, 1)[0].candidates
        for _ in range(6):
            now = decisions(experiment, 1)[0].candidates
            distances = np.linalg.norm(coordinates[now][:, None] - coordinates[before][None], axis=2)
            apart.append(distances.min(axis=1).mean())
            before = now
        nearest[length] = np.mean(apart)
    assert nearest[0.15] > 1.5 * nearest[0.0]
    assert nearest[0.15] > 0.15


def test_reserved_positions_are_a_random_share_that_is_never_measured():
    parameters = dataclasses.replace(PARAMETERS, reserved_fraction=0.3, point_budget=5000, initial_points=300,
                                     batch_points=300, acquisition_function="random")
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=4)
    while not experiment.stop_reason(Spent(experiment.points)):
        decisions(experiment, 1)
    assert len(experiment.measured) == TRUTH.size - int(0.3 * TRUTH.size)
    left = np.setdiff1d(np.arange(TRUTH.size), experiment.measured)
    assert abs(grid_coordinates(TRUTH.shape, (1.0, 1.0))[left].mean() - 0.5) < 0.05


def test_a_second_output_is_learned_with_the_first_and_may_be_missing():
    parameters = dataclasses.replace(PARAMETERS, outputs=["thickness"])
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    for turn in range(3):
        candidates = experiment.ask().candidates
        values = np.stack([TRUTH.ravel()[candidates], 3.0 - TRUTH.ravel()[candidates]], axis=1)
        if turn == 1:
            values[:, 1] = np.nan
        experiment.tell(candidates, values, np.full(values.shape, 0.3))
    second = experiment.predict(output=1)[0]
    assert np.corrcoef(second.ravel(), 3.0 - TRUTH.ravel())[0, 1] > 0.8
    assert len(experiment.measured) == experiment.points


def test_a_discovery_is_stated_as_the_parameters_asked():
    parameters = dataclasses.replace(PARAMETERS, discovery=Discovery(level=3.0, confidence=0.95, positions=3))
    experiment = ActiveExperiment(SURVEY, FIELD, parameters, seed=0)
    assert experiment.discovery() == "no discovery: nothing was measured"
    decisions(experiment, 5)
    assert experiment.discovery().startswith("discovery: ")
    assert "3 asked for" in experiment.discovery()


def test_descriptors_known_everywhere_guide_it():
    """A coarse scan that shows the scalar itself: the map is far better than by survey and position."""
    errors = []
    for descriptors in (None, np.stack([TRUTH, np.zeros_like(TRUTH)])):
        experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0, descriptors=descriptors)
        decisions(experiment, 2)
        errors.append(np.sqrt(np.mean((experiment.predict()[0] - TRUTH) ** 2)))
        resumed = ActiveExperiment.load_state(experiment.state_dict())
        assert resumed.predict()[0].tobytes() == experiment.predict()[0].tobytes()
    assert errors[1] < 0.75 * errors[0]
    with pytest.raises(ExperimentError, match=r"descriptors of shape \(2, 5, 5\) must be \(descriptors, rows, columns\)"):
        ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0, descriptors=np.zeros((2, 5, 5)))
    with pytest.raises(ExperimentError, match="and finite|, finite"):
        ActiveExperiment(SURVEY, FIELD, PARAMETERS, 0, descriptors=np.full((1, 32, 32), np.nan))


def test_a_batch_of_no_positions_is_refused():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    with pytest.raises(ExperimentError, match="a batch of 0 positions cannot be chosen: ask for at least one"):
        experiment.ask(0)


def test_a_survey_that_tells_nothing_is_refused_before_anything_is_measured():
    blind = dataclasses.replace(PARAMETERS, model=Model(use_position=False))
    with pytest.raises(ExperimentError, match="has no contrast and the position is not used.*set model.use_position"):
        ActiveExperiment(np.ones((1, 32, 32)), FIELD, blind, 0)


@pytest.mark.parametrize(("survey", "allowed", "message"), [
    (np.zeros((1, 5, 5)), None, r"survey of shape \(1, 5, 5\) does not fit a field of 32 x 32"),
    (np.full((1, 32, 32), np.nan), None, "1024 of 1024 survey values are not finite"),
    (np.full((1, 32, 32), 1e200), None, "1024 of 1024 survey values are not finite or beyond 1e.60: repair the survey"),
    (SURVEY, np.zeros((32, 32), bool), "allow at least one position"),
])
def test_bad_surveys_and_masks_are_refused(survey, allowed, message):
    with pytest.raises(ExperimentError, match=message):
        ActiveExperiment(survey, FIELD, PARAMETERS, 0, allowed)


def test_rows_that_do_not_belong_together_are_refused():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=0)
    with pytest.raises(ExperimentError, match="2 candidates, 1 values"):
        experiment.tell([1, 2], [1.0], [1.0, 1.0])
    with pytest.raises(ExperimentError, match="candidate 1024 is outside the field of 1024"):
        experiment.tell([1024], [1.0], [1.0])
