"""Make a bag readable that a dead recorder left. Imports no ROS."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from mcap.writer import CompressionType, Writer

from edgetem_nodes.provenance.metadata import NAME, BagError, BagMetadata, FileEntry, TopicEntry, read_metadata
from edgetem_nodes.provenance.salvage import Salvage

_REPAIRING = ".repairing"


@dataclass
class FileRepair:
    """What became of one file: its entry in the metadata, whether it was rewritten, and what was lost."""

    entry: FileEntry
    rewritten: bool
    damaged_chunks: int
    orphans: int
    lost_bytes: int


@dataclass
class RepairReport:
    """What `repair` found and did."""

    folder: Path
    metadata: BagMetadata
    files: list[FileRepair] = field(default_factory=list)
    metadata_rewritten: bool = False

    @property
    def changed(self) -> bool:
        """Anything had to be repaired."""
        return self.metadata_rewritten or any(file.rewritten for file in self.files)

    @property
    def messages(self) -> int:
        """Messages in the bag now."""
        return sum(file.entry.message_count for file in self.files)

    def __str__(self) -> str:
        if not self.changed:
            return f"bag {self.folder}: nothing to repair, {self.messages} messages"
        rewritten = [file for file in self.files if file.rewritten]
        lost = sum(file.lost_bytes for file in rewritten)
        damaged = sum(file.damaged_chunks for file in rewritten)
        return (f"bag {self.folder}: {self.messages} messages; rewrote "
                + ", ".join([file.entry.path for file in rewritten] + ([NAME] if self.metadata_rewritten else []))
                + (f"; {lost} bytes after the last complete record are lost" if lost else "")
                + (f"; {damaged} damaged chunks left out" if damaged else ""))


def repair(folder: str | Path) -> RepairReport:
    """Make the bag in a folder readable by every reader, keeping every message that can be recovered.

    A file that was not closed, or has a damaged chunk, is rewritten with index and summary and takes the old one's place
    in one step; a file in order stays untouched. `metadata.yaml` is made to say what the files hold. Repairing a bag
    in order changes nothing.

    Raises
    ------
    BagError : the folder holds no bag, a process is still writing it, or the disk is full.
    """
    folder = Path(folder)
    try:
        said = read_metadata(folder) if (folder / NAME).exists() else BagMetadata()
    except BagError as error:
        if "storage" in str(error):
            raise
        said = BagMetadata()
    for leftover in [*folder.glob(f"*{_REPAIRING}"), *folder.glob(f"{NAME}.*")]:
        leftover.unlink()
    paths = sorted(folder.glob("*.mcap"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise BagError(f"{folder} holds no bag: there is no .mcap file in it")
    metadata = BagMetadata(custom=said.custom, ros_distribution=said.ros_distribution)
    for entry in said.topics.values():  # a topic that never had a message stays listed, in its place
        metadata.topics[entry.name] = TopicEntry(entry.name, entry.type, entry.offered_qos, entry.type_hash)
    report = RepairReport(folder, metadata)
    try:
        for path in paths:
            report.files.append(_repair_file(path, metadata))
            metadata.files.append(report.files[-1].entry)
        if not (folder / NAME).exists() or (folder / NAME).read_text() != metadata.text():
            metadata.write(folder)
            report.metadata_rewritten = True
    except OSError as error:
        raise BagError(f"the bag {folder} cannot be repaired: {error.strerror}: make room or check the permissions, then "
                       "repair it again; nothing is lost by the attempt") from None
    return report


def _repair_file(path: Path, metadata: BagMetadata) -> FileRepair:
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BagError(f"{path} is being written by a running recorder: stop that first") from None
        salvage = Salvage(path)
        entry, counts = _count(salvage, path)
        if salvage.orphans and salvage.channels:  # the summary at the end may have named what the front lacks
            entry, counts = _count(salvage, path)
        for number, channel in salvage.channels.items():
            schema = salvage.schemas.get(channel.schema_id)
            if channel.topic not in metadata.topics:
                offered = yaml.safe_load(channel.metadata.get("offered_qos_profiles", "")) or []
                metadata.topics[channel.topic] = TopicEntry(channel.topic, schema.name if schema else "", offered,
                                                            channel.metadata.get("topic_type_hash", ""))
            metadata.topics[channel.topic].message_count += counts.get(number, 0)
        if not salvage.intact:
            _rewrite(path, salvage, BagMetadata(metadata.topics, [entry], metadata.custom, metadata.ros_distribution))
    return FileRepair(entry, not salvage.intact, salvage.damaged_chunks, salvage.orphans, salvage.lost_bytes)


def _count(salvage: Salvage, path: Path) -> tuple[FileEntry, dict[int, int]]:
    entry, counts = FileEntry(path.name), {}
    for _, channel, message in salvage:
        counts[channel.id] = counts.get(channel.id, 0) + 1
        entry.add(message.log_time)
    return entry, counts


def _rewrite(path: Path, salvage: Salvage, metadata: BagMetadata) -> None:
    temporary = path.with_name(path.name + _REPAIRING)
    with temporary.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE)
        writer.start("ros2", "edgetem repair")
        schemas: dict[int, int] = {}
        channels: dict[int, int] = {}

        def channel_number(number: int) -> int:
            if number not in channels:
                channel = salvage.channels[number]
                schema = salvage.schemas.get(channel.schema_id)
                if schema is not None and schema.id not in schemas:
                    schemas[schema.id] = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[number] = writer.register_channel(channel.topic, channel.message_encoding,
                                                           schemas.get(channel.schema_id, 0), channel.metadata)
            return channels[number]

        for _, channel, message in salvage:
            writer.add_message(channel_number(channel.id), message.log_time, message.data, message.publish_time,
                               message.sequence)
        for number in salvage.channels:
            channel_number(number)
        writer.flush()
        writer.add_metadata("rosbag2", {"serialized_metadata": metadata.serialized()})
        writer.finish()
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
