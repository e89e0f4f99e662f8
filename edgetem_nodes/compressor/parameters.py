"""Parameters of the compressor node."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter


@dataclass(frozen=True)
class CodecParameters:
    """How frames are coded."""

    algorithm: str = parameter("zstd", "entropy coder behind the bit shuffling; lz4 is twice as fast and less dense",
                               choices=("zstd", "lz4"))
    level: int = parameter(1, "effort of the coder, 0 stores", minimum=0, maximum=9)
    threads: int = parameter(1, "threads a block is encoded with", minimum=1, maximum=64)


@dataclass(frozen=True)
class Parameters:
    """What the compressor is told at start."""

    output: str = parameter("", "the experiment's folder; the archive is archive.h5 in it", path=True)
    window_MiB: int = parameter(32, "detector data that may be in flight to this node", unit="MiB", minimum=1, maximum=4096)
    chunk_KiB: int = parameter(2048, "decoded size of a chunk of frames in the archive, at most; fastest where it is a block's",
                               unit="KiB", minimum=16, maximum=65536)
    reserve_MiB: int = parameter(128, "disk space that stays free: below it nothing more is archived", unit="MiB",
                                 minimum=16, maximum=1 << 24)
    publish_compressed: bool = parameter(False, "publish every block, encoded, on compressed_block")
    codec: CodecParameters = group(CodecParameters)
