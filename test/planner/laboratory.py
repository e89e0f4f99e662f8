"""A microscope, a featurizer and an hpc_bridge that answer at once from a known map, and an operator: all that the real
planner talks to."""

from __future__ import annotations

import json
import time
import uuid

import numpy as np
import rclpy
from measured_maps import particles
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from edgetem.action import Acquire, ComputeEnergetics, RunExperiment
from edgetem.msg import Decision, Experiment, ExperimentMap, Measurements, ProbePath
from edgetem.srv import AcquireOverview, GetExperiment, GetStructure, MoveStage, SetOptics, SetScalarizer
from edgetem_nodes.graph.column import field_message, given
from edgetem_nodes.graph.messages import from_uuid, number_array, positions_array, to_uuid
from edgetem_nodes.graph.operating import SERVICES, message_of
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.node import PlannerNode

SURVEY, TRUTH, ERROR = particles(side=16, hidden=8.0)
FIELD = ScanField((-8e-9, -8e-9), (1e-9, 1e-9), TRUTH.shape)
EV_PER_NM2 = 0.1602176634
"""[J/m^2]."""
SCALE, OFFSET = 0.8, 0.5
"""Of the better level of energies; the offset in eV/nm^2."""
PERIOD, ELECTRONS, SURVEY_DOSE = 1.5e-3, 1000.0, 5000.0
LIMIT = 30.0
"""[s] after which a test that waits for an event fails."""

SETTINGS = {"seed": 3, "point_budget": 40, "initial_points": 16, "batch_points": 8, "model.training_steps": 3,
            "model.patch_size": 3, "acquisition_function": "expected_improvement", "measurement_timeout_s": 20.0}


def essence(decision):
    """All that must repeat itself bit for bit, by field: everything but what a clock fills."""
    fields = {name: getattr(decision, name) for name in Decision.get_fields_and_field_types()
              if name not in ("header", "model_duration", "published_ns")}
    return {name: value.tobytes() if hasattr(value, "tobytes") else np.float64(value).tobytes() if isinstance(value, float)
            else str(value) for name, value in fields.items()}


class Laboratory:
    """The planner under test and everything it needs, on one executor; the tests change the flags."""

    def __init__(self, activate=True, **settings):
        self.truth = TRUTH.copy()
        self.version, self.factor = 1, 1.0
        """Of the scalarizer: it gives the truth times the factor."""
        self.withhold_again = False
        self.refuse_optics = self.refuse_stage = self.refuse_scalarizer = 0
        self.commands, self.changes = [], []
        self.dwell_times: list[float] = []
        self.withhold_rows = self.withhold_path = self.hold_acquisition = self.hold_overview = False
        self.shuffle = False
        self.dwell_counts = False
        """Whether dose and time of a position follow its dwell time."""
        self.hold_from = 10**6
        """Acquisitions from this number on do not end."""
        self.failing: set[int] = set()
        self.refuse_overview = self.refuse_acquisition = 0
        self.structure_error = self.energy_error = 0
        self.no_structure: set[int] = set()
        """Candidates without a structure; without a valid micro-scan; whose energy does not converge, or never comes."""
        self.no_scan: set[int] = set()
        self.no_energy: set[int] = set()
        self.no_answer: set[int] = set()
        self.hold_energies = self.hold_structures = False
        self.most_goals = 10**6
        """Goals at a time beyond which the hpc_bridge refuses more."""
        self.goals, self.asked, self.scanned, self.detectors = [], [], {}, []
        """Goals of compute_energetics, requests of get_structure, candidates of each micro-scan, detectors acquired with."""
        self.running = 0
        self.acquired: list[tuple[uuid.UUID, np.ndarray]] = []
        self.overviews, self.canceled, self.energies = 0, 0, 0
        self.decisions, self.maps, self.experiments, self.feedback = [], [], [], []
        self.site_energies = []
        values = {**SETTINGS, **settings}
        self.planner = PlannerNode(parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
        self.node = rclpy.create_node("laboratory")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.planner)
        self.executor.add_node(self.node)
        group = ReentrantCallbackGroup()
        self._paths = self.node.create_publisher(ProbePath, "probe_path", EVENTS)
        self._rows = self.node.create_publisher(Measurements, "measurements", EVENTS)
        self._kept = [
            self.node.create_service(AcquireOverview, "acquire_overview", self._overview, callback_group=group),
            self.node.create_service(GetStructure, "get_structure", self._structure, callback_group=group),
            self.node.create_service(SetOptics, "set_optics", self._set_optics, callback_group=group),
            self.node.create_service(MoveStage, "move_stage", self._move_stage, callback_group=group),
            self.node.create_service(SetScalarizer, "set_scalarizer", self._set_scalarizer, callback_group=group),
            ActionServer(self.node, Acquire, "acquire", self._acquire, callback_group=group, cancel_callback=self._cancel),
            ActionServer(self.node, ComputeEnergetics, "compute_energetics", self._energetics, callback_group=group,
                         cancel_callback=lambda _: CancelResponse.ACCEPT),
            self.node.create_subscription(Measurements, "site_energies", self.site_energies.append, EVENTS),
            self.node.create_subscription(Decision, "decision", self.decisions.append, EVENTS),
            self.node.create_subscription(ExperimentMap, "experiment_map", self.maps.append, STATE),
            self.node.create_subscription(Experiment, "experiment", self.experiments.append, STATE)]
        self.client = ActionClient(self.node, RunExperiment, "run_experiment", callback_group=group)
        self.operator = {name: self.node.create_client(kind, name, callback_group=group)
                         for name, kind in {**SERVICES, "get_experiment": GetExperiment}.items()}
        assert self.planner.trigger_configure() == TransitionCallbackReturn.SUCCESS
        self.wait(self.client.server_is_ready)
        self.wait(lambda: self._rows.get_subscription_count() and self._paths.get_subscription_count())
        self.wait(lambda: self.planner.count_subscribers("decision") and self.planner.count_subscribers("experiment_map"))
        self.wait(lambda: all(found() for _, found in self.planner.peers()))
        self.wait(lambda: all(client.service_is_ready() for client in self.operator.values()))
        self.wait(self.planner.conductor._scalarizer.ready)
        if activate:
            assert self.planner.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def close(self):
        self.planner.close()
        self.planner.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()

    def wait(self, condition):
        """Spin until the condition holds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened within {LIMIT:g} s"
            self.executor.spin_once(timeout_sec=0.05)

    def begin(self, experiment_id=7, **goal):
        """Send an experiment; returns the goal handle and its result's future."""
        request = RunExperiment.Goal(experiment_id=from_uuid(uuid.UUID(int=experiment_id)), config="a: 1\n", **goal)
        sent = self.client.send_goal_async(request, lambda message: self.feedback.append(message.feedback))
        self.wait(sent.done)
        assert sent.result().accepted
        return sent.result(), sent.result().get_result_async()

    def run(self, **goal):
        """Run an experiment to its end; returns the result."""
        _, result = self.begin(**goal)
        self.wait(result.done)
        outcome = result.result().result
        if outcome.stop_reason:
            self.wait(lambda: self.decisions and self.decisions[-1].action == "stop")
        return outcome

    def call(self, name, message):
        """The planner's answer to the operator."""
        future = self.operator[name].call_async(message)
        self.wait(future.done)
        return future.result()

    def ask(self, kind, **request):
        """Ask as the operator does; returns the answer."""
        return self.call(*message_of({"kind": kind, **request}))

    def state(self):
        """How the experiment stands."""
        return self.call("get_experiment", GetExperiment.Request())

    def decided(self, count):
        """Wait for so many decisions; returns the last of them."""
        self.wait(lambda: len(self.decisions) >= count)
        return self.decisions[count - 1]

    # ---- what the planner sees --------------------------------------------------------------------------------

    async def _overview(self, request, response):
        self.overviews += 1
        while self.hold_overview:
            await self._moment()
        if self.refuse_overview:
            response.error_code, response.error_msg = self.refuse_overview, "the survey camera is out"
            return response
        response.overview.acquisition_id, response.overview.field = request.acquisition_id, field_message(FIELD)
        response.overview.channels, response.overview.data = ["haadf"], number_array(SURVEY)
        response.overview.dose = SURVEY_DOSE
        return response

    def electrons(self, dwell):
        """Of a position."""
        return ELECTRONS * dwell / 1e-3 if self.dwell_counts else ELECTRONS

    def period(self, dwell):
        """[s] of a position."""
        return PERIOD - 1e-3 + dwell if self.dwell_counts else PERIOD

    async def _acquire(self, goal):
        result, request = Acquire.Result(), goal.request
        candidates = FIELD.candidates(positions_array(request.positions))
        number = len(self.acquired)
        self.acquired.append((to_uuid(request.acquisition_id), candidates))
        self.detectors.append(request.detector)
        self.dwell_times.append(request.dwell_time)
        if self.refuse_acquisition:
            result.error_code, result.error_msg = self.refuse_acquisition, "a consumer went silent: compressor"
            goal.abort()
            return result
        if not self.withhold_path:
            self._paths.publish(ProbePath(acquisition_id=request.acquisition_id, positions=request.positions,
                                          dwell_time=1e-3, position_period=self.period(request.dwell_time)))
        while self.hold_acquisition or number >= self.hold_from:
            await self._moment()
            if goal.is_cancel_requested:
                result.error_code = Acquire.Result.CANCELED
                goal.canceled()
                return result
        order = np.arange(len(candidates))
        if self.shuffle:
            order = order[::-1]
        if not self.withhold_rows:
            publish = self._publish_scan if request.detector else self._publish
            for part in np.array_split(order, 3):
                publish(request.acquisition_id, part, candidates[part])
        result.frames_delivered, result.dose = len(candidates), self.electrons(request.dwell_time) * len(candidates)
        goal.succeed()
        return result

    def _publish(self, acquisition_id, indices, candidates):
        valid = [int(c) not in self.failing for c in candidates]
        values = np.where(valid, self.factor * self.truth.ravel()[candidates], np.nan)
        self._rows.publish(Measurements(
            acquisition_id=acquisition_id, indices=indices.tolist(), positions=number_array(FIELD.positions(candidates)),
            names=["strain", "counts"], units=["%", "1"], values=number_array(np.stack([values, values * 0], axis=1)),
            standard_errors=number_array(np.stack([ERROR.ravel()[candidates]] * 2, axis=1)), valid=valid,
            failures=["" if v else "saturated" for v in valid], scalarizer="strain", scalarizer_version=self.version,
            received_ns=time.monotonic_ns(), source_duration=0.0))

    def _publish_scan(self, acquisition_id, indices, candidates):
        valid = [int(c) not in self.no_scan for c in candidates]
        self._rows.publish(Measurements(
            acquisition_id=acquisition_id, indices=indices.tolist(), positions=number_array(FIELD.positions(candidates)),
            names=["defects"], units=["1"], values=[1.0] * len(candidates), standard_errors=[0.1] * len(candidates),
            valid=valid, failures=["" if v else "no lattice" for v in valid], scalarizer="cbed",
            scalarizer_version=self.version, received_ns=time.monotonic_ns(), source_duration=0.0))

    def _cancel(self, _goal):
        self.canceled += 1
        return CancelResponse.ACCEPT

    def _set_optics(self, request, response):
        self.commands.append(given(request.optics))
        response.error_code, response.error_msg = self.refuse_optics, "no such lens" if self.refuse_optics else ""
        return response

    def _move_stage(self, request, response):
        self.commands.append(given(request.pose))
        response.error_code, response.error_msg = self.refuse_stage, "the stage is locked" if self.refuse_stage else ""
        return response

    def _set_scalarizer(self, request, response):
        self.changes.append(request)
        if self.refuse_scalarizer:
            response.error_code, response.error_msg = self.refuse_scalarizer, "no such scalarizer"
            return response
        self.factor, self.version = json.loads(request.settings)["factor"], request.version or self.version + 1
        for acquisition_id, candidates in [] if request.skip_measured or self.withhold_again else self.acquired:
            for part in np.array_split(np.arange(len(candidates))[::-1], 2):
                self._publish(from_uuid(acquisition_id), part, candidates[part])
        response.scalarizer, response.settings = "strain", request.settings
        response.scalarizer_version = self.version
        response.names, response.units = ["strain", "counts"], ["%", "1"]
        return response

    async def _structure(self, request, response):
        self.asked.append(request)
        while self.hold_structures:
            await self._moment()
        acquisitions = dict(self.acquired)
        candidate = int(acquisitions[to_uuid(request.acquisition_id)][request.index])
        if to_uuid(request.micro_scan_id).int:
            assert acquisitions[to_uuid(request.micro_scan_id)][request.micro_scan_index] == candidate
        if candidate in self.no_structure:
            response.error_code, response.error_msg = response.NOT_IDENTIFIABLE, "no lattice"
            return response
        response.structure.label = str(candidate)
        response.error_code, response.error_msg = self.structure_error, "no lattice" if self.structure_error else ""
        response.structure.acquisition_id, response.structure.index = request.acquisition_id, request.index
        return response

    async def _energetics(self, goal):
        result, request = ComputeEnergetics.Result(), goal.request
        result.error_code, result.error_msg = self.energy_error, "no convergence" if self.energy_error else ""
        if self.running >= self.most_goals:
            result.error_code, result.error_msg = result.QUEUE_FULL, "too many"
            goal.abort()
            return result
        self.running += 1
        self.goals.append(request)
        candidate = int(request.structure.label or -1)
        while self.hold_energies or candidate in self.no_answer:
            await self._moment()
            if goal.is_cancel_requested:
                self.running -= 1
                result.error_code = result.CANCELED
                goal.canceled()
                return result
        await self._moment()
        self.running -= 1
        if candidate in self.no_energy:
            result.error_code, result.error_msg = result.NOT_CONVERGED, "no convergence"
        self.energies += 1
        if candidate >= 0:
            self._fill(result.energetics, request.engine, candidate)
        goal.abort() if result.error_code else goal.succeed()
        return result

    def _fill(self, energetics, engine, candidate):
        """The truth is the excess energy density [eV/nm^2] of the low level; the better one scales and shifts it."""
        truth = self.truth.ravel()[candidate]
        density = SCALE * truth + OFFSET if engine == "better" else truth
        energetics.excess_energy_density = density * EV_PER_NM2
        energetics.excess_energy_density_standard_error = ERROR.ravel()[candidate] * EV_PER_NM2

    async def _moment(self):
        """Let the executor do something else once."""
        future = self.executor.create_future()
        timer = self.node.create_timer(0.005, lambda: future.done() or future.set_result(None))
        await future
        self.node.destroy_timer(timer)
