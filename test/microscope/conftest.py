"""A microscope node in this process, a driver that records what it is told, a detector that does as the test says."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from edgetem.action import Acquire
from edgetem.msg import AcquisitionEnd, MicroscopeState, Overview, ProbePath
from edgetem.srv import Arm
from edgetem_nodes.graph.messages import from_uuid, number_array, to_uuid
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.microscope import node as microscope_node
from recorded_driver import RecordedDriver

PATIENCE = 20.0


class Bench:
    """The microscope, a detector of the test's making, and a client."""

    def __init__(self, driver: RecordedDriver, **parameters: object) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.driver, self.closed = driver, False
        self.microscope = microscope_node.MicroscopeNode(
            context=self.context, parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()])
        self.changed = threading.Condition()
        self.detector = rclpy.create_node("detector", context=self.context)
        self.refusal = (0, "")
        self.deaf = threading.Event()
        self.deaf.set()
        self.ends_itself = True
        self.armed: list[Arm.Request] = []
        self.paths: list[ProbePath] = []
        self.ends = self.detector.create_publisher(AcquisitionEnd, "acquisition_end", EVENTS)
        self.arming = self.detector.create_service(Arm, "arm", self._on_arm)
        self.detector.create_subscription(ProbePath, "probe_path", self._on_path, EVENTS)
        self.user = rclpy.create_node("planner", context=self.context)
        self.states: list[MicroscopeState] = []
        self.overviews: list[Overview] = []
        self.images: list[Image] = []
        for kind, topic, kept in ((MicroscopeState, "microscope_state", self.states), (Overview, "overview", self.overviews),
                                  (Image, "overview_image", self.images)):
            self.user.create_subscription(kind, topic, lambda message, kept=kept: self._keep(kept, message), STATE)
        self.acquiring: ActionClient | None = None
        self.actions: dict[str, ActionClient] = {}
        self.told: list[object] = []
        self.executors = []
        for node in (self.microscope, self.detector, self.user):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self.executors.append((executor, thread))

    def activate(self) -> None:
        self.activate_without_client()
        self.listen()

    def listen(self) -> None:
        """Make the client and wait until it finds the microscope."""
        self.acquiring = self.made(Acquire, "acquire")
        assert self.acquiring.wait_for_server(PATIENCE)

    def made(self, kind: type, name: str) -> ActionClient:
        """An action client, made in the thread that spins its node: it is known to the node before it is whole."""
        task = self.user.executor.create_task(lambda: ActionClient(self.user, kind, name))
        self.wait(task.done)
        return task.result()

    def activate_without_client(self) -> None:
        assert self.microscope.trigger_configure().name == "SUCCESS"
        assert self.microscope.trigger_activate().name == "SUCCESS"
        self.wait(lambda: self.microscope.count_publishers("acquisition_end") and self.ends.get_subscription_count())

    def _keep(self, kept: list, message: object) -> None:
        with self.changed:
            kept.append(message)
            self.changed.notify_all()

    def _on_arm(self, request: Arm.Request, response: Arm.Response) -> Arm.Response:
        self._keep(self.armed, request)
        if request.count == 0:
            if self.paths and self.ends_itself:
                self.end(self.paths[-1], 1, 208, "stopped from outside")
            return response
        assert self.deaf.wait(PATIENCE)
        response.error_code, response.error_msg = self.refusal
        return response

    def _on_path(self, path: ProbePath) -> None:
        self._keep(self.paths, path)

    def end(self, path: ProbePath, sent: int, code: int = 0, reason: str = "") -> None:
        """The detector says what became of the acquisition."""
        count = len(path.positions) // 2
        self.ends.publish(AcquisitionEnd(acquisition_id=path.acquisition_id, requested=count, sent=sent, aborted=bool(code),
                                         error_code=code, reason=reason))

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; fail after `PATIENCE` seconds."""
        with self.changed:
            for _ in range(int(PATIENCE / 0.02)):
                if condition():
                    return
                self.changed.wait(0.02)
        pytest.fail("what the test waits for did not come")

    def result_of(self, future: object) -> object:
        """What a future brings."""
        self.wait(future.done)
        return future.result()

    def goal(self, positions: np.ndarray, acquisition_id: int = 1, dwell: float = 1e-3) -> Acquire.Goal:
        goal = Acquire.Goal(acquisition_id=from_uuid(uuid.UUID(int=acquisition_id)), dwell_time=dwell)
        goal.positions = number_array(np.asarray(positions, float).ravel())
        return goal

    def send(self, positions: np.ndarray, acquisition_id: int = 1, dwell: float = 1e-3) -> object:
        """Send a goal; returns its handle."""
        handle = self.result_of(self.acquiring.send_goal_async(self.goal(positions, acquisition_id, dwell)))
        assert handle.accepted
        return handle

    def acquire(self, positions: np.ndarray, acquisition_id: int = 1, dwell: float = 1e-3) -> Acquire.Result:
        """An acquisition whose frames the detector delivers all, or the refusal."""
        before = len(self.paths)
        result = self.send(positions, acquisition_id, dwell).get_result_async()
        self.wait(lambda: result.done() or len(self.paths) > before)
        if len(self.paths) > before:
            assert to_uuid(self.paths[-1].acquisition_id) == uuid.UUID(int=acquisition_id)
            assert self.driver.blanked[-1] is False, "the beam is on the specimen while the acquisition runs"
            self.end(self.paths[-1], len(self.paths[-1].positions) // 2)
        return self.result_of(result).result

    def act(self, kind: type, name: str, **goal: object) -> object:
        """Send a goal to another of the microscope's actions; returns its handle. Feedback is kept in `told`."""
        if name not in self.actions:
            self.actions[name] = self.made(kind, name)
        assert self.actions[name].wait_for_server(PATIENCE)
        handle = self.result_of(self.actions[name].send_goal_async(
            kind.Goal(**goal), feedback_callback=lambda message: self._keep(self.told, message.feedback)))
        assert handle.accepted
        return handle

    def call(self, kind: type, name: str, **request: object) -> object:
        """The answer of one of the microscope's services."""
        client = self.user.create_client(kind, name)
        assert client.wait_for_service(PATIENCE)
        return self.result_of(client.call_async(kind.Request(**request)))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.deaf.set()
        for executor, thread in self.executors:
            executor.shutdown()
            thread.join(timeout=5.0)
        for client in (self.acquiring, *self.actions.values()):
            if client is not None:
                client.destroy()
        self.microscope.close()
        for node in (self.microscope, self.detector, self.user):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench(monkeypatch):
    """Makes a bench; `bench(real_time=..., **{parameter: value})`. Everything is closed at the end."""
    made = []

    def make(*, real_time: bool = False, driver: RecordedDriver | None = None, **parameters: object) -> Bench:
        driver = driver or RecordedDriver(real_time)
        monkeypatch.setattr(microscope_node, "make_driver", lambda _instrument, _seed: driver)
        made.append(Bench(driver, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()
