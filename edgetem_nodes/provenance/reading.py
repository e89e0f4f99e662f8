"""Read the bags of the recorder: raw, or as messages decoded with the definitions that the bag itself holds.

Imports no ROS: messages come as the dataclasses of `rosbags`, with numpy arrays, so a bag opens on a machine without
ROS and long after the interfaces have changed. A bag that was never closed is read as far as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from edgetem_nodes.provenance.metadata import NAME, BagError, read_metadata
from edgetem_nodes.provenance.salvage import MAGIC, Salvage


@dataclass(frozen=True)
class RecordedMessage:
    """One message of a bag as it was received.

    topic : absolute name.
    type : e.g. "edgetem/msg/Decision".
    log_time, publish_time : [ns] since the epoch, of receipt and of publication.
    data : serialized, CDR.
    session : which of the bag's files, from 0: one for every time the recorder ran.
    definition : text of the type's definition.
    type_hash : RIHS01.
    """

    topic: str
    type: str
    log_time: int
    publish_time: int
    data: bytes
    session: int
    definition: str
    type_hash: str

    def decode(self) -> Any:
        """The message, a dataclass of `rosbags` with numpy arrays.

        Raises
        ------
        BagError : the bag holds no definition of the type, or the bytes are not a message of it.
        """
        try:
            return decoder(self.type, self.definition)(self.data)
        except SerdeError as error:
            raise BagError(f"a message of {self.topic} at {self.log_time} ns is not a {self.type}: {error}") from None


def bag_files(folder: str | Path) -> list[Path]:
    """The MCAP files of a bag, in order of recording. `folder` may be the bag's or the experiment's.

    Raises
    ------
    BagError : there is no bag, or a file of it is missing.
    """
    folder = bag_folder(folder)
    listed = [folder / entry.path for entry in read_metadata(folder).files]
    missing = [path.name for path in listed if not path.is_file()]
    if missing:
        raise BagError(f"bag {folder}: {NAME} lists {', '.join(missing)}, which is not there: 'edgetem report FOLDER' makes "
                       "the bag consistent")
    return listed


def bag_folder(path: str | Path) -> Path:
    """The bag's folder, given it or the folder of the experiment that holds it as `bag`.

    Raises
    ------
    BagError : neither holds a `metadata.yaml`.
    """
    path = Path(path)
    for folder in (path, path / "bag"):
        if (folder / NAME).is_file():
            return folder
    raise BagError(f"{path} holds no bag: there is neither {NAME} nor bag/{NAME} in it")


def read_raw(folder: str | Path, topics: Iterable[str] | None = None) -> Iterator[RecordedMessage]:
    """Messages of a bag, serialized, in order of receipt within each session.

    Parameters
    ----------
    folder : of the bag, or of the experiment.
    topics : names to read; a relative one ("decision") matches in whatever namespace the bag was recorded. None: all.

    Raises
    ------
    BagError : there is no readable bag.
    """
    wanted = None if topics is None else tuple(topics)
    for session, path in enumerate(bag_files(folder)):
        for schema, channel, message in _messages(path, wanted):
            yield RecordedMessage(channel.topic, schema.name if schema else "", message.log_time, message.publish_time,
                                  message.data, session, schema.data.decode() if schema else "",
                                  channel.metadata.get("topic_type_hash", ""))


def read_bag(folder: str | Path, topics: Iterable[str] | None = None) -> Iterator[tuple[str, int, Any]]:
    """`(topic, time of receipt [ns], message)` of a bag, in order of receipt; see `read_raw`.

    Messages are decoded with the definitions in the bag; topics whose definition it lacks raise BagError.
    """
    for recorded in read_raw(folder, topics):
        yield recorded.topic, recorded.log_time, recorded.decode()


def matches(topic: str, names: Iterable[str]) -> bool:
    """Whether an absolute topic name is one of the names; a relative name matches in every namespace."""
    return any(topic == name or (not name.startswith("/") and topic.endswith("/" + name)) for name in names)


@lru_cache
def decoder(type_name: str, definition: str) -> Callable[[bytes], Any]:
    """A function from serialized bytes to the message, made from the definition in the bag.

    Raises
    ------
    BagError : there is no definition.
    """
    if not definition:
        raise BagError(f"the bag holds no definition of {type_name}: it was recorded where the package was not installed")
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition, type_name))
    return lambda data: store.deserialize_cdr(data, type_name)


def _messages(path: Path, wanted: tuple[str, ...] | None) -> Iterator[tuple]:
    with path.open("rb") as stream:
        if _closed(path):
            try:
                reader = SeekingReader(stream, validate_crcs=True)
                summary = reader.get_summary()
                names = None if wanted is None else [
                    channel.topic for channel in summary.channels.values() if matches(channel.topic, wanted)]
                if names == []:
                    return
                yield from reader.iter_messages(topics=names)
                return
            except (McapError, ValueError) as error:
                raise BagError(f"{path} is damaged ({error}): 'edgetem report FOLDER' keeps what can be recovered") from None
        found = [item for item in Salvage(path) if wanted is None or matches(item[1].topic, wanted)]
        yield from sorted(found, key=lambda item: item[2].log_time)


def _closed(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < 2 * len(MAGIC):
            return False
        stream.seek(-len(MAGIC), 2)
        return stream.read() == MAGIC
