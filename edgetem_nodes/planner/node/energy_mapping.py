"""The turn of an energy map: patterns, micro-scans and energies of a batch of sites, and the better level at a few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetem.msg import Decision
from edgetem_nodes.graph.identifiers import micro_scan_id
from edgetem_nodes.graph.messages import number_array
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import energy_map
from edgetem_nodes.planner.actions import Setting
from edgetem_nodes.planner.energy_map import Site
from edgetem_nodes.planner.ledger import Pending, Scalar, Told
from edgetem_nodes.planner.node.announcing import Announcer, decision_of
from edgetem_nodes.planner.node.computing import Computation
from edgetem_nodes.planner.node.energies import EnergeticsClient
from edgetem_nodes.planner.node.inbox import Inbox
from edgetem_nodes.planner.node.instrument import InstrumentClient
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.proposal import Proposal
from edgetem_nodes.planner.waiting import Waiting

DETECTOR = "micro_scan"


@dataclass(frozen=True)
class Measured:
    """A batch as the experiment is told of it: rows, doses (rows,) [electrons] and what all of it cost [electrons, s]."""

    told: Told
    doses: np.ndarray
    dose: float
    beam_time: float
    sites: list[Site]


class _Feed:
    """Gives a computation the sites whose last rows have come, while an acquisition goes on."""

    def __init__(self, computation: Computation, sites: dict[int, Site], pending: Pending, step: str) -> None:
        self._computation, self._waiting, self._pending, self._step = computation, dict(sites), pending, step

    def _come(self) -> list[int]:
        return [index for index in self._waiting if index in self._pending.rows]

    def ready(self) -> bool:
        """Whether a row or an answer has come."""
        return bool(self._come()) or self._computation.ready()

    def advance(self) -> None:
        """Ask for the structures of sites with a valid row; the others fail."""
        for index in sorted(self._come()):
            site, row = self._waiting.pop(index), self._pending.rows[index]
            if row.valid:
                self._computation.begin(site)
            else:
                site.fail(self._step, row.failure)
        self._computation.advance()


class EnergyMapper:
    """Measures batches of sites of an energy map.

    Parameters
    ----------
    node, waiting : whose they are. inbox, instrument, energetics : its hands.
    """

    def __init__(self, node: GraphNode, waiting: Waiting, inbox: Inbox, instrument: InstrumentClient,
                 energetics: EnergeticsClient) -> None:
        self._node, self._waiting, self._inbox = node, waiting, inbox
        self._instrument, self._energetics, self._parameters = instrument, energetics, node.parameters
        self._micro_scan = energy_map.micro_scan_setting(self._parameters.micro_scan)

    def measure(self, progress: Progress, proposal: Proposal, pending: Pending) -> Measured:
        """Acquire the positions, with a micro-scan each where that is enabled, and compute their energies.

        Raises
        ------
        Failed, Stopped, Halted : nothing is told then, and whatever is on its way is called off.
        """
        sites = [Site(index, pending.acquisition_id, index) for index in range(pending.count)]
        energetics = self._parameters.energetics
        computation = self._energetics.computation(energetics.engine, energetics.settings)
        try:
            measured = self._acquired(proposal, pending, sites, computation)
            computation.finish()
        except BaseException:
            computation.cancel()
            raise
        self._warn(sites)
        progress.note = energy_map.account(sites)
        return Measured(energy_map.told(sites, pending), *measured, sites)

    def _acquired(self, proposal: Proposal, pending: Pending, sites: list[Site],
                  computation: Computation) -> tuple[np.ndarray, float, float]:
        """Doses (rows,), dose and beam time of the acquisitions; the computation has what it needs of them."""
        scan = self._parameters.micro_scan.enabled
        feed = _Feed(computation, dict(enumerate(sites)), pending, "pattern")
        outcome = self._instrument.measure(proposal.positions, proposal.setting, pending, meanwhile=None if scan else feed)
        doses = np.full(pending.count, (outcome.dose - pending.reference_dose) / pending.count)
        if not scan:
            feed.advance()
            return doses, outcome.dose, pending.beam_time
        for site in sites:
            if not pending.rows[site.row].valid:
                site.fail("pattern", pending.rows[site.row].failure)
        # No site whose pattern was rejected gets any more dose, let alone an energy.
        visited = [site for site in sites if not site.done]
        if not visited:
            return doses, outcome.dose, pending.beam_time
        rows = [site.row for site in visited]
        second = self._scanned(proposal, pending, visited, computation)
        doses[rows] += (second[0] - second[2]) / len(rows)
        return doses, outcome.dose + second[0], pending.beam_time + second[1]

    def _scanned(self, proposal: Proposal, pending: Pending, sites: list[Site],
                 computation: Computation) -> tuple[float, float, float]:
        """Micro-scans of sites: dose [electrons], beam time [s], and what of the dose was not for the sites."""
        scan = Pending(micro_scan_id(pending.acquisition_id), len(sites), pending.published_ns, outputs=())
        for number, site in enumerate(sites):
            site.micro_scan_id, site.micro_scan_index = scan.acquisition_id, number
        self._inbox.expect(scan)
        positions = proposal.positions[[site.row for site in sites]]
        feed = _Feed(computation, dict(enumerate(sites)), scan, "micro_scan")
        back = _back(proposal.setting, self._micro_scan)
        self._instrument.command(self._micro_scan, back)
        try:
            outcome = self._instrument.measure(positions, self._micro_scan, scan, DETECTOR, feed)
        except BaseException:
            # Whoever measures next finds the optics as they were; to wait for it is no time now.
            self._instrument.wish(back)
            raise
        feed.advance()
        self._instrument.command(back, self._micro_scan)
        return outcome.dose, scan.beam_time, scan.reference_dose

    def _warn(self, sites: list[Site]) -> None:
        """Say in the log why sites failed."""
        for site in sites:
            if site.step:
                self._node.get_logger().warning(f"no energy of position {site.index} of acquisition {site.acquisition_id} "
                                                f"({energy_map.STEPS[site.step]}): {site.failure}")

    def learn(self, progress: Progress, measured: Measured, scalar: Scalar, units: tuple[str, ...], positions: np.ndarray,
              announcer: Announcer) -> None:
        """Put what was told on record: whose micro-scans they were, the scalar, and one row a site for the bag."""
        progress.micro_scans += [(site.micro_scan_id, site.micro_scan_index) for site in measured.sites]
        progress.scalar = Scalar(energy_map.NAME, energy_map.UNIT, scalar.version)
        progress.units = units[1:]
        announcer.energies(measured.sites, positions, energy_map.NAME, self._parameters.energetics.engine, scalar.version)

    # ---- the better level -------------------------------------------------------------------------------------

    def deepen(self, progress: Progress, announcer: Announcer, publish: Callable[[Decision], int], ends: bool = False) -> int:
        """Compute energies of the better level where they tell most, if any are due; how many came.

        Parameters
        ----------
        publish : publishes a decision under the next number. ends : whether the experiment ends without its target.
        """
        experiment, high = progress.experiment, self._parameters.energetics.high_fidelity
        rows = experiment.deepen(ends)
        if not len(rows):
            return 0
        candidates = experiment.observations.candidates[rows]
        decision = decision_of(progress, Decision.ENERGETICS, reason=f"{len(rows)} energies of the better level, where they "
                               f"tell most of what it differs by over the field{noted(progress)}")
        decision.candidates = number_array(candidates, "I")
        decision.positions = number_array(experiment.field.positions(candidates))
        publish(decision)
        sites = [Site(number, *progress.rows[row], *progress.micro_scans[row]) for number, row in enumerate(rows)]
        computation = self._energetics.computation(high.engine, high.settings)
        try:
            for site in sites:
                computation.begin(site)
            computation.finish()
        except BaseException:
            computation.cancel()
            raise
        self._warn(sites)
        experiment.tell_high(rows, np.array([site.value for site in sites]), np.array([site.standard_error for site in sites]))
        good = sum(not site.step for site in sites)
        progress.note = f"{good} of {len(sites)} energies of the better level"
        self._announce_high(sites, candidates, experiment.field, high.engine, progress.scalar.version, announcer)
        return good

    @staticmethod
    def _announce_high(sites: list[Site], candidates: np.ndarray, field: ScanField, engine: str, version: int,
                       announcer: Announcer) -> None:
        positions = field.positions(candidates)
        for acquisition_id in dict.fromkeys(site.acquisition_id for site in sites):
            of = [number for number, site in enumerate(sites) if site.acquisition_id == acquisition_id]
            announcer.energies([sites[number] for number in of], positions[of], energy_map.HIGH_NAME, engine, version)


def noted(progress: Progress) -> str:
    """A clause on the energies of the latest batch for the reason of a decision, said once; empty without any."""
    note, progress.note = progress.note, ""
    return f"; {note}" if note else ""


def _back(setting: Setting, scan: Setting) -> Setting:
    """What of a setting the micro-scan changes."""
    return Setting(setting.dwell_time, {name: setting.optics[name] for name in scan.optics}, {})

