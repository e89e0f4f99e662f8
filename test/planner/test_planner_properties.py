"""Whatever the survey, the mask, the values and the operator: no impossible position, no crash, no lost decision."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.parameters import FUNCTIONS, Actions, Model, Parameters
from edgetem_nodes.planner.regions import ADD, FORBID, Region
from edgetem_nodes.planner.stopping import REASONS, Spent

STEP = 1e-9
WHAT_TO_DO = ("no position is left: every one is measured, failed or forbidden",
              "measurements so far is valid: look at the failures")
"""What an experiment may end with, by design."""

surveys = st.sampled_from(["constant", "random", "huge", "faint", "columns", "one pixel", "two channels"])
readings = st.sampled_from(["constant", "random", "some nan", "mostly nan", "collinear", "huge", "tiny", "mixed sizes"])
deeds = st.lists(st.sampled_from(["tell", "tell", "tell", "tell part", "fail", "reject", "withdraw", "forbid", "add", "remove",
                                  "change", "retell", "look", "restart", "restart"]), min_size=3, max_size=8)


def survey_of(kind, shape, generator):
    noise = generator.random((1, *shape))
    return {"constant": np.full((1, *shape), 7.3), "random": noise, "huge": 1e50 * noise, "faint": 1.0 + 1e-13 * noise,
            "columns": np.broadcast_to(np.arange(shape[1]) * 1.0, (1, *shape)), "one pixel": np.where(noise > 0.98, 1e6, 0.0),
            "two channels": np.concatenate([noise, np.full((1, *shape), 2.0)])}[kind]


def readings_of(kind, candidates, generator):
    count = len(candidates)
    values, wild = generator.normal(size=count), generator.random(count)
    return {"constant": np.full(count, -2.5), "random": values, "some nan": np.where(wild < 0.3, np.nan, values),
            "mostly nan": np.where(wild < 0.8, np.inf, values), "collinear": 3.0 * candidates - 1.0, "huge": 1e200 * values,
            "tiny": 1e-200 * values, "mixed sizes": values * 10.0 ** generator.integers(-40, 40, count)}[kind]


def box(name, kind, shape, generator):
    """A random rectangle, between grid points, and which positions it holds."""
    (top, bottom), (left, right) = (np.sort(generator.integers(0, n, 2)) for n in shape)
    y0, y1, x0, x1 = (np.array([top, bottom + 1, left, right + 1]) - 0.5) * STEP
    holds = np.zeros(shape, bool)
    holds[top:bottom + 1, left:right + 1] = True
    return Region(name, kind, ((y0, x0), (y0, x1), (y1, x1), (y1, x0))), holds.ravel()


class Model_:
    """What may be proposed, kept in the plainest way."""

    def __init__(self, allowed, reserved, actions, retries):
        self.mask, self.actions, self.retries = allowed, actions, retries
        self.boxes, self.to_visit, self.visiting = {}, [], ""
        self.closed = {int(c) for c in reserved}
        self.pending, self.done, self.failures = set(), {}, {}

    def open_now(self, setting):
        open_ = self.mask.copy()
        for kind, holds in self.boxes.values():
            open_[holds] = kind == ADD
        kind = self.actions.features[setting].tobytes()
        return {int(c) for c in np.flatnonzero(open_)} - self.closed - self.pending - self.done.get(kind, set()) - {
            c for c, count in self.failures.get(kind, {}).items() if count > self.retries}

    def told(self, setting, candidates, valid):
        kind = self.actions.features[setting].tobytes()
        for candidate, fine in zip(candidates, valid, strict=True):
            self.pending.discard(int(candidate))
            if fine:
                self.done.setdefault(kind, set()).add(int(candidate))
            else:
                counts = self.failures.setdefault(kind, {})
                counts[int(candidate)] = counts.get(int(candidate), 0) + 1


def check(proposal, model, count):
    """A proposal against what is known: the properties of the docstring above."""
    chosen = [int(c) for c in proposal.candidates]
    assert len(chosen) == len(set(chosen)) == len(proposal.values)
    open_ = model.open_now(proposal.setting_index)
    assert set(chosen) <= open_
    assert 1 <= len(chosen) <= count
    regions = [name for name in model.to_visit
               if any(model.open_now(s) & set(np.flatnonzero(model.boxes[name][1])) for s in range(len(model.actions)))]
    if regions and model.done | model.failures:
        inside = set(np.flatnonzero(model.boxes[regions[0]][1]))
        assert set(chosen) <= inside
        assert len(chosen) == min(count, len(open_ & inside))
        model.to_visit.remove(regions[0])
        model.visiting = regions[0]
    else:
        model.visiting = ""
        assert len(chosen) == min(count, len(open_))
    assert np.isfinite(proposal.values).all()
    assert proposal.reason
    if proposal.acquisition is not None:
        free = np.isin(np.arange(proposal.acquisition.size), list(open_))
        assert np.isnan(proposal.acquisition.ravel()[~free]).all()
        assert np.isfinite(proposal.predicted).all()
        assert (proposal.predicted_deviations > 0).all()
    model.pending |= set(chosen)


def restarted(experiment):
    file = io.BytesIO()
    np.savez(file, **experiment.state_dict())
    file.seek(0)
    return ActiveExperiment.load_state(dict(np.load(file, allow_pickle=False)))


def same(left, right):
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else a == b, field.name


def ask(experiment, twin):
    """The same answer, or the same refusal, of an experiment and the one that went on from its checkpoint."""
    answers = []
    for each in (experiment, twin):
        try:
            answers.append(each.ask())
        except ExperimentError as error:
            assert any(words in str(error) for words in WHAT_TO_DO)
            answers.append(str(error))
    if isinstance(answers[0], str):
        assert answers[0] == answers[1]
        return None
    same(*answers)
    return answers[0]


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), surveys, readings, st.sampled_from(FUNCTIONS),
       st.sampled_from(["deep_kernel_learning", "gaussian_process"]), st.integers(1, 5), deeds, st.integers(0, 999),
       st.sampled_from([Actions(), Actions(dwell_ms=[1.0, 5.0], cost="dose"), Actions(dwell_ms=[1.0], defocus_nm=[0.0, 9.0],
                                                                                    cost="time", travel_ms_per_um=5.0)]),
       st.fixed_dictionaries({"failure_retries": st.integers(0, 2), "reserved_fraction": st.sampled_from([0.0, 0.2]),
                              "recency_length": st.sampled_from([0.0, 0.3]), "target_fraction": st.sampled_from([0.0, 0.1]),
                              "exploration_fraction": st.sampled_from([0.0, 0.4]),
                              "initial_design": st.sampled_from(["position", "survey"]),
                              "exploration": st.sampled_from(["curiosity", "random", "integrated_posterior_variance"])}))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_impossible_position_is_ever_proposed_and_a_restart_at_any_moment_decides_the_same(
        shape, survey, reading, function, surrogate, batch, script, seed, actions, further):
    generator = np.random.default_rng(seed)
    allowed = generator.random(shape) < 0.8
    allowed.flat[generator.integers(allowed.size)] = True
    parameters = Parameters(acquisition_function=function, initial_points=4, batch_points=batch, actions=actions, seed=seed,
                            convergence_target=0.2, convergence_batches=2,
                            model=Model(surrogate=surrogate, training_steps=3, patch_size=min(3, 2 * min(shape) - 1)),
                            **further)
    experiment = ActiveExperiment(survey_of(survey, shape, generator), ScanField((0.0, 0.0), (STEP, STEP), shape), parameters,
                                  seed, allowed)
    reserved = np.setdiff1d(np.arange(allowed.size), np.flatnonzero(ActiveExperiment(
        experiment.survey, experiment.field, parameters, seed).available()))
    assert len(reserved) == int(further["reserved_fraction"] * allowed.size)
    model = Model_(allowed.ravel(), reserved, experiment.actions, further["failure_retries"])
    for deed in script:
        count = min(batch if experiment.points else 4, max(1, parameters.point_budget - experiment.points))
        proposal = ask(experiment, restarted(experiment))
        if proposal is None:
            break
        check(proposal, model, count)
        experiment = act(deed, experiment, proposal, model, reading, generator)
        reasons = {each.stop_reason(Spent(experiment.points)) for each in (experiment, restarted(experiment))}
        assert len(reasons) == 1
        assert reasons <= {"", *REASONS}


def act(deed, experiment, proposal, model, reading, generator):
    """Carry out one deed on experiment and model; the experiment to go on with."""
    chosen, setting = proposal.candidates, proposal.setting_index
    if deed in ("reject", "withdraw"):
        dropped = model.pending.copy()
        model.pending.clear()
        if deed == "reject":
            assert set(experiment.reject()) == dropped
            model.closed |= dropped
        else:
            experiment.withdraw()
        if model.visiting:  # a region that was not measured is still to be looked at
            model.to_visit.insert(0, model.visiting)
        return experiment
    told = chosen[:max(1, len(chosen) // 2)] if deed == "tell part" else chosen
    values = readings_of(reading, told, generator)
    valid = np.zeros(len(told), bool) if deed == "fail" else np.ones(len(told), bool)
    experiment.tell(told, values, 10.0 ** generator.integers(-300, 300, len(told)), valid, setting, doses=1.0)
    model.told(setting, told, valid & (np.abs(values) <= 1e60))
    name = f"region {generator.integers(3)}"
    if deed in ("forbid", "add"):
        region, holds = box(name, FORBID if deed == "forbid" else ADD, experiment.field.shape, generator)
        experiment.set_region(region)
        model.boxes.pop(name, None)
        model.boxes[name] = region.kind, holds
        model.to_visit = [n for n in model.to_visit if n != name] + ([name] if deed == "add" else [])
    elif deed == "remove":
        experiment.remove_region(name)
        model.boxes.pop(name, None)
        model.to_visit = [n for n in model.to_visit if n != name]
    elif deed == "change":
        function = str(generator.choice(FUNCTIONS))
        experiment.parameters = dataclasses.replace(experiment.parameters, acquisition_function=function)
    elif deed == "retell":
        rows = experiment.observations
        experiment.retell(np.where(rows.valid, generator.normal(size=len(rows)), np.nan), np.ones(len(rows)), rows.valid)
    elif deed == "look" and experiment.observations.valid.any():
        experiment.predict()
        experiment.most_telling()
        experiment.model_description()
    elif deed == "restart":
        experiment = restarted(experiment)
    return experiment


@given(st.integers(1, 30), st.sampled_from(FUNCTIONS), st.floats(0.5, 6.0), st.floats(0.0, 3.0), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_no_position_receives_more_than_its_dose(batch, function, limit, survey_dose, seed):
    """At two dwell times of one and three electrons a visit; failures may be repeated as long as the dose allows."""
    generator = np.random.default_rng(seed)
    field = ScanField((0.0, 0.0), (STEP, STEP), (5, 6))
    parameters = Parameters(acquisition_function=function, initial_points=5, batch_points=batch, position_dose_limit=limit,
                            failure_retries=9, actions=Actions(dwell_ms=[1.0, 3.0]),
                            model=Model(training_steps=2, patch_size=3))
    experiment = ActiveExperiment(generator.random((1, 5, 6)), field, parameters, seed, survey_dose=survey_dose)
    received = np.full(30, survey_dose)
    for turn in range(6):
        try:
            proposal = experiment.ask()
        except ExperimentError as error:
            assert "no position is left" in str(error)
            assert turn or survey_dose > limit
            break
        cost = 3.0 if proposal.setting_index else 1.0
        if turn:  # what a visit costs is known from the first on
            assert (received[proposal.candidates] + cost <= limit + 1e-6).all()
        received[proposal.candidates] += cost
        valid = generator.random(len(proposal.candidates)) < 0.5
        valid[0] = True
        experiment.tell(proposal.candidates, generator.normal(size=len(valid)), np.full(len(valid), 0.1), valid,
                        proposal.setting_index, np.full(len(valid), cost))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("wrong", ["count", "outputs", "position", "nan position", "candidate", "fraction", "setting", "doses",
                                   "negative dose", "valid", "retell"])
def test_rows_that_do_not_fit_are_refused_and_change_nothing(outputs, wrong):
    experiment = ActiveExperiment(np.random.default_rng(0).random((1, 6, 6)), ScanField((0.0, 0.0), (STEP, STEP), (6, 6)),
                                  Parameters(outputs=[str(i) for i in range(outputs - 1)]), 0)
    good = np.ones((2, outputs))
    experiment.tell([7, 8], good, good)
    before = {name: np.asarray(array).tobytes() for name, array in experiment.state_dict().items()}
    bad = {"count": lambda: experiment.tell([1, 2, 3], good, good),
           "outputs": lambda: experiment.tell([1, 2], np.ones((2, outputs + 1)), good),
           "position": lambda: experiment.tell([[0.0, 0.0], [0.0, 9e-9]], good, good),
           "nan position": lambda: experiment.tell([[0.0, 0.0], [0.0, np.nan]], good, good),
           "candidate": lambda: experiment.tell([1, -1], good, good),
           "fraction": lambda: experiment.tell([1.5, 2.0], good, good),
           "setting": lambda: experiment.tell([1, 2], good, good, setting=1),
           "doses": lambda: experiment.tell([1, 2], good, good, doses=np.ones(3)),
           "negative dose": lambda: experiment.tell([1, 2], good, good, doses=-1.0),
           "valid": lambda: experiment.tell([1, 2], good, good, [True]),
           "retell": lambda: experiment.retell(good[:1], good[:1], [True])}[wrong]
    with pytest.raises(ExperimentError):
        bad()
    assert before == {name: np.asarray(array).tobytes() for name, array in experiment.state_dict().items()}
