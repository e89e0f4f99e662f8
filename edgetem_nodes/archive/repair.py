"""After a crash: is the archive sound, and if it is not, bring back every whole chunk that its bytes hold.

A file is read in two ways that know nothing of each other: through HDF5's index, and byte by byte for the chunks, which say
themselves what they are (see `chunk`). Where both agree nothing is changed. Chunks that were written but not yet indexed are
put in. Where the index is broken, a new file is made of the chunks, and the damaged one is kept beside it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from edgetem_nodes.archive import emd
from edgetem_nodes.archive.acquisition_writer import (
    OPEN, Tables, add_blocks, make_tables, place_frames, place_rows, status_when_left)
from edgetem_nodes.archive.chunk import ChunkNote, FoundChunk, find_chunks
from edgetem_nodes.archive.contents import AcquisitionFacts, BlockReference, FramesDescription
from edgetem_nodes.archive.writer import ACQUISITION, PROGRAM, place_stack
from edgetem_nodes.physics.scan import Axis

OPTIONS: dict[str, Any] = dict(hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE))
"""Filter of a rebuilt dataset; each chunk says itself how it is encoded."""


@dataclass
class RepairReport:
    """What `repair` found and did.

    `action`: "none" (sound as it was), "extended" (whole chunks that were not indexed were put in), "rebuilt" (a new file
    was made, the damaged one kept), "set aside" (nothing to bring back; renamed so that a new one can be made), "missing",
    "failed" (nothing was changed; `messages` say why).
    """

    path: Path
    action: str = "none"
    acquisitions: int = 0
    frames: int = 0
    recovered_frames: int = 0
    """Frames put in that the index did not know."""
    kept: Path | None = None
    """Where the damaged file is."""
    messages: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether there is an archive that opens."""
        return self.action in ("none", "extended", "rebuilt")

    def __str__(self) -> str:
        text = f"{self.path}: {self.action}; {self.acquisitions} acquisitions, {self.frames} frames"
        if self.recovered_frames:
            text += f", {self.recovered_frames} of them brought back"
        return "\n".join([text, *(f"  {message}" for message in self.messages)])


@dataclass(frozen=True)
class _Place:
    offset: int
    length: int
    note: ChunkNote


def repair(path: str | Path) -> RepairReport:
    """Check an archive that nobody writes, and mend it if need be. Never loses a whole chunk; says what it did.

    Reads and decodes the whole file once. Raises nothing for a damaged file: the report says "failed".
    """
    path = Path(path)
    report = RepairReport(path)
    if not path.exists():
        report.action = "missing"
        report.messages.append("there is no archive")
        return report
    try:
        places = [_Place(chunk.offset, len(chunk.encoded), chunk.note) for chunk in find_chunks(path)]
        newest = _newest(places)
        try:
            problems = _examine(path, {place.offset: place for place in places})
        except BlockingIOError:
            raise
        except Exception as error:  # noqa: BLE001  (HDF5 raises whatever a damaged structure leads it to)
            problems = [f"HDF5 cannot read it: {error}"]
        if problems:
            report.messages += problems
            _rebuild(path, newest, report)
        else:
            _extend(path, newest, report)
    except OSError as error:
        report.action = "failed"
        report.messages.append("another process writes it" if isinstance(error, BlockingIOError) else str(error))
    return report


def _newest(places: list[_Place]) -> dict[str, dict[int, _Place]]:
    """By group and first row, the copy of each chunk with the most rows, of equal ones the last."""
    result: dict[str, dict[int, _Place]] = {}
    if not places:
        return result
    archive_id = places[-1].note.archive_id
    for place in places:
        if place.note.archive_id != archive_id:
            continue
        rows = result.setdefault(place.note.group, {})
        known = rows.get(place.note.first_row)
        if known is None or place.note.rows >= known.note.rows:
            rows[place.note.first_row] = place
    return result


def _run(rows: dict[int, _Place]) -> list[_Place]:
    """The chunks of an acquisition from row 0 on, as far as there is no gap."""
    run, end = [], 0
    while end in rows:
        run.append(rows[end])
        place = rows[end]
        end += place.note.rows
        if place.note.rows < place.note.shape[0]:
            break
    return run


def _examine(path: Path, places: dict[int, _Place]) -> list[str]:
    """What is wrong with the index of a file; every chunk it names must be one that was found sound in the bytes."""
    problems: list[str] = []
    with _opened(path, "r") as file:
        if not emd.is_emd(file):
            return ["its header is not that of an archive of edgetem"]
        file.visititems(lambda _name, _item: None)
        root = file[emd.ROOT]
        for name, group in root.items():
            if ACQUISITION.match(name) and "frames" in group:
                problems += _examine_acquisition(name, group, places)
            elif name.startswith(("overview_", "map_")) and group["data"].id.get_chunk_info(0).byte_offset not in places:
                problems.append(f"{name}: its data is damaged")
    return problems


def _examine_acquisition(name: str, group: h5py.Group, places: dict[int, _Place]) -> list[str]:
    tables = Tables.of(group)
    count = tables.frames.shape[0]
    if not tables.positions.shape[0] == tables.indices.shape[0] == count:
        return [f"{name}: {count} frames, {tables.positions.shape[0]} positions, {tables.indices.shape[0]} indices"]
    blocks = tables.blocks[:]
    if int(blocks["rows"].sum()) > count:
        return [f"{name}: its blocks have {int(blocks['rows'].sum())} frames, the data {count}"]
    size = tables.frames.chunks[0]
    for first in range(0, count, size):
        info = tables.frames.id.get_chunk_info_by_coord((first,) + (0,) * (tables.frames.ndim - 1))
        place = places.get(info.byte_offset)
        end = min(count, first + size)
        if place is None or (place.note.group, place.note.first_row) != (name, first) or first + place.note.rows < end:
            return [f"{name}: frames {first} to {end - 1} are damaged"]
        rows = slice(first, end)
        if not (np.array_equal(tables.indices[rows], place.note.indices[:end - first])
                and np.array_equal(tables.positions[rows], place.note.positions[:end - first])):
            return [f"{name}: positions or indices of frames {first} to {end - 1} do not fit the data"]
    return []


def _opened(path: Path, mode: str, **options: Any) -> h5py.File:
    try:
        return h5py.File(path, mode, **options)
    except OSError as error:
        if emd.is_locked(error):
            raise BlockingIOError(str(error)) from None
        raise


def _extend(path: Path, newest: dict[str, dict[int, _Place]], report: RepairReport) -> None:
    """Put into a sound file what was written but not indexed, and close the books of what was open."""
    with _opened(path, "r") as file:
        root = file[emd.ROOT]
        missing = {name: rows for name, rows in newest.items() if name not in root
                   or ("frames" in root[name] and sum(p.note.rows for p in _run(rows)) > root[name]["frames/data"].shape[0])
                   or (ACQUISITION.match(name) and "frames" not in root[name])}
        opened = [name for name, group in root.items() if group.attrs.get("status") == OPEN]
    # Read before anything is written: HDF5 takes the space behind what it knows of for new things.
    chunks = {name: [_read(path, place) for place in _run(rows)] for name, rows in missing.items()}
    if missing or opened:
        with _opened(path, "r+") as file:
            for name, found in chunks.items():
                report.recovered_frames += _restore(file, path, name, found)
            for name in opened:
                file[emd.ROOT][name].attrs["status"] = status_when_left(file[emd.ROOT][name])
    if missing:
        report.action = "extended"
    _count(path, report)


def _rebuild(path: Path, newest: dict[str, dict[int, _Place]], report: RepairReport) -> None:
    """Make a new file of the chunks; keep the damaged one."""
    kept = path.with_name(f"{path.stem}.damaged{path.suffix}")
    number = 2
    while kept.exists():
        kept, number = path.with_name(f"{path.stem}.damaged_{number}{path.suffix}"), number + 1
    if not newest:
        path.rename(kept)
        report.action, report.kept = "set aside", kept
        report.messages.append(f"it holds no whole chunk: renamed to {kept.name}")
        return
    needed, free = sum(p.length for rows in newest.values() for p in rows.values()), shutil.disk_usage(path.parent).free
    if free < 2 * needed:
        report.action = "failed"
        report.messages.append(f"a new file needs {2 * needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free: free some "
                               "and repair again")
        return
    new = path.with_name(f"{path.stem}.rebuilding{path.suffix}")
    new.unlink(missing_ok=True)
    archive_id = next(place.note.archive_id for rows in newest.values() for place in rows.values())
    with h5py.File(new, "x", fs_strategy="none") as file:
        emd.write_header(file, archive_id, PROGRAM)
        _copy_readable(path, file, report)
        for name, rows in newest.items():
            run = _run(rows)
            if len(run) < len(rows):
                report.messages.append(f"{name}: {len(rows) - len(run)} chunks behind a gap stay in {kept.name}")
            report.recovered_frames += _restore(file, path, name, (_read(path, place) for place in run))
        for name, group in file[emd.ROOT].items():
            if ACQUISITION.match(name) and group.attrs.get("status", OPEN) == OPEN:
                group.attrs["status"] = status_when_left(group)
    path.rename(kept)
    new.rename(path)
    report.action, report.kept = "rebuilt", kept
    report.messages.append(f"the damaged file is kept as {kept.name}")
    _count(path, report)


def _copy_readable(path: Path, into: h5py.File, report: RepairReport) -> None:
    """What has no chunks of its own, from a damaged file, as far as HDF5 reads it: experiment, measurements, outcomes."""
    try:
        with h5py.File(path, "r") as file:
            source, target = file[emd.ROOT], into[emd.ROOT]
            if "metadatabundle" in source:
                source.copy("metadatabundle", target)
            for name, group in source.items():
                if name.startswith("measurements_"):
                    source.copy(name, target)
                elif ACQUISITION.match(name):
                    node = emd.make_node(target, name)
                    for key, value in group.attrs.items():
                        node.attrs[key] = value
                    source[name].copy("metadatabundle", node)
    except Exception as error:  # noqa: BLE001  (HDF5 raises whatever a damaged structure leads it to)
        report.messages.append(f"metadata was not readable in full ({error}): the configuration is in experiment.yaml, the "
                               "measurements in the bag")


def _restore(file: h5py.File, path: Path, name: str, chunks: Any) -> int:
    """Put chunks of one acquisition, overview or map into the file; returns how many frames it did not have."""
    root, gained = file[emd.ROOT], 0
    for chunk in chunks:
        note = chunk.note
        if note.facts["kind"] != "acquisition":
            place_stack(file, note, chunk.encoded, OPTIONS)
            continue
        facts = AcquisitionFacts.from_metadata(note.facts)
        group = root[name] if name in root else emd.make_node(root, name)
        if "id" not in group.attrs:
            group.attrs["id"], group.attrs["status"] = str(facts.acquisition_id), OPEN
        if not emd.read_metadata(group, "acquisition"):
            emd.write_metadata(group, "acquisition", facts.as_metadata())
        if "frames" not in group:
            axes = tuple(Axis(*axis) for axis in note.facts["axes"])
            description = FramesDescription(note.shape[1:], np.dtype(note.dtype), axes)
            make_tables(group, description, note.shape[0], facts.count, OPTIONS)
        gained += _adopt(Tables.of(group), chunk, facts, uuid.UUID(file.attrs["UUID"]), path.name)
    file.flush()
    return gained


def _adopt(tables: Tables, chunk: FoundChunk, facts: AcquisitionFacts, archive_id: uuid.UUID, path: str) -> int:
    note, before = chunk.note, tables.frames.shape[0]
    if note.first_row + note.rows <= before:
        return 0
    rows = chunk.decoded()
    place_frames(tables, note, chunk.encoded)
    place_rows(tables, note.first_row, note.indices, note.positions)
    fresh = rows[before - note.first_row:]
    listed = int(tables.blocks["rows"].sum()) if tables.blocks.shape[0] else 0
    if listed == before:
        reference = BlockReference(facts.acquisition_id, archive_id, path, tables.frames.name, before, len(fresh),
                                   hashlib.sha256(fresh.tobytes()).digest(), fresh.nbytes,
                                   round(len(chunk.encoded) * len(fresh) / note.rows), facts.time_ns)
        add_blocks(tables, [reference])
    return len(fresh)


def _read(path: Path, place: _Place) -> FoundChunk:
    with path.open("rb") as stream:
        stream.seek(place.offset)
        return FoundChunk(place.offset, stream.read(place.length), place.note)


def _count(path: Path, report: RepairReport) -> None:
    with _opened(path, "r") as file:
        for name, group in file[emd.ROOT].items():
            if ACQUISITION.match(name):
                report.acquisitions += 1
                report.frames += group["frames/data"].shape[0] if "frames" in group else 0


if __name__ == "__main__":
    result = repair(sys.argv[1])
    print(result)
    sys.exit(0 if result.sound else 1)
