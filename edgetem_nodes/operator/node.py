"""The operator node: brings the graph up, runs one experiment on it, says how it goes, and brings it down."""

from __future__ import annotations

import json
import threading
import time
import uuid
from pathlib import Path

from rclpy.action import ActionClient
from rclpy.node import Node

from edgetem.action import RunExperiment
from edgetem.msg import Decision
from edgetem_nodes.graph import parameters
from edgetem_nodes.graph.messages import from_uuid
from edgetem_nodes.operator.bring_up import BringUp, BringUpError
from edgetem_nodes.operator.experiment import CHECKPOINT, CONFIGURATION, RESULT
from edgetem_nodes.operator.parameters import Parameters


class OperatorNode(Node):
    """Sets `exit_code` when the experiment has ended and the graph is down; the process then ends with it."""

    def __init__(self) -> None:
        super().__init__("operator")
        self._started = time.monotonic_ns()
        parameters.declare(self, Parameters)
        self.parameters = parameters.read(self, Parameters)
        self.exit_code: int | None = None
        self._bring_up = BringUp(self, self.parameters.nodes, self.parameters.bring_up_timeout_s)
        self._run_experiment = ActionClient(self, RunExperiment, "run_experiment")
        self._ended = threading.Event()
        self._failure = ""
        self._measured = 0
        self._thread = threading.Thread(target=self._conduct, name="operator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing is held: the nodes close their own files on SIGINT."""

    def _conduct(self) -> None:
        try:
            self.exit_code = self._run()
        except BringUpError as error:
            say(f"error: {error}")
            self.exit_code = 1
        except Exception as error:  # noqa: BLE001  (the process must end with a code, whatever happened)
            if self.context.ok():
                say(f"error: {error}")
            self.exit_code = 1

    def _run(self) -> int:
        launched = self.parameters.launched_ns or self._started
        say("bringing up " + ", ".join(self.parameters.nodes))
        try:
            self._bring_up.up()
        except BringUpError:
            self._bring_up.down()
            raise
        start_up = (time.monotonic_ns() - launched) / 1e9
        say(f"all nodes active after {start_up:.1f} s")
        began = time.monotonic()
        result = self._experiment()
        wall_time = time.monotonic() - began
        silent = self._bring_up.down()
        if silent:
            say(f"error: {', '.join(silent)} did not shut down")
        if result is None:
            say(f"error: {self._failure}")
            return 1
        self._keep(result, start_up, wall_time)
        if result.error_code != RunExperiment.Result.NONE:
            say(f"error {result.error_code}: {result.error_msg}")
            return 1
        say(f"stopped: {result.stop_reason} after {result.decisions} decisions, {result.points} points, "
            f"{result.energies} energies, {wall_time:.0f} s" + (f"; {result.discovery}" if result.discovery else ""))
        return 1 if silent else 0

    def _experiment(self) -> RunExperiment.Result | None:
        folder = Path(self.parameters.output)
        goal = RunExperiment.Goal(experiment_id=from_uuid(uuid.uuid4()), config=(folder / CONFIGURATION).read_text())
        if self.parameters.resume:
            goal.checkpoint = str(folder / CHECKPOINT)
        outcome: list[RunExperiment.Result] = []

        def accepted(future: object) -> None:
            handle = future.result()
            if handle.accepted:
                handle.get_result_async().add_done_callback(finished)
            else:
                self._failure = "planner refused the experiment: its own message above says why"
                self._ended.set()

        def finished(future: object) -> None:
            outcome.append(future.result().result)
            self._ended.set()

        if not self._run_experiment.wait_for_server(self.parameters.bring_up_timeout_s):
            self._failure = "planner does not serve run_experiment"
            return None
        self._run_experiment.send_goal_async(goal, self._on_feedback).add_done_callback(accepted)
        self._ended.wait()
        return outcome[0] if outcome else None

    def _on_feedback(self, message: RunExperiment.Impl.FeedbackMessage) -> None:
        decision = message.feedback.decision
        if decision.action in (Decision.INITIAL, Decision.ACQUIRE):
            self._measured += len(decision.candidates)
        say(progress(decision, message.feedback.rate))

    def _keep(self, result: RunExperiment.Result, start_up: float, wall_time: float) -> None:
        record = {"stop_reason": result.stop_reason, "decisions": result.decisions, "points": result.points,
                  "dose_electrons": result.dose, "beam_time_s": result.beam_time, "energies": result.energies,
                  "error_code": result.error_code, "error": result.error_msg, "discovery": result.discovery,
                  "start_up_s": start_up, "wall_time_s": wall_time, "points_per_s": self._measured / wall_time,
                  "first_block_latencies_s": list(result.first_block_latencies)}
        (Path(self.parameters.output) / RESULT).write_text(json.dumps(record, indent=2))


def progress(decision: Decision, rate: float) -> str:
    """How the experiment goes: points after the decision's acquisition, the map that it rested on, and what was noticed."""
    noticed = "".join(f"\n              watchdog: {watchdog}" for watchdog in decision.watchdogs)
    if decision.action == Decision.OPERATOR:
        return f"decision {decision.index:3d}  {decision.action:<8s} {decision.reason}"
    if decision.action == Decision.PROPOSE:
        return (f"decision {decision.index:3d}  {decision.action:<8s} {len(decision.candidates)} positions wait for 'edgetem "
                f"operate approve' or 'reject': {decision.reason}{noticed}")
    spread = ("" if decision.mean_standard_deviation != decision.mean_standard_deviation else
              f"  uncertainty mean {decision.mean_standard_deviation:.3g} max {decision.max_standard_deviation:.3g}")
    best = "" if decision.best_value != decision.best_value else f"  best {decision.best_value:.4g}"
    points = decision.points + len(decision.candidates)
    return f"decision {decision.index:3d}  {decision.action:<8s} {points:5d} points{best}{spread}  {rate:.1f} points/s{noticed}"


def say(line: str) -> None:
    """A line for the person at the console, at once."""
    print(line, flush=True)
