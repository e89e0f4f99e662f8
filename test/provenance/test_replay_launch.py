"""The real planner, recorded by the real recorder on a small synthetic field, and replayed by the launch file."""

import hashlib
import os
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
import rclpy
import yaml
from altered_bag import copy_altered
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgetem.action import Acquire, RunExperiment
from edgetem.msg import AcquisitionEnd, Measurements, MicroscopeState, Overview, ProbePath
from edgetem.srv import AcquireOverview
from edgetem_nodes.graph.configuration import declared
from edgetem_nodes.graph.messages import from_uuid, number_array, positions_array, to_stamp
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.planner.node import PlannerNode
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.provenance.reading import read_bag
from edgetem_nodes.provenance.recorder import RecorderNode
from edgetem_nodes.provenance.repair import repair

EXPERIMENT = uuid.UUID(int=4242)
SHAPE, STEP = (14, 15), 3e-10
CURRENT, DWELL = 40e-12, 2e-3
SETTINGS = {"seed": 11, "point_budget": 26, "initial_points": 8, "batch_points": 6, "model.surrogate": "gaussian_process",
            "model.training_steps": 5, "acquisition_function": "expected_improvement"}


def truth():
    """Survey and scalar of a smooth field, (rows, columns) each."""
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    survey = 5 + np.sin(y / 3.0) + np.cos(x / 2.5)
    return survey, survey ** 2 + 0.3 * np.sin(x * y / 20)


class Instrument(Node):
    """Microscope, detector and featurizer of the synthetic field in one node."""

    def __init__(self):
        super().__init__("instrument")
        self.made = {kind: self.create_publisher(kind, name, profile) for kind, name, profile in (
            (ProbePath, "probe_path", EVENTS), (Measurements, "measurements", EVENTS),
            (MicroscopeState, "microscope_state", STATE),
            (AcquisitionEnd, "acquisition_end", EVENTS), (Overview, "overview", STATE))}
        self.create_service(AcquireOverview, "acquire_overview", self.overview)
        self.server = ActionServer(self, Acquire, "acquire", self.acquire)
        self.dose, self.time = 0.0, 1.7e9

    def say(self, kind, **values):
        message = kind(**values)
        message.header.stamp = to_stamp(self.time)
        self.made[kind].publish(message)
        return message

    def state(self, blanked):
        state = MicroscopeState(dose=self.dose, beam_blanked=blanked)
        state.commanded_optics.probe_current = CURRENT
        self.made[MicroscopeState].publish(state)

    def overview(self, request, response):
        response.overview = Overview(acquisition_id=request.acquisition_id, channels=["haadf"], dose=54321.1,
                                     data=number_array(truth()[0]))
        response.overview.field.step, response.overview.field.shape = [STEP, STEP], list(SHAPE)
        self.dose += response.overview.dose
        self.made[Overview].publish(response.overview)
        self.state(True)
        return response

    def acquire(self, goal):
        positions = positions_array(goal.request.positions)
        identifier, count = goal.request.acquisition_id, len(positions)
        self.say(ProbePath, acquisition_id=identifier, positions=goal.request.positions, dwell_time=DWELL,
                 position_period=DWELL)
        self.state(False)
        row, column = np.rint(positions / STEP).astype(int).T
        noise = np.random.default_rng(list(hashlib.sha256(positions.tobytes()).digest())).normal(0, 0.05, count)
        values = truth()[1][row, column] + noise
        for part in (slice(count // 2, count), slice(0, count // 2)):
            self.say(Measurements, acquisition_id=identifier, indices=number_array(np.arange(count)[part], "Q"),
                     positions=number_array(positions[part]), names=["signal"], units=[""],
                     values=number_array(values[part]),
                     standard_errors=number_array(np.full(count, 0.05)[part]), valid=[True] * len(values[part]),
                     failures=[""] * len(values[part]))
        self.say(AcquisitionEnd, acquisition_id=identifier, requested=count, sent=count)
        cost = electrons(CURRENT, DWELL) * count
        self.dose += cost
        self.time += count * DWELL
        self.state(True)
        goal.succeed()
        return Acquire.Result(frames_delivered=count, dose=cost)


def configuration():
    """The planner's complete parameters as the YAML that an experiment carries."""

    values = {name: SETTINGS.get(name, parameter.default) for name, parameter in declared(Parameters).items()}
    return yaml.safe_dump({"planner": {"ros__parameters": values}})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Folder of an experiment that the real planner ran and the real recorder wrote down."""
    folder = tmp_path_factory.mktemp("experiment")
    rclpy.init()
    executor = SingleThreadedExecutor()
    recorder = RecorderNode(parameter_overrides=[Parameter("output", value=str(folder))])
    planner = PlannerNode(parameter_overrides=[Parameter(name, value=value) for name, value in SETTINGS.items()])
    nodes = [recorder, planner, Instrument(), rclpy.create_node("client")]
    client = ActionClient(nodes[-1], RunExperiment, "run_experiment")
    for node in nodes:
        executor.add_node(node)
    recorder.trigger_configure()
    planner.trigger_configure()
    try:
        deadline = time.monotonic() + 60
        wait = lambda condition: spin(executor, condition, deadline)  # noqa: E731
        wait(lambda: nodes[2].made[Measurements].get_subscription_count() == 2 and client.server_is_ready())
        wait(lambda: planner.conductor.announcer.decisions.get_subscription_count() and all(found() for _, found in planner.peers()))
        recorder.trigger_activate()
        planner.trigger_activate()
        goal = client.send_goal_async(RunExperiment.Goal(experiment_id=from_uuid(EXPERIMENT), config=configuration()))
        wait(goal.done)
        result = goal.result().get_result_async()
        wait(result.done)
        assert result.result().result.error_code == 0, result.result().result.error_msg
        wait(lambda: recorder._bag.metadata.topics["/decision"].message_count == result.result().result.decisions)
    finally:
        planner.close()
        recorder.close()
        nodes[2].server.destroy()
        client.destroy()
        for node in nodes:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return folder


def spin(executor, condition, deadline):
    while not condition():
        assert time.monotonic() < deadline, "the event did not come"
        executor.spin_once(timeout_sec=0.05)


LAUNCH = """
import sys
from edgetem_nodes.graph.environment import prepare, share_directory
from edgetem_nodes.graph.launching import run_launch
prepare()
sys.exit(run_launch(share_directory() / "launch" / "replay.launch.py", {"bag": sys.argv[1]}))
"""


def replay(folder):
    """Exit code and output of the replay launch."""
    process = subprocess.run([sys.executable, "-c", LAUNCH, str(folder)], capture_output=True, text=True, timeout=120,
                             env={**os.environ, "ROS_LOG_DIR": str(folder)}, check=False)
    return process.returncode, process.stdout + process.stderr


def test_the_real_planner_decides_the_same_from_its_bag(experiment):
    recorded = [message for _, _, message in read_bag(experiment, ["decision"])]
    assert [message.action for message in recorded] == ["initial", "acquire", "acquire", "acquire", "stop"]
    assert not repair(experiment / "bag").changed
    code, output = replay(experiment)
    assert code == 0, output
    assert "replay: all 5 decisions are the same, bit for bit" in output


def test_one_altered_measurement_makes_the_real_planner_differ_and_the_decision_is_named(experiment, tmp_path):
    acquisition = uuid.uuid5(EXPERIMENT, "1")
    assert copy_altered(experiment / "bag", tmp_path / "bag", acquisition, 2, 1 + 1e-12) == 1
    code, output = replay(tmp_path)
    assert code == 1, output
    assert "decision 0: initial, same" in output and "decision 1: acquire, same" in output
    assert "replay: decision 2 is the first that differs" in output


