"""What an archive holds, as plain records: shared by writer, reader, repair and by everyone who hands data in or out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetem_nodes.physics.scan import Axis, ScanField


class ArchiveError(RuntimeError):
    """An archive that cannot be opened, read or trusted; the message says which file, what is wrong and what to do."""


class ArchiveFull(ArchiveError):
    """The disk has no room for the next block; nothing of it was written and the file is sound."""


@dataclass(frozen=True)
class AcquisitionFacts:
    """What is known of an acquisition before its first frame. Times in ns since the epoch; dwell and period in s."""

    acquisition_id: uuid.UUID
    detector: str = ""
    count: int = 0
    """Frames that will come; 0: not known."""
    dwell_time: float = float("nan")
    position_period: float = float("nan")
    optics_hash: str = ""
    sequence: int = -1
    time_ns: int = 0

    def as_metadata(self) -> dict[str, Any]:
        """Flat mapping of names with unit to numbers and texts."""
        return {"acquisition_id": str(self.acquisition_id), "detector": self.detector, "requested_frames": self.count,
                "dwell_time_s": float(self.dwell_time), "position_period_s": float(self.position_period),
                "optics_hash": self.optics_hash, "probe_path_sequence": self.sequence,
                "acquisition_time_ns": self.time_ns}

    @classmethod
    def from_metadata(cls, values: dict[str, Any]) -> AcquisitionFacts:
        """The inverse of `as_metadata`; what is missing keeps its default."""
        names = {"detector": "detector", "requested_frames": "count", "dwell_time_s": "dwell_time",
                 "position_period_s": "position_period", "optics_hash": "optics_hash",
                 "probe_path_sequence": "sequence", "acquisition_time_ns": "time_ns"}
        known = {name: values[key] for key, name in names.items() if key in values}
        return cls(uuid.UUID(values["acquisition_id"]), **known)


@dataclass(frozen=True)
class BlockReference:
    """Rows of a frames dataset that are safe in the file; field for field what `ArchivedBlock` carries."""

    acquisition_id: uuid.UUID
    archive_id: uuid.UUID
    path: str
    """Of the archive file, relative to the experiment's folder."""
    dataset: str
    """HDF5 path within the file."""
    first_index: int
    """First row in the dataset."""
    count: int
    sha256: bytes
    """Of the decoded bytes of these rows."""
    raw_size: int
    stored_size: int
    time_ns: int = 0
    """Acquisition time of the first row, ns since the epoch."""


@dataclass(frozen=True)
class Survey:
    """An overview of the whole field: data (channels, rows, columns) [counts]; dose in electrons."""

    acquisition_id: uuid.UUID
    field: ScanField
    channels: tuple[str, ...]
    data: np.ndarray
    dose: float = float("nan")
    time_ns: int = 0


@dataclass(frozen=True)
class FieldMap:
    """What the planner believed after a decision; the three maps are (rows, columns) float64 in `unit`."""

    experiment_id: uuid.UUID
    decision_index: int
    field: ScanField
    name: str
    unit: str
    mean: np.ndarray
    standard_deviation: np.ndarray
    acquisition: np.ndarray


@dataclass(frozen=True)
class ExperimentRecord:
    """What the experiment is: configuration as YAML, version of edgetem, seed, lock file's SHA-256 (hex), platform."""

    experiment_id: uuid.UUID
    config: str
    version: str = ""
    seed: int = 0
    lock_hash: str = ""
    platform: str = ""


@dataclass(frozen=True)
class MeasuredRows:
    """Measurements, one row a probe position: positions (rows, 2) (y, x) [m], values and standard errors (rows, names)."""

    acquisition_ids: tuple[uuid.UUID, ...]
    indices: np.ndarray
    positions: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    values: np.ndarray
    standard_errors: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class FramesDescription:
    """Shape and calibration of the frames of one acquisition: signal shape, dtype, axes of the signal dimensions."""

    signal: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[Axis, ...] = field(default=())

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return int(np.prod(self.signal, dtype=np.int64)) * self.dtype.itemsize
