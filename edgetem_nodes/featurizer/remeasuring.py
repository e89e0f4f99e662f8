"""Measuring frames again from the archive, with another scalarizer. Imports no ROS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetem_nodes.archive.contents import ArchiveError
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.featurizer.features import Features, failed
from edgetem_nodes.featurizer.journal import Segment
from edgetem_nodes.featurizer.scalarizers import Bound, Definition
from edgetem_nodes.physics.scan import Axis


@dataclass(frozen=True)
class Remeasured:
    """A segment's rows made anew.

    Attributes
    ----------
    features : one row for each of the segment's.
    bound : the scalarizer that made them; None: there was nothing to apply it to.
    unread : the archive could not be read; every row says why. It may succeed later, while the archive is being written.
    """

    segment: Segment
    features: Features
    bound: Bound | None
    unread: bool = False


class Remeasurer:
    """Applies one scalarizer to frames in the archive of `folder`, bit for bit as it is applied to frames that arrive.

    Parameters
    ----------
    columns : of rows to which the scalarizer cannot be applied.
    """

    def __init__(self, folder: str | Path, definition: Definition, columns: int) -> None:
        self._folder, self._definition, self._columns = folder, definition, columns
        self._bound: dict[tuple[Axis, ...], Bound | str] = {}

    def measure(self, segments: Sequence[Segment]) -> list[Remeasured]:
        """The rows of segments of one acquisition; what cannot be read is a marked failure. Never raises on data."""
        try:
            with Archive.open(self._folder, live=True) as archive:
                return [self._one(segment, archive) for segment in segments]
        except (ArchiveError, OSError, RuntimeError, KeyError) as error:
            return [self._one(segment, error) for segment in segments]

    def _one(self, segment: Segment, archive: Archive | Exception) -> Remeasured:
        rows = len(segment.indices)
        if segment.failure:
            return Remeasured(segment, failed(rows, self._columns, segment.failure), None)
        try:
            if isinstance(archive, Exception):
                raise archive
            frames = _frames(segment, archive)
        except Exception as error:  # noqa: BLE001  (HDF5 raises what it likes on a file that is being written)
            return Remeasured(segment, failed(rows, self._columns, f"its frame cannot be read again: {error}"), None, True)
        bound = self._bound.get(segment.axes)
        if bound is None:
            bound = self._bound[segment.axes] = self._build(segment.axes)
        if isinstance(bound, str):
            return Remeasured(segment, failed(rows, self._columns, bound), None)
        return Remeasured(segment, bound(frames[segment.taken]), bound)

    def _build(self, axes: tuple[Axis, ...]) -> Bound | str:
        try:
            return self._definition.build(axes)
        except Exception as error:  # noqa: BLE001  (a third party's factory; its message goes out with every row)
            return f"scalarizer {self._definition.name} cannot be used on these frames: {error}"


def _frames(segment: Segment, archive: Archive) -> object:
    """All frames of the block that a segment came from, (frames, ...).

    Raises
    ------
    ArchiveError : it is not in this archive, or is not what was said to be there.
    """
    reference = segment.reference
    if reference is None:
        raise ArchiveError("the compressor has not said that it is archived")
    if reference.archive_id != archive.archive_id:
        raise ArchiveError(f"{archive.path} is archive {archive.archive_id}; it lies in {reference.archive_id}")
    frames = archive.frames(reference.dataset, reference.first_index, reference.count)
    if hashlib.sha256(memoryview(frames).cast("B")).digest() != reference.sha256:
        raise ArchiveError(f"{archive.path}: rows {reference.first_index} to {reference.first_index + reference.count - 1} of "
                           f"{reference.dataset} have another SHA-256 than when they were archived")
    return frames
