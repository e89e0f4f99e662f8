"""A rosbag2 in MCAP files that is safe on disk up to the last flush, and goes on after a resume. Imports no ROS.

The folder holds `metadata.yaml`, written at the start and at every flush, and `bag_0.mcap`, `bag_1.mcap`, ...: one file
for every time the recorder ran. Unmodified readers (`rosbags`, `ros2 bag`) read it once it is closed or repaired.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mcap.writer import CompressionType, Writer

from edgetem_nodes import __version__
from edgetem_nodes.provenance import definitions
from edgetem_nodes.provenance.metadata import BagError, BagMetadata, FileEntry, TopicEntry, quality_of_service
from edgetem_nodes.provenance.repair import repair

CHUNK_SIZE = 1 << 20
"""[byte] of a chunk: what the writer holds in memory between two flushes."""
LIBRARY = f"edgetem {__version__}"
COMPRESSIONS = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}
ENCODING = "ros2msg"


class BagWriter:
    """Write serialized messages to a bag.

    Parameters
    ----------
    folder : of the bag; made with its parents.
    append : go on in a bag that exists, in its next file; else an existing folder is an error.
    compression : "none", "lz4" or "zstd", of the chunks. Without compression even a chunk that was cut off can be
        recovered message by message.

    Raises
    ------
    BagError : the folder exists, is being written by another process, or cannot be written.
    """

    def __init__(self, folder: str | Path, *, append: bool = False, compression: str = "none") -> None:
        self.folder = Path(folder)
        self._closed = True
        self._background = ThreadPoolExecutor(1, "bag")
        self._syncing: Future | None = None
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._metadata = BagMetadata(custom={"edgetem_version": __version__})
        if self.folder.exists() and any(self.folder.iterdir()):
            if not append:
                raise BagError(f"the bag {self.folder} exists and is never overwritten: choose another output folder, or "
                               "resume the experiment that it belongs to")
            self._metadata = repair(self.folder).metadata
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem[4:]) for path in self.folder.glob("bag_*.mcap") if path.stem[4:].isdecimal()]
            path = self.folder / f"bag_{max(numbers, default=-1) + 1}.mcap"
            self._stream = path.open("xb")
        except OSError as error:
            raise BagError(f"the bag {self.folder} cannot be written: {error.strerror}") from None
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._closed = False
        self._file = FileEntry(path.name)
        self._metadata.files.append(self._file)
        self._writer = Writer(self._stream, CHUNK_SIZE, COMPRESSIONS[compression])
        self._guarded(self._writer.start, "ros2", LIBRARY)
        self.flush()

    @property
    def metadata(self) -> BagMetadata:
        """What `metadata.yaml` says after the next flush."""
        return self._metadata

    def add_topic(self, name: str, type_name: str, offered_qos: list[dict] | None = None, type_hash: str = "") -> None:
        """Make a topic known before its first message; a second call with the same type changes nothing.

        Parameters
        ----------
        name : absolute topic name.
        type_name : e.g. "edgetem/msg/Decision".
        offered_qos : from `metadata.quality_of_service`; what publishers offer. A topic that the resumed bag holds
            keeps what it was recorded with.
        type_hash : RIHS01; empty: looked up in the installed package.

        Raises
        ------
        BagError : the bag holds the topic with another type or another definition of it.
        """
        known = self._metadata.topics.get(name)
        if name in self._channels and known.type == type_name:
            return
        try:
            text = definitions.definition(type_name)
            type_hash = type_hash or definitions.type_hash(type_name)
        except definitions.DefinitionNotFoundError:
            text = ""
        if known is not None and (known.type, known.type_hash) != (type_name, type_hash):
            raise BagError(f"the bag {self.folder} holds {name} as {known.type} ({known.type_hash}), which is now "
                           f"{type_name} ({type_hash}): it cannot go on with other interfaces")
        if known is None:
            offered = [quality_of_service()] if offered_qos is None else offered_qos
            known = TopicEntry(name, type_name, offered, type_hash)
            self._metadata.topics[name] = known
        if type_name not in self._schemas:
            self._schemas[type_name] = self._guarded(
                self._writer.register_schema, type_name, ENCODING if text else "", text.encode())
        self._channels[name] = self._guarded(
            self._writer.register_channel, name, "cdr", self._schemas[type_name],
            {"offered_qos_profiles": known.offered_qos_text(), "topic_type_hash": known.type_hash})

    def write(self, name: str, data: bytes, log_time: int, publish_time: int | None = None) -> None:
        """Write one serialized message of a known topic; times in ns since the epoch, of receipt and of publication.

        Raises
        ------
        BagError : the disk is full or fails. What was flushed before stays readable after `repair`.
        """
        self._guarded(self._writer.add_message, self._channels[name], log_time, data,
                      log_time if publish_time is None else publish_time)
        self._metadata.topics[name].message_count += 1
        self._file.add(log_time)

    def write_out(self) -> None:
        """Hand everything written so far to the operating system: it outlives this process, if not a loss of power.

        Raises
        ------
        BagError : the disk is full or fails.
        """
        self._guarded(self._writer.flush)

    def flush(self, wait: bool = True) -> None:
        """Bring everything written so far, and metadata that says so, safely to disk.

        Parameters
        ----------
        wait : for the disk; else it is written to in the background, and its error is raised by a later call.

        Raises
        ------
        BagError : the disk is full or fails.
        """
        self._guarded(self._writer.flush)
        self._guarded(self._metadata.write, self.folder)
        if self._syncing is not None and (wait or self._syncing.done()):
            self._guarded(self._syncing.result)
            self._syncing = None
        if wait:
            self._guarded(os.fdatasync, self._stream.fileno())
        elif self._syncing is None:
            self._syncing = self._background.submit(os.fdatasync, self._stream.fileno())

    def close(self) -> None:
        """Write summary and index, and close. A second call does nothing.

        Raises
        ------
        BagError : the disk is full or fails; `repair` then makes the bag readable.
        """
        if self._closed:
            return
        self.flush()
        self._guarded(self._writer.add_metadata, "rosbag2", {"serialized_metadata": self._metadata.serialized()})
        self._guarded(self._writer.finish)
        self._guarded(self._stream.flush)
        self._guarded(os.fdatasync, self._stream.fileno())
        self._guarded(self._metadata.write, self.folder)
        self._closed = True
        self._stream.close()
        self._background.shutdown()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guarded(self, work, *arguments):
        """Call what writes; an error of the disk ends the bag with a message that says what to do."""
        if self._closed:
            raise BagError(f"the bag {self.folder} is closed: nothing more can be written to it")
        try:
            return work(*arguments)
        except OSError as error:
            self._closed = True
            self._background.shutdown()
            try:
                self._stream.close()
            except OSError:
                pass  # what could not be written a moment ago cannot be written now
            free = shutil.disk_usage(self.folder).free / (1 << 20)
            raise BagError(f"the bag {self.folder} cannot be written: {error.strerror} ({free:.0f} MiB free). What was "
                           "flushed before is kept: make room, then resume the experiment") from None
