"""The microscope's services: survey, state, optics, stage, holder, blanker, and the truth where somebody knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.callback_groups import CallbackGroup
from sensor_msgs.msg import Image

from edgetem.msg import Overview
from edgetem.srv import AcquireOverview, BlankBeam, GetState, GetTruth, MoveStage, SetHolder, SetOptics
from edgetem_nodes.graph.column import atoms_message, field_message, given, image_message
from edgetem_nodes.graph.messages import number_array
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import STATE
from edgetem_nodes.microscope.acquisition import RefusedError
from edgetem_nodes.microscope.node.console import Console
from edgetem_nodes.microscope.dose import DoseLimitError
from edgetem_nodes.microscope.node.drift import take_reference
from edgetem_nodes.microscope.drivers import NotSimulated, NotSupported
from edgetem_nodes.microscope.region import check_atoms, estimated_atoms, region_of

ATOMS = "atoms"
"""The one truth that is not a map."""


class ColumnServices:
    """Serves `acquire_overview`, `get_state`, `set_optics`, `move_stage`, `set_holder`, `blank_beam`, `get_truth`."""

    def __init__(self, node: GraphNode, console: Console, group: CallbackGroup) -> None:
        self._node, self._console = node, console
        self._survey_cost = 0.0
        self._overviews = node.create_publisher(Overview, "overview", STATE)
        self._images = node.create_publisher(Image, "overview_image", STATE)
        self._services = [node.create_service(kind, name, callback, callback_group=group) for kind, name, callback in (
            (AcquireOverview, "acquire_overview", self._on_overview), (GetState, "get_state", self._on_get_state),
            (SetOptics, "set_optics", self._on_set_optics), (MoveStage, "move_stage", self._on_move_stage),
            (SetHolder, "set_holder", self._on_set_holder), (BlankBeam, "blank_beam", self._on_blank_beam),
            (GetTruth, "get_truth", self._on_get_truth))]

    def close(self) -> None:
        """Release what the node made."""
        for service in self._services:
            self._node.destroy_service(service)
        for publisher in (self._overviews, self._images):
            self._node.destroy_publisher(publisher)

    async def _serve(self, response: Any, work: Callable[[], Any], *, idle: bool = True,
                     otherwise: str = "DRIVER_FAILED") -> Any:
        """Fill the response by `work`, and give it the code of what went wrong."""
        codes = type(response)
        try:
            self._console.require(idle)
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
            self._node.get_logger().warning(response.error_msg)
        return response

    # ---- survey and state -------------------------------------------------------------------------------------

    async def _on_overview(self, request: AcquireOverview.Request,
                           response: AcquireOverview.Response) -> AcquireOverview.Response:
        async def work() -> None:
            console = self._console
            try:
                console.dose.check_survey(self._survey_cost)
            except DoseLimitError as error:
                raise RefusedError("DOSE_LIMIT", str(error)) from None
            stamp, exposure = console.stamp(), console.survey_exposure()
            with console.occupied("a survey"):
                console.blank(False)
                try:
                    survey = await console.drive(console.driver.overview, exposure)
                finally:
                    console.blank(True)
                self._survey_cost = survey.dose
                console.surveyed(survey, exposure)
                await take_reference(console, survey, exposure)
            overview = response.overview
            overview.header.stamp, overview.header.frame_id = stamp, "scan"
            overview.acquisition_id = request.acquisition_id
            overview.field = field_message(console.field)
            overview.channels, overview.dose = list(survey.channels), float(survey.dose)
            overview.data = number_array(survey.data)
            self._overviews.publish(overview)
            self._images.publish(image_message(overview.header, survey.data[0]))
        return await self._serve(response, work)

    async def _on_get_state(self, _request: GetState.Request, response: GetState.Response) -> GetState.Response:
        async def work() -> None:
            if not self._console.busy:
                await self._console.drive(lambda: None)
            response.state = self._console.state()
            response.state.header.stamp = self._console.stamp()
        return await self._serve(response, work, idle=False)

    # ---- commands ---------------------------------------------------------------------------------------------

    async def _on_set_optics(self, request: SetOptics.Request, response: SetOptics.Response) -> SetOptics.Response:
        async def work() -> None:
            changes = given(request.optics)
            await self._command("the optics", self._console.driver.set_optics, changes)
            self._console.optics_changed()
        return await self._serve(response, work)

    async def _on_move_stage(self, request: MoveStage.Request, response: MoveStage.Response) -> MoveStage.Response:
        async def work() -> None:
            await self._command("the stage", self._console.driver.move_stage, given(request.pose))
            self._console.stage_changed()
        return await self._serve(response, work)

    async def _on_set_holder(self, request: SetHolder.Request, response: SetHolder.Response) -> SetHolder.Response:
        async def work() -> None:
            changes = given(request)
            await self._command("the holder", self._console.driver.set_holder, changes)
            self._console.holder_changed()
        return await self._serve(response, work)

    async def _command(self, what: str, work: Callable[..., None], changes: dict[str, float]) -> None:
        try:
            with self._console.occupied(what):
                await self._console.drive(work, **changes)
        except ValueError as error:
            raise RefusedError("OUT_OF_RANGE", str(error)) from None

    async def _on_blank_beam(self, request: BlankBeam.Request, response: BlankBeam.Response) -> BlankBeam.Response:
        async def work() -> None:
            if request.blank:
                self._console.interrupt("ACQUISITION_ABORTED", "blanked by hand")
            else:
                self._console.blank(False)
                self._node.get_logger().warning("the beam was unblanked by hand: its dose is not counted")
            self._console.show()
        return await self._serve(response, work, idle=False)

    # ---- truth ------------------------------------------------------------------------------------------------

    async def _on_get_truth(self, request: GetTruth.Request, response: GetTruth.Response) -> GetTruth.Response:
        async def work() -> None:
            console = self._console
            response.quantities = [str(quantity) for quantity in await console.drive(console.driver.truths)]
            response.field = field_message(console.field)
            if request.quantity == "":
                return
            if request.quantity not in response.quantities:
                raise RefusedError("UNKNOWN_QUANTITY", f"there is no truth of {request.quantity!r}; there is "
                                                       f"{', '.join(response.quantities)}")
            exposure = console.present()
            if request.quantity == ATOMS:
                low, high = region_of(np.asarray(request.region, float), console.field)
                check_atoms(low, high, await console.drive(estimated_atoms, console.driver, low, high, exposure))
                atoms = await console.drive(console.driver.atoms, low, high, exposure)
                check_atoms(low, high, len(atoms.atomic_numbers))
                response.unit, response.atoms = "m", atoms_message(atoms, "truth")
                response.atoms.header.stamp = console.stamp()
                return
            response.unit, data = await console.drive(console.driver.truth, request.quantity, exposure)
            response.data = number_array(data)
        return await self._serve(response, work, idle=False, otherwise="UNKNOWN_QUANTITY")
