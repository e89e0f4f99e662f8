"""The actions `autofocus` and `find_eucentric_height`: images at several settings, and the setting that they ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from edgetem.action import Autofocus, FindEucentricHeight
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.microscope import focusing
from edgetem_nodes.microscope.acquisition import RefusedError
from edgetem_nodes.microscope.node.console import Console
from edgetem_nodes.microscope.drivers import NotSupported
from edgetem_nodes.physics.scan import ScanField


@dataclass
class _Search:
    """A search on its way from goal to result: the pixels of its images, what they have cost, why it was called off."""

    goal: ServerGoalHandle
    grid: ScanField
    dwell: float
    before: dict[str, float]
    """What is commanded again where nothing is found."""
    images: int = 0
    interruption: tuple[str, str] | None = None


class FocusingActions:
    """Serves `autofocus` and `find_eucentric_height`; the microscope is busy meanwhile."""

    def __init__(self, node: GraphNode, console: Console, group: CallbackGroup) -> None:
        self._node, self._console, self._parameters = node, console, console.parameters.focusing
        self._search: _Search | None = None
        self._servers = [ActionServer(node, kind, name, serve, callback_group=group, cancel_callback=self._on_cancel)
                         for kind, name, serve in ((Autofocus, "autofocus", self._autofocus),
                                                   (FindEucentricHeight, "find_eucentric_height", self._eucentric_height))]
        console.interruptions.append(self._on_interruption)

    def close(self) -> None:
        """Release what the node made."""
        for server in self._servers:
            server.destroy()

    # ---- the two searches -------------------------------------------------------------------------------------

    async def _autofocus(self, goal: ServerGoalHandle) -> Autofocus.Result:
        request, result, driver = goal.request, Autofocus.Result(), self._console.driver
        result.defocus = result.standard_error = math.nan

        async def work(search: _Search) -> None:
            reach = _positive("range", request.range, self._parameters.defocus_range_nm * 1e-9)
            images = request.images or self._parameters.images
            focus = _asked(focusing.Autofocus, search.before["defocus"], reach, images, images)
            self._afford(search, focus.images)
            while (defocus := focus.ask()) is not None:
                await self._console.drive(driver.set_optics, defocus=defocus)
                sharpness = await self._console.aside(focus.tell, defocus, await self._image(search))
                goal.publish_feedback(Autofocus.Feedback(images=search.images, defocus=defocus,
                                                         sharpness=float(sharpness.value)))
            found = focus.result()
            await self._console.drive(driver.set_optics, defocus=found.defocus)
            result.defocus, result.standard_error = float(found.defocus), float(found.standard_error)
        return await self._serve(goal, result, "an autofocus", ("defocus", "commanded_optics", driver.set_optics), work)

    async def _eucentric_height(self, goal: ServerGoalHandle) -> FindEucentricHeight.Result:
        request, result, driver = goal.request, FindEucentricHeight.Result(), self._console.driver
        result.z = result.standard_error = math.nan

        async def work(search: _Search) -> None:
            tilt = _positive("largest_tilt", request.largest_tilt, math.radians(self._parameters.largest_tilt_deg))
            height = _asked(focusing.EucentricHeight, search.grid.step, search.grid.shape,
                            self._parameters.height_range_nm * 1e-9, tilt)
            self._afford(search, height.images)
            while (tilted := height.ask()) is not None:
                await self._console.drive(driver.move_stage, alpha=tilted.alpha)
                await self._console.aside(height.tell, tilted, await self._image(search, tilted.offset_y))
                goal.publish_feedback(FindEucentricHeight.Feedback(images=search.images, alpha=tilted.alpha))
            found = height.result()
            z = search.before["z"] - found.height
            await self._console.drive(driver.move_stage, alpha=search.before["alpha"], z=z)
            result.z, result.standard_error = float(z), float(found.standard_error)
        return await self._serve(goal, result, "a search for the eucentric height",
                                 (("z", "alpha"), "commanded_stage", driver.move_stage), work)

    # ---- what they share --------------------------------------------------------------------------------------

    async def _serve(self, goal: ServerGoalHandle, result: Any, what: str, control: tuple[Any, str, Callable[..., None]],
                     work: Callable[[_Search], Any]) -> Any:
        """Do the work, and where it fails give the result its code and command again what was commanded before."""
        codes, console, search = type(result), self._console, None
        spent = console.dose.total
        try:
            console.require()
            search = self._search = self._begun(goal, control)
            with console.occupied(what):
                try:
                    await work(search)
                except BaseException:
                    await console.drive(control[2], **search.before)
                    raise
        except RefusedError as refusal:
            result.error_code, result.error_msg = getattr(codes, refusal.code), str(refusal)
        except NotSupported as error:
            result.error_code, result.error_msg = codes.NOT_SUPPORTED, str(error)
        except (focusing.FocusingError, ValueError) as error:
            result.error_code, result.error_msg = codes.NOT_FOUND, str(error)
        except Exception as error:  # noqa: BLE001  (whatever a driver raises, the client must learn of it)
            result.error_code, result.error_msg = codes.DRIVER_FAILED, f"the microscope's driver failed: {error}"
        if search is not None:
            self._search = None
            result.dose = console.dose.total - spent
        if result.error_code == codes.NONE:
            goal.succeed()
            return result
        self._node.warn(f"{what}: {result.error_msg}", last_error=result.error_code)
        (goal.canceled if goal.is_cancel_requested else goal.abort)()
        return result

    def _begun(self, goal: ServerGoalHandle, control: tuple[Any, str, Callable[..., None]]) -> _Search:
        """The search that a goal asks for. Raises RefusedError where it makes no sense here."""
        names, kind, _ = control
        commanded = getattr(self._console.column, kind)
        names = (names,) if isinstance(names, str) else names
        missing = [name for name in names if name not in commanded]
        if missing:
            raise RefusedError("NOT_SUPPORTED", f"this microscope has no control of {', '.join(missing)}")
        dwell = _positive("dwell_time", goal.request.dwell_time, self._parameters.dwell_us * 1e-6)
        return _Search(goal, _centre(self._console.field, self._parameters.region_px), dwell,
                       {name: commanded[name] for name in names})

    def _afford(self, search: _Search, images: int) -> None:
        """Raise RefusedError DOSE_LIMIT where all the images together would exceed a limit."""
        self._console.afford(search.grid.positions(), search.dwell, images)

    async def _image(self, search: _Search, offset_y: float = 0.0) -> np.ndarray:
        """One more image. Raises RefusedError where the search was called off."""
        if search.interruption is None:
            positions = search.grid.positions() + (offset_y, 0.0)
            image, _ = await self._console.image(positions, search.grid.shape, search.dwell)
            search.images += 1
        if search.interruption is not None:
            raise RefusedError(*search.interruption)
        return image

    def _on_interruption(self, code: str, reason: str) -> None:
        if self._search is not None and self._search.interruption is None:
            self._search.interruption = "CANCELED", reason

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        search = self._search
        if search is None or bytes(bytearray(search.goal.goal_id.uuid)) != bytes(bytearray(goal.goal_id.uuid)):
            return CancelResponse.REJECT
        self._on_interruption("CANCELED", "canceled by the client")
        return CancelResponse.ACCEPT


def _asked(kind: type, *arguments: Any) -> Any:
    """A search as a goal asks for it. Raises RefusedError INVALID_REQUEST."""
    try:
        return kind(*arguments)
    except ValueError as error:
        raise RefusedError("INVALID_REQUEST", str(error)) from None


def _positive(name: str, value: float, otherwise: float) -> float:
    """A goal's value, or the configured one where it is 0. Raises RefusedError INVALID_REQUEST."""
    if not (math.isfinite(value) and value >= 0):
        raise RefusedError("INVALID_REQUEST", f"{name} {value:g} must be positive, or 0 for the configured value")
    return value or otherwise


def _centre(field: ScanField, side: int) -> ScanField:
    """The `side` x `side` grid points around the field's centre, fewer where the field is smaller."""
    shape = tuple(min(side, size) for size in field.shape)
    first = [(size - part) // 2 for size, part in zip(field.shape, shape, strict=True)]
    origin = tuple(field.origin[axis] + first[axis] * field.step[axis] for axis in (0, 1))
    return ScanField(origin, field.step, shape)
