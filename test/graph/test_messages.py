"""Conversions between messages and numpy keep every bit."""

import uuid
import zlib

import numpy as np
import pytest
from edgetem.msg import Decision, DetectorBlock
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edgetem_nodes.graph import messages


@given(npst.arrays(st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]),
                   npst.array_shapes(min_dims=2, max_dims=3, max_side=6)))
def test_block_data_returns_what_was_put_in(frames):
    data = messages.byte_array(frames)
    block = DetectorBlock(shape=messages.number_array(frames.shape, "I"), dtype=frames.dtype.name, data=data,
                          crc32=zlib.crc32(frames.tobytes()))
    assert messages.block_data(block).tobytes() == frames.tobytes()
    assert messages.block_data(block).shape == frames.shape


def test_a_non_contiguous_array_is_flattened_row_major():
    frames = np.arange(24, dtype=np.uint16).reshape(4, 6)[:, ::2]
    assert bytes(messages.byte_array(frames)) == np.ascontiguousarray(frames).tobytes()


def test_a_damaged_block_is_refused():
    frames = np.ones((2, 3), np.uint8)
    block = DetectorBlock(shape=messages.number_array(frames.shape, "I"), dtype="uint8", block_index=4,
                          data=messages.byte_array(frames), crc32=1)
    with pytest.raises(ValueError, match=r"block 4 .* damaged"):
        messages.block_data(block)
    block.crc32 = zlib.crc32(frames.tobytes())
    block.shape = messages.number_array((2, 4), "I")
    with pytest.raises(ValueError, match="holds 6 bytes"):
        messages.block_data(block)


@given(npst.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(2))))
def test_positions_survive_a_message(positions):
    message = Decision(positions=messages.number_array(positions))
    assert messages.positions_array(message.positions).tobytes() == positions.tobytes()


@given(st.uuids())
def test_identifiers_survive_a_message(value):
    assert messages.to_uuid(messages.from_uuid(value)) == value


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_keep_nanoseconds(nanoseconds):
    assert messages.stamp_nanoseconds(messages.to_stamp(0, nanoseconds)) == nanoseconds


def test_nil_is_the_default_of_a_message():
    assert messages.to_uuid(Decision().acquisition_id) == messages.NIL == uuid.UUID(int=0)
