"""The planner node: runs one autonomous experiment at a time, from the overview to its stop rule."""

from __future__ import annotations

from typing import ClassVar

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from edgetem.action import RunExperiment
from edgetem_nodes.graph.background import Background
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.planner.experiment import ExperimentError
from edgetem_nodes.planner.node.conducting import Conductor
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.waiting import Failed, Halted, Stopped, Waiting


class PlannerNode(GraphNode):
    """Serves `run_experiment`; asks the microscope, learns from measurements, decides, and publishes why."""

    NAME: ClassVar[str] = "planner"
    Parameters: ClassVar[type] = Parameters

    def setup(self) -> None:
        from edgetem_nodes.planner.surrogates import one_deterministic_thread  # torch takes seconds to load: now, not later
        one_deterministic_thread()

        self._background = Background(self, "experiment")
        self._waiting = Waiting()
        self._goal: ServerGoalHandle | None = None
        group = ReentrantCallbackGroup()
        self.conductor = Conductor(self, self._waiting, group)
        self._server = ActionServer(self, RunExperiment, "run_experiment", self._run, callback_group=group,
                                    goal_callback=self._on_goal, cancel_callback=self._on_cancel)

    def peers(self) -> list[Peer]:
        return self.conductor.peers()

    def stop(self) -> None:
        self._waiting.halt()

    def teardown(self) -> None:
        self._waiting.halt()
        self._background.close()
        self._server.destroy()
        self.conductor.close()

    def _on_goal(self, request: RunExperiment.Goal) -> GoalResponse:
        if self._goal is None:
            self._waiting.reset()
        # A refusal is a result with a code: a rejected goal could not say why.
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if self._goal in (None, goal):
            self._waiting.request_stop()
        return CancelResponse.ACCEPT

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
            await self._background.run(self.conductor.conduct, goal, result)
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
            self._goal = None
        if result.error_code == RunExperiment.Result.NONE:
            (goal.canceled if goal.is_cancel_requested else goal.succeed)()
            self.report("active", experiment="ended", stop_reason=result.stop_reason)
        else:
            self.warn(result.error_msg, error_code=result.error_code)
            goal.abort()
        return result
