"""`metadata.yaml` of a rosbag2 folder, version 9, as rosbag2's own `MetadataIo` writes and reads it. Imports no ROS."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import yaml

NAME = "metadata.yaml"
VERSION = 9
ROS_DISTRIBUTION = os.environ.get("ROS_DISTRO", "kilted")
"""What a full installation says it is, else the distribution of the wheels."""
EMPTY_START = 2**63 - 1
"""[ns] starting time of a file without messages, as rosbag2 writes it."""
FOREVER = {"sec": 9223372036, "nsec": 854775807}
"""rmw's infinite duration."""


class BagError(RuntimeError):
    """A bag that cannot be written or read; the message names the folder, the cause and what to do."""


def quality_of_service(history: str = "keep_last", depth: int = 10, reliability: str = "reliable",
                       durability: str = "volatile", deadline: dict | None = None, lifespan: dict | None = None,
                       liveliness: str = "automatic", liveliness_lease_duration: dict | None = None) -> dict:
    """One offered quality of service in the form of version 9: names of policies, durations as `{sec, nsec}`."""
    return {"history": history, "depth": depth, "reliability": reliability, "durability": durability,
            "deadline": dict(deadline or FOREVER), "lifespan": dict(lifespan or FOREVER), "liveliness": liveliness,
            "liveliness_lease_duration": dict(liveliness_lease_duration or FOREVER),
            "avoid_ros_namespace_conventions": False}


@dataclass
class TopicEntry:
    """A topic of the bag: its name, type, offered qualities of service, RIHS01 hash, and count of messages."""

    name: str
    type: str
    offered_qos: list[dict]
    type_hash: str
    message_count: int = 0
    serialization_format: str = "cdr"
    _unchanging: str = field(default="", repr=False, compare=False)

    def information(self) -> dict:
        """The topic's entry under `topics_with_message_count`."""
        return {"topic_metadata": {"name": self.name, "type": self.type, "serialization_format": self.serialization_format,
                                   "offered_qos_profiles": self.offered_qos, "type_description_hash": self.type_hash},
                "message_count": self.message_count}

    def text(self) -> str:
        """The entry as YAML. Of all but the count it is made once: it is written anew with every decision."""
        if not self._unchanging:
            self._unchanging = _dump([{"topic_metadata": self.information()["topic_metadata"]}])
        return f"{self._unchanging}  message_count: {self.message_count}\n"

    def offered_qos_text(self) -> str:
        """The offered qualities of service as the YAML text that a channel of the MCAP file carries."""
        return yaml.safe_dump(self.offered_qos, sort_keys=False) if self.offered_qos else ""


@dataclass
class FileEntry:
    """A file of the bag: name, time of its first and last message [ns since the epoch], count of messages."""

    path: str
    start: int = EMPTY_START
    end: int = 0
    message_count: int = 0

    def add(self, log_time: int) -> None:
        """Count one message."""
        self.start, self.end = min(self.start, log_time), max(self.end, log_time)
        self.message_count += 1

    @property
    def duration(self) -> int:
        """[ns] from the first message to the last."""
        return max(0, self.end - self.start) if self.message_count else 0


@dataclass
class BagMetadata:
    """What `metadata.yaml` says about the whole bag."""

    topics: dict[str, TopicEntry] = field(default_factory=dict)
    files: list[FileEntry] = field(default_factory=list)
    custom: dict[str, str] = field(default_factory=dict)
    ros_distribution: str = ROS_DISTRIBUTION

    def information(self) -> dict:
        """The mapping under `rosbag2_bagfile_information`."""
        counted = [entry for entry in self.files if entry.message_count]
        start = min((entry.start for entry in counted), default=EMPTY_START)
        end = max((entry.end for entry in counted), default=start)
        return {
            "version": VERSION,
            "storage_identifier": "mcap",
            "duration": {"nanoseconds": end - start},
            "starting_time": {"nanoseconds_since_epoch": start},
            "message_count": sum(entry.message_count for entry in self.files),
            "topics_with_message_count": [topic.information() for topic in self.topics.values()],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [entry.path for entry in self.files],
            "files": [{"path": entry.path, "starting_time": {"nanoseconds_since_epoch": entry.start},
                       "duration": {"nanoseconds": entry.duration}, "message_count": entry.message_count}
                      for entry in self.files],
            "custom_data": self.custom or None,
            "ros_distro": self.ros_distribution,
        }

    def text(self) -> str:
        """The whole file."""
        return "rosbag2_bagfile_information:\n" + textwrap.indent(self.serialized(), "  ")

    def serialized(self) -> str:
        """The information alone, as the record `rosbag2` of an MCAP file carries it."""
        parts = []
        for key, value in self.information().items():
            if key == "topics_with_message_count" and self.topics:
                parts += [f"{key}:\n", *(topic.text() for topic in self.topics.values())]
            else:
                parts.append(_dump({key: value}))
        return "".join(parts)

    def write(self, folder: Path) -> None:
        """Write `metadata.yaml` so that a reader sees the old one or the new one, never a part."""
        temporary = folder / f"{NAME}.{os.getpid()}"
        temporary.write_text(self.text())
        temporary.replace(folder / NAME)


class _PlainDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    """Ten times as fast where libyaml is there. No anchors: rosbag2 reads them, people do not."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _dump(content: dict) -> str:
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def read_metadata(folder: str | Path) -> BagMetadata:
    """Read `metadata.yaml` of a bag folder.

    Raises
    ------
    BagError : the file is missing, or is not metadata of a bag in MCAP files.
    """
    path = Path(folder) / NAME
    try:
        content = yaml.safe_load(path.read_text())
        information = content["rosbag2_bagfile_information"]
        if information["storage_identifier"] != "mcap":
            raise BagError(f"{path}: storage {information['storage_identifier']!r} is not 'mcap', which edgetem writes: "
                           "convert the bag with 'ros2 bag convert'")
        topics = {}
        for entry in information["topics_with_message_count"]:
            topic = entry["topic_metadata"]
            offered = topic.get("offered_qos_profiles") or []
            offered = yaml.safe_load(offered) if isinstance(offered, str) else offered
            topics[topic["name"]] = TopicEntry(topic["name"], topic["type"], offered or [],
                                               topic.get("type_description_hash", ""), entry["message_count"])
        files = []
        for entry in information.get("files") or []:
            start = entry["starting_time"]["nanoseconds_since_epoch"]
            files.append(FileEntry(entry["path"], start, start + entry["duration"]["nanoseconds"], entry["message_count"]))
        return BagMetadata(topics, files, dict(information.get("custom_data") or {}),
                           information.get("ros_distro", ROS_DISTRIBUTION))
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}: is {folder} the folder of a bag?") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BagError(f"{path} is not the metadata of a rosbag2 ({error}): 'edgetem report FOLDER' rewrites it from the MCAP "
                       "files") from None
