"""What goes in comes out bit for bit, through our reader, through plain h5py, and by its SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from archive_samples import FIELD, new_archive, poisson_frames, write_acquisition
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgetem_nodes.archive.acquisition_writer import rows_of_chunk
from edgetem_nodes.archive.contents import (
    AcquisitionFacts, ArchiveError, ArchiveFull, ExperimentRecord, FieldMap, FramesDescription, MeasuredRows, Survey)
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int64", "float32", "float64", ">u2"])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=DTYPES, signal=hnp.array_shapes(min_dims=1, max_dims=3, max_side=9),
       sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), chunk=st.sampled_from([64, 512, 1 << 20]),
       known=st.booleans())
def test_any_blocks_come_back_bit_for_bit(data, dtype, signal, sizes, chunk, known):
    frames = data.draw(hnp.arrays(dtype, (sum(sizes), *signal)))
    positions = np.random.default_rng(0).normal(size=(len(frames), 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.h5"
        facts = AcquisitionFacts(uuid.uuid4(), count=len(frames) if known else 0)
        with ArchiveWriter(path, Codec(), chunk_bytes=chunk, reserve=0) as archive:
            writer, safe, first = archive.begin(facts), [], 0
            for size in sizes:
                rows = slice(first, first + size)
                safe += writer.append(first, frames[rows], positions[rows])
                first += size
            safe += writer.finish("complete")
        assert [(r.first_index, r.count) for r in safe] == [(sum(sizes[:n]), size) for n, size in enumerate(sizes)]
        with h5py.File(path) as file:
            stored = file[safe[0].dataset][:]
        little = frames.astype(frames.dtype.newbyteorder("<"))
        assert stored.dtype == little.dtype and stored.tobytes() == little.tobytes()
        for reference in safe:
            rows = little[reference.first_index:reference.first_index + reference.count]
            assert reference.sha256 == hashlib.sha256(rows.tobytes()).digest()
            assert reference.raw_size == rows.nbytes and reference.stored_size > 0
        with Archive.open(path) as reader:
            acquisition = reader.acquisition(facts.acquisition_id)
            assert acquisition.positions.tobytes() == positions.tobytes()
            assert acquisition.indices.tolist() == list(range(len(frames)))
            assert acquisition.blocks == safe
            assert reader.frame(facts.acquisition_id, len(frames) - 1).tobytes() == little[-1].tobytes()
            for reference in safe:
                reader.verify(reference)


def test_a_reference_that_does_not_hold_is_refused(tmp_path):
    with new_archive(tmp_path) as archive:
        reference = write_acquisition(archive, poisson_frames(1, 10))[1]
    with Archive.open(tmp_path) as reader:
        reader.verify(reference)
        with pytest.raises(ArchiveError, match="SHA-256"):
            reader.verify(replace(reference, first_index=4))
        with pytest.raises(ArchiveError, match="rows 5 to 14 .* it has 10"):
            reader.verify(replace(reference, count=10))
        with pytest.raises(ArchiveError, match="reference is to"):
            reader.verify(replace(reference, archive_id=uuid.uuid4()))
        with pytest.raises(ArchiveError, match="no dataset"):
            reader.verify(replace(reference, dataset="/experiment/acquisition_0009/frames/data"))


def test_frames_keep_their_index_over_a_gap(tmp_path):
    frames, facts = poisson_frames(2, 9), AcquisitionFacts(uuid.uuid4(), count=12)
    with new_archive(tmp_path) as archive:
        writer = archive.begin(facts)
        writer.append(0, frames[:4], np.zeros((4, 2)))
        writer.append(7, frames[4:], np.ones((5, 2)))
        writer.mark("frames 4 to 6 are lost")
        writer.finish("incomplete", requested=12, sent=12)
    with Archive.open(tmp_path) as reader:
        acquisition = reader.acquisition(facts.acquisition_id)
        assert acquisition.indices.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11]
        assert np.array_equal(acquisition.frame(8), frames[5])
        assert acquisition.problems == ["frames 4 to 6 are lost"] and acquisition.status == "incomplete"
        with pytest.raises(ArchiveError, match="none with the index 5"):
            acquisition.frame(5)


def test_overview_maps_experiment_and_measurements_come_back(tmp_path):
    generator = np.random.default_rng(3)
    survey = Survey(uuid.uuid4(), FIELD, ("haadf", "bf"), generator.random((2, 6, 8)), 1e6, 11)
    mean, deviation, acquisition = generator.random((3, 6, 8))
    acquisition[2, 3] = np.nan
    last = FieldMap(uuid.uuid4(), 12, FIELD, "cu_l_net", "counts", mean, deviation, acquisition)
    record = ExperimentRecord(last.experiment_id, "planner:\n  ros__parameters: {name: \"Å\"}\n", "0.1.0", 2**63, "", "x86")
    rows = MeasuredRows((uuid.uuid4(), uuid.uuid4()), np.array([0, 4]), generator.random((2, 2)), ("cu", "zn"),
                        ("counts", ""), generator.random((2, 2)), generator.random((2, 2)), np.array([True, False]))
    with new_archive(tmp_path) as archive:
        for _ in range(2):
            assert archive.write_overview(survey) == "overview_0000"
            assert archive.write_map(last) == "map_0012"
            assert archive.write_experiment(record) == "experiment"
        assert archive.write_overview(replace(survey, time_ns=12)) == "overview_0000_2"
        archive.write_measurements(rows)
    with Archive.open(tmp_path) as reader:
        first, second = reader.overviews()
        assert (first.acquisition_id, first.channels) == (survey.acquisition_id, ("haadf", "bf"))
        assert (first.dose, second.time_ns) == (1e6, 12)
        assert np.array_equal(first.data, survey.data)
        assert first.field == FIELD
        stored = reader.maps()[0]
        assert (stored.name, stored.unit, stored.decision_index, stored.field) == ("cu_l_net", "counts", 12, FIELD)
        assert stored.mean.tobytes() == mean.tobytes() and stored.acquisition.tobytes() == acquisition.tobytes()
        assert reader.experiment == record
        table = reader.measurements()[0]
        assert table.acquisition_ids == rows.acquisition_ids and table.units == ("counts", "")
        assert table.values.tobytes() == rows.values.tobytes() and table.valid.tolist() == [True, False]


def test_going_on_keeps_uuid_and_data_and_numbers_repetitions(tmp_path):
    repeated = uuid.uuid4()
    with new_archive(tmp_path) as archive:
        identifier = archive.archive_id
        first = write_acquisition(archive, poisson_frames(1, 5))
        half = write_acquisition(archive, poisson_frames(2, 7), 3, identifier=repeated, finish="", requested=9)
    with ArchiveWriter(tmp_path / "archive.h5", Codec("lz4"), reserve=0) as archive:
        assert archive.resumed and archive.archive_id == identifier
        whole = write_acquisition(archive, poisson_frames(3, 9), identifier=repeated)
        third = write_acquisition(archive, poisson_frames(4, 2))
    with Archive.open(tmp_path) as reader:
        assert [a.name for a in reader] == ["acquisition_0000", "acquisition_0001", "acquisition_0001_2", "acquisition_0002"]
        assert [a.status for a in reader] == ["complete", "interrupted", "complete", "complete"]
        assert reader.acquisition(repeated).name == "acquisition_0001_2"
        assert np.array_equal(reader.frame(repeated, 8), poisson_frames(3, 9)[8])
        for reference in first + half + whole + third:
            reader.verify(reference)


READER = """
import sys
from edgetem_nodes.archive.reader import Archive
with Archive.open(sys.argv[1], live=sys.argv[2] == "live") as archive:
    print(archive.acquisitions()[0].count)
"""


def test_an_archive_is_written_by_one_process_and_read_live_by_others(tmp_path):
    def read(how: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", READER, str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    with new_archive(tmp_path) as archive:
        write_acquisition(archive, poisson_frames(1, 5), finish="")
        assert read("live").stdout == "5\n"
        assert "still being written" in read("plainly").stderr
    assert read("plainly").stdout == "5\n"


@pytest.mark.parametrize("content", [b"no HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_archive_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "archive.h5"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="archive.h5"):
        Archive.open(tmp_path)
    with pytest.raises(ArchiveError, match="archive.h5 cannot be opened"):
        ArchiveWriter(path, Codec())
    with pytest.raises(ArchiveError, match="does not exist"):
        ArchiveWriter(tmp_path / "nowhere" / "archive.h5", Codec())


def test_foreign_hdf5_is_refused(tmp_path):
    with h5py.File(tmp_path / "archive.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ArchiveError, match="no archive of edgetem"):
        Archive.open(tmp_path)
    with pytest.raises(ArchiveError, match="no archive of edgetem"):
        ArchiveWriter(tmp_path / "archive.h5", Codec())


def test_a_full_disk_is_refused_before_the_file_suffers(tmp_path):
    with new_archive(tmp_path) as archive:
        safe = write_acquisition(archive, poisson_frames(1, 5))
        archive._reserve = 1 << 60
        with pytest.raises(ArchiveFull, match="reserve_MiB"):
            write_acquisition(archive, poisson_frames(2, 5), finish="")
    with Archive.open(tmp_path) as reader:
        reader.verify(safe[0])


def test_frames_of_another_shape_are_refused(tmp_path):
    with new_archive(tmp_path) as archive:
        writer = archive.begin(AcquisitionFacts(uuid.uuid4()))
        writer.append(0, np.zeros((2, 4, 4), np.uint16), np.zeros((2, 2)))
        with pytest.raises(ArchiveError, match=r"shape \(4, 5\) uint16 follow .* \(4, 4\) uint16"):
            writer.append(2, np.zeros((2, 4, 5), np.uint16), np.zeros((2, 2)))
        with pytest.raises(ArchiveError, match="2 frames come with 3 positions"):
            writer.append(2, np.zeros((2, 4, 4), np.uint16), np.zeros((3, 2)))


@given(rows=st.integers(1, 5000), count=st.integers(0, 5000), frame=st.integers(1, 1 << 21),
       target=st.sampled_from([1 << 16, 1 << 20]))
def test_chunks_hold_at_least_a_frame_and_at_most_the_target(rows, count, frame, target):
    size = rows_of_chunk(FramesDescription((frame,), np.dtype("u1")), rows, count, target)
    assert size >= 1 and (size == 1 or size * frame <= target) and (not count or size <= count)


def test_chunks_line_up_with_regular_blocks():
    assert rows_of_chunk(FramesDescription((128, 128), np.dtype("u2")), 64, 1000, 1 << 20) == 32
