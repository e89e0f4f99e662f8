"""Every row of an experiment with the frames it came from, so that all can be measured again. Imports no ROS."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgetem_nodes.archive.acquisition_writer import COMPLETE
from edgetem_nodes.archive.contents import ArchiveError, BlockReference
from edgetem_nodes.archive.reader import Archive, StoredAcquisition
from edgetem_nodes.physics.scan import Axis


@dataclass(eq=False)
class Segment:
    """Rows of one acquisition that were published together.

    Attributes
    ----------
    acquisition_id : of the rows.
    indices : (rows,) int64, within the acquisition.
    positions : (rows, 2), (y, x) [m].
    stamps : (rows,) int64, acquisition times [ns since the epoch].
    failure : why the rows have no data; empty: they came from frames.
    axes : of the frames.
    frames, block_stamp : number of frames and acquisition time [ns] of the detector block that they came from.
    taken : (rows,) int64, which of the block's frames they are.
    reference : where the block lies in the archive; None: not said yet, or no data. Set when it becomes known.
    """

    acquisition_id: uuid.UUID
    indices: np.ndarray
    positions: np.ndarray
    stamps: np.ndarray
    failure: str = ""
    axes: tuple[Axis, ...] = ()
    frames: int = 0
    block_stamp: int = 0
    taken: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    reference: BlockReference | None = None

    @property
    def archived(self) -> bool:
        """Nothing is to be waited for: the frames are in the archive, or there are none."""
        return bool(self.failure) or self.reference is not None


@dataclass
class _Pages:
    """One acquisition: its segments, which attempt they belong to, and references to blocks that are not here yet."""

    attempt: object = None
    segments: list[Segment] = field(default_factory=list)
    early: list[BlockReference] = field(default_factory=list)


class Journal:
    """Segments by acquisition, in the order in which acquisitions were first measured.

    A reference belongs to the detector block of the same acquisition, acquisition time and number of frames; so a block of
    an attempt that was repeated is not taken for one of the repetition. It may come before the block was measured.
    """

    def __init__(self) -> None:
        self._pages: dict[uuid.UUID, _Pages] = {}
        self._earlier: list[uuid.UUID] = []

    def add(self, segment: Segment, attempt: object) -> None:
        """Enter rows. `attempt` is one object for each attempt at an acquisition: with another one it begins anew."""
        pages = self._pages.setdefault(segment.acquisition_id, _Pages())
        if pages.attempt is not attempt:
            pages.attempt, pages.segments = attempt, []
        if not segment.failure:
            for reference in pages.early:
                if _fits(segment, reference):
                    pages.early.remove(reference)
                    segment.reference = reference
                    break
        pages.segments.append(segment)

    def archived(self, reference: BlockReference) -> None:
        """A block is safe in the archive."""
        pages = self._pages.setdefault(reference.acquisition_id, _Pages())
        for segment in pages.segments:
            if not segment.archived and _fits(segment, reference):
                segment.reference = reference
                return
        pages.early.append(reference)

    def earlier(self, segments: Iterable[Segment]) -> None:
        """Enter what was measured before this session, in order; acquisitions that are here already are left out."""
        here = {name for name, pages in self._pages.items() if pages.segments}
        for segment in segments:
            if segment.acquisition_id in here:
                continue
            if segment.acquisition_id not in self._earlier:
                self._earlier.append(segment.acquisition_id)
            self._pages.setdefault(segment.acquisition_id, _Pages()).segments.append(segment)

    def segments(self) -> dict[uuid.UUID, list[Segment]]:
        """Segments of every acquisition that has rows, oldest first."""
        order = [*self._earlier, *(name for name in self._pages if name not in self._earlier)]
        return {name: list(self._pages[name].segments) for name in order if self._pages[name].segments}


def _fits(segment: Segment, reference: BlockReference) -> bool:
    return (segment.frames, segment.block_stamp) == (reference.count, reference.time_ns)


class EarlierAcquisitions:
    """What the archive of `folder` holds when this is made, which takes one look at its table of contents.

    Raises
    ------
    ArchiveError, OSError, RuntimeError, KeyError : it cannot be read. While it is being written that may pass.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._names: list[str] = []
        self._read: dict[str, tuple[uuid.UUID, bool, list[Segment]]] = {}
        if (self._folder / "archive.h5").exists():
            with Archive.open(self._folder, live=True) as archive:
                self._names = archive.names()

    def segments(self) -> list[Segment]:
        """Rows of the acquisitions, in the order of their first attempts.

        Of several attempts the last complete one counts, else the last. Frames that were requested and are not held become
        rows without data; their positions are not known: NaN. Called again after an error it goes on where it was.

        Raises
        ------
        ArchiveError, OSError, RuntimeError, KeyError : as above.
        """
        if len(self._read) < len(self._names):
            with Archive.open(self._folder, live=True) as archive:
                for name in self._names[len(self._read):]:
                    stored = archive.named(name)
                    self._read[name] = stored.acquisition_id, stored.status == COMPLETE, _segments_of(stored)
        chosen: dict[uuid.UUID, tuple[bool, list[Segment]]] = {}
        for acquisition_id, complete, segments in self._read.values():
            if complete or not chosen.get(acquisition_id, (False,))[0]:
                chosen[acquisition_id] = complete, segments
        return [segment for _, segments in chosen.values() for segment in segments]


def _segments_of(stored: StoredAcquisition) -> list[Segment]:
    indices, positions, facts = stored.indices, stored.positions, stored.facts
    # A frame that was archived twice was measured once, when it came first.
    first = np.zeros(len(indices), bool)
    first[np.unique(indices, return_index=True)[1]] = True
    period = 0.0 if np.isnan(facts.position_period) else facts.position_period
    segments = []
    for block in stored.blocks:
        rows = slice(block.first_index, block.first_index + block.count)
        if len(indices[rows]) != block.count:
            raise ArchiveError(f"{stored.name}: a block of {block.count} rows from {block.first_index} is listed, "
                               f"{len(indices)} rows are held; the archive is being written: try again")
        taken = np.flatnonzero(first[rows])
        if len(taken):
            stamps = block.time_ns + np.rint(taken * period * 1e9).astype(np.int64)
            segments.append(Segment(stored.acquisition_id, indices[rows][taken], positions[rows][taken], stamps, "",
                                    stored.axes, block.count, block.time_ns, taken, block))
    missing = np.setdiff1d(np.arange(facts.count), indices)
    if len(missing):
        problems = "; ".join(stored.problems)
        segments.append(Segment(
            stored.acquisition_id, missing, np.full((len(missing), 2), np.nan),
            facts.time_ns + np.rint(missing * period * 1e9).astype(np.int64),
            f"the archive holds no such frame ({stored.status})" + (f": {problems}" if problems else "")))
    return segments
