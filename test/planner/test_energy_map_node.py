"""The planner node maps energies: acquisitions, structures, goals, failures at each step, the better level, and dead peers."""

import uuid

import numpy as np
import pytest
from laboratory import ELECTRONS, FIELD, OFFSET, PERIOD, SCALE, SURVEY_DOSE, TRUTH, essence

from edgetem.action import RunExperiment
from edgetem_nodes.graph.messages import from_uuid, numbers, to_uuid
from edgetem_nodes.planner.node import computing

Codes = RunExperiment.Result
MAPPED = {"energetics.mapped": True, "acquisition_function": "maximum_variance", "energetics.timeout_s": 20.0}
SCANNED = {**MAPPED, "micro_scan.enabled": True, "micro_scan.dwell_ms": 64.0, "micro_scan.defocus_nm": -3.0,
           "actions.semi_convergence_mrad": [1.5], "actions.defocus_nm": [10.0]}
BETTER = {"energetics.high_fidelity.points": 4, "energetics.high_fidelity.engine": "better"}


def rows_of(lab, name):
    """{candidate: (value, error, valid, failure)} of what was published of the energies of a level."""
    found = {}
    for message in (m for m in lab.site_energies if m.names[0] == name):
        places = FIELD.candidates(numbers(message.positions, (-1, 2)))
        for number, candidate in enumerate(places):
            found[int(candidate)] = tuple(array[number] for array in (message.values, message.standard_errors, message.valid,
                                                                      message.failures))
    return found


def test_the_map_is_of_the_energies_of_the_sites_structures(laboratory):
    lab = laboratory(**MAPPED)
    result = lab.run()
    assert (result.error_code, result.error_msg, result.points, result.energies) == (Codes.NONE, "", 40, 40)
    assert result.dose == SURVEY_DOSE + 40 * ELECTRONS
    assert len(lab.goals) == len(lab.asked) == 40
    lab.wait(lambda: len(lab.site_energies) == 4)
    for candidate, (value, error, valid, failure) in rows_of(lab, "excess_energy_density").items():
        assert value == pytest.approx(TRUTH.ravel()[candidate], rel=1e-12)
        assert (error, valid, failure) == (pytest.approx(0.3), True, "")
    lab.wait(lambda: lab.maps and lab.maps[-1].decision_index == 4)
    assert (lab.maps[-1].name, lab.maps[-1].unit) == ("excess_energy_density", "eV/nm^2")
    assert np.corrcoef(numbers(lab.maps[-1].mean), TRUTH.ravel())[0, 1] > 0.7
    assert "energies of 16 of 16 positions" in lab.decisions[1].reason
    assert lab.decisions[-1].best_value == pytest.approx(max(TRUTH.ravel()[np.concatenate([c for _, c in lab.acquired])]))


def test_a_micro_scan_follows_at_the_same_sites_with_its_own_optics_and_dose(laboratory):
    lab = laboratory(**SCANNED)
    lab.dwell_counts = True
    lab.failing = set(range(0, 256, 5))
    result = lab.run()
    assert (result.error_code, result.error_msg) == (Codes.NONE, "")
    assert lab.detectors == ["", "micro_scan"] * (len(lab.detectors) // 2)
    pairs = list(zip(lab.acquired[::2], lab.acquired[1::2], strict=True))
    assert all(second[0] == uuid.uuid5(first[0], "micro_scan") for first, second in pairs)
    for (_, first), (_, second) in pairs:
        np.testing.assert_array_equal(second, [c for c in first if c not in lab.failing])
    nanobeam, focused = ({"semi_convergence_angle": pytest.approx(angle), "defocus": pytest.approx(defocus)}
                         for angle, defocus in ((1.5e-3, 10e-9), (25e-3, -3e-9)))
    assert lab.commands == [nanobeam] + [focused, nanobeam] * len(pairs)
    assert set(lab.dwell_times[1::2]) == {64e-3}
    scanned = sum(len(second) for _, (_, second) in pairs)
    assert result.dose == pytest.approx(SURVEY_DOSE + sum(lab.electrons(dwell) * len(c) for dwell, (_, c)
                                                          in zip(lab.dwell_times, lab.acquired, strict=True)))
    assert result.beam_time == pytest.approx(sum(lab.period(dwell) * len(c) for dwell, (_, c)
                                                 in zip(lab.dwell_times, lab.acquired, strict=True)))
    assert len(lab.asked) == len(lab.goals) == scanned
    assert {to_uuid(request.micro_scan_id) for request in lab.asked} == {second[0] for _, second in pairs}


def test_a_site_that_fails_at_any_step_is_a_failure_with_its_reason_and_goes_no_further(laboratory):
    lab = laboratory(**SCANNED, failure_retries=0)
    kinds = [set(range(k, 256, 7)) for k in range(4)]
    lab.failing, lab.no_scan, lab.no_structure, lab.no_energy = kinds
    result = lab.run()
    assert (result.error_code, result.points) == (Codes.NONE, 40)
    lab.wait(lambda: len(lab.site_energies) == 4)
    found = rows_of(lab, "excess_energy_density")
    texts = ["pattern: saturated", "micro_scan: no lattice", "structure: no lattice", "energy: no convergence"]
    for candidate, (value, _, valid, failure) in found.items():
        if candidate % 7 < 4:
            assert (valid, failure) == (False, texts[candidate % 7])
            assert np.isnan(value)
        else:
            assert valid and value == pytest.approx(TRUTH.ravel()[candidate])
    computed = {int(goal.structure.label) for goal in lab.goals}
    assert computed == {candidate for candidate in found if candidate % 7 >= 3}
    looked_at = np.concatenate([c for (_, c), detector in zip(lab.acquired, lab.detectors, strict=True) if detector])
    assert not (looked_at % 7 == 0).any()
    assert result.energies == sum(candidate % 7 >= 4 for candidate in found)
    words = ["whose pattern was rejected", "whose micro-scan failed", "without a structure", "without an energy"]
    counts = [sum(c % 7 == k for c in lab.acquired[0][1]) for k in range(4)]
    listed = ", ".join(f"{count} {text}" for count, text in zip(counts, words, strict=True) if count)
    assert lab.decisions[1].reason.endswith(f"; energies of {16 - sum(counts)} of 16 positions ({listed})")


def test_structures_go_out_while_the_micro_scan_of_others_still_runs(laboratory):
    lab = laboratory(**SCANNED)
    handle, future = lab.begin()
    lab.wait(lambda: len(lab.acquired) == 1)
    lab.hold_from = 1  # the first micro-scan does not end
    lab.wait(lambda: len(lab.acquired) == 2)
    identifier, candidates = lab.acquired[1]
    lab._publish_scan(from_uuid(identifier), np.arange(3), candidates[:3])
    lab.wait(lambda: len(lab.goals) == 3)
    handle.cancel_goal_async()
    lab.wait(future.done)
    assert future.result().result.stop_reason == "operator"
    lab.wait(lambda: len(lab.commands) == 3 and lab.commands[-1]["semi_convergence_angle"] == pytest.approx(1.5e-3))


def test_a_better_level_corrects_the_map_and_keeps_the_low_one_beside_it(laboratory):
    lab = laboratory(**MAPPED, **BETTER, outputs=["counts"])
    result = lab.run()
    assert (result.error_code, result.error_msg, result.energies) == (Codes.NONE, "", 44)
    assert [d.action for d in lab.decisions].count("energetics") in (1, 2)
    better = rows_of(lab, "excess_energy_density_high")
    assert len(better) == 4
    for candidate, (value, _, valid, _) in better.items():
        assert valid and value == pytest.approx(SCALE * TRUTH.ravel()[candidate] + OFFSET)
    assert {goal.engine for goal in lab.goals} == {"", "better"}
    chosen = np.concatenate([list(d.candidates) for d in lab.decisions if d.action == "energetics"])
    assert sorted(better) == sorted(chosen.tolist())
    last = lab.decisions[-1].index
    lab.wait(lambda: lab.maps and lab.maps[-1].decision_index == last)
    message = lab.maps[-1]
    assert list(message.output_names) == ["low_level", "counts"] and list(message.output_units) == ["eV/nm^2", "1"]
    mean, low = numbers(message.mean), numbers(message.output_means, (2, -1))[0]
    assert np.sqrt(np.mean((mean - (SCALE * low + OFFSET)) ** 2)) < 0.1 * np.std(low)
    assert "correction" in lab.decisions[-1].model


def test_energies_that_never_come_fail_alone_and_a_bridge_that_says_nothing_ends_it_by_name(laboratory):
    lab = laboratory(**{**MAPPED, "energetics.timeout_s": 1.0, "point_budget": 16})
    handle, future = lab.begin()
    lab.wait(lambda: lab.acquired)
    lab.no_answer = set(lab.acquired[0][1][:2].tolist())
    lab.wait(future.done)
    result = future.result().result
    assert (result.error_code, result.energies) == (Codes.NONE, 14)
    assert "2 without an energy" in lab.decisions[-1].reason
    lab.hold_energies = True
    result = lab.run(experiment_id=8)
    assert result.error_code == Codes.ENERGIES_MISSING
    assert "no energy of 16 positions has come: the hpc_bridge said nothing for 1 s" in result.error_msg
    lab.hold_energies, lab.hold_structures = False, True
    result = lab.run(experiment_id=9)
    assert result.error_code == Codes.ENERGIES_MISSING and "the featurizer said nothing for 1 s" in result.error_msg
    lab.hold_structures = False


@pytest.mark.parametrize(("dies", "name"), [("hpc_bridge", "hpc_bridge"), ("featurizer", "featurizer")])
def test_a_node_that_dies_amid_the_energies_ends_the_experiment_by_name(laboratory, monkeypatch, dies, name):
    monkeypatch.setattr(computing, "GONE", 0.2)
    monkeypatch.setattr(computing, "LOOK", 0.05)
    lab = laboratory(**MAPPED)
    lab.hold_energies, lab.hold_structures = dies == "hpc_bridge", dies == "featurizer"
    _, future = lab.begin()
    lab.wait(lambda: lab.running == 16 if lab.hold_energies else len(lab.asked) == 4)
    clients = lab.planner.conductor._energetics
    # As discovery has it once the process is gone.
    if dies == "hpc_bridge":
        monkeypatch.setattr(clients._energetics, "server_is_ready", lambda: False)
    else:
        monkeypatch.setattr(clients._structure, "service_is_ready", lambda: False)
    lab.wait(future.done)
    result = future.result().result
    assert result.error_code == Codes.ENERGIES_MISSING
    assert f"the {name} is gone: 16 of 16 energies of the batch have not come" in result.error_msg
    lab.hold_energies = lab.hold_structures = False


def test_a_full_queue_is_waited_for(laboratory):
    lab = laboratory(**MAPPED, point_budget=16)
    lab.most_goals = 3
    result = lab.run()
    assert (result.error_code, result.energies) == (Codes.NONE, 16)


def test_a_stop_calls_the_computations_off(laboratory):
    lab = laboratory(**MAPPED)
    lab.hold_energies = True
    handle, future = lab.begin()
    lab.wait(lambda: lab.running == 16)
    handle.cancel_goal_async()
    lab.wait(future.done)
    assert future.result().result.stop_reason == "operator"
    lab.wait(lambda: lab.running == 0)
    assert lab.energies == 0


@pytest.mark.parametrize("better", [False, True])
def test_a_restart_amid_the_energies_makes_the_same_decisions(laboratory, tmp_path, better):
    lab = laboratory(**SCANNED, **BETTER, output=str(tmp_path))
    lab.run()
    whole = [essence(d) for d in lab.decisions]
    for kept in (lab.decisions, lab.acquired, lab.detectors, lab.goals):
        kept.clear()
    handle, future = lab.begin()

    def level():
        return [goal for goal in lab.goals if (goal.engine == "better") == better]
    lab.wait(lambda: len(lab.decisions) > 1)
    lab.wait(lambda: bool(level())) if better else lab.wait(lambda: len(lab.acquired) == 4)
    saved = (tmp_path / "checkpoint.npz").read_bytes()
    handle.cancel_goal_async()
    lab.wait(future.done)
    copy = tmp_path / "saved.npz"
    copy.write_bytes(saved)
    before = len(lab.decisions)
    result = lab.run(experiment_id=99, checkpoint=str(copy))
    assert result.error_code == Codes.NONE, result.error_msg
    again = [essence(d) for d in lab.decisions[before:]]
    assert again == whole[-len(again):]
    assert result.beam_time == pytest.approx(80 * PERIOD)


@pytest.mark.parametrize(("settings", "text"), [
    ({"micro_scan.enabled": True}, "micro_scan.enabled = True belongs to an energy map"),
    ({**MAPPED, "micro_scan.enabled": True}, "actions.semi_convergence_mrad is empty"),
    ({**MAPPED, "energetics.points": 3}, "set one of them"),
    ({**MAPPED, "energetics.high_fidelity.points": 3}, "name a better engine"),
])
def test_parameters_that_contradict_each_other_are_refused(laboratory, settings, text):
    result = laboratory(**settings).run()
    assert result.error_code == Codes.INVALID_CONFIG and text in result.error_msg


def test_another_scalarizer_is_refused(laboratory):
    lab = laboratory(**MAPPED)
    lab.hold_energies = True
    handle, future = lab.begin()
    lab.wait(lambda: lab.running)
    answer = lab.ask("change_scalarizer", scalarizer="", settings={"factor": 2.0})
    assert answer.error_code == answer.INVALID_SETTINGS and "energies are mapped" in answer.error_msg
    handle.cancel_goal_async()
    lab.wait(future.done)
