"""The player: serves the real planner from a bag, and says whether it decides as it did when the bag was recorded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.serialization import deserialize_message

from edgetem.action import Acquire, ComputeEnergetics, RunExperiment
from edgetem.msg import (AcquisitionEnd, AtomicStructure, Decision, Energetics, Experiment, Measurements, MicroscopeState,
                         Overview, ProbePath)
from edgetem.srv import AcquireOverview, GetStructure, MoveStage, SetOptics, SetScalarizer
from edgetem_nodes.graph.identifiers import micro_scan_id
from edgetem_nodes.graph.messages import from_uuid, positions_array, to_uuid
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.operating import SERVICES, message_of
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.provenance.comparison import NOT_COMPARABLE, DecisionComparer
from edgetem_nodes.provenance.interventions import PROPOSE, STOP, Step, interventions_of
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.parameters import PlayerParameters
from edgetem_nodes.provenance.recording import Attempt, Recording, site

TICK = 0.02
"""[s] between two looks at what the replay waits for."""
ASK_AGAIN = 15.0
"""[s] after which a lifecycle request is repeated; repeating one that was heard does no harm."""
GRACE = 5.0
"""[s] that decisions may arrive after the result of the experiment."""

_PUBLISHED = {"probe_path": (ProbePath, EVENTS), "measurements": (Measurements, EVENTS),
              "acquisition_end": (AcquisitionEnd, EVENTS), "microscope_state": (MicroscopeState, STATE),
              "overview": (Overview, STATE), "structure": (AtomicStructure, EVENTS), "energetics": (Energetics, EVENTS)}


class _ReplayError(RuntimeError):
    """The replay cannot go on; the message says why and what to do."""


class PlayerNode(GraphNode):
    """Takes the place of microscope, featurizer, hpc_bridge and operator: what the planner is told comes from the bag.

    `Recording`, from which it serves, never reads a decision; `Interventions` reads of them what the operator asked for, so
    that the planner is asked for it again in the same place. `DecisionComparer` reads the recorded decision k once the
    planner has published its own. `exit_code` is set at the end.
    """

    NAME = "player"
    Parameters = PlayerParameters

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.exit_code: int | None = None
        self.summary = ""
        self._work: Iterator[None] | None = None
        self._deviation = ""
        if self.get_parameter("autostart").value:
            self._work = self._bring_up()
            self.create_timer(TICK, self._advance)

    # ---- serving ----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        if not self.parameters.bag:
            raise ValueError("parameter 'bag' is empty: it names the bag to replay, or the folder of the experiment")
        self._recording = Recording(self.parameters.bag)
        self._comparer = DecisionComparer(self._recording.folder)
        self._interventions = interventions_of(self._recording.folder)
        self._served: list[uuid.UUID] = []
        self._changes: list[Step] = []
        self._stopping = False
        self._canceled: Any = None
        self._published = {name: self.create_publisher(kind, name, profile)
                           for name, (kind, profile) in _PUBLISHED.items()}
        self._servers = [ActionServer(self, Acquire, "acquire", self._acquire, cancel_callback=self._on_cancel),
                         ActionServer(self, ComputeEnergetics, "compute_energetics", self._compute_energetics)]
        self._services_made = [self.create_service(AcquireOverview, "acquire_overview", self._acquire_overview),
                               self.create_service(GetStructure, "get_structure", self._get_structure),
                               self.create_service(SetOptics, "set_optics", lambda _, response: response),
                               self.create_service(MoveStage, "move_stage", lambda _, response: response),
                               self.create_service(SetScalarizer, "set_scalarizer", self._set_scalarizer)]
        self._subscriptions_made = [
            self.create_subscription(Decision, "decision", self._on_decision, EVENTS, raw=True),
            self.create_subscription(Experiment, "experiment", self._on_experiment, STATE)]
        planner = self.parameters.planner
        self._transitions = self.create_client(ChangeState, f"{planner}/change_state")
        self._states = self.create_client(GetState, f"{planner}/get_state")
        self._goals = ActionClient(self, RunExperiment, "run_experiment")
        # Their answers are awaited while an acquisition is served.
        group = ReentrantCallbackGroup()
        asked = {message_of(request)[0] for request in self._interventions.requests}
        self._operator = {name: self.create_client(SERVICES[name], name, callback_group=group) for name in sorted(asked)}
        experiment = self._recording.experiment
        print(f"replay of experiment {experiment.experiment_id} from {self._recording.folder}: edgetem "
              f"{experiment.version}, seed {experiment.seed}, {experiment.platform}", flush=True)

    def teardown(self) -> None:
        for server in self._servers:
            server.destroy()
        for service in self._services_made:
            self.destroy_service(service)
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        for publisher in self._published.values():
            self.destroy_publisher(publisher)
        for client in (self._transitions, self._states, *self._operator.values()):
            self.destroy_client(client)
        self._goals.destroy()

    def _acquire_overview(self, request: AcquireOverview.Request, response: AcquireOverview.Response):
        recorded = self._recording.overviews.get(to_uuid(request.acquisition_id))
        if recorded is None:
            response.error_code = response.DRIVER_FAILED
            response.error_msg = f"the bag holds no overview {to_uuid(request.acquisition_id)}"
            return response
        self._published["overview"].publish(recorded.data)
        response.overview = deserialize_message(recorded.data, Overview)
        return response

    async def _acquire(self, goal: ServerGoalHandle) -> Acquire.Result:
        acquisition_id, result = to_uuid(goal.request.acquisition_id), Acquire.Result()
        run = self._recording.acquisition(acquisition_id)
        index = self._decision_index(acquisition_id)
        name = self._name(acquisition_id, index)
        if self._interventions.stopped_in(index):
            return await self._stopped(goal, run)
        refusal = self._refusal(run, goal.request, name)
        if refusal:
            self._deviation = self._deviation or refusal
            result.error_code, result.error_msg = result.ACQUISITION_ABORTED, refusal
            goal.abort()
            return result
        self._published["probe_path"].publish(run.path.data)
        # With its last measurement the planner goes on to the next decision: what the operator asked for must be there.
        if index is not None:
            await self._intervene(self._interventions.after(index))
        self._served.append(acquisition_id)
        for recorded in run.measurements:
            self._published["measurements"].publish(recorded.data)
        if run.end is not None:
            self._published["acquisition_end"].publish(run.end.data)
        if run.state is not None:
            self._published["microscope_state"].publish(run.state.data)
        result.frames_delivered, result.frames_dropped, result.dose = run.sent, run.dropped, run.dose
        if run.aborted:
            result.error_code, result.error_msg = result.ACQUISITION_ABORTED, run.reason
            goal.abort()
        else:
            goal.succeed()
        return result

    async def _stopped(self, goal: ServerGoalHandle, run: Attempt | None) -> Acquire.Result:
        """An acquisition in which the operator stopped the experiment: do so, and let the planner call it off."""
        self._canceled, self._stopping = self.executor.create_future(), True
        if run is not None and run.path is not None:
            self._published["probe_path"].publish(run.path.data)
        await self._canceled
        goal.canceled()
        return Acquire.Result(error_code=Acquire.Result.CANCELED, error_msg="canceled by the client")

    def _on_cancel(self, _goal: ServerGoalHandle) -> CancelResponse:
        if self._canceled is None:
            return CancelResponse.REJECT
        if not self._canceled.done():
            self._canceled.set_result(None)
        return CancelResponse.ACCEPT

    def _refusal(self, run: Attempt | None, request: Acquire.Goal, name: str) -> str:
        """Why a request cannot be served from the bag; empty where it can."""
        if run is None or run.path is None:
            return f"the recording ends before the acquisition of {name}"
        asked = positions_array(request.positions)
        if asked.shape != run.positions.shape:
            return f"{name} asks for {len(asked)} positions where {len(run.positions)} were recorded"
        if asked.tobytes() != run.positions.tobytes():
            first = int((asked != run.positions).any(axis=1).argmax())
            return (f"{name} asks for other positions than recorded: the first is number {first}, "
                    f"({asked[first, 0] * 1e9:.4g}, {asked[first, 1] * 1e9:.4g}) nm now, "
                    f"({run.positions[first, 0] * 1e9:.4g}, {run.positions[first, 1] * 1e9:.4g}) nm recorded")
        if not run.complete:
            return f"the recording ends in the middle of the acquisition of {name}"
        return ""

    def _name(self, acquisition_id: uuid.UUID, index: int | None) -> str:
        """What an acquisition is called: by its decision, or by that of the sites at which it is the micro-scan."""
        if index is not None:
            return f"decision {index}"
        of = next((served for served in self._served if micro_scan_id(served) == acquisition_id), None)
        return f"acquisition {acquisition_id}" if of is None else f"the micro-scan of decision {self._decision_index(of)}"

    def _decision_index(self, acquisition_id: uuid.UUID) -> int | None:
        if any(micro_scan_id(served) == acquisition_id for served in self._served):
            return None
        experiment_id = self._recording.experiment.experiment_id
        return next((index for index in range(100_000) if uuid.uuid5(experiment_id, str(index)) == acquisition_id), None)

    def _get_structure(self, request: GetStructure.Request, response: GetStructure.Response):
        recorded = self._recording.structures.get(site(request))
        if recorded is None:
            response.error_code = response.NOT_IDENTIFIABLE
            response.error_msg = f"no structure of measurement {request.index} was recorded"
            return response
        self._published["structure"].publish(recorded.data)
        response.structure = deserialize_message(recorded.data, AtomicStructure)
        return response

    def _compute_energetics(self, goal: ServerGoalHandle) -> ComputeEnergetics.Result:
        structure, result = goal.request.structure, ComputeEnergetics.Result()
        recorded = self._recording.energetics.get((*site(structure), goal.request.engine, goal.request.settings))
        if recorded is None:
            result.error_code = result.ENGINE_FAILED
            result.error_msg = f"no energies of measurement {structure.index} were recorded"
            goal.abort()
            return result
        result.energetics = deserialize_message(recorded.data, Energetics)
        result.error_code, result.error_msg = result.energetics.error_code, result.energetics.error_msg
        self._published["energetics"].publish(recorded.data)
        goal.abort() if result.error_code else goal.succeed()
        return result

    # ---- in the operator's place ------------------------------------------------------------------------------

    async def _intervene(self, steps: list[Step]) -> None:
        """Ask the planner for what the operator asked for, in order."""
        for step in steps:
            name, message = message_of(step.request)
            if name == "change_scalarizer":
                self._changes.append(step)
            answer = await self._operator[name].call_async(message)
            if answer.error_code:
                self._deviation = self._deviation or (f"the planner refuses what the operator asked for in decision "
                                                      f"{step.index}: {answer.error_msg}")

    def _set_scalarizer(self, request: SetScalarizer.Request, response: SetScalarizer.Response) -> SetScalarizer.Response:
        step = self._changes.pop(0) if self._changes else None
        if step is None or step.refused:
            response.error_code = response.INVALID_SETTINGS
            response.error_msg = step.refused if step else "no change of the scalarizer was recorded here"
            return response
        response.scalarizer, response.scalarizer_version = request.scalarizer, step.scalarizer_version
        recorded = self._recording.scalarizer(step.scalarizer_version)
        if recorded is not None:
            example = deserialize_message(recorded.data, Measurements)
            response.scalarizer, response.scalarizer_hash = example.scalarizer, example.scalarizer_hash
            response.names, response.units = example.names, example.units
        for measured in self._recording.measured_anew(step.scalarizer_version, self._served):
            self._published["measurements"].publish(measured.data)
        response.acquisitions = [from_uuid(acquisition_id) for acquisition_id in self._served]
        return response

    def _go_on(self, index: int, action: str) -> None:
        """Do what the operator did once a decision stood, where the planner waits for nothing else."""
        recorded = self._interventions
        if action == STOP:
            return
        if action == PROPOSE and recorded.action(index) == PROPOSE and recorded.after(index):
            self.executor.create_task(self._intervene(recorded.after(index)))
            return
        waited = "a batch waited for approval" if action == PROPOSE != recorded.action(index) else recorded.waits(index)
        if not waited:
            return
        if not recorded.stopped_after(index):
            self._deviation = self._deviation or f"the recording ends while {waited}"
        self._stopping = True

    # ---- comparing --------------------------------------------------------------------------------------------

    def _on_experiment(self, message: Experiment) -> None:
        recorded = self._recording.experiment
        differing = [f"{name} {new!r} instead of {old!r}" for name, old, new in (
            ("platform", recorded.platform, message.platform),
            ("lock file", recorded.lock_hash, message.lock_hash)) if old != new]
        self._comparer.same_platform = not differing
        self._comparer.platform_note = "; ".join(differing)

    def _on_decision(self, data: bytes) -> None:
        try:
            comparison = self._comparer.compare(data)
        except BagError as error:
            self._finish(str(error), failed=True)
            return
        print(comparison, flush=True)
        self._go_on(comparison.index, comparison.action)

    # ---- conducting -------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on with what the replay does next, as far as it can without waiting."""
        if self._work is None:
            return
        try:
            next(self._work)
        except StopIteration:
            self._work = None
        except _ReplayError as error:
            self._finish(str(error), failed=True)

    def _bring_up(self) -> Iterator[None]:
        self.trigger_configure()
        if self.parameters is None or not hasattr(self, "_goals"):
            raise _ReplayError("the replay could not begin: see the error above")
        self.trigger_activate()
        planner = self.parameters.planner
        yield from self._until(self._transitions.service_is_ready, f"no planner {planner!r} was found: is it running?")
        for transition, goal in ((Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
                                 (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)):
            request = ChangeState.Request(transition=Transition(id=transition))
            answer = yield from self._ask(self._transitions, request, f"{planner} did not change its state")
            state = yield from self._ask(self._states, GetState.Request(), f"{planner} did not say its state")
            if not answer.success and state.current_state.id != goal:
                done = "configured" if goal == State.PRIMARY_STATE_INACTIVE else "activated"
                raise _ReplayError(f"{planner} could not be {done}, it is {state.current_state.label}: its own message "
                                   "says why")
        yield from self._until(self._goals.server_is_ready, f"{planner} serves no run_experiment")
        yield from self._until(lambda: self._published["measurements"].get_subscription_count() > 0,
                               f"{planner} does not listen to measurements")
        for name, client in self._operator.items():
            yield from self._until(client.service_is_ready, f"{planner} does not serve {name}")
        yield from self._run()

    def _run(self) -> Iterator[None]:
        experiment = self._recording.experiment
        goal = RunExperiment.Goal(config=experiment.config)
        goal.experiment_id.uuid = list(experiment.experiment_id.bytes)
        handle = yield from self._answer(self._goals.send_goal_async(goal), "the planner did not answer the goal")
        if not handle.accepted:
            raise _ReplayError("the planner rejected the recorded experiment; its own message says why")
        future = handle.get_result_async()
        seen = time.monotonic()
        while not future.done():
            if self._stopping:
                self._stopping = False
                handle.cancel_goal_async()
            seen = time.monotonic() if self._goals.server_is_ready() else seen
            if time.monotonic() - seen > GRACE:
                raise _ReplayError("the planner is gone; its own message says why")
            yield
        result = future.result().result
        patience = time.monotonic() + GRACE
        while len(self._comparer.compared) < result.decisions and time.monotonic() < patience:
            yield
        failed = result.error_code != RunExperiment.Result.NONE and not self._deviation
        self._finish(f"the planner ended with error {result.error_code}: {result.error_msg}" if failed else "", failed)

    def _until(self, condition: Callable[[], bool], otherwise: str) -> Iterator[None]:
        deadline = time.monotonic() + self.parameters.planner_timeout
        while not condition():
            if time.monotonic() > deadline:
                raise _ReplayError(f"{otherwise} (waited {self.parameters.planner_timeout:g} s)")
            yield

    def _ask(self, client: Any, request: Any, otherwise: str):
        """The answer of a service. Asked again now and then: a server that has just appeared may miss a request."""
        asked = [(client.call_async(request), time.monotonic())]

        def answered() -> bool:
            if time.monotonic() - asked[-1][1] > ASK_AGAIN:
                asked.append((client.call_async(request), time.monotonic()))
            return any(future.done() for future, _ in asked)

        yield from self._until(answered, otherwise)
        for future, _ in asked:
            if not future.done():
                client.remove_pending_request(future)
        return next(future.result() for future, _ in asked if future.done())

    def _answer(self, future: Any, otherwise: str):
        yield from self._until(future.done, otherwise)
        return future.result()

    def _finish(self, problem: str, failed: bool) -> None:
        self._work = None
        comparer = getattr(self, "_comparer", None)
        verdict, self.exit_code = (comparer.verdict(self._deviation) if comparer and comparer.compared
                                   else ("no decision was made", NOT_COMPARABLE))
        if failed:
            self.exit_code = max(self.exit_code, NOT_COMPARABLE)
            verdict = f"{problem}; {verdict}"
        self.summary = f"replay: {verdict}"
        print(self.summary, flush=True)
