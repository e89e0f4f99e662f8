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
from edgetem_nodes.planner.parameters import Energetics, Model, Parameters
from edgetem_nodes.planner.simulation import found_fraction, map_correlation, simulate, top_positions
from edgetem_nodes.planner.stopping import Spent

SURVEY, TRUTH, ERROR = particles(hidden=8.0)
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), TRUTH.shape)
PARAMETERS = Parameters(point_budget=90, initial_points=30, batch_points=15, acquisition_function="expected_improvement",
                        exploration_fraction=0.2, model=Model(training_steps=10))


def tell(experiment, proposal, valid=None):
    c = proposal.candidates
    experiment.tell(c, TRUTH.ravel()[c], ERROR.ravel()[c], valid)


def decisions(experiment, count):
    made = []
    for _ in range(count):
        made.append(experiment.ask())
        tell(experiment, made[-1])
    return made


def same(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.tobytes() == right.tobytes(), field.name
        else:
            assert left == right, field.name
    return True


@pytest.mark.parametrize("function", ["expected_improvement", "upper_confidence_bound", "maximum_variance",
                                      "integrated_posterior_variance", "random"])
def test_one_seed_gives_one_sequence_of_decisions(function):
    parameters = dataclasses.replace(PARAMETERS, acquisition_function=function)
    runs = [decisions(ActiveExperiment(SURVEY, FIELD, parameters, seed=5), 4) for _ in range(2)]
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    asked = np.concatenate([p.candidates for p in runs[0]])
    assert len(set(asked)) == len(asked) == 30 + 3 * 15
    other = ActiveExperiment(SURVEY, FIELD, parameters, seed=6).ask()
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


@pytest.mark.parametrize("seed", range(3))
def test_expected_improvement_finds_a_hidden_extreme_that_random_sampling_misses(seed):
    runs = {s: simulate(SURVEY, TRUTH, ERROR, FIELD, PARAMETERS, seed, s) for s in ("configured", "random", "brightness")}
    found = {s: found_fraction(run.candidates, TRUTH) for s, run in runs.items()}
    assert all(len(set(run.candidates)) == 90 for run in runs.values())
    assert found["configured"] >= 0.8
    assert found["configured"] > found["random"] + 0.3
    assert found["configured"] > found["brightness"] + 0.3


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
    (lambda s: s.pop("values"), "incomplete or damaged: KeyError 'values'"),
    (lambda s: s.update(experiment=np.array("{")), "incomplete or damaged: JSONDecodeError"),
    (lambda s: s.update(experiment=np.array(str(s["experiment"]).replace('"version": 1', '"version": 9'))), "version 9"),
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


@pytest.mark.parametrize(("survey", "allowed", "message"), [
    (np.zeros((1, 5, 5)), None, r"survey of shape \(1, 5, 5\) does not fit a field of 32 x 32"),
    (np.full((1, 32, 32), np.nan), None, "1024 of 1024 survey values are not finite"),
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
