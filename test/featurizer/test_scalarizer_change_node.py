"""Another scalarizer in mid-run: what is refused, what comes once more, and that it is what the archive's frames give."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from edgetem.srv import GetStructure, SetScalarizer
from featurizer_bench import AXES, Bench, patterns
from writing_process import ROWS, writing

from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.compressor.node.conversion import archived_block
from edgetem_nodes.compressor.session import ArchivingSession, BlockHead, Ending
from edgetem_nodes.featurizer import remeasuring, scalarizers
from edgetem_nodes.featurizer.parameters import Parameters, VirtualDetector
from edgetem_nodes.graph.messages import to_uuid

Codes = SetScalarizer.Response
START = 100_000_000_000


class Experiment:
    """A bench whose frames are archived too, by the compressor's session in this process."""

    def __init__(self, folder: Path, **parameters) -> None:
        self.archive = ArchiveWriter(folder / "archive.h5", Codec(), reserve=0)
        self.session = ArchivingSession(self.archive, lambda text: None)
        self.bench = Bench(output=str(folder), **parameters)
        self.bench.activate()
        self.positions = np.empty((0, 2))

    def begin(self, name: uuid.UUID, count: int) -> None:
        self.positions = self.bench.path(name, count)
        self.archived(self.session.probe_path(AcquisitionFacts(name, "camera", count, 1e-3, 2e-3, time_ns=START)))

    def block(self, name: uuid.UUID, number: int, first: int, frames: np.ndarray, to_bench: bool = True,
              to_archive: bool = True) -> None:
        if to_bench:
            self.bench.block(name, number, first, frames, self.positions)
        if to_archive:
            head = BlockHead(name, "camera", number, first, len(frames), AXES, START + 2_000_000 * first)
            self.archived(self.session.block(head, frames, self.positions[first:first + len(frames)]))

    def end(self, name: uuid.UUID, requested: int, sent: int, reason: str = "") -> None:
        self.bench.end(name, requested, sent, reason)
        self.archived(self.session.end(Ending(name, requested, sent, 0, bool(reason), reason)))

    def archived(self, references) -> None:
        for reference in references:
            self.bench.archived.publish(archived_block(reference))

    def whole(self, frames: np.ndarray, version: int = 1) -> uuid.UUID:
        """An acquisition in two blocks, measured by this version of the scalarizer."""
        name, count = uuid.uuid4(), len(frames)
        self.begin(name, count)
        self.block(name, 0, 0, frames[:count // 2])
        self.block(name, 1, count // 2, frames[count // 2:])
        self.end(name, count, count)
        self.bench.until(lambda: len(self.bench.collected(name, version)) == count)
        return name

    def close(self) -> None:
        self.bench.close()
        self.archive.close()


@pytest.fixture
def experiment(tmp_path, request):
    made = Experiment(tmp_path, **getattr(request, "param", {}))
    yield made
    made.close()


def same(rows: dict[int, tuple], features) -> bool:
    return np.stack([rows[i][2] for i in range(len(rows))]).tobytes() == features.values.tobytes()


def test_all_rows_come_once_more_as_measure_gives_them(experiment):
    bench, frames = experiment.bench, patterns(24)
    names = [experiment.whole(frames[:10]), experiment.whole(frames[10:24])]
    answer = bench.change("virtual_detector", {"virtual_detector.inner_mrad": 10, "label": "dark field"})
    assert answer.error_code == 0, answer.error_msg
    assert (answer.scalarizer, answer.scalarizer_version, answer.rows) == ("virtual_detector", 2, 24)
    assert [to_uuid(name) for name in answer.acquisitions] == names
    assert list(answer.acquisition_rows) == [10, 14]
    assert (list(answer.names), list(answer.units)) == (["dark field"], ["counts"])
    bench.until(lambda: len(bench.collected(names[0], 2)) == 10 and len(bench.collected(names[1], 2)) == 14)
    parameters = Parameters(scalarizer="virtual_detector", virtual_detector=VirtualDetector(10.0, 20.0))
    for name, part in zip(names, (frames[:10], frames[10:]), strict=True):
        assert same(bench.collected(name, 2), scalarizers.measure(part, AXES, parameters))
    firsts = {version: [(to_uuid(m.acquisition_id), list(m.indices), list(m.positions), m.header.stamp.nanosec)
                        for m in bench.rows if m.scalarizer_version == version] for version in (1, 2)}
    assert firsts[1] == firsts[2]
    assert {m.scalarizer_hash for m in bench.rows if m.scalarizer_version == 2} == {answer.scalarizer_hash}
    assert answer.scalarizer_hash == scalarizers.define(parameters).hash

    later = experiment.whole(frames[:4], version=2)
    assert same(bench.collected(later, 2), scalarizers.measure(frames[:4], AXES, parameters))


def test_version_counts_and_settings_say_how_to_get_here_again(experiment):
    bench, name = experiment.bench, experiment.whole(patterns(4))
    assert bench.change("center_of_mass").scalarizer_version == 2
    bench.until(lambda: len(bench.collected(name, 2)) == 4)
    answer = bench.change(settings={"center_of_mass.component": "x", "counts_per_electron": 2})
    assert (answer.error_code, answer.scalarizer, answer.scalarizer_version) == (0, "center_of_mass", 3)
    assert json.loads(answer.settings) == {"center_of_mass.component": "x", "counts_per_electron": 2.0, "label": "",
                                           "settings": ""}
    bench.until(lambda: len(bench.collected(name, 3)) == 4)
    refused = bench.change(version=3)
    assert refused.error_code == Codes.INVALID_SETTINGS and "not above the present one, 3" in refused.error_msg
    again = bench.change(answer.scalarizer, answer.settings, version=3, skip_measured=True)
    assert (again.error_code, again.scalarizer_version, again.rows) == (0, 3, 0)
    assert bench.change("lattice", version=3, skip_measured=True).error_code == Codes.INVALID_SETTINGS
    assert bench.change("lattice", version=7, skip_measured=True).scalarizer_version == 7
    assert bench.change(answer.scalarizer, answer.settings).scalarizer_hash == answer.scalarizer_hash


@pytest.mark.parametrize(("scalarizer", "settings", "code", "message"), [
    ("latice", "", Codes.UNKNOWN_SCALARIZER, "did you mean 'lattice'"),
    ("", "{1", Codes.INVALID_SETTINGS, "is not JSON"),
    ("", "[1]", Codes.INVALID_SETTINGS, "must be a JSON object"),
    ("", {"lattice.componnt": "exx"}, Codes.INVALID_SETTINGS, "did you mean 'lattice.component'"),
    ("", {"lattice.component": "exz"}, Codes.INVALID_SETTINGS, "is not one of"),
    ("", {"window_MiB": 3}, Codes.INVALID_SETTINGS, "cannot be changed in mid-run"),
    ("", '{"label": "a", "label": "b"}', Codes.INVALID_SETTINGS, "given twice"),
    ("eels_edge", "", Codes.INVALID_SETTINGS, "cannot be used on the present frames: eels_edge needs spectra"),
    ("virtual_detector", {"virtual_detector": {"inner_mrad": 90, "outer_mrad": 99}}, Codes.INVALID_SETTINGS, "no pixel lies"),
    ("descriptor", {"descriptor.column": "disk_count"}, Codes.INVALID_SETTINGS, "did you mean 'disk_counts'"),
])
def test_refusals_leave_everything_as_it_was(experiment, scalarizer, settings, code, message):
    bench, name = experiment.bench, experiment.whole(patterns(4))
    answer = bench.change(scalarizer, settings)
    assert answer.error_code == code
    assert message in answer.error_msg
    assert (answer.scalarizer, answer.scalarizer_version, answer.rows, len(answer.acquisitions)) == ("lattice", 1, 0, 0)
    after = experiment.whole(patterns(2))
    assert bench.collected(after)[0][0] and list(bench.rows[-1].names)[0] == "dilation"
    assert len(bench.collected(name)) == 4 and not bench.collected(name, 2)


def test_lost_rows_keep_their_reason_and_what_was_measured_while_the_archive_waits_is_not_lost(experiment):
    """The change comes while an acquisition runs and its last block is measured but not archived."""
    bench, frames, name = experiment.bench, patterns(10), uuid.uuid4()
    experiment.begin(name, 10)
    experiment.block(name, 0, 0, frames[:2])
    experiment.block(name, 2, 4, frames[4:6])
    experiment.block(name, 3, 6, frames[6:8], to_archive=False)
    bench.until(lambda: len(bench.collected(name)) == 8)
    answer = bench.change("total_counts")
    assert (answer.error_code, answer.rows, list(answer.acquisition_rows)) == (0, 8, [8])
    assert bench.change("lattice").error_code == Codes.BUSY
    bench.block(name, 4, 8, frames[8:], experiment.positions)
    bench.until(lambda: len(bench.collected(name, 2)) == 2)
    experiment.block(name, 3, 6, frames[6:8], to_bench=False)
    experiment.archived(experiment.session.idle())
    bench.until(lambda: len(bench.collected(name, 2)) == 10)
    rows = bench.collected(name, 2)
    assert [rows[i][0] for i in range(10)] == [True] * 2 + [False] * 2 + [True] * 6
    assert "blocks were lost" in rows[2][1]
    assert [rows[i][2][0] for i in (0, 1, 4, 5, 6, 7, 8, 9)] == [frames[i].sum() for i in (0, 1, 4, 5, 6, 7, 8, 9)]
    assert rows[3][3] == pytest.approx(experiment.positions[3])


@pytest.mark.parametrize("experiment", [{"archive_timeout_s": 0.3}], indirect=True)
def test_a_block_that_the_archive_never_gets_becomes_failed_rows(experiment):
    bench, frames, name = experiment.bench, patterns(4), uuid.uuid4()
    experiment.begin(name, 4)
    experiment.block(name, 0, 0, frames[:2])
    experiment.archived(experiment.session.idle())
    experiment.block(name, 1, 2, frames[2:], to_archive=False)
    bench.until(lambda: len(bench.collected(name)) == 4)
    assert bench.change("total_counts").rows == 4
    bench.until(lambda: len(bench.collected(name, 2)) == 4)
    rows = bench.collected(name, 2)
    assert [rows[i][0] for i in range(4)] == [True, True, False, False]
    assert "cannot be read again: the compressor has not said that it is archived" in rows[3][1]
    assert bench.change("lattice").error_code == 0


def test_frames_that_are_not_what_was_archived_become_failed_rows(experiment, tmp_path):
    bench, name = experiment.bench, uuid.uuid4()
    frames = patterns(4)
    experiment.begin(name, 4)
    experiment.block(name, 0, 0, frames)
    experiment.archived(experiment.session.end(Ending(name, 4, 4)))
    bench.until(lambda: len(bench.collected(name)) == 4)
    dataset = experiment.archive.file[experiment.archive.file["experiment"].name + "/acquisition_0000/frames/data"]
    dataset[1, 5, 5] += 1
    experiment.archive.file.flush()
    assert bench.change("total_counts").error_code == 0
    bench.until(lambda: len(bench.collected(name, 2)) == 4)
    assert "have another SHA-256 than when they were archived" in bench.collected(name, 2)[0][1]


def test_what_the_scalarizer_could_not_use_is_measured_with_one_that_can(tmp_path):
    experiment = Experiment(tmp_path, scalarizer="eels_edge")
    try:
        bench, frames = experiment.bench, patterns(4)
        name = experiment.whole(frames)
        assert not any(row[0] for row in bench.collected(name).values())
        assert bench.change("total_counts").error_code == 0
        bench.until(lambda: len(bench.collected(name, 2)) == 4)
        assert [bench.collected(name, 2)[i][2][0] for i in range(4)] == [frame.sum() for frame in frames]
    finally:
        experiment.close()


def test_an_experiment_that_is_gone_on_with_finds_its_earlier_rows(tmp_path):
    """Two acquisitions of an earlier session, the second broken off and repeated in this one; a third is new."""
    frames = patterns(12)
    first, second = uuid.uuid4(), uuid.uuid4()
    experiment = Experiment(tmp_path)
    experiment.whole(frames[:4])
    first = to_uuid(experiment.bench.rows[0].acquisition_id)
    experiment.begin(second, 4)
    experiment.block(second, 0, 0, frames[4:6])
    experiment.bench.until(lambda: len(experiment.bench.collected(second)) == 2)
    experiment.session.close()
    experiment.close()

    experiment = Experiment(tmp_path)
    try:
        bench = experiment.bench
        nothing_new = bench.change("total_counts", skip_measured=True)
        assert (nothing_new.error_code, nothing_new.rows) == (0, 0)
        answer = bench.change("total_counts")
        assert list(answer.acquisition_rows) == [4, 4]
        bench.until(lambda: len(bench.collected(first, 3)) == 4 and len(bench.collected(second, 3)) == 4)
        rows = bench.collected(second, 3)
        assert [rows[i][0] for i in range(4)] == [True, True, False, False]
        assert "the archive holds no such frame (interrupted)" in rows[2][1]
        assert rows[1][3] == pytest.approx([1e-9, 11e-9])

        experiment.begin(second, 4)
        experiment.block(second, 0, 0, frames[4:6])
        experiment.block(second, 1, 2, frames[6:8])
        experiment.end(second, 4, 4)
        third = experiment.whole(frames[8:], version=3)
        answer = bench.change("center_of_mass")
        assert [to_uuid(name) for name in answer.acquisitions] == [first, second, third]
        bench.until(lambda: all(len(bench.collected(name, 4)) == 4 for name in (first, second, third)))
        parameters = Parameters(scalarizer="center_of_mass")
        for name, part in ((first, frames[:4]), (second, frames[4:8]), (third, frames[8:])):
            assert same(bench.collected(name, 4), scalarizers.measure(part, AXES, parameters))
    finally:
        experiment.close()


def test_structures_follow_the_scalarizer(experiment):
    bench, name = experiment.bench, experiment.whole(patterns(2))
    assert bench.change("total_counts").error_code == 0
    bench.until(lambda: len(bench.collected(name, 2)) == 2)
    assert bench.structure(name, 0).error_code == GetStructure.Response.NO_STRUCTURE_MODEL
    assert bench.change("strain_energy", {"lattice.material": "MoS2"}).error_code == 0
    bench.until(lambda: len(bench.collected(name, 3)) == 2)
    assert bench.structure(name, 0).error_code == 0


def test_without_a_folder_only_what_is_new_can_change():
    bench = Bench()
    bench.activate()
    try:
        name = uuid.uuid4()
        positions = bench.path(name, 2)
        bench.block(name, 0, 0, patterns(2), positions)
        bench.until(lambda: len(bench.collected(name)) == 2)
        assert bench.change("total_counts").error_code == Codes.ARCHIVE_UNREADABLE
        assert bench.change("total_counts", skip_measured=True).error_code == 0
        bench.node.trigger_deactivate()
        assert bench.change("total_counts").error_code == Codes.NOT_ACTIVE
    finally:
        bench.close()


def test_an_archive_that_cannot_be_read_is_said_before_anything_changes(tmp_path):
    (tmp_path / "archive.h5").write_bytes(b"no HDF5")
    bench = Bench(output=str(tmp_path))
    bench.activate()
    try:
        answer = bench.change("total_counts")
        assert answer.error_code == Codes.ARCHIVE_UNREADABLE and "cannot be opened" in answer.error_msg
        assert answer.scalarizer_version == 1
    finally:
        bench.close()


def test_an_archive_that_another_process_is_busy_writing_gives_every_row(tmp_path):
    bench, frames = Bench(output=str(tmp_path)), patterns(10 * ROWS)
    bench.activate()
    try:
        with writing(tmp_path, AXES, START) as writer:
            names = [uuid.uuid4() for _ in range(12)]
            for name in names:
                positions = bench.path(name, len(frames))
                for number in range(10):
                    bench.block(name, number, number * ROWS, frames[number * ROWS:(number + 1) * ROWS], positions)
                writer.send((name, frames))
                for reference in writer.recv():
                    bench.archived.publish(archived_block(reference))
                bench.until(lambda name=name: len(bench.collected(name)) == len(frames))
            assert bench.change("center_of_mass").rows == len(names) * len(frames)
            bench.until(lambda: all(len(bench.collected(name, 2)) == len(frames) for name in names), 60.0)
            features = scalarizers.measure(frames, AXES, Parameters(scalarizer="center_of_mass"))
            assert all(same(bench.collected(name, 2), features) for name in names)
    finally:
        bench.close()


def test_a_torn_view_of_the_archive_is_read_again(experiment, monkeypatch):
    bench, frames = experiment.bench, patterns(4)
    name, views = experiment.whole(frames), []

    def torn(folder, live=False):
        views.append(folder)
        if len(views) < 3:
            raise KeyError("Unable to synchronously open object (addr overflow)")
        return Archive.open(folder, live=live)

    monkeypatch.setattr(remeasuring, "Archive", SimpleNamespace(open=torn))
    assert bench.change("total_counts").error_code == 0
    bench.until(lambda: len(bench.collected(name, 2)) == 4)
    assert len(views) == 3
    assert [bench.collected(name, 2)[i][2][0] for i in range(4)] == [frame.sum() for frame in frames]
