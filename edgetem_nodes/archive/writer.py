"""Writing `archive.h5`: EMD 1.0 in HDF5, flushed after every block, so that a killed writer leaves a file that opens."""

from __future__ import annotations

import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the Blosc2 filter)
import numpy as np

from edgetem_nodes.archive import emd
from edgetem_nodes.archive.acquisition_writer import OPEN, AcquisitionWriter, status_when_left
from edgetem_nodes.archive.chunk import ChunkNote, Encoder
from edgetem_nodes.archive.contents import (
    AcquisitionFacts, ArchiveError, ArchiveFull, ExperimentRecord, FieldMap, MeasuredRows, Survey)
from edgetem_nodes.physics.scan import Axis, ScanField

ACQUISITION = re.compile(r"acquisition_(\d+)(?:_(\d+))?$")
MAPS = ("mean", "standard_deviation", "acquisition")
PROGRAM = "edgetem"


class ArchiveWriter:
    """One open archive, made anew or gone on with. Use it from one thread; `close` it, or use it in a `with` statement.

    Parameters
    ----------
    path : of the file; its folder must exist. An archive that is there is appended to and keeps its UUID.
    encoder : what encodes chunks, `edgetem_nodes.compressor.codec.Codec`.
    chunk_bytes : decoded size of a chunk of frames, at most.
    reserve : bytes that stay free on the disk; below it writing is refused while the file is still sound.
    archive_id : of a new archive; a fresh one by default.

    Raises
    ------
    ArchiveError : the file is there and is no sound archive, or another process writes it.
    """

    def __init__(self, path: str | Path, encoder: Encoder, *, chunk_bytes: int = 1 << 20, reserve: int = 128 << 20,
                 archive_id: uuid.UUID | None = None) -> None:
        self.path, self.encoder = Path(path), encoder
        self.resumed = self.path.exists() and self.path.stat().st_size > 0
        self.stored_bytes = 0
        self.failure: str | None = None
        """Why the file can no longer be written; None as long as it can."""
        self._chunk_bytes, self._reserve = chunk_bytes, reserve
        try:
            # Freed space is not used again: a chunk that is written anew leaves the old bytes where the index on the disk
            # still points, until the flush.
            self.file = (h5py.File(self.path, "r+", locking="best-effort") if self.resumed
                         else h5py.File(self.path, "w", locking="best-effort", fs_strategy="none"))
        except OSError as error:
            raise ArchiveError(_why_not_open(self.path, error)) from None
        if not self.resumed:
            emd.write_header(self.file, archive_id or uuid.uuid4(), PROGRAM)
            self.file.flush()
        elif not emd.is_emd(self.file):
            self.file.close()
            raise ArchiveError(f"{self.path} is HDF5 but no archive of edgetem: give another output folder")
        self.hashing = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self.archive_id = uuid.UUID(self.file.attrs["UUID"])
        self._numbers: dict[str, int] = {}
        for name, group in self._nodes("acquisition_"):
            self._numbers[group.attrs["id"]] = int(ACQUISITION.match(name)[1])
            if group.attrs["status"] == OPEN:
                group.attrs["status"] = status_when_left(group)
        self.file.flush()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close. A second call does nothing."""
        if not self.file:
            return
        self.hashing.shutdown()
        try:
            self.file.close()
        except (OSError, RuntimeError) as error:
            raise ArchiveError(f"{self.path} could not be closed: {error}. Repair it before use") from None

    def begin(self, facts: AcquisitionFacts) -> AcquisitionWriter:
        """A new acquisition. An id that has been seen keeps its number and gets the suffix `_2`, `_3`, ..."""
        key = str(facts.acquisition_id)
        number = self._numbers.setdefault(key, 1 + max(self._numbers.values(), default=-1))
        return AcquisitionWriter(self, self._free(f"acquisition_{number:04d}"), facts, self._chunk_bytes)

    def write_experiment(self, record: ExperimentRecord) -> str:
        """Keep what the experiment is; returns the name. The same again is not written twice, another one gets a suffix."""
        root = self.file[emd.ROOT]
        values = {"experiment_id": str(record.experiment_id), "config": record.config, "version": record.version,
                  "seed": record.seed, "lock_hash": record.lock_hash, "platform": record.platform}
        name, number = "experiment", 2
        while known := emd.read_metadata(root, name):
            if known == values:
                return name
            name, number = f"experiment_{number}", number + 1
        with self.writing(name):
            emd.write_metadata(root, name, values)
            self.file.flush()
        return name

    def write_overview(self, survey: Survey) -> str:
        """Keep an overview; returns its name. The same overview (id and stamp) is not written twice."""
        for name, group in self._nodes("overview_"):
            known = emd.read_metadata(group, "overview")
            if (known["acquisition_id"], known["time_ns"]) == (str(survey.acquisition_id), survey.time_ns):
                return name
        facts = {"acquisition_id": str(survey.acquisition_id), "dose_electrons": float(survey.dose),
                 "time_ns": survey.time_ns}
        return self._write_stack(self._free("overview_0000"), "overview", "counts", survey.field, survey.channels,
                                 np.asarray(survey.data, np.float64), facts)

    def write_map(self, field_map: FieldMap) -> str:
        """Keep the maps of a decision; returns the name. The same decision's maps, bit for bit, are not written twice."""
        stack = np.stack([np.asarray(getattr(field_map, name), np.float64) for name in MAPS])
        stem = f"map_{field_map.decision_index:04d}"
        for name, group in self._nodes(stem):
            if name[len(stem):len(stem) + 1] not in ("", "_"):
                continue
            if group["data"][:].tobytes() == stack.tobytes():
                return name
        facts = {"experiment_id": str(field_map.experiment_id), "decision_index": field_map.decision_index,
                 "name": field_map.name}
        return self._write_stack(self._free(stem), "map", field_map.unit, field_map.field, MAPS, stack, facts)

    def write_measurements(self, rows: MeasuredRows) -> str:
        """Keep measured rows; returns the name of the node."""
        name = self._free("measurements_0000")
        count = [emd.running("row")]
        names = Axis(", ".join(rows.names), "", 1.0, 0.0, len(rows.names))
        identifiers = np.array([i.bytes for i in rows.acquisition_ids], "V16").view(np.uint8).reshape(-1, 16)
        self.check_room(rows.values.nbytes * 4)
        with self.writing(name):
            node = emd.make_node(self.file[emd.ROOT], name)
            emd.write_metadata(node, "measurements", {"names": "\n".join(rows.names), "units": "\n".join(rows.units)})
            emd.make_array(node, "values", "", [*count, names], data=np.asarray(rows.values, np.float64))
            emd.make_array(node, "standard_errors", "", [*count, names], data=np.asarray(rows.standard_errors, np.float64))
            emd.make_array(node, "positions", "m", [*count, Axis("y, x", "", 1.0, 0.0, 2)], data=np.asarray(rows.positions))
            emd.make_array(node, "indices", "", count, data=np.asarray(rows.indices, np.int64))
            emd.make_array(node, "valid", "", count, data=np.asarray(rows.valid, np.uint8))
            emd.make_array(node, "acquisition_ids", "", [*count, Axis("byte", "", 1.0, 0.0, 16)], data=identifiers)
            self.file.flush()
        return name

    def check_room(self, size: int) -> None:
        """Make sure that `size` more bytes leave the reserve free.

        Raises
        ------
        ArchiveFull : they do not. ArchiveError : an earlier write failed.
        """
        if self.failure:
            raise ArchiveError(self.failure)
        free = shutil.disk_usage(self.path.parent).free
        if free < self._reserve + size:
            raise ArchiveFull(f"{self.path.parent} has {free / 2**20:.0f} MiB free; {size / 2**20:.1f} MiB more must leave "
                              f"{self._reserve / 2**20:.0f} MiB (reserve_MiB): free some space and resume")

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn a failed write into an ArchiveError, after which the archive takes nothing more."""
        if self.failure:
            raise ArchiveError(self.failure)
        try:
            yield
        except ArchiveError:
            raise
        except Exception as error:
            self.failure = (f"{self.path} could not be written at {what}: {error}. What was reported as archived is safe; "
                            "repair the file before use")
            raise ArchiveError(self.failure) from error

    def _write_stack(self, name: str, kind: str, unit: str, field: ScanField, slices: Sequence[str], data: np.ndarray,
                     facts: dict[str, Any]) -> str:
        if data.shape != (len(slices), *field.shape):
            raise ArchiveError(f"{name}: data of shape {data.shape} for {len(slices)} slices of a {field.shape[0]} x "
                               f"{field.shape[1]} field")
        self.check_room(data.nbytes)
        facts = {**facts, "origin_y_m": float(field.origin[0]), "origin_x_m": float(field.origin[1]),
                 "step_y_m": float(field.step[0]), "step_x_m": float(field.step[1])}
        note = ChunkNote(self.archive_id, name, 0, len(data), data.shape, data.dtype.str, zlib.crc32(data.tobytes()),
                         {"kind": kind, "unit": unit, "slices": list(slices), **facts})
        with self.writing(name):
            place_stack(self.file, note, self.encoder.encode(data, note.to_bytes()), self.encoder.dataset_options)
            self.file.flush()
        return name

    def _nodes(self, prefix: str) -> list[tuple[str, h5py.Group]]:
        return [(name, node) for name, node in self.file[emd.ROOT].items() if name.startswith(prefix)]

    def _free(self, stem: str) -> str:
        """The stem, or the stem with the first suffix that is not taken."""
        root, name, number = self.file[emd.ROOT], stem, 2
        while name in root:
            name, number = f"{stem}_{number}", number + 1
        return name


def place_stack(file: h5py.File, note: ChunkNote, encoded: bytes, dataset_options: dict[str, Any]) -> None:
    """Make the array node of an overview or of maps from its one encoded chunk."""
    facts = dict(note.facts)
    kind, unit, slices = facts.pop("kind"), facts.pop("unit"), facts.pop("slices")
    axes = [Axis("y", "m", facts["step_y_m"], facts["origin_y_m"], note.shape[1]),
            Axis("x", "m", facts["step_x_m"], facts["origin_x_m"], note.shape[2])]
    data = emd.make_array(file[emd.ROOT], note.group, unit, axes, slices, shape=note.shape, chunks=note.shape,
                          dtype=note.dtype, **dataset_options)
    data.id.write_direct_chunk((0, 0, 0), encoded)
    emd.write_metadata(data.parent, kind, facts)


def _why_not_open(path: Path, error: OSError) -> str:
    if not path.parent.is_dir():
        return f"{path} cannot be made: the folder {path.parent} does not exist"
    if emd.is_locked(error):
        return f"{path} is open in another process that writes it: wait for it to end, or give another output folder"
    if not path.exists():
        return f"{path} cannot be made: {error}"
    return f"{path} cannot be opened: {error}. Repair it with edgetem_nodes.archive.repair, or resume, which does so"
