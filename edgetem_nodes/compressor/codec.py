"""Lossless coding of detector frames: Blosc2 with bit shuffling, in the form that the HDF5 Blosc2 filter stores.

Counts are small numbers in wide words: shuffling bits gathers the empty ones, and a fast entropy coder takes the rest.
Measured on one thread, ratio and speed of the input (see docs/compressor.md): Zstandard at level 1 is as dense as at
level 3 on sparse frames and twice as fast; LZ4 is twice as fast again and up to a factor 2.4 less dense.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import blosc2
import hdf5plugin
import numpy as np

from edgetem_nodes.archive.chunk import NOTE, decode

ALGORITHMS = {"zstd": blosc2.Codec.ZSTD, "lz4": blosc2.Codec.LZ4}
BLOCK = 128 * 1024
"""Bytes that are shuffled and coded together: the gain of larger ones is below 3 %, smaller ones fit no better."""
LARGEST = 2**31 - 64
"""Bytes that a Blosc2 chunk can hold."""


@dataclass(frozen=True)
class Codec:
    """A lossless codec.

    Parameters
    ----------
    algorithm : "zstd" (dense) or "lz4" (fast).
    level : 0 (store) to 9.
    threads : of Blosc2, per encoded chunk.
    """

    algorithm: str = "zstd"
    level: int = 1
    threads: int = 1
    dataset_options: dict[str, Any] = field(init=False, repr=False, compare=False)
    """Filter arguments of `h5py.Group.create_dataset`: any h5py with hdf5plugin reads what was encoded here."""

    _parameters: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"codec {self.algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        if not 0 <= self.level <= 9:
            raise ValueError(f"codec level {self.level} is outside 0-9")
        if self.threads < 1:
            raise ValueError(f"codec threads {self.threads}: give 1 or more")
        options = hdf5plugin.Blosc2(cname=self.algorithm, clevel=self.level, filters=hdf5plugin.Blosc2.BITSHUFFLE)
        object.__setattr__(self, "dataset_options", dict(options))
        parameters = blosc2.CParams(codec=ALGORITHMS[self.algorithm], clevel=self.level, nthreads=self.threads,
                                    filters=[blosc2.Filter.BITSHUFFLE], filters_meta=[0])
        object.__setattr__(self, "_parameters", asdict(parameters))

    @property
    def name(self) -> str:
        """For messages and reports, e.g. "blosc2-bitshuffle-zstd1"."""
        return f"blosc2-bitshuffle-{self.algorithm}{self.level}"

    def encode(self, values: np.ndarray, note: bytes = b"") -> bytes:
        """A Blosc2 contiguous frame of the array's bytes, row-major, with the note in its trailer.

        Raises
        ------
        ValueError : more bytes than a Blosc2 chunk can hold, or none.
        """
        values = np.ascontiguousarray(values)
        if not 0 < values.nbytes <= LARGEST:
            raise ValueError(f"{values.nbytes} bytes to encode: a Blosc2 chunk holds 1 to {LARGEST}; encode fewer frames at "
                             "a time")
        parameters = {**self._parameters, "typesize": values.itemsize, "blocksize": min(BLOCK, -(-values.nbytes // 64) * 64)}
        frame = blosc2.SChunk(chunksize=values.nbytes, data=values, cparams=parameters, contiguous=True)
        if note:
            frame.vlmeta[NOTE] = note
        return frame.to_cframe()

    @staticmethod
    def decode(encoded: bytes, dtype: str | np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The array that was encoded, read-only.

        Raises
        ------
        ValueError : the bytes are damaged or hold another number of values.
        """
        return decode(encoded, dtype, shape)
