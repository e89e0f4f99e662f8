"""Bags against three independent readers and writers: rosbags, the mcap library, and a file cut off at any byte."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Qos
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from wire import on_wire

from edgetem.action import Acquire
from edgetem.msg import Decision, ExperimentMap, Measurements
from edgetem_nodes.provenance import definitions
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.metadata import BagError, quality_of_service, read_metadata
from edgetem_nodes.provenance.reading import read_bag, read_raw
from edgetem_nodes.provenance.repair import repair

START = 1_700_000_000_000_000_000
DERIVED = ("edgetem/action/Acquire_FeedbackMessage", "edgetem/action/RunExperiment_FeedbackMessage",
           "edgetem/action/ComputeEnergetics_FeedbackMessage", "edgetem/action/Acquire_GetResult_Response",
           "action_msgs/msg/GoalStatusArray", "rcl_interfaces/msg/Log", "rcl_interfaces/msg/ParameterEvent",
           "lifecycle_msgs/msg/TransitionEvent", "diagnostic_msgs/msg/DiagnosticArray", "sensor_msgs/msg/Image")
OWN = ("AcquisitionEnd", "Alarm", "ArchivedBlock", "AtomicStructure", "CompressedBlock", "Credit", "Decision",
       "DetectorBlock", "Energetics", "Experiment", "ExperimentMap", "Measurements", "MicroscopeState", "Overview",
       "ProbePath")


def decision(index):
    rng = np.random.default_rng(index)
    return Decision(index=index, action="acquire", positions=rng.normal(size=6).tolist(), candidates=[1, 2, 3],
                    reason="größte Varianz", input_hash=rng.integers(0, 256, 32, dtype=np.uint8), best_value=float("nan"))


def fill(bag, first, last):
    bag.add_topic("/decision", "edgetem/msg/Decision", [quality_of_service(depth=1000)])
    bag.add_topic("/acquire/_action/feedback", "edgetem/action/Acquire_FeedbackMessage")
    for index in range(first, last):
        bag.write("/decision", on_wire(decision(index)), START + 10 * index, START + 10 * index - 3)
        feedback = Acquire.Impl.FeedbackMessage(feedback=Acquire.Feedback(frames_delivered=index))
        bag.write("/acquire/_action/feedback", on_wire(feedback, "edgetem/action/Acquire_FeedbackMessage"),
                  START + 10 * index + 1)


def rosbags_messages(folder):
    """Everything in the bag as unmodified rosbags reads it: (topic, time, message)."""
    store = get_typestore(Stores.EMPTY)
    with Reader(folder) as reader:
        for connection in reader.connections:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        return [(connection.topic, stamp, store.deserialize_cdr(data, connection.msgtype))
                for connection, stamp, data in reader.messages()]


@pytest.mark.parametrize("type_name", [*(f"edgetem/msg/{name}" for name in OWN), *DERIVED])
def test_hash_computed_by_rosbags_from_our_definition_is_the_generators(type_name):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definitions.definition(type_name), type_name))
    assert store.hash_rihs01(type_name) == definitions.type_hash(type_name)


def test_an_unknown_type_is_named():
    with pytest.raises(definitions.DefinitionNotFoundError, match="nowhere_msgs"):
        definitions.definition("nowhere_msgs/msg/Thing")
    with pytest.raises(ValueError, match="not a message type"):
        definitions.definition("edgetem/Decision/too/long")


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_rosbags_reads_equal_messages(tmp_path, compression):
    with BagWriter(tmp_path / "bag", compression=compression) as bag:
        fill(bag, 0, 20)
    found = rosbags_messages(tmp_path / "bag")
    decisions = [message for topic, _, message in found if topic == "/decision"]
    assert [stamp for topic, stamp, _ in found if topic == "/decision"] == [START + 10 * i for i in range(20)]
    for index, message in enumerate(decisions):
        expected = decision(index)
        assert message.index == index and message.reason == expected.reason and np.isnan(message.best_value)
        assert message.positions.tobytes() == np.array(expected.positions).tobytes()
        assert bytes(message.input_hash) == bytes(bytearray(expected.input_hash))
    assert [m.feedback.frames_delivered for t, _, m in found if t.endswith("feedback")] == list(range(20))
    ours = [message.index for _, _, message in read_bag(tmp_path, ["decision"])]
    assert ours == list(range(20))
    with Reader(tmp_path / "bag") as reader:
        connection = next(c for c in reader.connections if c.topic == "/decision")
        assert connection.digest == definitions.type_hash("edgetem/msg/Decision")
        assert isinstance(connection.ext.offered_qos_profiles[0], Qos)
        assert connection.ext.offered_qos_profiles[0].depth == 1000


def test_the_mcap_library_finds_nothing_wrong(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        fill(bag, 0, 2000)
    path = tmp_path / "bag" / "bag_0.mcap"
    with path.open("rb") as stream:
        assert sum(1 for record in StreamReader(stream, validate_crcs=True).records) > 4000
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary.statistics.message_count == 4000 == sum(1 for _ in reader.iter_messages())
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
        for channel in summary.channels.values():
            assert channel.metadata["topic_type_hash"].startswith("RIHS01_")
            assert yaml.safe_load(channel.metadata["offered_qos_profiles"])[0]["reliability"] == "reliable"
        (record,) = reader.iter_metadata()
        assert record.name == "rosbag2"
        assert yaml.safe_load(record.metadata["serialized_metadata"])["message_count"] == 4000


def test_metadata_has_the_form_that_rosbags_writes(tmp_path):
    with BagWriter(tmp_path / "ours") as bag:
        bag.add_topic("/decision", "edgetem/msg/Decision", [])
        bag.write("/decision", on_wire(decision(0)), START)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definitions.definition("edgetem/msg/Decision"), "edgetem/msg/Decision"))
    with Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/decision", "edgetem/msg/Decision", typestore=store)
        writer.write(connection, START, on_wire(decision(0)))
    ours, theirs = (yaml.safe_load((tmp_path / name / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
                    for name in ("ours", "theirs"))
    for information in (ours, theirs):
        for path in ("relative_file_paths", "files", "custom_data", "ros_distro"):
            information[path] = type(information[path]) if path != "custom_data" else None
    assert ours == theirs


def test_metadata_is_there_from_the_start_and_current_after_every_flush(tmp_path):
    bag = BagWriter(tmp_path / "bag")
    assert read_metadata(tmp_path / "bag").files[0].message_count == 0
    fill(bag, 0, 5)
    bag.flush()
    assert read_metadata(tmp_path / "bag").files[0].message_count == 10
    assert [message.index for _, _, message in read_bag(tmp_path / "bag", ["/decision"])] == list(range(5))
    with pytest.raises(BagError, match="running recorder"):
        repair(tmp_path / "bag")
    bag.close()
    with pytest.raises(BagError, match="closed"):
        bag.write("/decision", b"", START)


def test_an_existing_bag_is_never_overwritten(tmp_path):
    BagWriter(tmp_path / "bag").close()
    with pytest.raises(BagError, match="never overwritten"):
        BagWriter(tmp_path / "bag")


def test_a_bag_without_messages_is_readable(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/decision", "edgetem/msg/Decision")
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0 and [c.topic for c in reader.connections] == ["/decision"]


WRITER = """
import sys, time
from wire import on_wire
from edgetem.msg import Decision, Measurements
from edgetem_nodes.provenance.bag import BagWriter
bag = BagWriter(sys.argv[1], append=True)
bag.add_topic("/decision", "edgetem/msg/Decision")
bag.add_topic("/measurements", "edgetem/msg/Measurements")
rows = Measurements(values=[1.5] * 2000)
for index in range(1000):
    for _ in range(3):
        bag.write("/measurements", on_wire(rows), time.time_ns())
    bag.write("/decision", on_wire(Decision(index=index)), time.time_ns())
    bag.flush()
    print(index, flush=True)
"""


def killed_writer(folder, flushes):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    for line in process.stdout:
        if int(line) >= flushes:
            break
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    return int(rest[-1]) if rest else int(line)


def test_after_kill_9_everything_up_to_the_last_flush_is_readable_and_a_resume_goes_on(tmp_path):
    folder = tmp_path / "bag"
    last = killed_writer(folder, 20)
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever rosbags raises: unrepaired it does not open)
        rosbags_messages(folder)
    report = repair(folder)
    assert report.changed and report.files[0].rewritten
    indices = [message.index for topic, _, message in rosbags_messages(folder) if topic == "/decision"]
    assert indices[:last + 1] == list(range(last + 1)) and len(indices) <= last + 2
    with Reader(folder) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert counts["/decision"] == len(indices) and 3 * len(indices) <= counts["/measurements"] <= 3 * len(indices) + 3
    before = (folder / "bag_0.mcap").read_bytes()
    assert not repair(folder).changed

    again = killed_writer(folder, 5)
    report = repair(folder)
    assert [file.rewritten for file in report.files] == [False, True]
    assert (folder / "bag_0.mcap").read_bytes() == before
    both = [message.index for topic, _, message in rosbags_messages(folder) if topic == "/decision"]
    assert both[:len(indices)] == indices and both[len(indices):][:again + 1] == list(range(again + 1))
    assert {recorded.session for recorded in read_raw(folder)} == {0, 1}
    assert [entry.path for entry in read_metadata(folder).files] == ["bag_0.mcap", "bag_1.mcap"]


@pytest.fixture(scope="module")
def recorded_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / "bag"
    bag = BagWriter(folder)
    sizes = [(0, (folder / "bag_0.mcap").stat().st_size)]
    for step in range(4):
        fill(bag, 3 * step, 3 * step + 3)
        bag.flush()
        sizes.append((6 * step + 6, (folder / "bag_0.mcap").stat().st_size))
    bag.close()
    return (folder / "bag_0.mcap").read_bytes(), (folder / "metadata.yaml").read_text(), sizes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1))
def test_a_file_cut_off_at_any_byte_keeps_what_was_complete(recorded_bytes, tmp_path_factory, cut):
    data, metadata, sizes = recorded_bytes
    length = round(cut * len(data))
    folder = tmp_path_factory.mktemp("cut") / "bag"
    folder.mkdir()
    (folder / "bag_0.mcap").write_bytes(data[:length])
    (folder / "metadata.yaml").write_text(metadata)
    report = repair(folder)
    flushed = max((count for count, size in sizes if size <= length), default=0)
    assert flushed <= report.messages <= 24
    found = rosbags_messages(folder)
    assert len(found) == report.messages
    assert [message.index for topic, _, message in found if topic == "/decision"] == list(range((report.messages + 1) // 2))
    assert [recorded.log_time for recorded in read_raw(folder)] == [stamp for _, stamp, _ in found]


def test_a_damaged_chunk_is_left_out_and_the_rest_kept(tmp_path):
    folder = tmp_path / "bag"
    bag = BagWriter(folder)
    fill(bag, 0, 5)
    bag.flush()
    size = (folder / "bag_0.mcap").stat().st_size
    fill(bag, 5, 10)
    bag.flush()
    fill(bag, 10, 15)
    bag.close()
    with (folder / "bag_0.mcap").open("r+b") as stream:
        stream.seek(size + 300)
        stream.write(b"\xff\xff\xff\xff")
    report = repair(folder)
    assert report.files[0].damaged_chunks == 1 and "damaged" in str(report)
    found = [message.index for topic, _, message in rosbags_messages(folder) if topic == "/decision"]
    assert found == [*range(5), *range(10, 15)]


def test_missing_or_broken_metadata_is_made_from_the_files(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        fill(bag, 0, 3)
    expected = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    for text in (None, "", "rosbag2_bagfile_information: [1"):
        (tmp_path / "bag" / "metadata.yaml").unlink()
        if text is not None:
            (tmp_path / "bag" / "metadata.yaml").write_text(text)
        assert repair(tmp_path / "bag").metadata_rewritten
        made = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
        made["rosbag2_bagfile_information"]["custom_data"] = expected["rosbag2_bagfile_information"]["custom_data"]
        assert made == expected
    with pytest.raises(BagError, match="no .mcap file"):
        repair(tmp_path)


FULL = """
import resource, sys
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.metadata import BagError
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
bag = BagWriter(sys.argv[1])
bag.add_topic("/decision", "edgetem/msg/Decision")
bag.write("/decision", b"x" * 1000, 1)
bag.flush()
try:
    for k in range(100):
        bag.write("/decision", b"x" * 100000, 2 + k)
except BagError as error:
    print(error)
    bag.close()
"""


def test_a_full_disk_is_named_and_keeps_what_was_flushed(tmp_path):
    process = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "bag")], capture_output=True, text=True, check=True)
    assert "cannot be written" in process.stdout and "MiB free" in process.stdout and not process.stderr
    assert repair(tmp_path / "bag").messages >= 1
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count >= 1


def test_a_topic_keeps_its_type_and_quality_of_service_through_a_resume(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/a", "edgetem/msg/Decision", [quality_of_service(depth=7)])
        bag.write("/a", on_wire(decision(0)), START)
    with BagWriter(tmp_path / "bag", append=True) as bag:
        bag.add_topic("/a", "edgetem/msg/Decision", [quality_of_service(depth=9)])
        bag.write("/a", on_wire(decision(1)), START + 1)
        with pytest.raises(BagError, match="cannot go on with other interfaces"):
            bag.add_topic("/a", "edgetem/msg/ExperimentMap")
    assert [message.index for _, _, message in rosbags_messages(tmp_path / "bag")] == [0, 1]


def test_a_type_without_definition_is_recorded_and_said_so_when_read(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/foreign", "nowhere_msgs/msg/Thing")
        bag.write("/foreign", b"\0\1\0\0", START)
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 1
    with pytest.raises(BagError, match="no definition of nowhere_msgs"):
        list(read_bag(tmp_path / "bag"))


def test_messages_decoded_from_the_bag_equal_those_that_rclpy_made(tmp_path):
    rows = Measurements(indices=[3, 4], values=[1.0, float("nan")], valid=[True, False], names=["cu"], failures=["", "dark"])
    whole = ExperimentMap(mean=[0.25, -1.0])
    whole.field.shape = [1, 2]
    with BagWriter(tmp_path / "bag") as bag:
        for name, message in (("measurements", rows), ("experiment_map", whole)):
            bag.add_topic(f"/left/{name}", f"edgetem/msg/{type(message).__name__}")
            bag.write(f"/left/{name}", on_wire(message), START)
    (_, _, read_rows), = read_bag(tmp_path, ["measurements"])
    (_, _, read_map), = read_bag(tmp_path, ["experiment_map"])
    assert read_rows.indices.tolist() == [3, 4] and read_rows.failures == ["", "dark"]
    assert np.array_equal(read_rows.values, [1.0, np.nan], equal_nan=True)
    assert read_map.mean.tolist() == [0.25, -1.0] and read_map.field.shape.tolist() == [1, 2]
    assert dataclasses.is_dataclass(read_map)
