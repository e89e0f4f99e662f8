"""The microscope's console: the one way to its driver, and what must be known and counted whoever uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message

from edgetem.msg import MicroscopeState
from edgetem_nodes.graph.background import Background
from edgetem_nodes.graph.column import state_message
from edgetem_nodes.graph.history import read_history
from edgetem_nodes.graph.messages import to_stamp
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import STATE
from edgetem_nodes.microscope.acquisition import Plan, RefusedError
from edgetem_nodes.microscope.clock import AcquisitionClock
from edgetem_nodes.microscope.dose import PER_SQUARE_ANGSTROM, DoseAccount, DoseLimitError
from edgetem_nodes.microscope.drift_tracking import DriftTracker
from edgetem_nodes.microscope.drivers import MicroscopeDriver, Survey
from edgetem_nodes.microscope.parameters import Parameters
from edgetem_nodes.physics.counting import SURVEY
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.exposure import Exposure, MicroScan, ReferenceImage

Correction = tuple[tuple[float, float], tuple[float, float]]
"""(y, x) [m] that is added to positions, and (y, x) [m/s] by which it grows."""


class Console:
    """Driver, time, dose, drift and state of one microscope. Everything but `drive` returns at once.

    Parameters
    ----------
    node : whose executor runs what waits for the driver.
    driver : the instrument; its functions run in a thread of their own, but for the blanker, which is called at once.
    parameters : of the node.
    """

    def __init__(self, node: GraphNode, driver: MicroscopeDriver, parameters: Parameters) -> None:
        limits = parameters.instrument.limits
        self.node, self.driver, self.parameters = node, driver, parameters
        self.history = read_history(parameters.history)
        if self.history.exposures:
            driver.resume(self.history.exposures)
        self.field = driver.field
        self.dose = DoseAccount(self.field, driver.pixel_area_m2, limits.electrons,
                                limits.areal_dose_e_per_A2 * PER_SQUARE_ANGSTROM, parameters.initial_dose)
        self.survey_dose = 0.0
        """Areal dose [1/m^2] that surveys have given."""
        self.reference_images: list[ReferenceImage] = []
        """Images of parts of the field since the last acquisition that exposed anything."""
        self.busy = ""
        """What occupies the microscope; empty: nothing."""
        self._before = parameters.initial_elapsed
        self.clock = AcquisitionClock(driver.real_time, time.time_ns(), self._before)
        self.column = driver.state(0.0)
        self.blanked = False
        self.interruptions: list[Callable[[str, str], None]] = []
        """Called with an error code's name and a reason when the beam is taken away from whoever uses it."""
        self._programme: list[tuple[float, float, float]] = []
        self._images = self.history.images
        self._shown = b""
        self._lock = threading.Lock()
        self._background = Background(node, "driver")
        self._states = node.create_publisher(MicroscopeState, "microscope_state", STATE)
        self._recall()
        self.new_tracker()

    def close(self) -> None:
        """Blank the beam and release the driver."""
        self.node.destroy_publisher(self._states)
        self._background.close()
        try:
            self.blank(True)
        finally:
            self.driver.close()

    # ---- the driver -------------------------------------------------------------------------------------------

    def blank(self, blank: bool) -> None:
        """Blank or unblank the beam."""
        with self._lock:
            self.driver.blank(blank)
            self.blanked = blank

    def interrupt(self, code: str, reason: str) -> None:
        """Blank the beam, and call off what uses it."""
        self.blank(True)
        for interruption in self.interruptions:
            interruption(code, f"{reason}; the beam is blanked")

    async def drive(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a driver's function in the driver's thread, and read the state after it."""
        elapsed = self.elapsed()

        def both() -> tuple[Any, Any]:
            with self._lock:
                return work(*arguments, **named), self.driver.state(elapsed)
        result, self.column = await self._background.run(both)
        return result

    async def aside(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a longer computation in the driver's thread, so that the executor does not wait for it."""
        return await self._background.run(work, *arguments)

    @contextmanager
    def occupied(self, what: str) -> Iterator[None]:
        """Meanwhile nothing else may use the microscope; the state is published at the end."""
        self.busy = what
        try:
            yield
        finally:
            self.busy = ""
            self.show()

    def require(self, idle: bool = True) -> None:
        """Raise RefusedError where the node is not active or, if it must be idle, busy."""
        if not self.node.active:
            raise RefusedError("NOT_ACTIVE", "the microscope is not active: configure and activate it first")
        if idle and self.busy:
            raise RefusedError("BUSY", f"the microscope is busy with {self.busy}: wait until that has ended")

    # ---- time and state ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """The microscope becomes active: acquisition time begins, or goes on."""
        self.clock = AcquisitionClock(self.driver.real_time, time.time_ns(), self._before)
        self.new_tracker()
        self.blank(True)
        self.show()

    def stop(self) -> None:
        """The microscope is active no more: acquisition time stands still."""
        self._before = self.elapsed()
        self.show()

    def stamp(self) -> Time:
        """Acquisition time now, since the epoch."""
        return to_stamp(0, self.clock.now(time.time_ns()))

    def elapsed(self) -> float:
        """Acquisition time now [s], since the microscope became active."""
        return self.clock.elapsed(time.time_ns())

    def state(self) -> MicroscopeState:
        """The state as last read, without a stamp."""
        return state_message(self.column, self.blanked, self.dose.total, self.dose.peak)

    def show(self) -> None:
        """Publish the state where it differs from what was published last."""
        state = self.state()
        content = serialize_message(state)
        if content != self._shown:
            self._shown = content
            state.header.stamp = self.stamp()
            self._states.publish(state)

    # ---- what the specimen receives ---------------------------------------------------------------------------

    def exposure(self, positions: np.ndarray, dwell: float, period: float, sequence: int,
                 micro_scan: MicroScan | None = None) -> Exposure:
        """What is commanded now, for positions (count, 2), (y, x) [m] to be visited from now on."""
        elapsed = self.elapsed()
        correction, rate = self.tracker.correction(elapsed)
        return Exposure(sequence, elapsed, positions, dwell, period, dict(self.column.commanded_optics),
                        dict(self.column.commanded_stage), np.array(self._programme, float).reshape(-1, 3),
                        tuple(map(float, correction)), tuple(map(float, rate)), self.survey_dose,
                        tuple(self.reference_images), micro_scan)

    def survey_exposure(self) -> Exposure:
        """An exposure of the whole field, as a survey is taken."""
        dwell = self.parameters.instrument.survey_dwell_us * 1e-6
        return self.exposure(self.field.positions(), dwell, dwell, self.next_image())

    def next_image(self) -> int:
        """Sequence number of one more image by the microscope itself."""
        self._images += 1
        return SURVEY - self._images + 1

    def afford(self, positions: np.ndarray, dwell: float, images: int = 1, besides: Plan | None = None) -> None:
        """Raise RefusedError DOSE_LIMIT where `images` of these pixels (n, 2), (y, x) [m], would exceed a limit.

        With `besides`: where there would be no dose left for that acquisition.
        """
        inside = self.field.candidates(positions[self.field.contains(positions)])
        dose = self.dose
        if besides is not None:
            dose = dose.after(besides.candidates, self.driver.electrons(1, besides.probe_dwell))
        try:
            dose.check_image(inside, images * self.driver.electrons(1, dwell), len(positions))
        except DoseLimitError as error:
            raise RefusedError("DOSE_LIMIT", str(error)) from None

    async def image(self, positions: np.ndarray, shape: tuple[int, int], dwell: float,
                    shown: bool = False) -> tuple[np.ndarray, Exposure]:
        """Take an image float64 `shape` of pixels at positions (n, 2), row-major; returns it and its exposure.

        The beam is blanked afterwards; dose and time are counted. `shown`: the state is published while the beam is on and
        afterwards, so that whoever reads the states can tell what the image has cost.

        Raises
        ------
        RefusedError : DOSE_LIMIT, before anything is exposed.
        """
        self.afford(positions, dwell)
        each = self.driver.electrons(1, dwell)
        inside = positions[self.field.contains(positions)]
        exposure = self.exposure(positions, dwell, dwell, self.next_image())
        self.blank(False)
        try:
            if shown:
                self.show()
            image = await self.drive(self.driver.image, exposure, shape)
        finally:
            self.blank(True)
            self.dose.add_image(self.field.candidates(inside), each, len(positions))
            self.reference_images.append(self._reference_image(exposure, each))
            self.clock.advance(len(positions) * dwell + self.parameters.overhead_ms * 1e-3)
            if shown:
                self.show()
        return np.asarray(image, float), exposure

    def _reference_image(self, exposure: Exposure, each: float) -> ReferenceImage:
        """An image of `each` electrons at a pixel, as later exposures tell of it."""
        step = np.abs(self.field.step)
        low, high = exposure.positions.min(axis=0) - step / 2, exposure.positions.max(axis=0) + step / 2
        shift = tuple(float(exposure.optics.get(name, 0.0)) for name in ("beam_shift_y", "beam_shift_x"))
        return ReferenceImage(exposure.elapsed, tuple(low.tolist()), tuple((high - low).tolist()),
                              each * exposure.count / float(np.prod(high - low)), exposure.correction, shift, exposure.stage)

    # ---- what follows from what was done ----------------------------------------------------------------------

    def surveyed(self, survey: Survey, exposure: Exposure) -> None:
        """Count a survey."""
        self.points_since = 0
        self.dose.add_survey(survey.dose)
        self.survey_dose += survey.dose / (exposure.count * self.driver.pixel_area_m2)
        self.clock.advance(survey.duration + self.parameters.overhead_ms * 1e-3)

    def acquired(self, exposure: Exposure, exposed: int) -> None:
        """Count an acquisition's exposed positions. Where there are any the detector knows of the images before it, too."""
        self.points_since += exposed
        if exposed:
            self.reference_images = self.reference_images[len(exposure.reference_images):]

    def _recall(self) -> None:
        """Take over the areal dose, the surveys and the holder's programme of an experiment that is resumed."""
        positions = self.field.positions()
        images = {image.elapsed: image for exposure, _ in self.history.exposures for image in exposure.reference_images}
        for image in images.values():
            within = (positions >= image.corner) & (positions < np.add(image.corner, image.extent))
            self.dose.recall(np.flatnonzero(within.all(axis=1)), image.dose)
        for exposure, count in self.history.exposures:
            visited = exposure.positions[:count]
            visited = self.field.candidates(visited[self.field.contains(visited)])
            if exposure.micro_scan is not None:
                visited = self.field.nearest(exposure.probes(count))
            self.dose.recall(visited, self._electrons(exposure) / self.driver.pixel_area_m2)
        if self.history.exposures:
            last = self.history.exposures[-1][0]
            self.survey_dose = last.survey_dose
            self.dose.recall(np.arange(len(positions)), last.survey_dose)
            self._programme = [tuple(row) for row in last.holder.tolist()]

    def _electrons(self, exposure: Exposure) -> float:
        """Electrons of each probe of an exposure, by the current of its time where that is known."""
        current, dwell = exposure.optics.get("probe_current"), exposure.probe_dwell
        return self.driver.electrons(1, dwell) if current is None else electrons(current, dwell)

    def optics_changed(self) -> None:
        """The optics were commanded: field or view may be another."""
        field, view = self.driver.field, self._view()
        if field != self.field:
            self.dose = self.dose.regridded(self.field, field, self.driver.pixel_area_m2)
            self.field = field
        if view != self._viewed:
            self.new_tracker()

    def stage_changed(self) -> None:
        """The stage was moved: another part of the specimen may lie under the scan."""
        if self._view() != self._viewed:
            self.new_tracker()

    def holder_changed(self) -> None:
        """The holder was commanded: its programme has one more row."""
        holder = self.column.commanded_holder
        self._programme.append((self.elapsed(), holder.get("temperature", np.nan), holder.get("bias", np.nan)))

    def present(self) -> Exposure:
        """An exposure of the whole field as it would be now, nominal positions: for what is asked, not for what is done."""
        return replace(self.exposure(self.field.positions(), 0.0, 0.0, 0), correction=(0.0, 0.0), correction_rate=(0.0, 0.0))

    def new_tracker(self) -> None:
        """Forget the survey that drift was measured against: the next one is where tracking begins."""
        self.tracker = DriftTracker(self.parameters.drift_tracking, self.field, steered=self.driver.steered)
        self.points_since = 0
        """Positions visited since drift was measured last."""
        self.told_of_length = False
        """Whether it was said that acquisitions are longer than the drift is measured."""
        self.told_of_step = False
        """Whether it was said that the survey's step is too long for the specimen's lattice."""
        self._viewed = self._view()

    def _view(self) -> tuple[object, ...]:
        """What decides which part of the specimen lies under the scan, but for drift."""
        return self.driver.field, *view(self.column.commanded_optics, self.column.commanded_stage)


def view(optics: Mapping[str, float], stage: Mapping[str, float]) -> tuple[object, ...]:
    """What of the commanded optics and stage decides which part of the specimen lies under the scan."""
    shown = map(optics.get, ("magnification", "beam_shift_y", "beam_shift_x"))
    return *shown, *map(stage.get, ("x", "y", "alpha", "beta"))
