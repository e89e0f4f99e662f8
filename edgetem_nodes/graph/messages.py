"""Between messages and numpy: arrays, identifiers, stamps, axes."""

from __future__ import annotations

import array
import uuid
import zlib
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from unique_identifier_msgs.msg import UUID

NIL = uuid.UUID(int=0)


def byte_array(values: np.ndarray | bytes | memoryview) -> array.array:
    """A `uint8[]` field from any contiguous buffer: one copy, where assigning the ndarray costs 7000 times more."""
    result = array.array("B")
    if isinstance(values, np.ndarray):
        values = memoryview(np.ascontiguousarray(values)).cast("B")
    result.frombytes(values)
    return result


def number_array(values: Any, typecode: str = "d") -> array.array:
    """A `float64[]` ("d"), `uint64[]` ("Q") or `uint32[]` ("I") field from any array, flattened row-major."""
    return array.array(typecode, np.ascontiguousarray(values, np.dtype(typecode)).tobytes())


def numbers(field: Any, shape: tuple[int, ...] | None = None, dtype: Any = np.float64) -> np.ndarray:
    """A numeric field as an array of the given shape (row-major); a view of the message where it can be one."""
    result = np.frombuffer(field, dtype) if isinstance(field, array.array) else np.asarray(field, dtype)
    return result if shape is None else result.reshape(shape)


def positions_array(field: Any) -> np.ndarray:
    """A positions field as (count, 2), (y, x) [m]."""
    return numbers(field, (-1, 2))


def block_data(block: Any) -> np.ndarray:
    """The frames of a DetectorBlock, shape `block.shape`, a read-only view of the message.

    Raises
    ------
    ValueError : the checksum or the size does not fit.
    """
    data = memoryview(block.data)
    if zlib.crc32(data) != block.crc32:
        raise ValueError(f"block {block.block_index} of acquisition {to_uuid(block.acquisition_id)} is damaged: its CRC-32 "
                         f"is {zlib.crc32(data):08x}, the header says {block.crc32:08x}")
    shape = tuple(block.shape)
    dtype = np.dtype(block.dtype)
    if len(data) != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError(f"block {block.block_index} holds {len(data)} bytes; shape {shape} of {dtype} needs "
                         f"{int(np.prod(shape)) * dtype.itemsize}")
    return np.frombuffer(data, dtype).reshape(shape)


def from_uuid(value: uuid.UUID) -> UUID:
    """A UUID as a message."""
    return UUID(uuid=np.frombuffer(value.bytes, np.uint8))


def to_uuid(message: UUID) -> uuid.UUID:
    """A UUID message as `uuid.UUID`."""
    return uuid.UUID(bytes=bytes(bytearray(message.uuid)))


def to_stamp(seconds: float | int, nanoseconds: int | None = None) -> Time:
    """A stamp from seconds since the epoch, or exactly from whole `nanoseconds` where given."""
    total = round(seconds * 1e9) if nanoseconds is None else nanoseconds
    return Time(sec=int(total // 1_000_000_000), nanosec=int(total % 1_000_000_000))


def stamp_nanoseconds(stamp: Time) -> int:
    """Nanoseconds since the epoch of a stamp."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec
