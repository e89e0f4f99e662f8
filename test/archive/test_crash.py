"""What a killed writer leaves opens with plain h5py, all blocks said to be safe are there, and repair mends the rest."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from archive_samples import FIELD, new_archive, poisson_frames, write_acquisition

from edgetem_nodes.archive.chunk import ChunkNote, find_chunks
from edgetem_nodes.archive.contents import AcquisitionFacts, ExperimentRecord, FieldMap, Survey
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.archive.repair import repair
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec

REPOSITORY = Path(__file__).resolve().parents[2]
WRITER = """
import sys, uuid
import numpy as np
from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
generator = np.random.default_rng(int(sys.argv[2]))
archive = ArchiveWriter(sys.argv[1], Codec(), reserve=0, chunk_bytes=1 << 14)
while True:
    writer, first = archive.begin(AcquisitionFacts(uuid.uuid4(), "camera", 60)), 0
    while first < 60:
        rows = min(int(generator.integers(1, 9)), 60 - first)
        frames = generator.poisson(0.4, (rows, 32, 32)).astype("u2")
        for r in writer.append(first, frames, np.ones((rows, 2))):
            print(r.dataset, r.first_index, r.count, r.sha256.hex(), flush=True)
        if generator.random() < 0.2:
            for r in writer.settle():
                print(r.dataset, r.first_index, r.count, r.sha256.hex(), flush=True)
        first += rows
    writer.finish("complete", requested=60, sent=60)
"""


def said_before_death(path: Path, seed: int, lines: int) -> list[list[str]]:
    """Run a writer, kill -9 it after it has said so many blocks safe, return all that it said."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE, text=True,
                          cwd=REPOSITORY) as writer:
        said = [writer.stdout.readline() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL
    return [line.split() for line in said if line.endswith("\n")]


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_leaves_a_file_that_opens_with_every_safe_block(tmp_path, seed):
    path = tmp_path / "archive.h5"
    said = said_before_death(path, seed, 11 + 13 * seed)
    with h5py.File(path) as file:
        for dataset, first, count, digest in said:
            rows = file[dataset][int(first):int(first) + int(count)]
            assert hashlib.sha256(rows.tobytes()).hexdigest() == digest
    report = repair(path)
    assert report.sound, report
    again = repair(path)
    assert again.action == "none" and again.frames == report.frames
    with ArchiveWriter(path, Codec(), reserve=0) as archive:
        fresh = write_acquisition(archive, poisson_frames(1, 9))
    with Archive.open(path) as reader:
        for dataset, first, count, digest in said:
            assert hashlib.sha256(reader.frames(dataset, int(first), int(count)).tobytes()).hexdigest() == digest
        for acquisition in reader:
            for reference in acquisition.blocks:
                reader.verify(reference)
        reader.verify(fresh[0])
        assert all(a.status in ("complete", "interrupted") for a in reader)


@pytest.fixture
def written(tmp_path) -> tuple[Path, dict[uuid.UUID, np.ndarray], Survey, FieldMap]:
    """A whole archive and what is in it."""
    generator = np.random.default_rng(1)
    survey = Survey(uuid.uuid4(), FIELD, ("haadf",), generator.random((1, 6, 8)), 5.0, 1)
    last = FieldMap(uuid.uuid4(), 3, FIELD, "scalar", "eV", *generator.random((3, 6, 8)))
    held = {uuid.uuid4(): poisson_frames(n, 10 + n, (24, 24)) for n in range(3)}
    with new_archive(tmp_path, chunk_bytes=1 << 13) as archive:
        archive.write_experiment(ExperimentRecord(last.experiment_id, "a: 1", "0.1.0"))
        archive.write_overview(survey)
        for identifier, frames in held.items():
            write_acquisition(archive, frames, 4, identifier=identifier)
        archive.write_map(last)
    return tmp_path / "archive.h5", held, survey, last


def damage(path: Path, first: int, count: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(first)
        stream.write(bytes(count))


@pytest.mark.parametrize("where", ["superblock", "first kilobytes", "root group"])
def test_a_file_that_hdf5_cannot_read_is_rebuilt_without_loss(written, where):
    path, held, survey, last = written
    with Archive.open(path) as reader:
        archive_id = reader.archive_id
    if where == "root group":
        with h5py.File(path) as file:
            address = h5py.h5o.get_info(file["experiment"].id).addr
        damage(path, address, 64)
    else:
        damage(path, 0, 48 if where == "superblock" else 1500)
    shutil.copy(path, path.with_name("evidence"))
    report = repair(path)
    assert report.action == "rebuilt" and report.sound, report
    assert report.recovered_frames == sum(map(len, held.values()))
    assert report.kept.read_bytes() == path.with_name("evidence").read_bytes()
    with Archive.open(path) as reader:
        assert reader.archive_id == archive_id
        for identifier, frames in held.items():
            acquisition = reader.acquisition(identifier)
            assert np.array_equal(acquisition.rows(), frames) and acquisition.status == "complete"
            assert acquisition.indices.tolist() == list(range(len(frames)))
            assert acquisition.positions[-1].tolist() == [(len(frames) - 1) * 1e-9, 0.5e-9]
            assert acquisition.axes[0].unit == "rad" and acquisition.facts.dwell_time == 1e-3
            for reference in acquisition.blocks:
                reader.verify(reference)
        assert np.array_equal(reader.overviews()[0].data, survey.data) and reader.overviews()[0].field == survey.field
        assert np.array_equal(reader.maps()[0].mean, last.mean) and reader.maps()[0].unit == "eV"
    assert repair(path).action == "none"


def test_a_truncated_file_keeps_what_is_whole(written):
    path, held, _, _ = written
    places = [chunk for chunk in find_chunks(path) if chunk.note.group == "acquisition_0002"]
    with path.open("r+b") as stream:
        stream.truncate(places[1].offset + len(places[1].encoded) // 2)
    report = repair(path)
    assert report.action == "rebuilt", report
    identifiers = list(held)
    with Archive.open(path) as reader:
        assert np.array_equal(reader.acquisition(identifiers[1]).rows(), held[identifiers[1]])
        cut = reader.acquisition(identifiers[2])
        assert cut.status == "interrupted" and cut.count == places[0].note.rows
        assert np.array_equal(cut.rows(), held[identifiers[2]][:cut.count])


def test_damaged_frames_are_found_and_named(written):
    path, held, _, _ = written
    place = [chunk for chunk in find_chunks(path) if chunk.note.group == "acquisition_0001"][-1]
    damage(path, place.offset + 100, 60)
    report = repair(path)
    assert report.action == "rebuilt" and "acquisition_0001: frames" in str(report)
    with Archive.open(path) as reader:
        assert reader.experiment.config == "a: 1"
        assert reader.acquisition(list(held)[1]).count == place.note.first_row


def test_chunks_that_were_not_indexed_are_put_in(tmp_path):
    path, frames = tmp_path / "archive.h5", poisson_frames(3, 40, (32, 32))
    with new_archive(tmp_path, chunk_bytes=1 << 14) as archive:
        writer = archive.begin(AcquisitionFacts(uuid.uuid4(), "camera", 40))
        writer.append(0, frames[:8], np.zeros((8, 2)))
        shutil.copy(path, tmp_path / "before")
        writer.append(8, frames[8:20], np.ones((12, 2)))
    orphans = [c for c in find_chunks(path) if c.note.first_row >= 8]
    (tmp_path / "before").replace(path)
    with path.open("ab") as stream:
        for chunk in orphans:
            stream.write(b"\x9e\xa8b2frame\x00 not one" + chunk.encoded + b"rest")
    report = repair(path)
    expected = 8 + sum(c.note.rows for c in orphans)
    assert (report.action, report.frames, report.recovered_frames) == ("extended", expected, expected - 8), report
    with Archive.open(path) as reader:
        acquisition = reader.acquisitions()[0]
        assert np.array_equal(acquisition.rows(), frames[:expected]) and acquisition.status == "interrupted"
        for reference in acquisition.blocks:
            reader.verify(reference)


def test_nothing_to_bring_back_is_set_aside_and_missing_is_said(tmp_path):
    path = tmp_path / "archive.h5"
    assert repair(path).action == "missing" and not repair(path).sound
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    report = repair(path)
    assert report.action == "set aside" and not path.exists() and report.kept.exists()


def test_an_archive_that_is_being_written_is_left_alone(tmp_path):
    with new_archive(tmp_path) as archive:
        write_acquisition(archive, poisson_frames(1, 5))
        before = (tmp_path / "archive.h5").read_bytes()
        command = [sys.executable, "-m", "edgetem_nodes.archive.repair", str(tmp_path / "archive.h5")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 1 and "another process writes it" in done.stdout
        assert (tmp_path / "archive.h5").read_bytes() == before


def test_a_chunk_written_anew_leaves_the_old_bytes_until_the_index_is_flushed(tmp_path):
    with new_archive(tmp_path) as archive:
        writer = archive.begin(AcquisitionFacts(uuid.uuid4()))
        frames = poisson_frames(2, 12, (32, 32))
        old = writer.append(0, frames[:4], np.zeros((4, 2))) + writer.settle()
        flush, archive.file.flush = archive.file.flush, lambda: None
        for first in range(4, 12, 2):
            writer.append(first, frames[first:first + 2], np.zeros((2, 2)))
            writer.settle()
        shutil.copy(tmp_path / "archive.h5", tmp_path / "unflushed.h5")
        archive.file.flush = flush
    with Archive.open(tmp_path / "unflushed.h5") as reader:
        for reference in old:
            reader.verify(reference)


def test_a_note_is_read_back(tmp_path):
    note = ChunkNote(uuid.uuid4(), "acquisition_0003", 7, 2, (4, 3, 3), "<u2", 5, {"kind": "acquisition", "x": 1.5},
                     np.array([8, 11]), np.array([[1e-9, 2e-9], [3e-9, -4e-9]]))
    again = ChunkNote.from_bytes(note.to_bytes())
    assert again.to_bytes() == note.to_bytes() and again.indices.tolist() == [8, 11]
    with pytest.raises(ValueError, match="not 48"):
        ChunkNote.from_bytes(note.to_bytes()[:-1])
