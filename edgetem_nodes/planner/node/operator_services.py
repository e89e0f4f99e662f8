"""The services through which the operator changes a running experiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup

from edgetem.msg import Decision
from edgetem.srv import ChangeScalarizer, GetExperiment
from edgetem_nodes.graph.column import field_message
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.operating import INVALID, SERVICES, as_text, request_of
from edgetem_nodes.planner.operation import CHANGE_SCALARIZER, Operation, Refused
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.requests import CHANGEABLE


class OperatorServices:
    """Serves every name of `graph.operating.SERVICES` and `get_experiment`. Each answers at once.

    Parameters
    ----------
    node, group : whose they are.
    operation : takes the requests.
    has_featurizer : whether a node serves `set_scalarizer`.
    """

    def __init__(self, node: GraphNode, operation: Operation, has_featurizer: Callable[[], bool],
                 group: CallbackGroup) -> None:
        self._node, self._operation, self._has_featurizer = node, operation, has_featurizer
        self.last = Decision()
        """The decision published last."""
        self._services = [node.create_service(kind, name, self._callback(name), callback_group=group)
                          for name, kind in SERVICES.items()]
        self._services.append(node.create_service(GetExperiment, "get_experiment", self._on_get, callback_group=group))

    def close(self) -> None:
        """Release what the node made."""
        for service in self._services:
            self._node.destroy_service(service)

    def _callback(self, name: str) -> Callable[[Any, Any], Any]:
        def serve(message: Any, response: Any) -> Any:
            codes = type(response)
            try:
                request = json.loads(as_text(request_of(name, message)))  # just as a replay reads it
                if name == CHANGE_SCALARIZER and not self._has_featurizer():
                    raise Refused("FEATURIZER_MISSING", "no node serves set_scalarizer: is the featurizer running?")
                response.queued = self._operation.submit(request)
                response.request = as_text(request)
            except Refused as refusal:
                response.error_code, response.error_msg = getattr(codes, refusal.code), str(refusal)
            except ValueError as error:
                response.error_code, response.error_msg = getattr(codes, INVALID[name]), str(error)
            if response.error_code != ChangeScalarizer.Response.NONE:
                self._node.get_logger().warning(f"{name} was refused: {response.error_msg}")
            return response
        return serve

    def _on_get(self, _request: GetExperiment.Request, response: GetExperiment.Response) -> GetExperiment.Response:
        progress: Progress | None = self._operation.progress
        if progress is None:
            response.error_code = response.NOT_RUNNING
            response.error_msg = "no experiment runs, or it has not made its first decision"
            return response
        experiment = progress.experiment
        response.state = (response.PAUSED if progress.paused else response.WAITING if progress.proposed is not None else
                          response.RUNNING)
        response.decision = self.last
        response.requests = [as_text(request) for request in self._operation.queued]
        response.regions = [json.dumps(region.record()) for region in experiment.regions]
        response.acquisition = json.dumps({name: getattr(experiment.parameters, name) for name in CHANGEABLE})
        response.approve_batches = progress.approve_batches
        response.field = field_message(experiment.field)
        response.scalar_name, response.scalar_unit = progress.scalar.name, progress.scalar.unit
        return response
