"""The codec loses nothing, and what it makes is what the HDF5 Blosc2 filter of hdf5plugin reads."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgetem_nodes.compressor.codec import Codec

CODECS = st.builds(Codec, st.sampled_from(["zstd", "lz4"]), st.integers(0, 9))
DTYPES = st.sampled_from(["uint8", "int16", "uint16", "uint32", "int64", "float32", "float64"])


@settings(max_examples=40, deadline=None)
@given(codec=CODECS, note=st.binary(max_size=200),
       values=DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=1, max_dims=4, max_side=8))))
def test_decoding_and_the_hdf5_filter_give_back_every_bit(codec, note, values):
    encoded = codec.encode(values, note)
    assert codec.decode(encoded, values.dtype, values.shape).tobytes() == values.tobytes()
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("x", shape=values.shape, chunks=values.shape, dtype=values.dtype, **codec.dataset_options)
        data.id.write_direct_chunk((0,) * values.ndim, encoded)
        assert data[()].tobytes() == values.tobytes()


def test_a_strided_view_is_encoded_as_its_values():
    values = np.arange(60, dtype=np.uint16).reshape(6, 10)[::2, ::-1]
    assert np.array_equal(Codec().decode(Codec().encode(values), "u2", values.shape), values)


def test_sparse_counts_come_within_twice_the_entropy():
    generator = np.random.default_rng(0)
    rate = 0.5
    frames = generator.poisson(rate, (32, 128, 128)).astype(np.uint16)
    counts = np.arange(12)
    factorials = np.cumprod(np.maximum(counts, 1))
    probability = np.exp(-rate) * rate**counts / factorials
    entropy_bits = -(probability * np.log2(probability)).sum()
    bits = 8 * len(Codec().encode(frames)) / frames.size
    assert entropy_bits <= bits < 2 * entropy_bits


def test_it_is_no_larger_than_what_the_filter_itself_writes():
    frames = np.random.default_rng(1).poisson(0.3, (16, 64, 64)).astype(np.uint16)
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        options = hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE)
        data = file.create_dataset("x", data=frames, chunks=frames.shape, **options)
        assert len(Codec().encode(frames)) < 1.1 * data.id.get_storage_size()


def test_what_cannot_be_encoded_or_decoded_is_said():
    with pytest.raises(ValueError, match="0 bytes to encode"):
        Codec().encode(np.empty(0, np.uint16))
    encoded = Codec().encode(np.arange(100, dtype=np.uint16))
    with pytest.raises(ValueError, match="holds 200 bytes; shape \\(99,\\) of uint16 needs 198"):
        Codec().decode(encoded, "uint16", (99,))
    with pytest.raises(ValueError, match="not a sound Blosc2 frame"):
        Codec().decode(encoded[:-10], "uint16", (100,))
    with pytest.raises(ValueError, match="'gzip' is not one of zstd, lz4"):
        Codec("gzip")
    with pytest.raises(ValueError, match="level 10"):
        Codec(level=10)
