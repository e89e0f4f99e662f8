"""The microscope node: column, stage and scan. It serves acquisitions one at a time, and alone stamps acquisition time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from builtin_interfaces.msg import Time
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from edgetem.action import Acquire
from edgetem.msg import AcquisitionEnd, MicroscopeState, Overview, ProbePath
from edgetem.srv import AcquireOverview, Arm, BlankBeam, GetState, GetTruth, MoveStage, SetOptics
from edgetem_nodes.graph.background import Background
from edgetem_nodes.graph.column import field_message, given, image_message, optics_hash, state_message
from edgetem_nodes.graph.messages import from_uuid, number_array, numbers, to_stamp, to_uuid
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.microscope.acquisition import Plan, RefusedError, Run, affordable, planned
from edgetem_nodes.microscope.clock import AcquisitionClock
from edgetem_nodes.microscope.dose import PER_SQUARE_ANGSTROM, DoseAccount, DoseLimitError
from edgetem_nodes.microscope.drivers import NotSimulated, NotSupported, make_driver
from edgetem_nodes.microscope.parameters import Parameters

WATCH = 0.25
"""[s] between looks at deadlines and at who is there, while an acquisition runs."""


class MicroscopeNode(GraphNode):
    """Serves `acquire`, the overview, column, stage and blanker; publishes `probe_path` and `microscope_state`."""

    NAME: ClassVar[str] = "microscope"
    Parameters: ClassVar[type] = Parameters
    ABORT_PATIENCE: ClassVar[float] = 8.0
    """[s] that the detector has to end an acquisition that was called off."""

    def setup(self) -> None:
        p = self.parameters
        self._driver = make_driver(p.instrument, p.seed)
        self._field = self._driver.field
        self._lock = threading.Lock()
        self._background = Background(self, "driver")
        self._dose = DoseAccount(self._field, self._driver.pixel_area_m2, p.instrument.limits.electrons,
                                 p.instrument.limits.areal_dose_e_per_A2 * PER_SQUARE_ANGSTROM, p.initial_dose)
        self._run: Run | None = None
        self._busy = ""
        self._blanked = False
        self._sequence = p.initial_sequence
        self._survey_dose = 0.0
        self._column = self._driver.state()
        self._shown = b""
        self._states = self.create_publisher(MicroscopeState, "microscope_state", STATE)
        self._paths = self.create_publisher(ProbePath, "probe_path", EVENTS)
        self._overviews = self.create_publisher(Overview, "overview", STATE)
        self._images = self.create_publisher(Image, "overview_image", STATE)
        self._publishers_made = [self._states, self._paths, self._overviews, self._images]
        group = ReentrantCallbackGroup()
        self._ends = self.create_subscription(AcquisitionEnd, "acquisition_end", self._on_end, EVENTS, callback_group=group)
        self._arm = self.create_client(Arm, "arm", callback_group=group)
        self._services_made = [self.create_service(kind, name, callback, callback_group=group) for kind, name, callback in (
            (AcquireOverview, "acquire_overview", self._on_overview), (GetState, "get_state", self._on_get_state),
            (SetOptics, "set_optics", self._on_set_optics), (MoveStage, "move_stage", self._on_move_stage),
            (BlankBeam, "blank_beam", self._on_blank_beam), (GetTruth, "get_truth", self._on_get_truth))]
        self._server = ActionServer(self, Acquire, "acquire", self._acquire, callback_group=group,
                                    cancel_callback=self._on_cancel)
        self._watch = self.create_timer(WATCH, self._on_watch, callback_group=group)
        self._watch.cancel()
        self._poll = self.create_timer(p.state_interval, self._on_poll, callback_group=group)
        self._blank(True)

    def peers(self) -> list[Peer]:
        return [("detector (service arm)", self._arm.service_is_ready),
                ("detector (topic probe_path)", lambda: self._paths.get_subscription_count() > 0),
                ("detector (topic acquisition_end)", lambda: self.count_publishers("acquisition_end") > 0)]

    def start(self) -> None:
        self._time = AcquisitionClock(self._driver.real_time, time.time_ns())
        self._blank(True)
        self._show()

    def stop(self) -> None:
        if self._run is not None:
            self._disarm(self._run)
        self._interrupt("ACQUISITION_ABORTED", "the microscope was stopped")
        self._watch.cancel()
        self._show()

    def teardown(self) -> None:
        for timer in (self._watch, self._poll):
            self.destroy_timer(timer)
        self._server.destroy()
        for service in self._services_made:
            self.destroy_service(service)
        self.destroy_client(self._arm)
        self.destroy_subscription(self._ends)
        for publisher in self._publishers_made:
            self.destroy_publisher(publisher)
        self._background.close()
        try:
            self._blank(True)
        finally:
            self._driver.close()

    # ---- the driver -------------------------------------------------------------------------------------------

    def _blank(self, blank: bool) -> None:
        with self._lock:
            self._driver.blank(blank)
            self._blanked = blank

    async def _drive(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a driver's function in the driver's thread, and read the state after it."""
        def both() -> tuple[Any, Any]:
            with self._lock:
                return work(*arguments, **named), self._driver.state()
        result, self._column = await self._background.run(both)
        return result

    def _stamp(self) -> Time:
        return to_stamp(0, self._time.now(time.time_ns()))

    def _state(self) -> MicroscopeState:
        return state_message(self._column, self._blanked, self._dose.total, self._dose.peak)

    def _show(self) -> None:
        """Publish the state where it differs from what was published last."""
        state = self._state()
        content = serialize_message(state)
        if content != self._shown:
            self._shown = content
            state.header.stamp = self._stamp()
            self._states.publish(state)

    async def _on_poll(self) -> None:
        if self.active and not self._busy:
            try:
                await self._drive(lambda: None)
            except Exception as error:  # noqa: BLE001  (a reading that failed is reported, the next may succeed)
                self.warn(f"the column's state could not be read: {error}")
            else:
                self._show()

    # ---- acquire ----------------------------------------------------------------------------------------------

    async def _acquire(self, goal: ServerGoalHandle) -> Acquire.Result:
        result, run = Acquire.Result(), None
        try:
            run = self._run = Run(self._accepted(goal.request))
            self._busy = f"acquisition {run.plan.acquisition_id}"
            self._watch.reset()
            await self._armed(run)
            await self._perform(run, result)
        except RefusedError as refusal:
            result.error_code, result.error_msg = getattr(Acquire.Result, refusal.code), str(refusal)
        except Exception as error:  # noqa: BLE001  (whatever a driver raises, the client must learn of it)
            result.error_code, result.error_msg = Acquire.Result.DRIVER_FAILED, f"the microscope's driver failed: {error}"
        if run is not None:
            if result.error_code == Acquire.Result.DRIVER_FAILED:
                self._disarm(run)
            self._run, self._busy = None, ""
            self._watch.cancel()
        if result.error_code == Acquire.Result.NONE:
            self.report("active", acquisitions=self._sequence, dose_electrons=f"{self._dose.total:.4g}")
            goal.succeed()
            return result
        self.warn(f"acquisition {to_uuid(goal.request.acquisition_id)}: {result.error_msg}", last_error=result.error_code)
        (goal.canceled if goal.is_cancel_requested else goal.abort)()
        return result

    def _accepted(self, request: Acquire.Goal) -> Plan:
        """The acquisition that a goal asks for. Raises RefusedError where it cannot be served."""
        self._require_idle()
        plan = planned(to_uuid(request.acquisition_id), numbers(request.positions), request.dwell_time, request.detector,
                       self._field, self.parameters.instrument, self.parameters.detector)
        affordable(plan, self._dose, self._driver.electrons(1, plan.dwell_time))
        return plan

    def _require_idle(self, idle: bool = True) -> None:
        """Raise RefusedError where the node is not active or, if it must be idle, busy."""
        if not self.active:
            raise RefusedError("NOT_ACTIVE", "the microscope is not active: configure and activate it first")
        if idle and self._busy:
            raise RefusedError("BUSY", f"the microscope is busy with {self._busy}: wait until that has ended")

    async def _armed(self, run: Run) -> None:
        """Arm the detector. Raises RefusedError where it is not there, does not answer, or refuses."""
        if not self._arm.service_is_ready():
            raise RefusedError("DETECTOR_UNAVAILABLE", "no detector serves 'arm': is the detector node running?")
        run.deadline = time.monotonic() + self.parameters.arm_timeout
        answer = self._arm.call_async(self._arming(run, run.plan.count))
        answer.add_done_callback(lambda _: run.notify())
        await self._until(run, lambda: answer.done() or run.interruption is not None)
        if run.interruption is not None:
            self._arm.remove_pending_request(answer)
            self._disarm(run)
            raise RefusedError(*run.interruption)
        if answer.result().error_code != Arm.Response.NONE:
            raise RefusedError("DETECTOR_REFUSED", answer.result().error_msg)
        run.armed = True

    async def _perform(self, run: Run, result: Acquire.Result) -> None:
        """Unblank, trigger, wait for the end, blank, account."""
        p, plan = self.parameters, run.plan
        run.deadline = time.monotonic() + p.end_timeout + plan.count * (plan.period + p.frame_timeout_ms * 1e-3)
        self._blank(False)
        try:
            self._paths.publish(self._path(plan))
            self._show()
            await self._until(run, lambda: run.end is not None or run.interruption is not None)
        finally:
            self._blank(True)
        if run.end is None:
            self._disarm(run)
            run.deadline = time.monotonic() + self.ABORT_PATIENCE
            await self._until(run, lambda: run.end is not None or time.monotonic() > run.deadline or not self.active)
        exposed = plan.count if run.end is None else min(plan.count, int(run.end.sent + run.end.dropped))
        result.dose = self._dose.add(plan.candidates[:exposed], self._driver.electrons(1, plan.dwell_time))
        self._time.advance(exposed * plan.period + p.overhead_ms * 1e-3)
        if run.end is not None:
            result.frames_delivered, result.frames_dropped = run.end.sent, run.end.dropped
        if self.active:
            self._show()
        if run.interruption is not None:
            raise RefusedError(*run.interruption)
        if run.end.aborted:
            raise RefusedError("ACQUISITION_ABORTED", run.end.reason)

    async def _until(self, run: Run, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever the acquisition is notified."""
        while not condition():
            run.changed = self.executor.create_future()
            await run.changed

    def _path(self, plan: Plan) -> ProbePath:
        path = ProbePath(acquisition_id=from_uuid(plan.acquisition_id), sequence=self._sequence, dwell_time=plan.dwell_time,
                         position_period=plan.period, detector=plan.detector, optics_hash=optics_hash(self._column))
        self._sequence += 1
        path.header.stamp = self._stamp()
        path.header.frame_id = "scan"
        path.positions = number_array(plan.positions)
        return path

    def _arming(self, run: Run, count: int) -> Arm.Request:
        return Arm.Request(acquisition_id=from_uuid(run.plan.acquisition_id), detector=run.plan.detector, count=count,
                           dwell_time=run.plan.dwell_time)

    def _disarm(self, run: Run) -> None:
        """Tell the detector to forget or end the acquisition."""
        self._arm.call_async(self._arming(run, 0))

    def _interrupt(self, code: str, reason: str) -> None:
        """Blank the beam, and call the running acquisition off."""
        self._blank(True)
        run = self._run
        if run is not None and run.interruption is None:
            run.interruption = code, f"{reason}; the beam is blanked"
            run.notify()

    def _on_end(self, end: AcquisitionEnd) -> None:
        run = self._run
        if run is not None and to_uuid(end.acquisition_id) == run.plan.acquisition_id:
            run.end = end
            run.notify()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        run = self._run
        if run is None or to_uuid(goal.request.acquisition_id) != run.plan.acquisition_id:
            return CancelResponse.REJECT
        self._interrupt("CANCELED", "canceled by the client")
        return CancelResponse.ACCEPT

    def _on_watch(self) -> None:
        """While an acquisition runs: deadlines, and whether client and detector are still there."""
        run = self._run
        if run is None:
            return
        there = {bytes(bytearray(s.endpoint_gid)) for s in self.get_subscriptions_info_by_topic("acquire/_action/feedback")
                 if s.node_name != "recorder"}  # it listens to everything, and asks for nothing
        if run.clients and not run.clients & there:
            self._interrupt("ACQUISITION_ABORTED", "the client that asked for the acquisition is gone")
        elif not self._arm.service_is_ready():
            self._interrupt("ACQUISITION_ABORTED" if run.armed else "DETECTOR_UNAVAILABLE", "the detector is gone")
        elif time.monotonic() > run.deadline:
            self._interrupt(*(("ACQUISITION_ABORTED", f"the detector did not end the acquisition of {run.plan.count} frames "
                               "in time") if run.armed else
                              ("DETECTOR_UNAVAILABLE", f"the detector did not answer 'arm' within "
                               f"{self.parameters.arm_timeout:g} s")))
        run.clients |= there
        if run.interruption is not None:
            run.notify()

    # ---- column, stage, survey --------------------------------------------------------------------------------

    async def _serve(self, response: Any, work: Callable[[], Any], *, idle: bool = True,
                     otherwise: str = "DRIVER_FAILED") -> Any:
        """Fill the response by `work`, and give it the code of what went wrong."""
        codes = type(response)
        try:
            self._require_idle(idle)
            await work()
        except RefusedError as refusal:
            response.error_code, response.error_msg = getattr(codes, refusal.code), str(refusal)
        except NotSupported as error:
            response.error_code, response.error_msg = codes.NOT_SUPPORTED, str(error)
        except NotSimulated as error:
            response.error_code, response.error_msg = codes.NOT_SIMULATED, str(error)
        except Exception as error:  # noqa: BLE001  (whatever a driver raises, the client must learn of it)
            response.error_code, response.error_msg = getattr(codes, otherwise), f"the microscope's driver failed: {error}"
        if response.error_code:
            self.get_logger().warning(response.error_msg)
        return response

    async def _occupied(self, what: str, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a driver's function while no acquisition may start."""
        self._busy = what
        try:
            return await self._drive(work, *arguments, **named)
        finally:
            self._busy = ""
            self._show()

    async def _on_overview(self, request: AcquireOverview.Request,
                           response: AcquireOverview.Response) -> AcquireOverview.Response:
        async def work() -> None:
            try:
                self._dose.check_survey(self._survey_dose)
            except DoseLimitError as error:
                raise RefusedError("DOSE_LIMIT", str(error)) from None
            stamp = self._stamp()
            self._blank(False)
            try:
                survey = await self._occupied("a survey", self._driver.overview)
            finally:
                self._blank(True)
            self._survey_dose = survey.dose
            self._dose.add_survey(survey.dose)
            self._time.advance(survey.duration + self.parameters.overhead_ms * 1e-3)
            overview = response.overview
            overview.header.stamp, overview.header.frame_id = stamp, "scan"
            overview.acquisition_id = request.acquisition_id
            overview.field = field_message(self._field)
            overview.channels, overview.dose = list(survey.channels), float(survey.dose)
            overview.data = number_array(survey.data)
            self._overviews.publish(overview)
            self._images.publish(image_message(overview.header, survey.data[0]))
            self._show()
        return await self._serve(response, work)

    async def _on_get_state(self, _request: GetState.Request, response: GetState.Response) -> GetState.Response:
        async def work() -> None:
            if not self._busy:
                await self._drive(lambda: None)
            response.state = self._state()
            response.state.header.stamp = self._stamp()
        return await self._serve(response, work, idle=False)

    async def _on_set_optics(self, request: SetOptics.Request, response: SetOptics.Response) -> SetOptics.Response:
        return await self._serve(response, lambda: self._command("the optics", self._driver.set_optics, request.optics))

    async def _on_move_stage(self, request: MoveStage.Request, response: MoveStage.Response) -> MoveStage.Response:
        return await self._serve(response, lambda: self._command("the stage", self._driver.move_stage, request.pose))

    async def _command(self, what: str, work: Callable[..., Any], message: Any) -> None:
        try:
            await self._occupied(what, work, **given(message))
        except ValueError as error:
            raise RefusedError("OUT_OF_RANGE", str(error)) from None

    async def _on_blank_beam(self, request: BlankBeam.Request, response: BlankBeam.Response) -> BlankBeam.Response:
        async def work() -> None:
            if request.blank:
                self._interrupt("ACQUISITION_ABORTED", "blanked by hand")
            else:
                self._blank(False)
                self.get_logger().warning("the beam was unblanked by hand: its dose is not counted")
            self._show()
        return await self._serve(response, work, idle=False)

    async def _on_get_truth(self, request: GetTruth.Request, response: GetTruth.Response) -> GetTruth.Response:
        async def work() -> None:
            response.quantities = [str(quantity) for quantity in await self._drive(self._driver.truths)]
            response.field = field_message(self._field)
            if request.quantity == "":
                return
            if request.quantity not in response.quantities:
                raise RefusedError("UNKNOWN_QUANTITY", f"there is no truth of {request.quantity!r}; there is "
                                                       f"{', '.join(response.quantities)}")
            response.unit, data = await self._drive(self._driver.truth, request.quantity)
            response.data = number_array(data)
        return await self._serve(response, work, idle=False, otherwise="UNKNOWN_QUANTITY")
