"""An archive's writer in a process of its own, which goes on writing while others read."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.physics.scan import Axis

ROWS, PERIOD = 10, 2_000_000


def _write(folder: Path, axes: tuple[Axis, ...], pipe: Connection, start: int) -> None:
    """Archive what comes through the pipe and answer with the references; between the requests write other acquisitions."""
    other = np.random.default_rng(1).poisson(2.0, (2 * ROWS, *(axis.size for axis in axes))).astype(np.uint16)
    with ArchiveWriter(folder / "archive.h5", Codec(), reserve=0) as archive:
        while True:
            if pipe.poll():
                request = pipe.recv()
                if request is None:
                    return
                pipe.send(_archive(archive, *request, axes, start))
            else:
                _archive(archive, uuid.uuid4(), other, axes, start)


def _archive(archive: ArchiveWriter, name: uuid.UUID, frames: np.ndarray, axes: tuple[Axis, ...], start: int) -> list:
    writer = archive.begin(AcquisitionFacts(name, "camera", len(frames), 1e-3, PERIOD * 1e-9, time_ns=start))
    safe = []
    for first in range(0, len(frames), ROWS):
        part = frames[first:first + ROWS]
        safe += writer.append(first, part, np.zeros((len(part), 2)), axes, start + PERIOD * first)
    return safe + writer.finish("complete", requested=len(frames), sent=len(frames))


@contextmanager
def writing(folder: Path, axes: tuple[Axis, ...], start: int) -> Iterator[Connection]:
    """A busy writer; send it (acquisition id, frames), it answers with the references of their blocks."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_write, args=(folder, axes, there, start))
    process.start()
    try:
        yield here
        here.send(None)
    finally:
        process.join(20)
        process.kill()
