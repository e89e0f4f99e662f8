"""Parameters of the detector node."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.graph.instrument import Instrument


@dataclass(frozen=True)
class Stream:
    """A simulated camera that is as fast as real ones."""

    places: int = parameter(0, "places along each axis of the scan field at which patterns are computed before the first "
                               "frame; electrons are drawn from that of the nearest place; 0: every position has its own",
                            minimum=0, maximum=256)


@dataclass(frozen=True)
class Parameters:
    """What the detector is, for whom it must hold back, and how it cuts frames into blocks."""

    seed: int = parameter(0, "Seed of everything random in the experiment", minimum=0)
    consumers: list[str] = parameter(["compressor", "featurizer"],
                                     "Nodes that must keep up: the detector sends only what all of them have room for")
    silence: float = parameter(5.0, "A required consumer that says nothing for this long ends the acquisition", unit="s",
                               minimum=0.5, maximum=600.0)
    block_mib: float = parameter(2.0, "Size of a block of frames; smaller where a consumer's window asks for it", unit="MiB",
                                 minimum=0.0625, maximum=4.0)
    block_interval_ms: float = parameter(50.0, "A block is sent no later than this after its first frame was read",
                                         unit="ms", minimum=1.0, maximum=10000.0)
    spool_mib: float = parameter(256.0, "Room for frames of a source that cannot pause, while consumers lag", unit="MiB",
                                 minimum=1.0, maximum=65536.0)
    arm_timeout: float = parameter(10.0, "An armed acquisition whose probe path does not come within this time is disarmed",
                                   unit="s", minimum=0.1, maximum=3600.0)
    history: str = parameter("", "File of what was exposed before, when an experiment is resumed; 'edgetem run --resume' "
                                 "writes it", path=True)
    stream: Stream = group(Stream)
    instrument: Instrument = group(Instrument)
