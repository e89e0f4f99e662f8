"""Which frames of an acquisition have become rows, which never will, and what is remembered of them. Imports no ROS."""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

TRACKED = 64
"""Acquisitions kept in mind at once; the oldest is forgotten."""


@dataclass(frozen=True)
class Gap:
    """Frames first .. first + count - 1 that will have no data, and why."""

    first: int
    count: int
    reason: str


@dataclass(frozen=True)
class Arrival:
    """What to do with a block: mark `gap` first, then take its frames from `skip` on (none where skip == its count)."""

    gap: Gap | None
    skip: int


@dataclass
class Acquisition:
    """Progress of one acquisition: rows 0 .. next_index - 1 are accounted for."""

    positions: np.ndarray | None = None
    stamp: int = 0
    period: float = 0.0
    next_index: int = 0
    next_block: int = 0
    arrived: int = 0
    end: tuple[int, int, str] | None = None
    complete: bool = False

    def position(self, first: int, count: int) -> np.ndarray:
        """Commanded positions (count, 2) of frames from `first`; NaN where no probe path said them."""
        result = np.full((count, 2), np.nan)
        if self.positions is not None:
            known = self.positions[first:first + count]
            result[:len(known)] = known
        return result

    def time(self, index: int) -> int:
        """Acquisition time of a frame [ns since the epoch]."""
        return self.stamp + round(index * self.period * 1e9)


class Ledger:
    """Every acquisition's frames: each becomes exactly one row, from its data or as a marked failure.

    A probe path and the blocks come from two publishers, so block 0 may be heard first. An acquisition id that was seen
    before may come again (a run resumed after a crash): its second life begins with its next probe path or block 0.
    """

    def __init__(self) -> None:
        self._acquisitions: OrderedDict[uuid.UUID, Acquisition] = OrderedDict()

    def __getitem__(self, acquisition_id: uuid.UUID) -> Acquisition:
        if acquisition_id not in self._acquisitions:
            self._acquisitions[acquisition_id] = Acquisition()
            while len(self._acquisitions) > TRACKED:
                self._acquisitions.popitem(last=False)
        return self._acquisitions[acquisition_id]

    def path(self, acquisition_id: uuid.UUID, positions: np.ndarray, stamp: int, period: float) -> None:
        """A probe path was published: positions (count, 2) [m], acquisition time of the first [ns], seconds a position."""
        old = self._acquisitions.get(acquisition_id)
        if old is not None and old.positions is not None:
            del self._acquisitions[acquisition_id]
        acquisition = self[acquisition_id]
        acquisition.positions, acquisition.stamp, acquisition.period = positions, stamp, period

    def block(self, acquisition_id: uuid.UUID, block_index: int, first_index: int, count: int) -> Arrival:
        """A block of frames first_index .. first_index + count - 1 arrived."""
        acquisition = self[acquisition_id]
        if block_index == 0 and acquisition.next_block > 0:
            acquisition = self._acquisitions[acquisition_id] = Acquisition()
        gap = None
        if first_index > acquisition.next_index:
            lost = block_index - acquisition.next_block
            reason = (f"{lost} of the detector's blocks were lost before they arrived" if lost > 0
                      else "the detector dropped this frame")
            gap = Gap(acquisition.next_index, first_index - acquisition.next_index, reason)
        skip = min(max(0, acquisition.next_index - first_index), count)
        acquisition.next_index = max(acquisition.next_index, first_index + count)
        acquisition.next_block = max(acquisition.next_block, block_index + 1)
        acquisition.arrived += count
        return Arrival(gap, skip)

    def end(self, acquisition_id: uuid.UUID, requested: int, sent: int, reason: str) -> None:
        """The acquisition is over: `sent` of `requested` frames are on their way; `reason` why the rest are not."""
        self[acquisition_id].end = (requested, sent, reason)

    def remainder(self, acquisition_id: uuid.UUID, overdue: bool = False) -> Gap | None:
        """What is left to mark once the end is known and all that was sent arrived or is `overdue`; None: nothing, yet."""
        acquisition = self[acquisition_id]
        if acquisition.end is None or acquisition.complete:
            return None
        requested, sent, reason = acquisition.end
        if acquisition.arrived < sent and not overdue:
            return None
        acquisition.complete = True
        first, count = acquisition.next_index, requested - acquisition.next_index
        if count <= 0:
            return None
        acquisition.next_index = requested
        if acquisition.arrived < sent:
            reason = f"{sent - acquisition.arrived} of {sent} frames that the detector sent did not arrive"
        return Gap(first, count, reason or "the detector dropped this frame")

    def waiting(self, acquisition_id: uuid.UUID) -> bool:
        """The end is known, and frames that were sent have not arrived yet."""
        acquisition = self[acquisition_id]
        return acquisition.end is not None and not acquisition.complete


@dataclass(frozen=True)
class Remembered:
    """What is kept of one measurement: position (2,) [m], acquisition time [ns], details by name, and why it failed (empty:
    it did not)."""

    position: np.ndarray
    stamp: int
    details: dict[str, np.ndarray]
    failure: str = ""


@dataclass(frozen=True, eq=False)
class _Segment:
    acquisition_id: uuid.UUID
    first: int
    positions: np.ndarray
    stamps: list[int]
    details: dict[str, np.ndarray]
    failures: list[str]


class Memory:
    """Details of the latest measurements, at most `rows` of them and always the latest block."""

    def __init__(self, rows: int) -> None:
        self._limit, self._rows = rows, 0
        self._order: deque[_Segment] = deque()
        self._by_id: dict[uuid.UUID, list[_Segment]] = {}

    def add(self, acquisition_id: uuid.UUID, first: int, positions: np.ndarray, stamps: list[int],
            details: dict[str, np.ndarray], failures: list[str] | None = None) -> None:
        """Remember rows first .. of an acquisition; `failures` (rows,): empty where a row is valid, None: all are."""
        segment = _Segment(acquisition_id, first, positions, stamps, details, failures or [""] * len(positions))
        self._order.append(segment)
        self._by_id.setdefault(acquisition_id, []).append(segment)
        self._rows += len(positions)
        while self._rows > self._limit and len(self._order) > 1:
            oldest = self._order.popleft()
            self._rows -= len(oldest.positions)
            self._by_id[oldest.acquisition_id].remove(oldest)
            if not self._by_id[oldest.acquisition_id]:
                del self._by_id[oldest.acquisition_id]

    def find(self, acquisition_id: uuid.UUID, index: int) -> Remembered | None:
        """The measurement; the latest where an acquisition was repeated; None: unknown or forgotten."""
        for segment in reversed(self._by_id.get(acquisition_id, [])):
            row = index - segment.first
            if 0 <= row < len(segment.positions):
                return Remembered(segment.positions[row], segment.stamps[row],
                                  {name: array[row] for name, array in segment.details.items()}, segment.failures[row])
        return None
