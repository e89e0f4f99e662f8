"""An archive with one acquisition at scattered positions."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec


def sparse_archive(folder: Path, frames: np.ndarray) -> np.ndarray:
    """Write `archive.h5` into the folder; returns the positions (frames, 2), (y, x) [m]."""
    positions = np.random.default_rng(2).uniform(0, 2e-9, (len(frames), 2))
    with ArchiveWriter(folder / "archive.h5", Codec(), reserve=0) as archive:
        writer = archive.begin(AcquisitionFacts(uuid.uuid4(), "camera", len(frames)))
        writer.append(0, frames, positions)
        writer.finish("complete")
    return positions
