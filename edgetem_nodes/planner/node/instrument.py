"""What the planner asks of the microscope: a survey, a setting, an acquisition that is measured to its last position."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

import numpy as np
from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup

from edgetem.action import Acquire
from edgetem.msg import Optics, Overview, StagePose
from edgetem.srv import AcquireOverview, MoveStage, SetOptics
from edgetem_nodes.graph.column import fill
from edgetem_nodes.graph.messages import from_uuid, number_array
from edgetem_nodes.graph.node import GraphNode, Peer
from edgetem_nodes.planner.actions import ActionSpace, Setting
from edgetem_nodes.planner.energy_map import micro_scan_setting
from edgetem_nodes.planner.ledger import Pending
from edgetem_nodes.planner.node.inbox import Inbox
from edgetem_nodes.planner.waiting import ANSWER_TIMEOUT, Call, Failed, Waiting

OVERVIEW_PATIENCE = 4.0
"""Of an overview, over that of any other answer: it scans, or computes, the whole field and gives no sign of life before."""


class Meanwhile(Protocol):
    """Something to be done while an acquisition goes on."""

    def ready(self) -> bool:
        """Whether there is something to do now; the caller holds the condition `waiting.changed`."""

    def advance(self) -> None:
        """Do it, without waiting for anything."""


class InstrumentClient:
    """Calls `acquire_overview`, `acquire` and, where the experiment's actions say so, `set_optics` and `move_stage`."""

    def __init__(self, node: GraphNode, waiting: Waiting, inbox: Inbox, group: CallbackGroup) -> None:
        self._node, self._waiting, self._inbox = node, waiting, inbox
        settings = [*ActionSpace(node.parameters.actions).settings]
        if node.parameters.micro_scan.enabled:
            settings.append(micro_scan_setting(node.parameters.micro_scan))
        self._has_optics, self._has_stage = any(s.optics for s in settings), any(s.stage for s in settings)
        self._overview = node.create_client(AcquireOverview, "acquire_overview", callback_group=group)
        self._optics = node.create_client(SetOptics, "set_optics", callback_group=group)
        self._stage = node.create_client(MoveStage, "move_stage", callback_group=group)
        self.acquire = ActionClient(node, Acquire, "acquire", callback_group=group)

    def close(self) -> None:
        """Release what the node made."""
        self.acquire.destroy()
        for client in (self._overview, self._optics, self._stage):
            self._node.destroy_client(client)

    def peers(self) -> list[Peer]:
        """What must be found before an experiment can run."""
        peers = [("microscope (action acquire)", self.acquire.server_is_ready),
                 ("microscope (service acquire_overview)", self._overview.service_is_ready)]
        if self._has_optics:
            peers.append(("microscope (service set_optics)", self._optics.service_is_ready))
        if self._has_stage:
            peers.append(("microscope (service move_stage)", self._stage.service_is_ready))
        return peers

    def survey(self, acquisition_id: uuid.UUID) -> Overview:
        """An image of the whole field; raises Failed where the microscope gives none in time."""
        patience = OVERVIEW_PATIENCE * max(ANSWER_TIMEOUT, self._node.parameters.measurement_timeout_s)
        answer = self._waiting.ask(self._overview, AcquireOverview.Request(acquisition_id=from_uuid(acquisition_id)),
                                   "OVERVIEW_FAILED", "microscope", patience)
        if answer.error_code:
            raise Failed("OVERVIEW_FAILED", f"the microscope gave no overview: {answer.error_msg}")
        return answer.overview

    def command(self, setting: Setting, before: Setting | None) -> None:
        """Change optics and stage to a setting, as far as they differ from the one before; None: that is not known.

        Raises
        ------
        Failed : the microscope refuses, or does not answer.
        """
        if setting.optics and (before is None or setting.optics != before.optics):
            self._demand(self._optics, self._request(setting), setting)
        if setting.stage and (before is None or setting.stage != before.stage):
            self._demand(self._stage, MoveStage.Request(pose=fill(StagePose(), setting.stage)), setting)

    @staticmethod
    def _request(setting: Setting) -> SetOptics.Request:
        return SetOptics.Request(optics=fill(Optics(), setting.optics))

    def wish(self, setting: Setting) -> None:
        """Command the optics of a setting without waiting for an answer: for an experiment that is being ended."""
        if self._optics.service_is_ready():
            self._optics.call_async(self._request(setting))

    def _demand(self, client: Any, request: Any, setting: Setting) -> None:
        answer = self._waiting.ask(client, request, "SETTING_REFUSED", "microscope")
        if answer.error_code:
            raise Failed("SETTING_REFUSED", f"the microscope refuses the setting '{setting}' of planner.actions or "
                                            f"planner.micro_scan, error {answer.error_code}: {answer.error_msg}")

    def measure(self, positions: np.ndarray, setting: Setting, pending: Pending, detector: str = "",
                meanwhile: Meanwhile | None = None) -> Acquire.Result:
        """Acquire positions (count, 2) [m] and wait until each has a row, valid or marked as failed.

        Parameters
        ----------
        detector : empty: the configured one. meanwhile : what is done with rows while others are still to come.
        """
        goal = Acquire.Goal(acquisition_id=from_uuid(pending.acquisition_id), positions=number_array(positions),
                            dwell_time=float(setting.dwell_time), detector=detector)
        sent = self.acquire.send_goal_async(goal)
        try:
            return self._measured(self._waiting.call(sent), pending, meanwhile)
        except BaseException:
            # Also where the microscope's answer is still on its way: no acquisition outlives the wish for it.
            sent.add_done_callback(cancel)
            raise
        finally:
            self._inbox.expect()

    def _measured(self, handle: Call, pending: Pending, meanwhile: Meanwhile | None) -> Acquire.Result:
        """The result of an acquisition, once every position has a row."""
        silence = self._node.parameters.measurement_timeout_s
        self._waiting.until(lambda: handle.done, silence)
        if not handle.done:
            raise Failed("MICROSCOPE_UNAVAILABLE", f"the microscope did not answer an acquisition for {silence:g} s")
        accepted = handle.result()
        if not accepted.accepted:
            raise Failed("MICROSCOPE_UNAVAILABLE", "the microscope rejected an acquisition: its own message says why")
        finished = self._waiting.call(accepted.get_result_async())

        def done() -> bool:
            return bool(pending.problem) or finished.done and (
                pending.complete and pending.beam_time > 0 or finished.result().result.error_code != Acquire.Result.NONE)
        def sign() -> tuple[int, float, bool]:
            return len(pending.rows), pending.beam_time, finished.done

        def ready() -> bool:
            return meanwhile is not None and meanwhile.ready()
        self._waiting.until(lambda: done() or ready(), silence, sign)
        while ready():
            meanwhile.advance()
            self._waiting.until(lambda: done() or ready(), silence, sign)
        if pending.problem:
            raise Failed("MEASUREMENTS_MISSING", pending.problem)
        if not finished.done:
            raise Failed("MEASUREMENTS_MISSING", f"microscope or detector went silent: {len(pending.rows)} of "
                          f"{pending.count} positions came, then nothing for {silence:g} s")
        outcome = finished.result().result
        if outcome.error_code != Acquire.Result.NONE:
            raise Failed("ACQUISITION_FAILED", f"the acquisition of {pending.count} positions failed, error "
                          f"{outcome.error_code}: {outcome.error_msg}")
        if not pending.complete:
            raise Failed("MEASUREMENTS_MISSING", f"the featurizer went silent: {len(pending.missing())} of {pending.count} "
                          f"positions have no measurement {silence:g} s after the last one")
        if not pending.beam_time:
            raise Failed("MEASUREMENTS_MISSING", "the microscope went silent: no probe path of the acquisition came "
                          f"within {silence:g} s")
        return outcome


def cancel(sent: Any) -> None:
    """Call an acquisition off, if the microscope took it; one that has ended is not touched by it."""
    handle = sent.result()
    if handle is not None and handle.accepted:
        handle.cancel_goal_async()
