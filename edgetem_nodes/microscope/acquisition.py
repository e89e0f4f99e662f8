"""What an acquisition may ask for: the checks that need no hardware. Knows no ROS."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, Limits, micro_scan
from edgetem_nodes.microscope.dose import DoseAccount, DoseLimitError
from edgetem_nodes.physics.exposure import MICRO_SCAN, MicroScan
from edgetem_nodes.physics.scan import ScanField

NIL = uuid.UUID(int=0)


class RefusedError(Exception):
    """A request that cannot be served; `code` is the name of a constant of its interface."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Plan:
    """A checked acquisition; times in [s].

    Attributes
    ----------
    positions : (count, 2), (y, x) [m].
    candidates : (count * probes,) flat grid indices, nearest to each probe; a position has one, or those of its micro-scan.
    dwell_time, period : at a position, and from one to the next.
    """

    acquisition_id: uuid.UUID
    positions: np.ndarray
    candidates: np.ndarray
    dwell_time: float
    period: float
    detector: str
    micro_scan: MicroScan | None = None

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.positions)

    @property
    def probes(self) -> int:
        """Number of probes at each position."""
        return self.micro_scan.count if self.micro_scan else 1

    @property
    def probe_dwell(self) -> float:
        """Time [s] that each probe stands."""
        return self.dwell_time / self.probes


@dataclass
class Run:
    """An acquisition on its way from acceptance to result.

    `deadline` [s] is monotonic; `clients` are identifiers of who may have asked for it; `interruption` is the name of an
    error code and why it was called off; `end` is what the detector said; `changed` is the future that it waits for.
    """

    plan: Plan
    deadline: float = math.inf
    clients: set[bytes] = field(default_factory=set)
    interruption: tuple[str, str] | None = None
    armed: bool = False
    end: Any = None
    changed: Any = None

    def notify(self) -> None:
        """Wake the acquisition: something about it has changed."""
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)


def planned(acquisition_id: uuid.UUID, numbers: np.ndarray, dwell_time: float, detector: str, scan_field: ScanField,
            instrument: Instrument, configured: str = "") -> Plan:
    """Check what was asked for.

    Parameters
    ----------
    numbers : flat (y, x) pairs [m].
    dwell_time : [s]; 0 for the configured one.
    detector : its name; empty for `configured`.

    Raises
    ------
    RefusedError : INVALID_REQUEST, DWELL_OUT_OF_RANGE, POSITION_OUT_OF_FIELD.
    """
    if acquisition_id == NIL:
        raise RefusedError("INVALID_REQUEST", "the acquisition id is all zero: give every acquisition a UUID of its own")
    if len(numbers) == 0 or len(numbers) % 2:
        raise RefusedError("INVALID_REQUEST", f"positions holds {len(numbers)} numbers; it needs at least one (y, x) pair")
    scan = _scan_of(detector, configured, instrument)
    dwell = dwell_time if dwell_time != 0.0 else instrument.dwell_ms * 1e-3
    _check_dwell(dwell, scan, instrument.limits)
    positions = np.array(numbers, float).reshape(-1, 2)
    try:
        candidates = scan_field.candidates(positions)
    except ValueError as error:
        raise RefusedError("POSITION_OUT_OF_FIELD", str(error)) from None
    if scan is not None:
        candidates = scan_field.nearest(scan.probes(positions))
    return Plan(acquisition_id, positions, candidates, dwell, dwell + instrument.settling_us * 1e-6,
                detector or configured, scan)


def _scan_of(detector: str, configured: str, instrument: Instrument) -> MicroScan | None:
    """What is scanned about each position for the detector; None: nothing. Raises RefusedError where it cannot be."""
    if (detector or configured) != MICRO_SCAN:
        return None
    try:
        return micro_scan(instrument)
    except ValueError as error:
        raise RefusedError("INVALID_REQUEST", str(error)) from None


def _check_dwell(dwell: float, scan: MicroScan | None, limits: Limits) -> None:
    """Refuse a dwell time [s] beyond the limits, which hold for each probe and for all of a position together."""
    probes = scan.count if scan else 1
    shortest, longest = limits.shortest_dwell_ms * probes, limits.longest_dwell_ms
    if not (dwell > 0 and shortest * (1 - 1e-9) <= dwell * 1e3 <= longest * (1 + 1e-9)):
        shared = f" for the {probes} probes of a micro-scan" if scan else ""
        raise RefusedError("DWELL_OUT_OF_RANGE", f"dwell time {dwell * 1e3:g} ms{shared} is outside the range, {shortest:g} to "
                                                 f"{longest:g} ms")


def affordable(plan: Plan, dose: DoseAccount, electrons: float) -> None:
    """Raise RefusedError DOSE_LIMIT where `electrons` of each probe of the plan would exceed a limit."""
    try:
        dose.check(plan.candidates, electrons)
    except DoseLimitError as error:
        raise RefusedError("DOSE_LIMIT", str(error)) from None
