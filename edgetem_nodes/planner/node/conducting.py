"""One experiment from its overview to its stop rule, in a thread of its own, with the operator in between."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from edgetem.action import RunExperiment
from edgetem.msg import Decision
from edgetem_nodes.graph.messages import from_uuid, numbers, to_uuid
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.graph.operating import as_text
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import stopping
from edgetem_nodes.planner.affordability import affordable_batch, affordable_with
from edgetem_nodes.planner.energy_map import NIL, check
from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.ledger import Pending
from edgetem_nodes.planner.node.announcing import Announcer, decision_of, describe
from edgetem_nodes.planner.node.energies import EnergeticsClient
from edgetem_nodes.planner.node.energy_mapping import EnergyMapper, noted
from edgetem_nodes.planner.node.inbox import Inbox
from edgetem_nodes.planner.node.instrument import InstrumentClient
from edgetem_nodes.planner.node.operator_services import OperatorServices
from edgetem_nodes.planner.node.scalarizer_change import ScalarizerClient
from edgetem_nodes.planner.operation import APPROVALS, CHANGE_SCALARIZER, Operation, Request
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.proposal import Proposal
from edgetem_nodes.planner.waiting import Failed, Stopped, Waiting

CHECKPOINT = "checkpoint.npz"


class Conductor:
    """Runs experiments, one after the other. Everything but `peers` and `close` is for the experiment's thread.

    Parameters
    ----------
    node, group : whose the clients, services and topics are.
    """

    def __init__(self, node: GraphNode, waiting: Waiting, group: CallbackGroup) -> None:
        p = node.parameters
        self._node, self._waiting, self._parameters = node, waiting, p
        self._checkpoint = Path(p.output) / CHECKPOINT if p.output else None
        self.operation = Operation(waiting)
        self.inbox = Inbox(node, waiting, p.outputs, group)
        self.instrument = InstrumentClient(node, waiting, self.inbox, group)
        self._scalarizer = ScalarizerClient(node, waiting, self.inbox, group)
        self._energetics = EnergeticsClient(node, waiting, group)
        self._mapper = EnergyMapper(node, waiting, self.inbox, self.instrument, self._energetics)
        self.announcer = Announcer(node)
        self._services = OperatorServices(node, self.operation, self._scalarizer.ready, group)
        self._goal: ServerGoalHandle | None = None
        self._rate = lambda: 0.0

    def close(self) -> None:
        """Release what the node made."""
        for part in (self._services, self.instrument, self._scalarizer, self._energetics, self.inbox, self.announcer):
            part.close()

    def peers(self) -> list[Peer]:
        """What must be found before an experiment can run."""
        return [*self.instrument.peers(),
                ("featurizer (topic measurements)", lambda: self._node.count_publishers("measurements") > 0),
                *self._energetics.peers()]

    def conduct(self, goal: ServerGoalHandle, result: RunExperiment.Result) -> None:
        """Run the experiment that a goal asks for; raises Failed, ExperimentError, Stopped or Halted where it cannot end."""
        request, began = goal.request, time.monotonic()
        progress = self._begin(request)
        budget = self._budget(progress, request)
        before = progress.experiment.points
        self._goal = goal
        self._rate = lambda: (progress.experiment.points - before) / (time.monotonic() - began)
        self.announcer.experiment(progress, request.config)
        energies = ""
        try:
            if progress.decisions:
                self.operation.open(progress)
            try:
                reason = self._loop(progress, budget, result)
                self._save(progress)
                energies = self._last_energies(progress, reason, result)
            except Stopped:
                reason = stopping.OPERATOR
                self._abandon()
            result.discovery = progress.experiment.discovery()
            text = stopping.REASONS[reason] + noted(progress) + energies + (f"; {result.discovery}" if result.discovery else "")
            self._publish(progress, decision_of(progress, Decision.STOP, reason=text, stop_reason=reason))
            result.stop_reason = reason
        finally:
            self._abandon()
            result.decisions, result.points = progress.decisions, progress.experiment.points
            result.dose, result.beam_time = progress.dose, progress.beam_time

    def _last_energies(self, progress: Progress, reason: str, result: RunExperiment.Result) -> str:
        """Energies that come last: of the most telling positions, or what is left of the better level; a clause on them."""
        if not self._parameters.energetics.mapped:
            result.energies, clause = self._energetics.compute(progress, self.announcer)
            return clause
        try:
            ends = reason not in stopping.TARGETS
            result.energies += self._mapper.deepen(progress, self.announcer, lambda d: self._announce(progress, d), ends)
        except Failed as failure:
            self._node.warn(str(failure))
            return f"; {failure}"
        return ""

    def _budget(self, progress: Progress, request: RunExperiment.Goal) -> stopping.Budget:
        """The configured budget, with what the goal says in its place."""
        budget = progress.experiment.budget()
        return replace(budget, points=request.point_budget or budget.points, dose=request.dose_budget or budget.dose,
                       time=request.time_budget or budget.time,
                       target_standard_deviation=request.target_standard_deviation or budget.target_standard_deviation)

    def _begin(self, request: RunExperiment.Goal) -> Progress:
        """A new experiment with its overview, or the one that a checkpoint describes."""
        try:
            check(self._parameters)
        except ValueError as error:
            raise Failed("INVALID_CONFIG", str(error)) from None
        if request.checkpoint:
            try:
                progress = Progress.load(Path(request.checkpoint), self._parameters)
            except ExperimentError as error:
                raise Failed("CHECKPOINT_INVALID", str(error)) from None
            self._scalarizer.restore(progress)
            return progress
        experiment_id = to_uuid(request.experiment_id)
        overview = self.instrument.survey(uuid.uuid5(experiment_id, "overview"))
        field = ScanField(tuple(map(float, overview.field.origin)), tuple(map(float, overview.field.step)),
                          tuple(int(n) for n in overview.field.shape))
        try:
            experiment = ActiveExperiment(numbers(overview.data, (-1, *field.shape)), field, self._parameters,
                                          self._parameters.seed, survey_dose=overview.dose / math.prod(field.shape))
        except ValueError as error:
            raise Failed("INVALID_CONFIG", str(error)) from None
        return Progress(experiment_id, experiment, dose=overview.dose, survey_dose=overview.dose,
                        approve_batches=self._parameters.approve_batches)

    def _abandon(self) -> None:
        """Take no more requests."""
        for left in self.operation.abandon():
            self._node.get_logger().warning(f"the experiment ended before the operator's request {as_text(left)}")

    def _save(self, progress: Progress) -> None:
        if self._checkpoint is not None:
            progress.save(self._checkpoint)

    # ---- the loop ---------------------------------------------------------------------------------------------

    def _loop(self, progress: Progress, budget: stopping.Budget, result: RunExperiment.Result) -> str:
        """Decide and measure until a stop rule holds; returns it."""
        if progress.deepening:
            self._deepen(progress, result)
        while True:
            self._attend(progress)
            reason = progress.experiment.stop_reason(progress.spent, budget)
            if not reason:
                reason = self._turn(progress, budget, result)
            if reason and self.operation.close():
                return reason

    def _attend(self, progress: Progress) -> None:
        """Carry out what the operator has asked for; while paused, wait for more."""
        self._waiting.check()
        while True:
            taken = self.operation.take()
            if taken is not None:
                self._carried_out(progress, *taken)
            elif not progress.paused:
                return
            else:
                self._node.report("paused by the operator", state="paused")
                self._waiting.until(lambda: bool(self.operation.queued), math.inf)

    def _carried_out(self, progress: Progress, request: Request, done: str) -> None:
        """Put a request of the operator on record; what it changed is kept at once."""
        if request["kind"] == CHANGE_SCALARIZER and "refused" not in request:
            request, done = self._scalarizer.change(progress, request)
        self._publish(progress, decision_of(progress, Decision.OPERATOR, reason=done, request=as_text(request)))
        self._save(progress)

    def _turn(self, progress: Progress, budget: stopping.Budget, result: RunExperiment.Result) -> str:
        """One turn: checkpoint, decide, publish, acquire, wait for every row, learn of them.

        Returns the reason to stop where the budgets do not pay for one position with the setting that was chosen; empty: go
        on.
        """
        p, experiment, began = self._parameters, progress.experiment, time.monotonic()
        self._save(progress)
        initial = experiment.points == 0
        action = Decision.INITIAL if initial else Decision.ACQUIRE
        count = p.initial_points if initial else experiment.parameters.batch_points
        decision = decision_of(progress, action)
        rows, actions = experiment.observations, experiment.actions
        proposal = experiment.ask(min(count, affordable_batch(budget, progress.spent, rows, actions)))
        if affordable_with(budget, progress.spent, rows, actions, proposal.setting_index) < 1:
            experiment.withdraw()
            return stopping.affordable(budget, progress.spent)[1]
        describe(decision, proposal)
        decision.reason += noted(progress)
        decision.model_duration = time.monotonic() - began
        if progress.approve_batches:
            approval = self._approval(progress, decision, proposal)
            if approval is None:
                return ""
            decision.index, decision.action, decision.request = progress.decisions, action, as_text(approval)
        acquisition_id = progress.acquisition_id()
        decision.acquisition_id = from_uuid(acquisition_id)
        self._acquire(progress, decision, proposal, Pending(acquisition_id, len(proposal.candidates), 0), result)
        self._goal.publish_feedback(RunExperiment.Feedback(decision=decision, rate=self._rate()))
        return ""

    def _approval(self, progress: Progress, decision: Decision, proposal: Proposal) -> Request | None:
        """The operator's approval of a batch; None where something else was asked for, and the batch is withdrawn."""
        decision.action = Decision.PROPOSE
        with self._waiting.changed:
            progress.proposed = progress.decisions
        self._publish(progress, decision, proposal)
        self._node.report(f"decision {decision.index} waits for the operator's approval", state="waiting")
        self._waiting.until(lambda: bool(self.operation.queued), math.inf)
        request, done = self.operation.take()
        if request["kind"] in APPROVALS and "refused" not in request:
            return request
        progress.experiment.withdraw()
        self._carried_out(progress, request, done)
        return None

    def _acquire(self, progress: Progress, decision: Decision, proposal: Proposal, pending: Pending,
                 result: RunExperiment.Result) -> None:
        """Measure a batch and learn of it."""
        experiment, settings = progress.experiment, progress.experiment.actions.settings
        before = None if progress.commanded is None else settings[progress.commanded]
        self.inbox.expect(pending)
        # From here on the number is taken: a stop before the measurements are there is the next decision.
        pending.published_ns = self._publish(progress, decision, proposal)
        self.instrument.command(proposal.setting, before)
        progress.commanded = proposal.setting_index
        if self._parameters.energetics.mapped:
            self._map(progress, proposal, pending, result)
            return
        outcome = self.instrument.measure(proposal.positions, proposal.setting, pending)
        progress.dose += outcome.dose
        progress.beam_time += pending.beam_time
        if np.isfinite(pending.first_latency):
            result.first_block_latencies.append(pending.first_latency)
        each = (outcome.dose - pending.reference_dose) / pending.count
        experiment.tell(proposal.candidates, *pending.sorted(), setting=proposal.setting_index, doses=each)
        progress.rows += [(pending.acquisition_id, index) for index in range(pending.count)]
        progress.micro_scans += [(NIL, 0)] * pending.count
        progress.scalar, progress.units = pending.scalar, pending.units[1:]

    def _map(self, progress: Progress, proposal: Proposal, pending: Pending, result: RunExperiment.Result) -> None:
        """The same where energies are mapped; then those of the better level that are due."""
        measured = self._mapper.measure(progress, proposal, pending)
        progress.dose += measured.dose
        progress.beam_time += measured.beam_time
        if np.isfinite(pending.first_latency):
            result.first_block_latencies.append(pending.first_latency)
        progress.experiment.tell(proposal.candidates, *measured.told, setting=proposal.setting_index, doses=measured.doses,
                                 sights=[site.sight for site in measured.sites])
        progress.rows += [(pending.acquisition_id, index) for index in range(pending.count)]
        self._mapper.learn(progress, measured, pending.scalar, pending.units, proposal.positions, self.announcer)
        result.energies += sum(not site.step for site in measured.sites)
        self._deepen(progress, result)

    def _deepen(self, progress: Progress, result: RunExperiment.Result) -> None:
        """Energies of the better level that are due. A restart in the midst of them need not measure the batch again."""
        progress.deepening = True
        self._save(progress)
        result.energies += self._mapper.deepen(progress, self.announcer, lambda d: self._publish(progress, d))
        progress.deepening = False

    def _publish(self, progress: Progress, decision: Decision, proposal: Proposal | None = None) -> int:
        """Publish a decision under the next number, and take requests from then on; monotonic clock [ns] of publication."""
        if decision.action != Decision.STOP:
            self.operation.open(progress)
        published_ns = self._announce(progress, decision, proposal)
        if decision.action in (Decision.PROPOSE, Decision.OPERATOR):
            self._goal.publish_feedback(RunExperiment.Feedback(decision=decision, rate=self._rate()))
        return published_ns

    def _announce(self, progress: Progress, decision: Decision, proposal: Proposal | None = None) -> int:
        self._services.last = decision
        published_ns = self.announcer.publish(progress, decision, proposal)
        progress.decisions += 1
        return published_ns
