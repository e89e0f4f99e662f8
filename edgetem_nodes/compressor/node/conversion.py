"""Between the compressor's messages and the archive's records."""

from __future__ import annotations

from typing import Any

import numpy as np
from edgetem.msg import AcquisitionEnd, ArchivedBlock, DetectorBlock, Experiment, ExperimentMap, Overview, ProbePath
from edgetem.msg import ScanField as ScanFieldMessage

from edgetem_nodes.archive.contents import AcquisitionFacts, BlockReference, ExperimentRecord, FieldMap, Survey
from edgetem_nodes.compressor.session import BlockHead, Ending
from edgetem_nodes.graph.messages import from_uuid, numbers, stamp_nanoseconds, to_stamp, to_uuid
from edgetem_nodes.physics.scan import Axis, ScanField


def facts(message: ProbePath) -> AcquisitionFacts:
    """What a probe path says of its acquisition."""
    return AcquisitionFacts(to_uuid(message.acquisition_id), message.detector, len(message.positions) // 2,
                            message.dwell_time, message.position_period, message.optics_hash, message.sequence,
                            stamp_nanoseconds(message.header.stamp))


def head(message: DetectorBlock) -> BlockHead:
    """Where a block belongs; its data is not touched."""
    axes = tuple(Axis(axis.name, axis.unit, axis.scale, axis.offset, axis.size) for axis in message.axes)
    return BlockHead(to_uuid(message.acquisition_id), message.detector, message.block_index, message.first_index,
                     int(message.shape[0]) if len(message.shape) else 0, axes, stamp_nanoseconds(message.header.stamp))


def check(block: BlockHead, frames: np.ndarray, positions: np.ndarray, encoding: str) -> None:
    """Make sure that a block is what the archive can hold.

    Raises
    ------
    ValueError : encoded data, frames without a signal dimension, no number type, or not one position a frame.
    """
    if encoding != "raw":
        raise ValueError(f"block {block.block_index} is encoded as {encoding!r}; only 'raw' is archived")
    if frames.ndim < 2 or frames.dtype.kind not in "iuf" or frames.size == 0:
        raise ValueError(f"block {block.block_index} has shape {frames.shape} of {frames.dtype}; frames are (frames, ...) "
                         "of integers or floats, at least one")
    if len(positions) != len(frames):
        raise ValueError(f"block {block.block_index} has {len(frames)} frames and {len(positions)} positions")


def ending(message: AcquisitionEnd) -> Ending:
    """How an acquisition ended."""
    return Ending(to_uuid(message.acquisition_id), message.requested, message.sent, message.dropped, message.aborted,
                  message.reason)


def scan_field(message: ScanFieldMessage) -> ScanField:
    """The scan field of an overview or a map."""
    return ScanField(tuple(map(float, message.origin)), tuple(map(float, message.step)), tuple(map(int, message.shape)))


def survey(message: Overview) -> Survey:
    """An overview."""
    field = scan_field(message.field)
    return Survey(to_uuid(message.acquisition_id), field, tuple(message.channels), numbers(message.data, (-1, *field.shape)),
                  message.dose, stamp_nanoseconds(message.header.stamp))


def field_map(message: ExperimentMap) -> FieldMap:
    """The maps after a decision."""
    field = scan_field(message.field)
    arrays: dict[str, Any] = {name: numbers(getattr(message, name), field.shape)
                              for name in ("mean", "standard_deviation", "acquisition")}
    return FieldMap(to_uuid(message.experiment_id), message.decision_index, field, message.name, message.unit, **arrays)


def experiment(message: Experiment) -> ExperimentRecord:
    """What the experiment is."""
    return ExperimentRecord(to_uuid(message.experiment_id), message.config, message.version, message.seed, message.lock_hash,
                            message.platform)


def archived_block(reference: BlockReference) -> ArchivedBlock:
    """The reference as a message."""
    message = ArchivedBlock(acquisition_id=from_uuid(reference.acquisition_id), archive_id=from_uuid(reference.archive_id),
                            path=reference.path, dataset=reference.dataset, first_index=reference.first_index,
                            count=reference.count, sha256=np.frombuffer(reference.sha256, np.uint8),
                            raw_size=reference.raw_size, stored_size=reference.stored_size)
    message.header.stamp = to_stamp(0, reference.time_ns)
    message.header.frame_id = "detector"
    return message
