"""What an operator may ask: each request does what it says, a wrong one changes nothing, and all survive JSON."""

import json

import numpy as np
import pytest
from measured_maps import particles

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.experiment import ActiveExperiment
from edgetem_nodes.planner.parameters import Model, Parameters
from edgetem_nodes.planner.requests import CHANGEABLE, KINDS, apply

SURVEY, TRUTH, ERROR = particles(side=20)
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), TRUTH.shape)
PARAMETERS = Parameters(point_budget=200, initial_points=15, batch_points=6, model=Model(training_steps=5))
CORNER = [[-1e-9, -1e-9], [-1e-9, 4.5e-9], [4.5e-9, 4.5e-9], [4.5e-9, -1e-9]]
FORBID = {"kind": "set_region", "name": "hole", "region": "forbid", "vertices": CORNER}
ADD = {**FORBID, "region": "add"}


def started():
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, seed=1)
    tell(experiment, experiment.ask())
    return experiment


def tell(experiment, proposal):
    experiment.tell(proposal.candidates, TRUTH.ravel()[proposal.candidates], ERROR.ravel()[proposal.candidates])


def inside(candidates):
    rows, columns = np.divmod(candidates, 20)
    return (rows < 5) & (columns < 5)


def same_state(left, right):
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


def test_a_forbidden_region_is_kept_out_of_until_it_is_taken_back():
    experiment = started()
    assert apply(experiment, FORBID) == "region 'hole' forbidden: 25 positions"
    for _ in range(4):
        proposal = experiment.ask()
        assert not inside(proposal.candidates).any()
        tell(experiment, proposal)
    assert not experiment.available()[inside(np.arange(400))].any()
    assert apply(experiment, {"kind": "remove_region", "name": "hole"}) == "region 'hole' taken back"
    assert experiment.available()[inside(np.arange(400))].any()


def test_an_added_region_is_measured_next_once_and_then_all_is_as_before():
    experiment = started()
    assert apply(experiment, ADD) == "region 'hole' added, and measured next: 25 positions"
    proposal = experiment.ask()
    assert inside(proposal.candidates).all()
    assert "inside region 'hole'" in proposal.reason
    tell(experiment, proposal)
    assert not inside(experiment.ask().candidates).all()


def test_an_added_region_opens_what_the_mask_left_out():
    allowed = np.ones(TRUTH.shape, bool)
    allowed[:5, :5] = False
    experiment = ActiveExperiment(SURVEY, FIELD, PARAMETERS, 1, allowed)
    tell(experiment, experiment.ask())
    apply(experiment, ADD)
    assert inside(experiment.ask().candidates).all()


def test_added_regions_are_visited_in_turn_and_a_removed_one_not_at_all():
    experiment = started()
    other = [[10e-9, 10e-9], [10e-9, 15e-9], [15e-9, 15e-9], [15e-9, 10e-9]]
    apply(experiment, ADD)
    apply(experiment, {**ADD, "name": "second", "vertices": other})
    apply(experiment, {**ADD, "name": "third", "vertices": (np.array(other) - 8e-9).tolist()})
    apply(experiment, {"kind": "remove_region", "name": "third"})
    reasons = []
    for _ in range(3):
        proposal = experiment.ask()
        reasons.append(proposal.reason)
        tell(experiment, proposal)
    assert "inside region 'hole'" in reasons[0]
    assert "inside region 'second'" in reasons[1]
    assert "inside region" not in reasons[2]


def test_a_changed_acquisition_takes_effect_at_the_next_decision():
    experiment = started()
    said = apply(experiment, {"kind": "change_acquisition", "changes": {
        "acquisition_function": "top_set", "batch_points": 4, "target_fraction": 0.1}})
    assert said == "acquisition_function maximum_variance -> top_set; batch_points 6 -> 4; target_fraction 0.0 -> 0.1"
    proposal = experiment.ask()
    assert proposal.acquisition_function == "top_set"
    assert len(proposal.candidates) == 4
    assert "highest 0.1 of the field" in proposal.reason
    assert experiment.configured == PARAMETERS


@pytest.mark.parametrize(("name", "value"), [
    ("acquisition_function", "curiosity"), ("exploration", "random"), ("exploration_fraction", 0.5), ("confidence", 3.0),
    ("target_fraction", 0.1), ("level", -2.0), ("recency_length", 0.2), ("recency_batches", 2), ("batch_points", 3)])
def test_every_changeable_parameter_can_be_changed(name, value):
    experiment = started()
    apply(experiment, {"kind": "change_acquisition", "changes": {name: value}})
    assert getattr(experiment.parameters, name) == value
    assert name in CHANGEABLE
    tell(experiment, experiment.ask())


def test_a_rejected_batch_is_never_proposed_again():
    experiment = started()
    rejected = experiment.ask().candidates
    assert apply(experiment, {"kind": "reject_batch"}) == "batch of 6 positions rejected; none of them is proposed again"
    for _ in range(6):
        proposal = experiment.ask()
        assert not np.isin(proposal.candidates, rejected).any()
        tell(experiment, proposal)


def test_the_same_requests_at_the_same_decisions_give_the_same_decisions_also_through_json():
    asked = [[FORBID], [{"kind": "change_acquisition", "changes": {"acquisition_function": "expected_improvement"}}],
             [ADD, {"kind": "remove_region", "name": "hole"}, ADD], [{"kind": "reject_batch"}], []]
    runs = []
    for copies in (asked, json.loads(json.dumps(asked))):
        experiment, made = started(), []
        for requests in copies:
            proposal = experiment.ask()
            made.append(proposal.candidates.tolist())
            for request in requests:
                apply(experiment, request)
            if requests != [{"kind": "reject_batch"}]:
                tell(experiment, proposal)
        runs.append(made)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("request_", "message"), [
    ({"kind": "set_regions"}, "'set_regions' is not known; there are set_region, remove_region"),
    ({}, "a request of kind None is not known"),
    ({"kind": "set_region", "name": "a"}, "'set_region' is incomplete or malformed: KeyError 'region'"),
    ({**FORBID, "vertices": 5}, "'set_region' is incomplete or malformed: TypeError"),
    ({**FORBID, "vertices": CORNER[:2]}, "has 2 vertices"),
    ({**FORBID, "vertices": [[a * 1e9, b * 1e9] for a, b in np.array(CORNER) + 100]},
     "holds no position of the field: its vertices are .y, x. in metres"),
    ({**FORBID, "region": "avoid"}, "of kind 'avoid': take forbid or add"),
    ({"kind": "remove_region", "name": "hloe"}, "there is no region 'hloe'; there are hole"),
    ({"kind": "change_acquisition", "changes": {"seed": 3}}, "'seed' cannot change in mid-run"),
    ({"kind": "change_acquisition", "changes": {"confidance": 3.0}}, "'confidance' cannot change.*did you mean"),
    ({"kind": "change_acquisition", "changes": {}}, "nothing to change was named"),
    ({"kind": "change_acquisition", "changes": {"acquisition_function": "greedy"}}, "greedy"),
    ({"kind": "change_acquisition", "changes": {"batch_points": 0}}, "batch_points"),
    ({"kind": "change_acquisition", "changes": {"level": 1.0, "exploration_fraction": 7.0}}, "exploration_fraction"),
    ({"kind": "change_acquisition", "changes": None}, "malformed"),
    ({"kind": "reject_batch"}, "no batch is proposed now"),
])
def test_a_wrong_request_says_what_is_wrong_and_changes_nothing(request_, message):
    experiment, untouched = started(), started()
    for each in (experiment, untouched):
        apply(each, FORBID)
    with pytest.raises(ValueError, match=message):
        apply(experiment, request_)
    assert same_state(experiment, untouched)


def test_every_kind_is_described():
    assert set(KINDS) == {"set_region", "remove_region", "change_acquisition", "reject_batch"}


@pytest.mark.parametrize("dismiss", ["reject", "withdraw"])
def test_a_region_whose_batch_was_not_measured_is_still_looked_at(dismiss):
    experiment = started()
    apply(experiment, ADD)
    assert "inside region 'hole'" in experiment.ask().reason
    getattr(experiment, dismiss)()
    again = ActiveExperiment.load_state(experiment.state_dict()).ask()
    assert inside(again.candidates).all()
    proposal = experiment.ask()
    assert proposal.reason == again.reason
    tell(experiment, proposal)
    assert "inside region" not in experiment.ask().reason
