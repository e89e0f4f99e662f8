"""The real planner on a small synthetic field, with an operator who follows a script, written down by the real recorder."""

import hashlib
import json
import time
import uuid

import numpy as np
import rclpy
import yaml
from rclpy.action import ActionClient, ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgetem.action import Acquire, ComputeEnergetics, RunExperiment
from edgetem.msg import (AcquisitionEnd, AtomicStructure, Decision, Energetics, Measurements, MicroscopeState, Overview,
                         ProbePath)
from edgetem.srv import AcquireOverview, GetStructure, SetOptics, SetScalarizer
from edgetem_nodes.graph.column import fill, given
from edgetem_nodes.graph.configuration import declared
from edgetem_nodes.graph.messages import from_uuid, number_array, positions_array, to_stamp, to_uuid
from edgetem_nodes.graph.operating import SERVICES, message_of
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.planner.node import PlannerNode
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.provenance.recorder import RecorderNode

EXPERIMENT = uuid.UUID(int=4242)
SHAPE, STEP = (14, 15), 3e-10
CURRENT, DWELL = 40e-12, 2e-3
SETTINGS = {"seed": 11, "point_budget": 26, "initial_points": 8, "batch_points": 6, "model.surrogate": "gaussian_process",
            "model.training_steps": 5, "acquisition_function": "expected_improvement"}
LIMIT = 60.0
"""[s] after which an event that does not come fails the test."""


def truth():
    """Survey and scalar of a smooth field, (rows, columns) each."""
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    survey = 5 + np.sin(y / 3.0) + np.cos(x / 2.5)
    return survey, survey ** 2 + 0.3 * np.sin(x * y / 20)


class Instrument(Node):
    """Microscope, detector, featurizer and hpc_bridge of the synthetic field in one node.

    Of an energy map one site in seven has a pattern that is rejected, a micro-scan that fails, no structure, no energy.

    hold : called with the number of an acquisition; its measurements come once the future that it returns is done.
    """

    def __init__(self, hold=None):
        super().__init__("instrument")
        self.made = {kind: self.create_publisher(kind, name, profile) for kind, name, profile in (
            (ProbePath, "probe_path", EVENTS), (Measurements, "measurements", EVENTS),
            (MicroscopeState, "microscope_state", STATE),
            (AcquisitionEnd, "acquisition_end", EVENTS), (Overview, "overview", STATE),
            (AtomicStructure, "structure", EVENTS), (Energetics, "energetics", EVENTS))}
        self.create_service(GetStructure, "get_structure", self.get_structure)
        self.energies = ActionServer(self, ComputeEnergetics, "compute_energetics", self.compute_energetics)
        self.fails = False
        """Whether sites of an energy map fail."""
        self.create_service(AcquireOverview, "acquire_overview", self.overview)
        self.create_service(SetScalarizer, "set_scalarizer", self.set_scalarizer)
        self.create_service(SetOptics, "set_optics", self.set_optics)
        self.server = ActionServer(self, Acquire, "acquire", self.acquire)
        self.hold = hold
        self.dose, self.time, self.optics = 0.0, 1.7e9, {"probe_current": CURRENT}
        self.version, self.factor, self.measured = 1, 1.0, []

    def say(self, kind, **values):
        message = kind(**values)
        message.header.stamp = to_stamp(self.time)
        self.made[kind].publish(message)
        return message

    def state(self, blanked):
        state = MicroscopeState(dose=self.dose, beam_blanked=blanked)
        fill(state.commanded_optics, self.optics)
        self.made[MicroscopeState].publish(state)

    def overview(self, request, response):
        response.overview = Overview(acquisition_id=request.acquisition_id, channels=["haadf"], dose=54321.1,
                                     data=number_array(truth()[0]))
        response.overview.field.step, response.overview.field.shape = [STEP, STEP], list(SHAPE)
        self.dose += response.overview.dose
        self.made[Overview].publish(response.overview)
        self.state(True)
        return response

    def set_optics(self, request, response):
        self.optics.update(given(request.optics))
        self.state(True)
        return response

    def set_scalarizer(self, request, response):
        settings = json.loads(request.settings)
        if "factor" not in settings:
            response.error_code, response.error_msg = response.INVALID_SETTINGS, "there is no such parameter"
            return response
        self.factor, self.version = settings["factor"], self.version + 1
        for identifier, positions in self.measured:
            self.rows(identifier, positions, np.arange(len(positions)))
        response.scalarizer, response.settings = "synthetic", request.settings
        response.scalarizer_version, response.names, response.units = self.version, ["signal"], ["a.u."]
        return response

    def number(self, identifier, index):
        """Grid index of a position that was measured."""
        row, column = np.rint(dict((to_uuid(i), p) for i, p in self.measured)[to_uuid(identifier)][index] / STEP).astype(int)
        return int(row * SHAPE[1] + column)

    def get_structure(self, request, response):
        number = self.number(request.acquisition_id, request.index)
        assert number == self.number(request.micro_scan_id, request.micro_scan_index)
        if number % 7 == 2:
            response.error_code, response.error_msg = response.NOT_IDENTIFIABLE, "two phases"
            return response
        response.structure = self.say(AtomicStructure, **{name: getattr(request, name) for name in (
            "acquisition_id", "index", "micro_scan_id", "micro_scan_index")}, label=str(number), footprint_area=1e-18)
        return response

    def compute_energetics(self, goal):
        request, result = goal.request, ComputeEnergetics.Result()
        structure = request.structure
        failed, density = int(structure.label) % 7 == 3, 0.01 * truth()[1].ravel()[int(structure.label)]
        result.error_code, result.error_msg = (result.NOT_CONVERGED, "no convergence") if failed else (0, "")
        result.energetics = self.say(Energetics, **{name: getattr(structure, name) for name in (
            "acquisition_id", "index", "micro_scan_id", "micro_scan_index", "label") if hasattr(Energetics(), name)},
            goal_engine=request.engine, goal_settings=request.settings, excess_energy_density_standard_error=0.003,
            excess_energy_density=0.9 * density + 0.02 if request.engine == "better" else density,
            error_code=result.error_code, error_msg=result.error_msg)
        goal.abort() if failed else goal.succeed()
        return result

    def rows(self, identifier, positions, part, detector=""):
        row, column = np.rint(positions / STEP).astype(int).T
        wrong = (row * SHAPE[1] + column) % 7 == (1 if detector else 0) if self.fails else np.zeros(len(row), bool)
        noise = np.random.default_rng(list(hashlib.sha256(positions.tobytes()).digest())).normal(0, 0.05, len(positions))
        values = self.factor * (truth()[1][row, column] + noise)
        self.say(Measurements, acquisition_id=identifier, indices=number_array(part, "Q"),
                 positions=number_array(positions[part]), names=["signal"], units=["a.u."], values=number_array(values[part]),
                 standard_errors=number_array(np.full(len(part), 0.05)), valid=(~wrong[part]).tolist(),
                 failures=["foreign" if each else "" for each in wrong[part]], scalarizer="synthetic",
                 scalarizer_version=self.version)

    async def acquire(self, goal):
        positions = positions_array(goal.request.positions)
        identifier, count, dwell = goal.request.acquisition_id, len(positions), goal.request.dwell_time or DWELL
        path = ProbePath(acquisition_id=identifier, positions=goal.request.positions, dwell_time=dwell, position_period=dwell)
        fill(path.optics, self.optics)
        path.header.stamp = to_stamp(self.time)
        self.made[ProbePath].publish(path)
        self.state(False)
        if self.hold is not None and not goal.request.detector:
            await self.hold(to_uuid(identifier))
        if goal.is_cancel_requested:
            goal.canceled()
            return Acquire.Result(error_code=Acquire.Result.CANCELED)
        indices = np.arange(count)
        self.measured.append((identifier, positions))
        for part in (indices[count // 2:], indices[:count // 2]):
            self.rows(identifier, positions, part, goal.request.detector)
        self.say(AcquisitionEnd, acquisition_id=identifier, requested=count, sent=count)
        cost = electrons(self.optics["probe_current"], dwell) * count
        self.dose += cost
        self.time += count * dwell
        self.state(True)
        goal.succeed()
        return Acquire.Result(frames_delivered=count, dose=cost)


def configuration(settings):
    """The planner's complete parameters as the YAML that an experiment carries."""
    values = {name: settings.get(name, parameter.default) for name, parameter in declared(Parameters).items()}
    return yaml.safe_dump({"planner": {"ros__parameters": values}})


class Operator:
    """Asks, once a decision stands, for what a script says: {number of the decision: [requests]}; "stop" cancels.

    Measurements of an acquisition wait until everything that the script says of its decision was answered.
    """

    def __init__(self, node, script):
        group = ReentrantCallbackGroup()
        self.node, self.script, self.answers = node, script, []
        self.decisions, self.stop, self.done = [], lambda: None, {}
        self.clients = {name: node.create_client(kind, name, callback_group=group) for name, kind in SERVICES.items()}
        node.create_subscription(Decision, "decision", self.on_decision, EVENTS, callback_group=group)

    def ready(self):
        return all(client.service_is_ready() for client in self.clients.values())

    async def on_decision(self, decision):
        self.decisions.append(decision)
        for request in self.script.get(decision.index, []):
            if request == "stop":
                self.stop()
                continue
            name, message = message_of(request)
            self.answers.append(await self.clients[name].call_async(message))
        self.asked(uuid.uuid5(EXPERIMENT, str(decision.index))).set_result(None)

    def asked(self, acquisition_id):
        """Future of the moment when everything for the decision of an acquisition was asked."""
        return self.done.setdefault(acquisition_id, self.node.executor.create_future())


def conduct(folder, script=None, **settings):
    """Run and record an experiment; returns its result and what the planner answered to the operator."""
    settings = {**SETTINGS, **settings}
    rclpy.init()
    executor = SingleThreadedExecutor()
    recorder = RecorderNode(parameter_overrides=[Parameter("output", value=str(folder))])
    planner = PlannerNode(parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()])
    client_node = rclpy.create_node("client")
    executor.add_node(client_node)
    operator = Operator(client_node, script or {})
    instrument = Instrument(operator.asked)
    instrument.fails = bool(settings.get("energetics.mapped"))
    client = ActionClient(client_node, RunExperiment, "run_experiment", callback_group=ReentrantCallbackGroup())
    for node in (recorder, planner, instrument):
        executor.add_node(node)
    recorder.trigger_configure()
    planner.trigger_configure()
    deadline = time.monotonic() + LIMIT

    def wait(condition):
        spin(executor, condition, deadline)
    try:
        wait(lambda: instrument.made[Measurements].get_subscription_count() == 2 and client.server_is_ready())
        wait(lambda: planner.conductor.announcer.decisions.get_subscription_count() == 2 and operator.ready())
        wait(lambda: all(found() for _, found in planner.peers()) and planner.conductor._scalarizer.ready())
        recorder.trigger_activate()
        planner.trigger_activate()
        goal = client.send_goal_async(RunExperiment.Goal(experiment_id=from_uuid(EXPERIMENT), config=configuration(settings)))
        wait(goal.done)
        operator.stop = goal.result().cancel_goal_async
        result = goal.result().get_result_async()
        wait(result.done)
        outcome = result.result().result
        wait(lambda: recorder._bag.metadata.topics["/decision"].message_count == outcome.decisions)
    finally:
        planner.close()
        recorder.close()
        instrument.server.destroy()
        instrument.energies.destroy()
        client.destroy()
        for node in (recorder, planner, instrument, client_node):
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return outcome, operator


def spin(executor, condition, deadline):
    """Spin until the condition holds."""
    while not condition():
        assert time.monotonic() < deadline, "the event did not come"
        executor.spin_once(timeout_sec=0.05)
