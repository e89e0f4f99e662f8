"""Every message of an MCAP file that can still be read, whether or not the file was closed. Imports no ROS."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")
_LARGEST_RECORD = 4 << 30
_KNOWN = frozenset(int(code) for code in Opcode)


class Salvage:
    """Read an MCAP file from the front, record by record, and tell what is wrong with it.

    Iterating yields `(schema or None, channel, message)` in file order. A chunk whose checksum fails is left out; of a
    chunk that was cut off, the messages that are there in full are yielded where it is not compressed. Iterating again
    knows the channels that the first time found too late. Afterwards:

    closed : the file ends as a closed file does, with summary, footer and magic.
    damaged_chunks : chunks left out because checksum or compression failed.
    orphans : messages whose channel is in no readable record.
    lost_bytes : bytes at the end that belong to no complete record.
    schemas, channels : what was found, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self.damaged_chunks = 0
        self.orphans = 0
        self.lost_bytes = 0
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}

    @property
    def intact(self) -> bool:
        """Nothing is wrong with the file; true only after iterating to the end."""
        return self.closed and not self.damaged_chunks and not self.orphans

    def __iter__(self) -> Iterator[tuple[Schema | None, Channel, Message]]:
        self.closed, self.damaged_chunks, self.orphans, self.lost_bytes = False, 0, 0, 0
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                self.lost_bytes = size
                return
            summary = False
            while True:
                start = stream.tell()
                head = stream.read(_HEAD.size)
                if len(head) < _HEAD.size:
                    self.lost_bytes = size - start
                    return
                code, length = _HEAD.unpack(head)
                if code not in _KNOWN or length > _LARGEST_RECORD:
                    self.lost_bytes = size - start
                    return
                body = stream.read(length)
                if len(body) < length:
                    if code == Opcode.CHUNK:
                        yield from self._cut_off_chunk(body)
                    self.lost_bytes = size - start
                    return
                if code == Opcode.FOOTER:
                    self.closed = stream.read(len(MAGIC)) == MAGIC
                    return
                summary = summary or code == Opcode.DATA_END
                if code == Opcode.CHUNK:
                    yield from self._chunk(body)
                elif not summary or code in (Opcode.SCHEMA, Opcode.CHANNEL):
                    yield from self._record(code, body)

    def _chunk(self, body: bytes) -> Iterator[tuple[Schema | None, Channel, Message]]:
        try:
            chunk = Chunk.read(ReadDataStream(BytesIO(body)))
            if chunk.compression == "zstd":
                data = zstandard.decompress(chunk.data, chunk.uncompressed_size)
            elif chunk.compression == "lz4":
                data = lz4.frame.decompress(chunk.data)
            else:
                data = chunk.data
        except (McapError, ValueError, RuntimeError, struct.error, zstandard.ZstdError):
            self.damaged_chunks += 1
            return
        if len(data) != chunk.uncompressed_size or (chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc):
            self.damaged_chunks += 1
            return
        yield from self._contents(data)

    def _cut_off_chunk(self, body: bytes) -> Iterator[tuple[Schema | None, Channel, Message]]:
        if len(body) < 40 or body[28:32] != bytes(4):
            return  # the head of the chunk is not complete, or the chunk is compressed
        yield from self._contents(body[40:])

    def _contents(self, data: bytes) -> Iterator[tuple[Schema | None, Channel, Message]]:
        offset = 0
        while offset + _HEAD.size <= len(data):
            code, length = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            if code not in _KNOWN or offset + length > len(data):
                return
            yield from self._record(code, data[offset:offset + length])
            offset += length

    def _record(self, code: int, body: bytes) -> Iterator[tuple[Schema | None, Channel, Message]]:
        stream = ReadDataStream(BytesIO(body))
        if code == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self.schemas[schema.id] = schema
        elif code == Opcode.CHANNEL:
            channel = Channel.read(stream)
            self.channels[channel.id] = channel
        elif code == Opcode.MESSAGE:
            message = Message.read(stream, len(body))
            channel = self.channels.get(message.channel_id)
            if channel is None:
                self.orphans += 1
            else:
                yield self.schemas.get(channel.schema_id), channel, message
