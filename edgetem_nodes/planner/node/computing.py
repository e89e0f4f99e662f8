"""Energies of sites: a structure from the featurizer and a goal to the hpc_bridge for each, all on their way at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionClient

from edgetem.action import ComputeEnergetics
from edgetem.msg import AtomicStructure
from edgetem.srv import GetStructure
from edgetem_nodes.graph.messages import from_uuid
from edgetem_nodes.planner.energy_map import Site
from edgetem_nodes.planner.node.instrument import cancel
from edgetem_nodes.planner.waiting import Call, Failed, Waiting

LOOK = 1.0
"""[s] between two looks at whether the nodes are still there."""
GONE = 10.0
"""[s] that a node may be out of sight: discovery loses a busy one for a moment."""
AT_ONCE = 4
"""Requests of a kind that are not answered yet: a service keeps the latest ten, and forgets those before."""
FEATURIZER, BRIDGE = "featurizer", "hpc_bridge"


@dataclass(eq=False)
class _Work:
    """A site on its way: what is waited for (the structure, the goal's acceptance, its result), and what came so far."""

    site: Site
    waits_for: str
    call: Call | None = None
    structure: AtomicStructure | None = None
    sent: Any = None
    handle: Any = None

    @property
    def who(self) -> str:
        return FEATURIZER if self.waits_for == "structure" else BRIDGE


def _request(site: Site) -> GetStructure.Request:
    return GetStructure.Request(acquisition_id=from_uuid(site.acquisition_id), index=site.index,
                                micro_scan_id=from_uuid(site.micro_scan_id), micro_scan_index=site.micro_scan_index)


class Computation:
    """The energies of a batch. Everything is for the experiment's thread.

    Parameters
    ----------
    structures, goals : clients of `get_structure` and `compute_energetics`.
    engine, settings : of every goal; empty: the configured ones.
    timeout : [s] that nothing at all may be heard of any of them.
    """

    def __init__(self, waiting: Waiting, structures: Any, goals: ActionClient, engine: str, settings: str,
                 timeout: float) -> None:
        self._waiting, self._structures, self._goals = waiting, structures, goals
        self._engine, self._settings, self._timeout = engine, settings, timeout
        self._works: list[_Work] = []
        self._unasked: deque[_Work] = deque()
        self._unsent: deque[_Work] = deque()
        self._most = 2**31
        self._signs = self._begun = self._ended = 0

    def begin(self, site: Site) -> None:
        """Ask for a site's structure; the rest follows by itself as `advance` is called."""
        work = _Work(site, "structure")
        self._works.append(work)
        self._unasked.append(work)
        self._begun += 1
        self._go_on()

    def ready(self) -> bool:
        """Whether an answer has come that was not looked at yet."""
        return any(work.call is not None and work.call.done for work in self._works)

    def advance(self) -> None:
        """Look at the answers that have come, and ask on."""
        for work in [work for work in self._works if work.call is not None and work.call.done]:
            self._signs += 1
            call, work.call = work.call, None
            {"structure": self._on_structure, "acceptance": self._on_acceptance, "result": self._on_result}[work.waits_for](
                work, call.result())
            if work.site.done:
                self._works.remove(work)
                self._ended += 1
        self._go_on()

    def finish(self) -> None:
        """Wait until every site has its energy or a reason why not.

        Raises
        ------
        Failed : the featurizer or the hpc_bridge is gone, or nothing whatsoever came of any site within the time-out.
        Stopped, Halted : the experiment is asked to end.
        """
        heard, seen = self._signs, time.monotonic()
        there = {FEATURIZER: seen, BRIDGE: seen}
        while self._works:
            self._waiting.until(self.ready, min(LOOK, self._timeout), lambda: self._signs)
            self.advance()
            now = time.monotonic()
            if self._signs != heard:
                heard, seen = self._signs, now
            self._look(there, now)
            if now - seen > self._timeout:
                self._give_up()

    def cancel(self) -> None:
        """Call off what is still on its way."""
        handles = deque(work.handle for work in self._works if work.handle is not None)

        def following(_answered: Any = None) -> None:
            if handles:
                handles.popleft().cancel_goal_async().add_done_callback(following)
        for _ in range(AT_ONCE):
            following()
        for work in self._works:
            if work.handle is None and work.sent is not None:
                work.sent.add_done_callback(cancel)
        self._works, self._unsent, self._unasked = [], deque(), deque()

    # ---- one site ---------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Ask for structures, and send goals, as many as may be on their way."""
        while self._unasked and self._unanswered("structure") < AT_ONCE:
            work = self._unasked.popleft()
            work.call = self._waiting.call(self._structures.call_async(_request(work.site)))
        while self._unsent and self._unanswered("acceptance") < AT_ONCE and self._at_the_bridge() < self._most:
            self._send(self._unsent.popleft())

    def _unanswered(self, kind: str) -> int:
        return sum(work.waits_for == kind and work.call is not None for work in self._works)

    def _on_structure(self, work: _Work, answer: GetStructure.Response) -> None:
        if answer.error_code:
            work.site.fail("structure", answer.error_msg)
            return
        work.structure = answer.structure
        self._unsent.append(work)
        work.waits_for = "acceptance"

    def _send(self, work: _Work) -> None:
        goal = ComputeEnergetics.Goal(structure=work.structure, engine=self._engine, settings=self._settings)
        work.sent = self._goals.send_goal_async(goal, self._on_feedback)
        work.call = self._waiting.call(work.sent)

    def _on_feedback(self, _message: Any) -> None:
        with self._waiting.changed:
            self._signs += 1
            self._waiting.notify()

    def _on_acceptance(self, work: _Work, handle: Any) -> None:
        if not handle.accepted:
            work.site.fail("energy", "the hpc_bridge rejected the goal: its own message says why")
            return
        work.handle, work.waits_for = handle, "result"
        work.call = self._waiting.call(handle.get_result_async())

    def _on_result(self, work: _Work, answer: Any) -> None:
        result, work.handle, work.sent = answer.result, None, None
        others = self._at_the_bridge(but=work)
        if result.error_code == ComputeEnergetics.Result.QUEUE_FULL and others:
            # It goes out again when one of the others has ended.
            self._most, work.waits_for = others, "acceptance"
            self._unsent.append(work)
        elif result.error_code:
            work.site.fail("energy", result.error_msg)
        else:
            work.site.take(result.energetics.excess_energy_density, result.energetics.excess_energy_density_standard_error)
            work.site.see(work.structure, result.energetics)

    def _at_the_bridge(self, but: _Work | None = None) -> int:
        return sum(work.sent is not None and work is not but for work in self._works)

    # ---- silence ----------------------------------------------------------------------------------------------

    def _waited_for(self) -> list[str]:
        return sorted({work.who for work in self._works})

    def _look(self, there: dict[str, float], now: float) -> None:
        """Raise Failed where a node that is waited for has not been in sight for GONE."""
        ready: dict[str, Callable[[], bool]] = {FEATURIZER: self._structures.service_is_ready,
                                                BRIDGE: self._goals.server_is_ready}
        for who in self._waited_for():
            there[who] = now if ready[who]() else there[who]
            if now - there[who] > GONE:
                raise Failed("ENERGIES_MISSING", f"the {who} is gone: {self._begun - self._ended} of {self._begun} energies of "
                                                 "the batch have not come")

    def _give_up(self) -> None:
        """Nothing was heard within the time-out: of some sites, which fail, or of the whole batch: then the experiment ends."""
        who = " and ".join(self._waited_for())
        reason = f"the {who} said nothing for {self._timeout:g} s (energetics.timeout_s)"
        if not self._ended:
            raise Failed("ENERGIES_MISSING", f"no energy of {self._begun} positions has come: {reason}")
        for work in self._works:
            work.site.fail("structure" if work.who == FEATURIZER else "energy", reason)
        self.cancel()
