"""The hpc_bridge node: serves `compute_energetics`, publishes every result on `energetics`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from edgetem.action import ComputeEnergetics
from edgetem.msg import Energetics
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future

from edgetem_nodes.graph import messages, quality_of_service
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.hpc_bridge import energetics, engines, expectation, local, reservoirs, structures
from edgetem_nodes.hpc_bridge.cluster import Cluster, ClusterLost, Job
from edgetem_nodes.hpc_bridge.expectation import Kind
from edgetem_nodes.hpc_bridge.parameters import Parameters
from edgetem_nodes.hpc_bridge.reference import Reference, compute_reference, compute_reservoir
from edgetem_nodes.hpc_bridge.stiffness import compute_stiffness

Codes = ComputeEnergetics.Result


class Refused(Exception):
    """A goal that is not computed: an error code and its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class Goal:
    """A goal that has been accepted: its handle, its job once submitted, and what it waits for while it has none."""

    handle: ServerGoalHandle
    job: Job | None = None
    waiting: Future | None = None


class HpcBridgeNode(GraphNode):
    """Structures to energies on a cluster. Several goals at once; a failed one harms no other."""

    NAME = "hpc_bridge"
    Parameters = Parameters

    def setup(self) -> None:
        self._goals: set[Goal] = set()
        self._cluster: Cluster | None = None
        self._references: dict[tuple, Job] = {}
        self._starter = None
        self._publisher = self.create_publisher(Energetics, "energetics", quality_of_service.EVENTS)
        self._server = ActionServer(self, ComputeEnergetics, "compute_energetics", self._execute,
                                    cancel_callback=self._cancel, callback_group=ReentrantCallbackGroup())

    def start(self) -> None:
        cluster = self.parameters.cluster
        logger = self.get_logger()
        self._references = {}
        self._cluster = Cluster(lambda: local.connect(cluster), start_limit=cluster.start_limit_s,
                                time_limit=cluster.time_limit_s, log=lambda text: logger.info(text))
        if cluster.start_after_s >= 0:
            self._starter = self.create_timer(max(cluster.start_after_s, 1e-3), self._start_cluster)

    def stop(self) -> None:
        self._end_starter()
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def teardown(self) -> None:
        self._server.destroy()
        self.destroy_publisher(self._publisher)

    def publish_diagnostics(self) -> None:
        """Publish health, with the numbers of jobs."""
        cluster = getattr(self, "_cluster", None)
        if cluster is not None:
            counts = cluster.counts()
            self.report("active", DiagnosticStatus.OK, engine=self.parameters.engine,
                        workers=self.parameters.cluster.workers, transport=cluster.transport or "not started",
                        **{f"jobs {state}": number for state, number in counts.items()})
        super().publish_diagnostics()

    # ---- goals ------------------------------------------------------------------------------------------------

    async def _execute(self, handle: ServerGoalHandle) -> ComputeEnergetics.Result:
        goal, work = Goal(handle), None
        message = self._blank(handle.request)
        self._goals.add(goal)
        try:
            work = self._plan(handle.request, message)
            reference, energies = await self._compared(goal, work)
            formation = await self._lone_defects(goal, work, reference)
            message.reference, more = energetics.describe(work, reference)
            more |= expectation.describe(work.structure, formation)
            message.settings = engines.settings_json(work.calculation, **more)
            goal.job = self._submit(energetics.compute, work, reference, energies, formation,
                                    await self._stiffness(goal, work, reference), step=self._step(goal))
            if handle.is_cancel_requested:
                self._cluster.cancel(goal.job)
            result, wall_time, worker = await self._outcome(goal.job)
            self._fill(message, result, wall_time, worker)
            message.settings = engines.settings_json(work.calculation, **more, **result.notes)
        except Exception as error:  # noqa: BLE001  (whatever a job raises belongs to its goal, not to the node)
            message.error_code, message.error_msg = _code(error), str(error) or "canceled"
        finally:
            self._goals.discard(goal)
        self._publisher.publish(message)
        return self._finish(handle, message)

    def _plan(self, request: ComputeEnergetics.Goal, message: Energetics) -> energetics.Plan:
        if not self.active:
            raise Refused(Codes.NOT_ACTIVE, "hpc_bridge is not active: activate it first")
        limits = self.parameters.limits
        if len(self._goals) > limits.jobs:
            raise Refused(Codes.QUEUE_FULL, f"{limits.jobs} calculations are waiting or running already "
                                            "(parameter limits.jobs): send this one later")
        name = request.engine or self.parameters.engine
        message.engine = name
        try:
            engine = engines.engine(name)
        except KeyError as error:
            raise Refused(Codes.UNKNOWN_ENGINE, error.args[0]) from None
        calculation = engines.settings(engine, self.parameters.calculation, request.settings)
        message.method, message.settings = calculation.method, engines.settings_json(calculation)
        sent = request.structure
        structure = structures.structure(messages.numbers(sent.atomic_numbers, dtype="u1"), messages.numbers(sent.positions),
                                         messages.numbers(sent.cell), sent.periodic, sent.charge,
                                         messages.numbers(sent.position_standard_errors),
                                         messages.numbers(sent.position_covariances),
                                         messages.numbers(sent.deformation_covariance),
                                         messages.numbers(sent.defect_probabilities),
                                         messages.numbers(sent.defect_atomic_numbers, dtype="u1"),
                                         messages.numbers(sent.defect_hosts, dtype="u1"),
                                         messages.numbers(sent.defect_positions))
        structures.check(structure, engine.elements, limits.atoms, limits.distance_pm * 1e-12)
        sheet = self.parameters.sheet
        return energetics.plan(structure, name, calculation, sheet.lattice_constant_nm * 1e-9, sheet.vacuum_nm * 1e-9)

    async def _compared(self, goal: Goal, work: energetics.Plan) -> tuple[Reference | None, dict[str, float]]:
        """The plan's reference and the energies of its reservoirs, computed on several workers at once."""
        if work.match is None:
            return None, {}
        jobs = {name: self._once(work.reservoir_key(reservoir), compute_reservoir, work, reservoir)
                for name, reservoir in reservoirs.needed(work.potentials).items()}
        reference = (await self._shared(goal, self._once(work.reference_key, compute_reference, work)))[0]
        return reference, {name: (await self._shared(goal, job))[0] for name, job in jobs.items()}

    async def _lone_defects(self, goal: Goal, work: energetics.Plan, reference: Reference | None) -> dict[Kind, float]:
        """Energy [J] of every kind of defect that may be there, alone; each is computed once for all structures that share
        the reference."""
        jobs = {}
        for kind, one in work.lone_defects.items():
            energies = (await self._compared(goal, one))[1]
            jobs[kind] = self._once(("defect", kind, work.reference_key), energetics.compute, one, reference, energies, None,
                                    None)
        found = {kind: (await self._shared(goal, job))[0] for kind, job in jobs.items()}
        for kind, result in found.items():
            if not result.converged:
                raise engines.EngineError(f"{kind.name} alone has not converged in {result.steps} steps: raise max_steps")
        return {kind: result.defect_energy for kind, result in found.items()}

    async def _stiffness(self, goal: Goal, work: energetics.Plan, reference: Reference | None) -> np.ndarray | None:
        """Of the perfect sheet, where errors of positions need it; computed once for all that share the reference."""
        if not work.harmonic:
            return None
        return (await self._shared(goal, self._once(("stiffness", work.reference_key), compute_stiffness, work, reference)))[0]

    def _once(self, key: tuple, function: Any, *arguments: Any) -> Job:
        """The job of this key: one for all that share it, a failed one is tried again."""
        job = self._references.get(key)
        if job is None or (job.future.done() and job.future.exception() is not None):
            job = self._references[key] = self._submit(function, *arguments)
        return job

    def _submit(self, function: Any, *arguments: Any, step: Any = None) -> Job:
        if self._cluster is None:
            raise engines.Canceled("hpc_bridge was deactivated")
        return self._cluster.submit(function, *arguments, step=step)

    async def _shared(self, goal: Goal, job: Job) -> Any:
        """Wait for a job that other goals may wait for, too: a cancel ends the waiting, not the job."""
        goal.waiting = self._done(job)
        if not goal.handle.is_cancel_requested:
            await goal.waiting
        goal.waiting = None
        if goal.handle.is_cancel_requested:
            raise engines.Canceled
        return job.future.result()

    async def _outcome(self, job: Job) -> Any:
        await self._done(job)
        return job.future.result()

    def _done(self, job: Job) -> Future:
        """A future of the executor that is done with the job."""
        future = Future(executor=self.executor)
        job.future.add_done_callback(lambda _ended: future.set_result(None))
        return future

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        for goal in self._goals:
            if goal.handle.goal_id == handle.goal_id:
                if goal.job is not None:
                    self._cluster.cancel(goal.job)
                elif goal.waiting is not None:
                    waiting = goal.waiting
                    self.executor.create_task(lambda: None if waiting.done() else waiting.set_result(None))
        return CancelResponse.ACCEPT

    def _step(self, goal: Goal) -> Any:
        """Feedback of one step; called from the cluster's thread, published from the executor's."""
        def publish(step: int, energy: float, max_force: float) -> None:
            if goal.handle.is_active:
                goal.handle.publish_feedback(ComputeEnergetics.Feedback(step=step, energy=energy, max_force=max_force))
        return lambda *values: self.executor.create_task(publish, *values)

    # ---- answers ----------------------------------------------------------------------------------------------

    @staticmethod
    def _blank(request: ComputeEnergetics.Goal) -> Energetics:
        structure = request.structure
        unknown = ("energy", "reference_energy", "excess_energy", "standard_error", "cell_area", "excess_energy_density",
                   "excess_energy_density_standard_error", "excess_energy_per_atom", "strain_variance_energy",
                   "position_variance_energy", "restraint_energy", "restraint_chi_square", "defect_energy",
                   "expected_defect_energy", "cell_size_error", "max_force", "wall_time")
        return Energetics(header=structure.header, acquisition_id=structure.acquisition_id, index=structure.index,
                          micro_scan_id=structure.micro_scan_id, micro_scan_index=structure.micro_scan_index,
                          label=structure.label, charge=structure.charge, goal_engine=request.engine,
                          goal_settings=request.settings, **dict.fromkeys(unknown, math.nan))

    @staticmethod
    def _fill(message: Energetics, result: energetics.Result, wall_time: float, worker: str) -> None:
        for name in ("energy", "reference_energy", "excess_energy", "standard_error", "cell_area", "strain_variance_energy",
                     "position_variance_energy", "restraint_energy", "restraint_chi_square", "defect_energy",
                     "expected_defect_energy", "cell_size_error", "max_force", "converged", "steps"):
            setattr(message, name, getattr(result, name))
        message.excess_energy_density = result.excess_energy / result.cell_area
        message.excess_energy_density_standard_error = result.standard_error / result.cell_area
        message.excess_energy_per_atom = result.excess_energy / len(result.forces)
        message.forces = messages.number_array(result.forces)
        message.wall_time, message.worker = wall_time, worker
        if not result.converged:
            message.error_code = Codes.NOT_CONVERGED
            message.error_msg = (f"the relaxation has not converged in {result.steps} steps: the largest force is "
                                 f"{result.max_force / engines.EV_PER_ANGSTROM:.3g} eV/Å; raise max_steps")

    def _finish(self, handle: ServerGoalHandle, message: Energetics) -> ComputeEnergetics.Result:
        code = message.error_code
        if code == Codes.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        elif code == Codes.NONE:
            handle.succeed()
        else:
            handle.abort()
        if code not in (Codes.NONE, Codes.CANCELED):
            self.get_logger().warning(f"{message.label or 'a structure'}: {message.error_msg}")
        return ComputeEnergetics.Result(error_code=code, error_msg=message.error_msg, energetics=message)

    def _start_cluster(self) -> None:
        self._end_starter()
        if self._cluster is not None:
            self._cluster.start()

    def _end_starter(self) -> None:
        if self._starter is not None:
            self.destroy_timer(self._starter)
            self._starter = None


def _code(error: Exception) -> int:
    kinds = ((Refused, getattr(error, "code", 0)), (structures.StructureError, Codes.INVALID_STRUCTURE),
             (engines.SettingsError, Codes.INVALID_SETTINGS), (engines.Canceled, Codes.CANCELED),
             (ClusterLost, Codes.CLUSTER_LOST))
    return next((code for kind, code in kinds if isinstance(error, kind)), Codes.ENGINE_FAILED)
