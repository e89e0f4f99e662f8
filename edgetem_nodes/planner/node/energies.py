"""Energies: the clients of featurizer and hpc_bridge, and the most telling positions at the end of an experiment."""

from __future__ import annotations

from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from edgetem.action import ComputeEnergetics
from edgetem.msg import Decision
from edgetem.srv import GetStructure
from edgetem_nodes.graph.messages import from_uuid, number_array
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.planner.node.announcing import Announcer, decision_of
from edgetem_nodes.planner.node.computing import Computation
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.waiting import Call, Failed, Waiting


_MANY = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE,
                   history=HistoryPolicy.KEEP_LAST, depth=1000)
"""Answers of a batch may come all at once."""


class EnergeticsClient:
    """Calls `get_structure` and `compute_energetics`."""

    def __init__(self, node: GraphNode, waiting: Waiting, group: CallbackGroup) -> None:
        self._node, self._waiting, self._parameters = node, waiting, node.parameters.energetics
        self._structure = node.create_client(GetStructure, "get_structure", callback_group=group)
        self._energetics = ActionClient(node, ComputeEnergetics, "compute_energetics", callback_group=group,
                                        goal_service_qos_profile=_MANY, result_service_qos_profile=_MANY)

    def close(self) -> None:
        """Release what the node made."""
        self._energetics.destroy()
        self._node.destroy_client(self._structure)

    def peers(self) -> list[Peer]:
        """What must be found where energies are asked for."""
        if not (self._parameters.points or self._parameters.mapped):
            return []
        return [("featurizer (service get_structure)", self._structure.service_is_ready),
                ("hpc_bridge (action compute_energetics)", self._energetics.server_is_ready)]

    def computation(self, engine: str, settings: str) -> Computation:
        """A batch of energies to be computed with an engine and settings of it; empty: the configured ones."""
        return Computation(self._waiting, self._structure, self._energetics, engine, settings, self._parameters.timeout_s)

    def compute(self, progress: Progress, announcer: Announcer) -> tuple[int, str]:
        """Energies of the most telling positions: how many, and a clause on it for people. Failures end nothing."""
        settings = self._parameters
        if not settings.points or not len(progress.experiment.measured):
            return 0, ""
        chosen = progress.experiment.most_telling()[:settings.points]
        decision = decision_of(progress, Decision.ENERGETICS, reason=f"energies of the {len(chosen)} measured positions with "
                                                                     "the largest predicted values")
        decision.candidates = number_array(chosen, "I")
        decision.positions = number_array(progress.experiment.field.positions(chosen))
        announcer.publish(progress, decision)
        progress.decisions += 1
        calls, failures = [], []
        for candidate in chosen:
            acquisition_id, index = progress.origin(int(candidate))
            request = GetStructure.Request(acquisition_id=from_uuid(acquisition_id), index=index)
            try:
                answer = self._waiting.ask(self._structure, request, "MEASUREMENTS_MISSING", "featurizer")
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
            self._node.warn(failure)
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
