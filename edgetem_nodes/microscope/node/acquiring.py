"""The action `acquire`: arm the detector, unblank, trigger, wait for the end, blank, account."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from edgetem.action import Acquire
from edgetem.msg import AcquisitionEnd, ProbePath
from edgetem.srv import Arm
from edgetem_nodes.graph.column import path_message
from edgetem_nodes.graph.messages import from_uuid, numbers, to_uuid
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.graph.quality_of_service import EVENTS
from edgetem_nodes.microscope.acquisition import Plan, RefusedError, Run, affordable, planned
from edgetem_nodes.microscope.node.console import Console
from edgetem_nodes.microscope.node.drift import drift_values, follow_drift, tell_of_length
from edgetem_nodes.physics.exposure import Exposure

WATCH = 0.25
"""[s] between looks at deadlines and at who is there, while an acquisition runs."""


class AcquisitionServer:
    """Serves `acquire`, one goal at a time; publishes `probe_path`.

    Parameters
    ----------
    node, console : whose they are.
    abort_patience : [s] that the detector has to end an acquisition that was called off.
    group : of the callbacks.
    """

    def __init__(self, node: GraphNode, console: Console, abort_patience: Callable[[], float], group: CallbackGroup) -> None:
        self._node, self._console, self._parameters = node, console, console.parameters
        self._abort_patience = abort_patience
        self._sequence = console.parameters.initial_sequence
        self.run: Run | None = None
        self.arm = node.create_client(Arm, "arm", callback_group=group)
        self._paths = node.create_publisher(ProbePath, "probe_path", EVENTS)
        self._ends = node.create_subscription(AcquisitionEnd, "acquisition_end", self._on_end, EVENTS, callback_group=group)
        self._server = ActionServer(node, Acquire, "acquire", self._acquire, callback_group=group,
                                    cancel_callback=self._on_cancel)
        self._watch = node.create_timer(WATCH, self._on_watch, callback_group=group)
        self._watch.cancel()
        console.interruptions.append(self._on_interruption)

    def peers(self) -> list[Peer]:
        """What must be found before anything can be acquired."""
        return [("detector (service arm)", self.arm.service_is_ready),
                ("detector (topic probe_path)", lambda: self._paths.get_subscription_count() > 0),
                ("detector (topic acquisition_end)", lambda: self._node.count_publishers("acquisition_end") > 0)]

    def stop(self) -> None:
        """Disarm the detector, and watch no longer."""
        if self.run is not None:
            self._disarm(self.run)
        self._watch.cancel()

    def close(self) -> None:
        """Release what the node made."""
        self._node.destroy_timer(self._watch)
        self._server.destroy()
        self._node.destroy_client(self.arm)
        self._node.destroy_subscription(self._ends)
        self._node.destroy_publisher(self._paths)

    # ---- one acquisition --------------------------------------------------------------------------------------

    async def _acquire(self, goal: ServerGoalHandle) -> Acquire.Result:
        result, run, console = Acquire.Result(), None, self._console
        try:
            run = self.run = Run(self._accepted(goal.request))
            console.busy = f"acquisition {run.plan.acquisition_id}"
            self._watch.reset()
            result.dose = await follow_drift(console, run.plan)
            tell_of_length(console, run.plan)
            await self._armed(run)
            await self._perform(run, result)
        except RefusedError as refusal:
            result.error_code, result.error_msg = getattr(Acquire.Result, refusal.code), str(refusal)
        except Exception as error:  # noqa: BLE001  (whatever a driver raises, the client must learn of it)
            result.error_code, result.error_msg = Acquire.Result.DRIVER_FAILED, f"the microscope's driver failed: {error}"
        if run is not None:
            if result.error_code == Acquire.Result.DRIVER_FAILED:
                self._disarm(run)
            self.run, console.busy = None, ""
            self._watch.cancel()
        if result.error_code == Acquire.Result.NONE:
            self._node.report("active", acquisitions=self._sequence, dose_electrons=f"{console.dose.total:.4g}",
                              **drift_values(console))
            goal.succeed()
            return result
        self._node.warn(f"acquisition {to_uuid(goal.request.acquisition_id)}: {result.error_msg}",
                        last_error=result.error_code)
        (goal.canceled if goal.is_cancel_requested else goal.abort)()
        return result

    def _accepted(self, request: Acquire.Goal) -> Plan:
        """The acquisition that a goal asks for. Raises RefusedError where it cannot be served."""
        self._console.require()
        plan = planned(to_uuid(request.acquisition_id), numbers(request.positions), request.dwell_time, request.detector,
                       self._console.field, self._parameters.instrument, self._parameters.detector)
        affordable(plan, self._console.dose, self._console.driver.electrons(1, plan.probe_dwell))
        return plan

    async def _armed(self, run: Run) -> None:
        """Arm the detector. Raises RefusedError where it is not there, does not answer, or refuses."""
        if not self.arm.service_is_ready():
            raise RefusedError("DETECTOR_UNAVAILABLE", "no detector serves 'arm': is the detector node running?")
        run.deadline = time.monotonic() + self._parameters.arm_timeout
        answer = self.arm.call_async(self._arming(run, run.plan.count))
        answer.add_done_callback(lambda _: run.notify())
        await self._until(run, lambda: answer.done() or run.interruption is not None)
        if run.interruption is not None:
            self.arm.remove_pending_request(answer)
            self._disarm(run)
            raise RefusedError(*run.interruption)
        if answer.result().error_code != Arm.Response.NONE:
            raise RefusedError("DETECTOR_REFUSED", answer.result().error_msg)
        run.armed = True

    async def _perform(self, run: Run, result: Acquire.Result) -> None:
        """Unblank, trigger, wait for the end, blank, account."""
        p, plan, console = self._parameters, run.plan, self._console
        run.deadline = time.monotonic() + p.end_timeout + plan.count * (plan.period + p.frame_timeout_ms * 1e-3)
        console.blank(False)
        try:
            exposure = self._trigger(plan, result.dose)
            console.show()
            await self._until(run, lambda: run.end is not None or run.interruption is not None)
        finally:
            console.blank(True)
        if run.end is None:
            self._disarm(run)
            run.deadline = time.monotonic() + self._abort_patience()
            await self._until(run, lambda: run.end is not None or time.monotonic() > run.deadline or not self._node.active)
        exposed = plan.count if run.end is None else min(plan.count, int(run.end.sent + run.end.dropped))
        result.dose += console.dose.add(plan.candidates[:exposed * plan.probes], console.driver.electrons(1, plan.probe_dwell))
        console.acquired(exposure, exposed)
        console.clock.advance(exposed * plan.period + p.overhead_ms * 1e-3)
        if run.end is not None:
            result.frames_delivered, result.frames_dropped = run.end.sent, run.end.dropped
        if self._node.active:
            await console.drive(console.driver.expose, exposure, exposed)
            console.show()
        if run.interruption is not None:
            raise RefusedError(*run.interruption)
        if run.end.aborted:
            raise RefusedError("ACQUISITION_ABORTED", run.end.reason)

    def _trigger(self, plan: Plan, reference_dose: float) -> Exposure:
        """Publish the probe path; the reference image before it has cost `reference_dose` [electrons]."""
        stamp = self._console.stamp()
        exposure = self._console.exposure(plan.positions, plan.dwell_time, plan.period, self._sequence, plan.micro_scan)
        self._sequence += 1
        path = path_message(exposure, plan.acquisition_id, plan.detector, reference_dose)
        path.header.stamp = stamp
        self._paths.publish(path)
        return exposure

    async def _until(self, run: Run, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever the acquisition is notified."""
        while not condition():
            run.changed = self._node.executor.create_future()
            await run.changed

    def _arming(self, run: Run, count: int) -> Arm.Request:
        return Arm.Request(acquisition_id=from_uuid(run.plan.acquisition_id), detector=run.plan.detector, count=count,
                           dwell_time=run.plan.dwell_time)

    def _disarm(self, run: Run) -> None:
        """Tell the detector to forget or end the acquisition."""
        self.arm.call_async(self._arming(run, 0))

    # ---- what comes in between --------------------------------------------------------------------------------

    def _on_interruption(self, code: str, reason: str) -> None:
        run = self.run
        if run is not None and run.interruption is None:
            run.interruption = code, reason
            run.notify()

    def _on_end(self, end: AcquisitionEnd) -> None:
        run = self.run
        if run is not None and to_uuid(end.acquisition_id) == run.plan.acquisition_id:
            run.end = end
            run.notify()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        run = self.run
        if run is None or to_uuid(goal.request.acquisition_id) != run.plan.acquisition_id:
            return CancelResponse.REJECT
        self._console.interrupt("CANCELED", "canceled by the client")
        return CancelResponse.ACCEPT

    def _on_watch(self) -> None:
        """While an acquisition runs: deadlines, and whether client and detector are still there."""
        run, interrupt = self.run, self._console.interrupt
        if run is None:
            return
        topic = "acquire/_action/feedback"
        there = {bytes(bytearray(s.endpoint_gid)) for s in self._node.get_subscriptions_info_by_topic(topic)
                 if s.node_name != "recorder"}  # it listens to everything, and asks for nothing
        if run.clients and not run.clients & there:
            interrupt("ACQUISITION_ABORTED", "the client that asked for the acquisition is gone")
        elif not self.arm.service_is_ready():
            interrupt("ACQUISITION_ABORTED" if run.armed else "DETECTOR_UNAVAILABLE", "the detector is gone")
        elif time.monotonic() > run.deadline:
            interrupt(*(("ACQUISITION_ABORTED", f"the detector did not end the acquisition of {run.plan.count} frames in "
                         "time") if run.armed else
                        ("DETECTOR_UNAVAILABLE", f"the detector did not answer 'arm' within "
                         f"{self._parameters.arm_timeout:g} s")))
        run.clients |= there
        if run.interruption is not None:
            run.notify()
