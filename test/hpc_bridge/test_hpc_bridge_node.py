"""The node in this process, with a real cluster and real goals: answers, feedback, cancel, every error code."""

from __future__ import annotations

import json
import math
import sys
import time
import uuid

import numpy as np
import psutil
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from ase.build import bulk
from edgetem.action import ComputeEnergetics
from edgetem.msg import AtomicStructure, Energetics
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sheet_structures import strained

from edgetem_nodes.graph import messages, quality_of_service
from edgetem_nodes.hpc_bridge.node import HpcBridgeNode

Codes = ComputeEnergetics.Result
LIMIT = 90.0


def message(label="", **sheet):
    structure = strained(**sheet)
    result = AtomicStructure(acquisition_id=messages.from_uuid(uuid.UUID(int=7)), index=3, label=label,
                             atomic_numbers=messages.byte_array(structure.atomic_numbers.astype(np.uint8)),
                             positions=messages.number_array(structure.positions), cell=structure.cell.ravel(),
                             position_standard_errors=messages.number_array(structure.standard_errors),
                             periodic=list(structure.periodic))
    result.header.frame_id = "specimen"
    return result


class Graph:
    """The node and a client of it on one executor; `wait` spins until something is true."""

    def __init__(self, **overrides):
        self.earlier = psutil.Process().children(recursive=True)
        rclpy.init()
        values = {"cluster.start_after_s": -1.0, "cluster.niceness": 0, **overrides}
        self.bridge = HpcBridgeNode(parameter_overrides=[Parameter(name.replace("__", "."), value=value)
                                                         for name, value in values.items()])
        self.other = rclpy.create_node("test")
        self.client = ActionClient(self.other, ComputeEnergetics, "compute_energetics")
        self.published, self.feedback = [], []
        self.other.create_subscription(Energetics, "energetics", self.published.append, quality_of_service.EVENTS)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.bridge)
        self.executor.add_node(self.other)
        assert self.bridge.trigger_configure() == TransitionCallbackReturn.SUCCESS
        self.wait(self.client.server_is_ready)
        self.wait(lambda: self.bridge.count_subscribers("energetics") == 1)

    def wait(self, condition):
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, "the event did not come"
            self.executor.spin_once(timeout_sec=0.05)

    def send(self, structure, engine="", settings=""):
        goal = ComputeEnergetics.Goal(structure=structure, engine=engine, settings=settings)
        future = self.client.send_goal_async(goal, lambda sent: self.feedback.append(sent.feedback))
        self.wait(future.done)
        assert future.result().accepted
        return future.result()

    def result(self, handle):
        future = handle.get_result_async()
        self.wait(future.done)
        return future.result()

    def compute(self, *arguments, **options):
        return self.result(self.send(*arguments, **options)).result

    def close(self):
        self.bridge.close()
        self.bridge.destroy_node()
        self.client.destroy()
        self.other.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


@pytest.fixture(scope="module")
def graph():
    made = Graph(limits__jobs=3)
    assert made.bridge.trigger_activate() == TransitionCallbackReturn.SUCCESS
    yield made
    made.close()


def test_a_strained_sheet_gets_energy_excess_forces_and_error(graph):
    graph.published.clear()
    result = graph.compute(message("pixel (3, 4)", strain=(0.02, 0.0, 0.0), strain_error=0.002))
    said = result.energetics
    assert (result.error_code, result.error_msg) == (Codes.NONE, "")
    assert said.excess_energy == pytest.approx(said.energy - said.reference_energy - said.strain_variance_energy)
    assert said.excess_energy_density == pytest.approx(said.excess_energy / said.cell_area)
    assert said.cell_area == pytest.approx(16 * math.sqrt(0.75) * 2.46e-10**2 * 1.02)
    assert said.excess_energy_per_atom == pytest.approx(said.excess_energy / 32) and said.defect_energy == 0
    # half of C11 = 378 N/m times strain squared times area, within anharmonicity
    assert said.excess_energy == pytest.approx(0.5 * 370 * 0.02**2 * 16 * math.sqrt(0.75) * 2.456e-10**2, rel=0.1)
    assert 0 < said.standard_error < said.excess_energy
    assert messages.numbers(said.forces, (-1, 3)).shape == (32, 3) and said.converged and said.wall_time > 0
    assert said.max_force < 0.03 * 1.602e-9
    assert (said.label, said.index, said.engine, said.method) == ("pixel (3, 4)", 3, "tblite", "GFN1-xTB")
    assert said.acquisition_id == messages.from_uuid(uuid.UUID(int=7)) and said.header.frame_id == "specimen"
    assert "graphene without stress" in said.reference and json.loads(said.settings)["sheet"] == "graphene"
    assert json.loads(said.settings)["strain"][0][0] == pytest.approx(0.0202)
    graph.wait(lambda: graph.published)
    assert str(graph.published[0]) == str(said)


def test_a_dopant_gets_a_named_reservoir_and_its_uncertainty_counts(graph):
    doped = message(rattle=0.01)
    doped.atomic_numbers[5] = 7
    doped.position_covariances = messages.number_array(np.tile(np.eye(2) * 25e-24, (32, 1, 1)))
    doped.deformation_covariance = messages.number_array(np.eye(4) * 1e-6)
    doped.defects, doped.defect_probabilities = ["N_C", "V_C"], messages.number_array([0.9, 0.1])
    doped.defect_atomic_numbers, doped.defect_hosts = bytes([7, 0]), bytes([6, 6])
    doped.defect_positions = messages.number_array(np.array(doped.positions).reshape(-1, 3)[[5, 5]])
    result = graph.compute(doped, settings='{"noise_draws": 1}')
    said = result.energetics
    assert result.error_code == Codes.NONE, result.error_msg
    assert "+1 N from the N2 molecule" in said.reference and "-1 C from the perfect sheet" in said.reference
    assert said.excess_energy == pytest.approx(said.energy - said.reference_energy - said.strain_variance_energy
                                               - said.position_variance_energy + said.expected_defect_energy
                                               - said.defect_energy)
    # one site: nitrogen or a vacancy of 7.7 eV
    alone = json.loads(said.settings)["lone_defects_ev"]
    expected = 0.9 * said.defect_energy / 1.602e-19 + 0.1 * alone["a vacancy on C"]
    assert said.expected_defect_energy / 1.602e-19 == pytest.approx(expected, rel=1e-3)
    assert alone["a vacancy on C"] == pytest.approx(7.68, abs=0.1)
    assert 0.2 < said.defect_energy / 1.602e-19 < 1.2 and said.cell_size_error < 0.1 * 1.602e-19
    assert said.standard_error / 1.602e-19 == pytest.approx(0.3 * (7.7 - 0.6), rel=0.15)
    assert said.position_variance_energy > 0 and said.restraint_chi_square < 3
    assert said.goal_settings == '{"noise_draws": 1}' and said.goal_engine == "" and said.charge == 0
    assert "unrestrained_energy_ev" in json.loads(said.settings)


def test_every_step_comes_as_feedback(graph):
    graph.feedback.clear()
    result = graph.compute(message(rattle=0.05), settings='{"reference": false}')
    graph.wait(lambda: len(graph.feedback) == result.energetics.steps + 1)
    assert [feedback.step for feedback in graph.feedback] == list(range(result.energetics.steps + 1))
    assert graph.feedback[-1].energy == result.energetics.energy < graph.feedback[0].energy
    assert math.isnan(result.energetics.excess_energy)


def test_several_goals_at_once_and_no_more_than_the_limit(graph):
    handles = [graph.send(message(str(number), strain=(0.005 * number, 0.0, 0.0))) for number in range(4)]
    results = [graph.result(handle).result for handle in handles]
    assert [result.error_code for result in results] == [Codes.NONE] * 3 + [Codes.QUEUE_FULL]
    assert "3 calculations are waiting or running already" in results[3].error_msg
    energies = [result.energetics.excess_energy for result in results[:3]]
    assert energies == sorted(energies)


def test_a_killed_worker_does_not_lose_the_goal(graph):
    graph.feedback.clear()
    handle = graph.send(message(rattle=0.08), settings='{"reference": false, "max_force_ev_per_angstrom": 0.001}')
    graph.wait(lambda: graph.feedback)
    psutil.Process(next(iter(graph.bridge._goals)).job.process).kill()
    result = graph.result(handle).result
    assert result.error_code == Codes.NONE and np.isfinite(result.energetics.energy)


def test_cancel(graph):
    graph.feedback.clear()
    handle = graph.send(message(rattle=0.08), settings='{"reference": false, "max_force_ev_per_angstrom": 0.0001}')
    graph.wait(lambda: graph.feedback)
    graph.wait(handle.cancel_goal_async().done)
    answer = graph.result(handle)
    assert answer.status == GoalStatus.STATUS_CANCELED and answer.result.error_code == Codes.CANCELED


def test_cancel_while_the_reference_is_computed_leaves_the_reference_to_others(graph):
    sheet = message(size=5)
    first, second = graph.send(sheet), graph.send(sheet)
    graph.wait(first.cancel_goal_async().done)
    assert graph.result(first).status == GoalStatus.STATUS_CANCELED
    assert graph.result(second).result.error_code == Codes.NONE


def test_a_failed_relaxation_still_hands_over_what_it_has(graph):
    answer = graph.result(graph.send(message(rattle=0.05), settings='{"max_steps": 1}'))
    assert answer.status == GoalStatus.STATUS_ABORTED and answer.result.error_code == Codes.NOT_CONVERGED
    assert "not converged in 1 steps" in answer.result.error_msg and np.isfinite(answer.result.energetics.energy)


def overlapping():
    broken = message()
    broken.positions[3:6] = broken.positions[0:3]
    return broken


def sodium():
    atoms = bulk("Na", cubic=True) * (2, 1, 1)
    return AtomicStructure(atomic_numbers=[11] * 4, positions=(atoms.positions * 1e-10).ravel(),
                           cell=(atoms.cell.array * 1e-10).ravel(), periodic=[True] * 3)


@pytest.mark.parametrize(("structure", "engine", "settings", "code", "text"), [
    (message, "tblit", "", Codes.UNKNOWN_ENGINE, "did you mean 'tblite'"),
    (overlapping, "", "", Codes.INVALID_STRUCTURE, "are 0 pm apart"),
    (AtomicStructure, "", "", Codes.INVALID_STRUCTURE, "has no atoms"),
    (message, "emt", "", Codes.INVALID_STRUCTURE, "atomic number 6"),
    (message, "", '{"metod": 1}', Codes.INVALID_SETTINGS, "did you mean 'method'"),
    (sodium, "", '{"electronic_temperature_k": 0.0}', Codes.ENGINE_FAILED, "SCF not converged"),
])
def test_error_codes(graph, structure, engine, settings, code, text):
    graph.published.clear()
    result = graph.compute(structure(), engine=engine, settings=settings)
    assert result.error_code == code and text in result.error_msg
    graph.wait(lambda: graph.published)
    assert graph.published[0].error_code == code and math.isnan(graph.published[0].energy)


def test_diagnostics_count_the_jobs(graph):
    graph.bridge.publish_diagnostics()
    assert graph.bridge._values["jobs done"] > 0 and graph.bridge._values["jobs queued"] == 0
    assert graph.bridge._values["transport"] in ("tcp", "tls")


def test_an_inactive_node_refuses_and_deactivation_answers_open_goals_and_ends_the_cluster(graph):
    graph.feedback.clear()
    handle = graph.send(message(rattle=0.08), settings='{"reference": false, "max_force_ev_per_angstrom": 0.0001}')
    graph.wait(lambda: graph.feedback)
    workers = [child for child in psutil.Process().children(recursive=True) if child not in graph.earlier]
    assert workers
    assert graph.bridge.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert graph.result(handle).result.error_code == Codes.CANCELED
    psutil.wait_procs(workers)
    assert graph.compute(message()).error_code == Codes.NOT_ACTIVE


def test_a_lost_cluster_that_cannot_be_replaced_is_an_error_and_not_the_end(graph, monkeypatch):
    assert graph.bridge.trigger_activate() == TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        result = graph.compute(message())
    assert result.error_code == Codes.CLUSTER_LOST and "did not start" in result.error_msg
    assert graph.compute(message()).error_code == Codes.NONE
