"""Blocks, ends and probe paths in any order: everything that came is archived, everything that did not is said."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetem_nodes.archive.acquisition_writer import TOGETHER
from edgetem_nodes.archive.chunk import find_chunks
from edgetem_nodes.archive.contents import AcquisitionFacts, ArchiveFull, FieldMap
from edgetem_nodes.archive.reader import Archive, StoredAcquisition
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.compressor.session import ArchivingSession, BlockHead, Ending
from edgetem_nodes.physics.scan import ScanField

FRAMES = np.random.default_rng(4).poisson(0.5, (12, 8, 8)).astype(np.uint16)
POSITIONS = np.random.default_rng(5).normal(size=(12, 2)) * 1e-9


class Run:
    """A session and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.warnings, self.safe = folder, [], []
        self.archive = ArchiveWriter(folder / "archive.h5", Codec(), reserve=0)
        self.session = ArchivingSession(self.archive, self.warnings.append)

    def path(self, identifier: uuid.UUID, sequence: int = 0) -> None:
        self.safe += self.session.probe_path(AcquisitionFacts(identifier, "camera", 12, 1e-3, 2e-3, "hash", sequence, 99))

    def block(self, identifier: uuid.UUID, number: int, rows: int = 3) -> None:
        part = slice(number * rows, (number + 1) * rows)
        self.safe += self.session.block(self.head(identifier, number, rows), FRAMES[part], POSITIONS[part])

    def head(self, identifier: uuid.UUID, number: int, rows: int = 3) -> BlockHead:
        return BlockHead(identifier, "camera", number, number * rows, rows, (), 100 + number)

    def end(self, identifier: uuid.UUID, sent: int = 12, **more: object) -> None:
        self.safe += self.session.end(Ending(identifier, 12, sent, **more))

    def acquisitions(self) -> list[StoredAcquisition]:
        self.safe += self.session.close()
        self.archive.close()
        reader = Archive.open(self.folder)
        for reference in self.safe:
            reader.verify(reference)
        return reader.acquisitions()


@pytest.fixture
def run(tmp_path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    made.archive.close()


def test_a_plain_acquisition_is_complete(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    for number in range(4):
        run.block(identifier, number)
    run.end(identifier)
    stored, = run.acquisitions()
    assert stored.status == "complete" and not run.warnings and not stored.problems
    assert np.array_equal(stored.rows(), FRAMES) and stored.positions.tobytes() == POSITIONS.tobytes()
    assert sum(r.count for r in run.safe) == 12 and run.safe[0].time_ns == 100
    assert stored.facts == AcquisitionFacts(identifier, "camera", 12, 1e-3, 2e-3, "hash", 0, 99)


def test_messages_of_other_topics_may_overtake(run):
    identifier = uuid.uuid4()
    run.block(identifier, 0)
    run.path(identifier)
    run.block(identifier, 1)
    run.end(identifier)
    run.block(identifier, 2)
    run.block(identifier, 3)
    stored, = run.acquisitions()
    assert stored.status == "complete" and not run.warnings and stored.facts.dwell_time == 1e-3


def test_the_end_may_come_first_and_the_path_last(run):
    identifier = uuid.uuid4()
    run.end(identifier)
    for number in range(4):
        run.block(identifier, number)
    run.path(identifier)
    stored, = run.acquisitions()
    assert stored.status == "complete" and not run.warnings and stored.facts.detector == "camera"


def test_a_gap_is_said_and_marked_and_the_rest_archived(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    run.block(identifier, 0)
    run.block(identifier, 3)
    run.end(identifier)
    stored, = run.acquisitions()
    assert stored.status == "incomplete" and run.session.lost_frames == 6
    assert stored.indices.tolist() == [0, 1, 2, 9, 10, 11]
    assert "block 3 (frames from 9) came where block 1 (frames from 3) was due: 6 frames are lost" in stored.problems[0]
    assert np.array_equal(stored.frame(9), FRAMES[9]) and len(run.warnings) == 1


def test_frames_that_the_detector_dropped_are_told_from_lost_ones(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    run.block(identifier, 0)
    run.end(identifier, sent=9, dropped=3)
    for number, first in ((1, 6), (2, 9)):
        head = BlockHead(identifier, "camera", number, first, 3)
        run.safe += run.session.block(head, FRAMES[first:first + 3], POSITIONS[first:first + 3])
    stored, = run.acquisitions()
    assert stored.status == "incomplete" and stored.indices.tolist() == [0, 1, 2, *range(6, 12)]
    assert run.session.lost_frames == 0 and "the detector dropped 3 frames" in stored.problems[0]
    assert stored.outcome["dropped_frames"] == 3 and len(stored.problems) == 1


def test_a_damaged_block_is_lost_aloud(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    for number in (0, 2, 3):
        if number == 2:
            run.session.damaged(run.head(identifier, 1), "its CRC-32 is 0, the header says 1")
        run.block(identifier, number)
    run.end(identifier)
    stored, = run.acquisitions()
    assert stored.status == "incomplete" and stored.count == 9 and run.session.lost_frames == 3
    assert stored.problems == ["frames 3 to 5 are lost: its CRC-32 is 0, the header says 1"]


def test_blocks_that_never_come_are_missed_once_nothing_comes_for_a_while(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    run.block(identifier, 0)
    run.end(identifier)
    run.session.idle()
    assert "the last 9 of 12 sent frames never came" in run.warnings[0]
    for number in (1, 2, 3):
        run.block(identifier, number)
    stored, = run.acquisitions()
    assert (stored.name, stored.count, stored.status) == ("acquisition_0000", 12, "complete")
    assert run.session.lost_frames == 0


def test_a_block_that_comes_twice_is_archived_once(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    for number in (0, 1, 1, 2, 3):
        run.block(identifier, number)
    run.end(identifier)
    stored, = run.acquisitions()
    assert stored.count == 12 and "block 1 came a second time" in stored.problems[0]


def test_a_repeated_acquisition_gets_a_dataset_of_its_own(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    run.block(identifier, 0)
    run.path(identifier, sequence=1)
    for number in range(4):
        run.block(identifier, number)
    run.end(identifier)
    first, second = run.acquisitions()
    assert (first.name, first.status, first.count) == ("acquisition_0000", "interrupted", 3)
    assert (second.name, second.status, second.count) == ("acquisition_0000_2", "complete", 12)


@pytest.mark.parametrize(("sent", "aborted", "status"),
                         [(6, True, "aborted"), (0, True, "aborted"), (6, False, "incomplete")])
def test_an_acquisition_that_ends_early_keeps_what_came_and_why(run, sent, aborted, status):
    identifier = uuid.uuid4()
    run.path(identifier)
    for number in range(sent // 3):
        run.block(identifier, number)
    run.end(identifier, sent, aborted=aborted, reason="consumer featurizer is silent")
    stored, = run.acquisitions()
    assert (stored.status, stored.count) == (status, sent)
    assert stored.outcome["reason"] == "consumer featurizer is silent" and stored.outcome["sent_frames"] == sent


def test_the_next_acquisition_and_the_close_end_the_one_before(run):
    first, second = uuid.uuid4(), uuid.uuid4()
    run.path(first)
    run.block(first, 0)
    run.path(second)
    run.block(second, 0)
    stored = run.acquisitions()
    assert [a.status for a in stored] == ["interrupted", "interrupted"] and [a.count for a in stored] == [3, 3]


def test_a_full_disk_is_said_and_marked(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    run.block(identifier, 0)
    run.session.idle()
    run.archive._reserve = 1 << 60
    with pytest.raises(ArchiveFull):
        run.block(identifier, 1)
    stored, = run.acquisitions()
    assert stored.count == 3 and "frames from 3 on are not archived" in stored.problems[0]


def test_the_last_map_is_kept_at_the_stop_and_at_the_close(run):
    def field_map(index: int) -> FieldMap:
        field = ScanField((0, 0), (1, 1), (2, 3))
        return FieldMap(uuid.UUID(int=1), index, field, "s", "", *np.full((3, 2, 3), float(index)))
    run.session.experiment_map(field_map(1))
    run.session.experiment_map(field_map(2))
    run.session.experiment_stopped()
    run.session.experiment_map(field_map(3))
    run.session.experiment_stopped(False)
    run.session.experiment_map(field_map(4))
    run.session.experiment_map(field_map(5))
    run.acquisitions()
    with Archive.open(run.folder) as reader:
        assert [m.decision_index for m in reader.maps()] == [2, 3, 5]


def test_blocks_that_follow_each_other_become_safe_together(run):
    identifier = uuid.uuid4()
    run.path(identifier)
    for number in range(3):
        part = slice(number * 3, number * 3 + 3)
        run.safe += run.session.block(run.head(identifier, number), FRAMES[part], POSITIONS[part],
                                      crc32=zlib.crc32(FRAMES[part]), more=True)
    assert not run.safe
    run.safe += run.session.idle()
    assert [(r.first_index, r.count) for r in run.safe] == [(0, 3), (3, 3), (6, 3)], "no more has come after all"
    run.block(identifier, 3)
    run.end(identifier)
    stored, = run.acquisitions()
    assert stored.status == "complete" and np.array_equal(stored.rows(), FRAMES)
    assert np.array_equal(stored.positions, POSITIONS) and stored.indices.tolist() == list(range(12))
    assert len(stored.blocks) == len(run.safe) == 4 and not run.warnings


def test_many_blocks_are_not_kept_waiting(run):
    identifier = uuid.uuid4()
    frames, count = FRAMES[:1].repeat(256 * 64, axis=0).reshape(-1, 64, 8, 8), 4 * TOGETHER
    run.safe += run.session.probe_path(AcquisitionFacts(identifier, "camera", 0))
    waiting = []
    for number in range(count):
        head = BlockHead(identifier, "camera", number, number * 64, 64)
        run.safe += run.session.block(head, frames[number], np.zeros((64, 2)), more=True)
        waiting.append(number + 1 - len(run.safe))
    assert max(waiting) < TOGETHER + 16 and len(run.safe) >= count - TOGETHER - 16


def test_a_checksum_that_is_known_is_the_one_in_the_file(run, tmp_path):
    identifier = uuid.uuid4()
    frames = np.random.default_rng(6).poisson(0.5, (64, 32, 32)).astype(np.uint16)
    run.session.probe_path(AcquisitionFacts(identifier, "camera", 64))
    run.safe += run.session.block(BlockHead(identifier, "camera", 0, 0, 64), frames, np.zeros((64, 2)),
                                  crc32=zlib.crc32(frames))
    run.session.close()
    run.archive.close()
    found, = find_chunks(tmp_path / "archive.h5")  # decodes each chunk and compares its checksum
    assert found.note.rows == 64 and np.array_equal(found.decoded(), frames)
