"""Reading `archive.h5`: acquisitions with their frames, overviews, maps, and whether a reference holds."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the Blosc2 filter)
import numpy as np

from edgetem_nodes.archive import emd
from edgetem_nodes.archive.acquisition_writer import BLOCKS, COMPLETE
from edgetem_nodes.archive.contents import (
    AcquisitionFacts, ArchiveError, BlockReference, ExperimentRecord, FieldMap, MeasuredRows, Survey)
from edgetem_nodes.archive.writer import ACQUISITION
from edgetem_nodes.physics.scan import Axis, ScanField

CHUNK_CACHE = 64 << 20


class StoredAcquisition:
    """One acquisition in the archive. Row `r` of the frames has the index `indices[r]` within the acquisition."""

    def __init__(self, archive: Archive, name: str, group: h5py.Group) -> None:
        self._archive, self._group, self.name = archive, group, name
        self.facts = AcquisitionFacts.from_metadata(emd.read_metadata(group, "acquisition"))
        self.acquisition_id = self.facts.acquisition_id
        self.status: str = group.attrs["status"]
        """"complete", "incomplete" (frames are missing), "aborted", "interrupted" (the writer ended first), "open"."""
        self.problems: list[str] = json.loads(group.attrs.get("problems", "[]"))
        self.dataset = f"{group.name}/frames/data"
        self._frames = group["frames/data"] if "frames" in group else None

    @property
    def count(self) -> int:
        """Frames held."""
        return 0 if self._frames is None else self._frames.shape[0]

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of one frame, e.g. (ky, kx) or (energy,); empty without frames."""
        return () if self._frames is None else self._frames.shape[1:]

    @property
    def dtype(self) -> np.dtype | None:
        """Type of the data; None without frames."""
        return None if self._frames is None else self._frames.dtype

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Calibrated axes of the signal dimensions (SI)."""
        if self._frames is None:
            return ()
        return tuple(emd.read_axis(self._group["frames"], n + 1, size) for n, size in enumerate(self.signal_shape))

    @property
    def positions(self) -> np.ndarray:
        """Where each row was measured, (count, 2), (y, x) [m]."""
        return self._group["positions/data"][:] if self.count else np.empty((0, 2))

    @property
    def indices(self) -> np.ndarray:
        """Index of each row within the acquisition, (count,) int64."""
        return self._group["indices/data"][:] if self.count else np.empty(0, np.int64)

    @property
    def outcome(self) -> dict[str, Any]:
        """How it ended: status, requested, sent, dropped and archived frames, reason; empty while open."""
        return emd.read_metadata(self._group, "outcome")

    @property
    def blocks(self) -> list[BlockReference]:
        """The blocks as they were archived, in order."""
        table = self._group["blocks"][:] if "blocks" in self._group else np.zeros(0, BLOCKS)
        return [BlockReference(self.acquisition_id, self._archive.archive_id, self._archive.path.name, self.dataset,
                               int(row["first_row"]), int(row["rows"]), row["sha256"].tobytes(), int(row["raw_size"]),
                               int(row["stored_size"]), int(row["time_ns"])) for row in table]

    def rows(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames (count, ...) from row `first` on; all by default."""
        return self._archive.frames(self.dataset, first, self.count - first if count is None else count)

    def frame(self, index: int) -> np.ndarray:
        """The frame with this index within the acquisition.

        Raises
        ------
        ArchiveError : it is not held.
        """
        found = np.flatnonzero(self.indices == index)
        if len(found) == 0:
            raise ArchiveError(f"{self._archive.path}: {self.name} ({self.status}) holds {self.count} frames, none with the "
                               f"index {index}")
        return self.rows(int(found[-1]), 1)[0]


class Archive:
    """An archive open for reading. Open it with `Archive.open`, in a `with` statement or closed by `close`."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.archive_id = uuid.UUID(file.attrs["UUID"])
        self._root = file[emd.ROOT]

    @classmethod
    def open(cls, path: str | Path, *, live: bool = False) -> Archive:
        """Open an archive file, or the `archive.h5` of an experiment's folder.

        Parameters
        ----------
        live : open what has been flushed so far of an archive that is still being written. It is a view of the moment:
            open it again to see more. While another process is in the middle of a write, what is seen may be torn: then
            opening and reading raise ArchiveError, OSError, RuntimeError or KeyError, and may succeed a moment later.

        Raises
        ------
        ArchiveError : no such file, not an archive, damaged, or being written while `live` is false.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "archive.h5"
        if not path.exists():
            raise ArchiveError(f"there is no archive {path}")
        try:
            file = _opened(path, live)
        except OSError as error:
            if emd.is_locked(error):
                raise ArchiveError(f"{path} is still being written: wait for its end, or open it live") from None
            raise ArchiveError(f"{path} cannot be opened: {error}. If its writer was killed, repair it") from None
        if not emd.is_emd(file):
            file.close()
            raise ArchiveError(f"{path} is HDF5 but no archive of edgetem")
        return cls(path, file)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # ---- frames -----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all acquisitions, in the order in which they were begun first; repetitions follow the first attempt."""
        found = [(ACQUISITION.match(name), name) for name in self._root]
        return [name for _, _, name in sorted((int(match[1]), int(match[2] or 1), name) for match, name in found if match)]

    def named(self, name: str) -> StoredAcquisition:
        """The acquisition of this name."""
        return StoredAcquisition(self, name, self._root[name])

    def acquisitions(self) -> list[StoredAcquisition]:
        """All acquisitions, ordered as `names`."""
        return [self.named(name) for name in self.names()]

    def __iter__(self) -> Iterator[StoredAcquisition]:
        return iter(self.acquisitions())

    def acquisition(self, acquisition_id: uuid.UUID) -> StoredAcquisition:
        """The acquisition with this id. Of several attempts the last complete one, else the last.

        Raises
        ------
        ArchiveError : there is none.
        """
        attempts = [a for a in self.acquisitions() if a.acquisition_id == acquisition_id]
        if not attempts:
            raise ArchiveError(f"{self.path} holds no acquisition {acquisition_id}")
        return ([a for a in attempts if a.status == COMPLETE] or attempts)[-1]

    def frame(self, acquisition_id: uuid.UUID, index: int) -> np.ndarray:
        """The frame with this index within this acquisition, in the data's own dtype."""
        return self.acquisition(acquisition_id).frame(index)

    def frames(self, dataset: str, first: int, count: int) -> np.ndarray:
        """Rows first .. first + count - 1 of a frames dataset, (count, ...), in the data's own dtype.

        Raises
        ------
        ArchiveError : there is no such dataset or row, or the stored bytes are damaged.
        """
        if dataset not in self._file or not isinstance(self._file[dataset], h5py.Dataset):
            raise ArchiveError(f"{self.path} has no dataset {dataset}")
        data = self._file[dataset]
        if first < 0 or count < 0 or first + count > data.shape[0]:
            raise ArchiveError(f"{self.path}: rows {first} to {first + count - 1} of {dataset} were asked for; it has "
                               f"{data.shape[0]}")
        try:
            return data[first:first + count]
        except OSError as error:
            rows = f"rows {first} and {first + count - 1}"
            raise ArchiveError(f"{self.path}: {dataset} is damaged between {rows}: {error}") from None

    def verify(self, reference: Any) -> None:
        """Check that the archive holds what a `BlockReference`, or an `ArchivedBlock` message, says.

        Raises
        ------
        ArchiveError : rows are missing or their SHA-256 is another.
        """
        if isinstance(reference, BlockReference) and reference.archive_id != self.archive_id:
            raise ArchiveError(f"{self.path} is archive {self.archive_id}; the reference is to {reference.archive_id}")
        rows = self.frames(reference.dataset, int(reference.first_index), int(reference.count))
        digest, expected = hashlib.sha256(memoryview(rows).cast("B")).digest(), bytes(bytearray(reference.sha256))
        if digest != expected:
            last = reference.first_index + reference.count - 1
            raise ArchiveError(f"{self.path}: rows {reference.first_index} to {last} of {reference.dataset} have SHA-256 "
                               f"{digest.hex()[:16]}..., the reference says {expected.hex()[:16]}...")

    # ---- what else there is -----------------------------------------------------------------------------------

    @property
    def experiment(self) -> ExperimentRecord | None:
        """What the experiment is; None where nothing was said."""
        values = emd.read_metadata(self._root, "experiment")
        if not values:
            return None
        return ExperimentRecord(uuid.UUID(values.pop("experiment_id")), **values)

    def overviews(self) -> list[Survey]:
        """The overviews, oldest first; the last one counts."""
        result = []
        for group in self._stacks("overview_"):
            facts = emd.read_metadata(group, "overview")
            data = group["data"][:]
            result.append(Survey(uuid.UUID(facts["acquisition_id"]), _field(facts, data.shape[1:]), emd.labels(group), data,
                                 facts["dose_electrons"], facts["time_ns"]))
        return result

    def maps(self) -> list[FieldMap]:
        """The maps, by decision; the last one is what the experiment ended with."""
        result = []
        for group in self._stacks("map_"):
            facts = emd.read_metadata(group, "map")
            data = group["data"][:]
            slices = dict(zip(emd.labels(group), data, strict=True))
            result.append(FieldMap(uuid.UUID(facts["experiment_id"]), facts["decision_index"], _field(facts, data.shape[1:]),
                                   facts["name"], str(group["data"].attrs["units"]), **slices))
        return result

    def measurements(self) -> list[MeasuredRows]:
        """The tables of measured rows, oldest first."""
        result = []
        for group in self._stacks("measurements_"):
            facts = emd.read_metadata(group, "measurements")
            columns = {name: group[f"{name}/data"][:]
                       for name in ("indices", "positions", "values", "standard_errors")}
            result.append(MeasuredRows(tuple(uuid.UUID(bytes=row.tobytes()) for row in group["acquisition_ids/data"][:]),
                                       names=tuple(facts["names"].split("\n")), units=tuple(facts["units"].split("\n")),
                                       valid=group["valid/data"][:].astype(bool), **columns))
        return result

    def _stacks(self, prefix: str) -> Sequence[h5py.Group]:
        def order(name: str) -> list[int]:
            return [int(part) for part in name[len(prefix):].split("_")]
        return [self._root[name] for name in sorted((n for n in self._root if n.startswith(prefix)), key=order)]


def _opened(path: Path, live: bool) -> h5py.File:
    if live:
        try:
            return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, locking=False)
        except OSError as error:
            if not emd.is_locked(error):
                raise
            # Its writer is in this process, where HDF5 wants the writer's own locking and shows what is not flushed too.
    return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, locking="best-effort")


def _field(facts: dict[str, Any], shape: tuple[int, ...]) -> ScanField:
    return ScanField((facts["origin_y_m"], facts["origin_x_m"]), (facts["step_y_m"], facts["step_x_m"]),
                     (int(shape[0]), int(shape[1])))
