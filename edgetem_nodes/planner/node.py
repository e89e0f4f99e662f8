"""The planner node: runs one autonomous experiment at a time, from the overview to its stop rule."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from edgetem.action import Acquire, ComputeEnergetics, RunExperiment
from edgetem.msg import Decision, Experiment, ExperimentMap, Measurements, Overview, ProbePath
from edgetem.srv import AcquireOverview, GetStructure
from edgetem_nodes import __version__
from edgetem_nodes.graph.background import Background
from edgetem_nodes.graph.column import field_message
from edgetem_nodes.graph.environment import lock_hash
from edgetem_nodes.graph.messages import from_uuid, number_array, numbers, to_uuid
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import stopping
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError, Proposal
from edgetem_nodes.planner.ledger import Pending
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.platform import decision_platform
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.waiting import Call, Failed, Halted, Stopped, Waiting

CHECKPOINT = "checkpoint.npz"
ANSWER_TIMEOUT = 30.0
"""[s] that a service may take to answer."""


class PlannerNode(GraphNode):
    """Serves `run_experiment`; asks the microscope, learns from measurements, decides, and publishes why."""

    NAME: ClassVar[str] = "planner"
    Parameters: ClassVar[type] = Parameters

    def setup(self) -> None:
        p = self.parameters
        from edgetem_nodes.planner.surrogates import one_deterministic_thread  # torch takes seconds to load: now, not later
        one_deterministic_thread()

        self._checkpoint = Path(p.output) / CHECKPOINT if p.output else None
        self._background = Background(self, "experiment")
        self._waiting = Waiting()
        self._goal: ServerGoalHandle | None = None
        self._pending: Pending | None = None
        group = ReentrantCallbackGroup()
        self._experiments = self.create_publisher(Experiment, "experiment", STATE)
        self._decisions = self.create_publisher(Decision, "decision", EVENTS)
        self._maps = self.create_publisher(ExperimentMap, "experiment_map", STATE)
        self._measurements = self.create_subscription(Measurements, "measurements", self._on_measurements, EVENTS,
                                                      callback_group=group)
        self._paths = self.create_subscription(ProbePath, "probe_path", self._on_path, EVENTS, callback_group=group)
        self._overview = self.create_client(AcquireOverview, "acquire_overview", callback_group=group)
        self._structure = self.create_client(GetStructure, "get_structure", callback_group=group)
        self._acquire = ActionClient(self, Acquire, "acquire", callback_group=group)
        self._energetics = ActionClient(self, ComputeEnergetics, "compute_energetics", callback_group=group)
        self._server = ActionServer(self, RunExperiment, "run_experiment", self._run, callback_group=group,
                                    goal_callback=self._on_goal, cancel_callback=self._on_cancel)

    def peers(self) -> list[Peer]:
        peers = [("microscope (action acquire)", self._acquire.server_is_ready),
                 ("microscope (service acquire_overview)", self._overview.service_is_ready),
                 ("featurizer (topic measurements)", lambda: self.count_publishers("measurements") > 0)]
        if self.parameters.energetics.points:
            peers += [("featurizer (service get_structure)", self._structure.service_is_ready),
                      ("hpc_bridge (action compute_energetics)", self._energetics.server_is_ready)]
        return peers

    def stop(self) -> None:
        self._waiting.halt()

    def teardown(self) -> None:
        self._waiting.halt()
        self._background.close()
        self._server.destroy()
        for client in (self._acquire, self._energetics):
            client.destroy()
        for client in (self._overview, self._structure):
            self.destroy_client(client)
        for subscription in (self._measurements, self._paths):
            self.destroy_subscription(subscription)
        for publisher in (self._experiments, self._decisions, self._maps):
            self.destroy_publisher(publisher)

    # ---- callbacks on the executor ----------------------------------------------------------------------------

    def _on_goal(self, request: RunExperiment.Goal) -> GoalResponse:
        if self._goal is None:
            self._waiting.reset()
        # A refusal is a result with a code: a rejected goal could not say why.
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if self._goal in (None, goal):
            self._waiting.request_stop()
        return CancelResponse.ACCEPT

    def _on_measurements(self, message: Measurements) -> None:
        with self._waiting.changed:
            pending = self._pending
            if pending is None or to_uuid(message.acquisition_id) != pending.acquisition_id:
                return
            rows, columns = len(message.indices), len(message.names)
            pending.scalar, pending.scalarizer_version = (message.names[0], message.units[0]), message.scalarizer_version
            pending.add(numbers(message.indices, dtype=np.uint64), numbers(message.values, (rows, columns))[:, 0],
                        numbers(message.standard_errors, (rows, columns))[:, 0], np.asarray(message.valid, bool),
                        message.received_ns, message.source_duration)
            self._waiting.notify()

    def _on_path(self, path: ProbePath) -> None:
        with self._waiting.changed:
            pending = self._pending
            if pending is not None and to_uuid(path.acquisition_id) == pending.acquisition_id:
                pending.beam_time = path.position_period * pending.count
                self._waiting.notify()

    async def _run(self, goal: ServerGoalHandle) -> RunExperiment.Result:
        result = RunExperiment.Result()
        if self._goal is not None or not self.active:
            busy = self._goal is not None
            result.error_code = result.BUSY if busy else result.NOT_ACTIVE
            result.error_msg = ("another experiment is running: cancel it, or wait for its end" if busy else
                                "the planner is not active: configure and activate it first")
            self.get_logger().error(f"an experiment was refused: {result.error_msg}")
            goal.abort()
            return result
        self._goal = goal
        try:
            await self._background.run(self._conduct, goal, result)
        except Failed as failure:
            result.error_code, result.error_msg = getattr(RunExperiment.Result, failure.code), str(failure)
        except ExperimentError as error:
            result.error_code, result.error_msg = RunExperiment.Result.MODEL_FAILED, str(error)
        except Stopped:
            result.error_code = RunExperiment.Result.CANCELED
            result.error_msg = "the operator stopped the experiment before its first decision"
        except Halted:
            result.error_code = RunExperiment.Result.NOT_ACTIVE
            result.error_msg = "the planner was stopped before the experiment had ended"
        except Exception as error:  # noqa: BLE001  (the client must learn of it, whatever it was)
            result.error_code = RunExperiment.Result.MODEL_FAILED
            result.error_msg = f"the planner failed: {type(error).__name__}: {error}"
        finally:
            self._goal = self._pending = None
        if result.error_code == RunExperiment.Result.NONE:
            (goal.canceled if goal.is_cancel_requested else goal.succeed)()
            self.report("active", experiment="ended", stop_reason=result.stop_reason)
        else:
            self.warn(result.error_msg, error_code=result.error_code)
            goal.abort()
        return result

    # ---- the experiment, in its own thread --------------------------------------------------------------------

    def _conduct(self, goal: ServerGoalHandle, result: RunExperiment.Result) -> None:
        request, began = goal.request, time.monotonic()
        budget = self._budget(request)
        progress = self._begin(request)
        self._publish_experiment(progress, request.config)
        points_before, energies = progress.experiment.points, ""
        try:
            try:
                while not (reason := progress.experiment.stop_reason(progress.spent, budget)):
                    decision = self._decide_and_measure(progress, budget, result)
                    rate = (progress.experiment.points - points_before) / (time.monotonic() - began)
                    goal.publish_feedback(RunExperiment.Feedback(decision=decision, rate=rate))
                self._save(progress)
                result.energies, energies = self._compute_energetics(progress)
            except Stopped:
                reason = stopping.OPERATOR
            stop = self._decision(progress, Decision.STOP, reason=stopping.REASONS[reason] + energies, stop_reason=reason)
            self._publish(progress, stop, None)
            result.stop_reason = reason
            progress.decisions += 1
        finally:
            result.decisions, result.points = progress.decisions, progress.experiment.points
            result.dose, result.beam_time = progress.dose, progress.beam_time

    def _save(self, progress: Progress) -> None:
        if self._checkpoint is not None:
            progress.save(self._checkpoint)

    def _budget(self, request: RunExperiment.Goal) -> stopping.Budget:
        p = self.parameters
        return stopping.Budget(request.point_budget or p.point_budget, request.dose_budget or p.dose_budget,
                               request.time_budget or p.time_budget_s,
                               request.target_standard_deviation or p.target_standard_deviation)

    def _begin(self, request: RunExperiment.Goal) -> Progress:
        """A new experiment with its overview, or the one that a checkpoint describes."""
        if request.checkpoint:
            try:
                return Progress.load(Path(request.checkpoint), self.parameters)
            except ExperimentError as error:
                raise Failed("CHECKPOINT_INVALID", str(error)) from None
        experiment_id = to_uuid(request.experiment_id)
        answer = self._ask(self._overview, AcquireOverview.Request(
            acquisition_id=from_uuid(uuid.uuid5(experiment_id, "overview"))), "OVERVIEW_FAILED", "microscope")
        if answer.error_code:
            raise Failed("OVERVIEW_FAILED", f"the microscope gave no overview: {answer.error_msg}")
        overview: Overview = answer.overview
        field = ScanField(tuple(map(float, overview.field.origin)), tuple(map(float, overview.field.step)),
                          tuple(int(n) for n in overview.field.shape))
        try:
            experiment = ActiveExperiment(numbers(overview.data, (-1, *field.shape)), field, self.parameters,
                                          self.parameters.seed)
        except ValueError as error:
            raise Failed("INVALID_CONFIG", str(error)) from None
        return Progress(experiment_id, experiment, dose=overview.dose, survey_dose=overview.dose)

    def _decide_and_measure(self, progress: Progress, budget: stopping.Budget, result: RunExperiment.Result) -> Decision:
        """One turn of the loop: checkpoint, decide, publish, acquire, wait for every row, learn of them."""
        experiment, began = progress.experiment, time.monotonic()
        self._save(progress)
        initial = experiment.points == 0
        decision = self._decision(progress, Decision.INITIAL if initial else Decision.ACQUIRE)
        count = self.parameters.initial_points if initial else self.parameters.batch_points
        proposal = experiment.ask(int(min(count, stopping.affordable(budget, progress.spent)[0])))
        decision.acquisition_id = from_uuid(progress.acquisition_id())
        decision.positions = number_array(proposal.positions)
        decision.candidates = number_array(proposal.candidates, "I")
        decision.acquisition_function, decision.reason = proposal.acquisition_function, proposal.reason
        decision.acquisition_values = number_array(proposal.values)
        decision.generator_state, decision.model = proposal.generator_state, proposal.model
        decision.model_duration = time.monotonic() - began
        pending = Pending(progress.acquisition_id(), len(proposal.candidates), 0)
        with self._waiting.changed:
            self._pending = pending
        pending.published_ns = self._publish(progress, decision, proposal)
        # From here on the number is taken: a stop before the measurements are there is the next decision.
        progress.decisions += 1
        outcome = self._measure(proposal, pending)
        progress.dose += outcome.dose
        progress.beam_time += pending.beam_time
        if np.isfinite(pending.first_latency):
            result.first_block_latencies.append(pending.first_latency)
        experiment.tell(proposal.candidates, *pending.sorted())
        progress.origins.update({int(c): (pending.acquisition_id, i) for i, c in enumerate(proposal.candidates)})
        progress.scalar_name, progress.scalar_unit = pending.scalar
        progress.scalarizer_version = pending.scalarizer_version
        return decision

    def _measure(self, proposal: Proposal, pending: Pending) -> Acquire.Result:
        """Acquire the proposed positions and wait until each has a row, valid or marked as failed."""
        goal = Acquire.Goal(acquisition_id=from_uuid(pending.acquisition_id), positions=number_array(proposal.positions))
        sent = self._acquire.send_goal_async(goal)
        try:
            return self._measured(self._waiting.call(sent), pending)
        except BaseException:
            # Also where the microscope's answer is still on its way: no acquisition outlives the wish for it.
            sent.add_done_callback(_cancel)
            raise

    def _measured(self, handle: Call, pending: Pending) -> Acquire.Result:
        """The result of an acquisition, once every position has a row."""
        silence = self.parameters.measurement_timeout_s
        self._waiting.until(lambda: handle.done, silence)
        if not handle.done:
            raise Failed("MICROSCOPE_UNAVAILABLE", f"the microscope did not answer an acquisition for {silence:g} s")
        accepted = handle.result()
        if not accepted.accepted:
            raise Failed("MICROSCOPE_UNAVAILABLE", "the microscope rejected an acquisition: its own message says why")
        finished = self._waiting.call(accepted.get_result_async())

        def done() -> bool:
            return finished.done and (pending.complete and pending.beam_time > 0
                                      or finished.result().result.error_code != Acquire.Result.NONE)
        self._waiting.until(done, silence, lambda: (len(pending.rows), pending.beam_time, finished.done))
        if not finished.done:
            raise Failed("MEASUREMENTS_MISSING", f"microscope or detector went silent: {len(pending.rows)} of "
                          f"{pending.count} positions came, then nothing for {silence:g} s")
        outcome = finished.result().result
        if outcome.error_code != Acquire.Result.NONE:
            raise Failed("ACQUISITION_FAILED", f"the acquisition of {pending.count} positions failed, error "
                          f"{outcome.error_code}: {outcome.error_msg}")
        if not pending.complete:
            raise Failed("MEASUREMENTS_MISSING", f"the featurizer went silent: {len(pending.missing())} of {pending.count} "
                          f"positions have no measurement {silence:g} s after the last one")
        if not pending.beam_time:
            raise Failed("MEASUREMENTS_MISSING", "the microscope went silent: no probe path of the acquisition came "
                          f"within {silence:g} s")
        return outcome

    def _compute_energetics(self, progress: Progress) -> tuple[int, str]:
        """Energies of the most telling positions: how many, and a clause on it for people. Failures end nothing."""
        settings = self.parameters.energetics
        if not settings.points or not len(progress.experiment.measured):
            return 0, ""
        chosen = progress.experiment.most_telling()[:settings.points]
        decision = self._decision(progress, Decision.ENERGETICS, reason=f"energies of the {len(chosen)} measured positions "
                                                                        "with the largest predicted values")
        decision.candidates = number_array(chosen, "I")
        decision.positions = number_array(progress.experiment.field.positions(chosen))
        self._publish(progress, decision, None)
        progress.decisions += 1
        calls, failures = [], []
        for candidate in chosen:
            acquisition_id, index = progress.origins[int(candidate)]
            request = GetStructure.Request(acquisition_id=from_uuid(acquisition_id), index=index)
            try:
                answer = self._ask(self._structure, request, "MEASUREMENTS_MISSING", "featurizer")
            except Failed as failure:
                failures.append(str(failure))
                break
            if answer.error_code:
                failures.append(f"no structure at position {candidate}: {answer.error_msg}")
                continue
            goal = ComputeEnergetics.Goal(structure=answer.structure, engine=settings.engine, settings=settings.settings)
            calls.append(self._waiting.call(self._energetics.send_goal_async(goal)))
        ended = [self._energy(call, settings.timeout_s) for call in calls]
        failures += [failure for failure in ended if failure]
        for failure in failures:
            self.warn(failure)
        computed = ended.count("")
        clause = f"; energies of {computed} of {len(chosen)} positions" + (f", {failures[0]}" if failures else "")
        return computed, clause

    def _energy(self, call: Call, timeout: float) -> str:
        """Why one computation came to no good end; empty where it did."""
        self._waiting.until(lambda: call.done, timeout)
        if not call.done or not call.result().accepted:
            return "the hpc_bridge did not take a structure" + ("" if call.done else f" within {timeout:g} s")
        finished = self._waiting.call(call.result().get_result_async())
        self._waiting.until(lambda: finished.done, timeout)
        if not finished.done:
            return f"an energy was not computed within {timeout:g} s (energetics.timeout_s)"
        outcome = finished.result().result
        return f"an energy could not be computed: {outcome.error_msg}" if outcome.error_code else ""

    def _ask(self, client: Any, request: Any, code: str, who: str) -> Any:
        call = self._waiting.call(client.call_async(request))
        self._waiting.until(lambda: call.done, ANSWER_TIMEOUT)
        if not call.done:
            raise Failed(code, f"the {who} did not answer {client.srv_name} within {ANSWER_TIMEOUT:g} s")
        return call.result()

    # ---- messages ---------------------------------------------------------------------------------------------

    def _decision(self, progress: Progress, action: str, **texts: str) -> Decision:
        """A decision with all that follows from the present state of the experiment."""
        experiment = progress.experiment
        decision = Decision(experiment_id=from_uuid(progress.experiment_id), index=progress.decisions, action=action,
                            input_rows=experiment.input_rows, seed=experiment.seed, points=experiment.points,
                            dose=progress.dose, beam_time=progress.beam_time, best_value=experiment.best_value,
                            generator_state=experiment.generator_state(), model=experiment.model_description(),
                            scalarizer_version=progress.scalarizer_version, **texts)
        decision.input_hash = np.frombuffer(experiment.input_hash(), np.uint8)
        decision.mean_standard_deviation = decision.max_standard_deviation = float("nan")
        if len(experiment.measured):
            deviation = experiment.predict()[1]
            decision.mean_standard_deviation = float(deviation.mean())
            decision.max_standard_deviation = float(deviation.max())
        return decision

    def _publish(self, progress: Progress, decision: Decision, proposal: Proposal | None) -> int:
        """Publish a decision, and the map it rests on; returns the monotonic clock [ns] at its publication."""
        decision.header.stamp = self.get_clock().now().to_msg()
        if len(progress.experiment.measured):
            self._publish_map(progress, decision, proposal)
        self.report("active", decision=decision.index, points=decision.points)
        decision.published_ns = time.monotonic_ns()
        self._decisions.publish(decision)
        return decision.published_ns

    def _publish_map(self, progress: Progress, decision: Decision, proposal: Proposal | None) -> None:
        experiment = progress.experiment
        mean, deviation = experiment.predict()
        acquisition = np.full(mean.shape, np.nan) if proposal is None else proposal.acquisition
        message = ExperimentMap(experiment_id=decision.experiment_id, decision_index=decision.index,
                                field=field_message(experiment.field), name=progress.scalar_name, unit=progress.scalar_unit,
                                mean=number_array(mean), standard_deviation=number_array(deviation),
                                acquisition=number_array(acquisition))
        message.header.stamp, message.header.frame_id = decision.header.stamp, "scan"
        self._maps.publish(message)

    def _publish_experiment(self, progress: Progress, config: str) -> None:
        message = Experiment(experiment_id=from_uuid(progress.experiment_id), config=config, seed=progress.experiment.seed,
                             version=__version__, lock_hash=lock_hash(), platform=decision_platform())
        message.header.stamp = self.get_clock().now().to_msg()
        self._experiments.publish(message)


def _cancel(sent: Any) -> None:
    """Call an acquisition off, if the microscope took it; one that has ended is not touched by it."""
    handle = sent.result()
    if handle is not None and handle.accepted:
        handle.cancel_goal_async()
