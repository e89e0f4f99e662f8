"""Frames, encoder and archives that the tests of the archive share."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from edgetem_nodes.archive.contents import AcquisitionFacts, BlockReference
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.physics.scan import Axis, ScanField

FIELD = ScanField((1e-9, -2e-9), (0.5e-9, 0.25e-9), (6, 8))


def poisson_frames(seed: int, count: int, signal: tuple[int, ...] = (16, 16)) -> np.ndarray:
    """Sparse counts (count, *signal) uint16, as a counting camera gives them."""
    return np.random.default_rng(seed).poisson(0.4, (count, *signal)).astype(np.uint16)


def axes(signal: tuple[int, ...]) -> tuple[Axis, ...]:
    """Diffraction axes in rad."""
    return tuple(Axis(name, "rad", 1.3e-3, -0.01, size) for name, size in zip(("ky", "kx"), signal, strict=False))


def write_acquisition(archive: ArchiveWriter, frames: np.ndarray, rows: int = 5, *, identifier: uuid.UUID | None = None,
                      finish: str = "complete", requested: int = 0) -> list[BlockReference]:
    """Archive frames in blocks of `rows`; returns the references of its blocks."""
    facts = AcquisitionFacts(identifier or uuid.uuid4(), "camera", requested or len(frames), 1e-3, 1.1e-3, "abc", 3, 10**18)
    writer = archive.begin(facts)
    safe = []
    for first in range(0, len(frames), rows):
        block = frames[first:first + rows]
        positions = np.stack([np.arange(first, first + len(block)), np.full(len(block), 0.5)], axis=1) * 1e-9
        safe += writer.append(first, block, positions, axes(frames.shape[1:]), 7 + first)
    if finish:
        safe += writer.finish(finish, requested=len(frames), sent=len(frames))
    return safe


def new_archive(folder: Path, **options: object) -> ArchiveWriter:
    """A fresh archive in the folder, without a reserve of disk space."""
    return ArchiveWriter(folder / "archive.h5", Codec(), reserve=0, **options)
