"""Parameters of the recorder and the player."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import parameter


@dataclass
class Parameters:
    """Parameters of the recorder."""

    output: str = parameter("", "folder of the experiment; the bag is its folder 'bag'", path=True)
    record_bulk: bool = parameter(False, "also record detector and compressed blocks and live images")
    exclude: list[str] = parameter([], "topics not to record, by name without namespace")
    flush_interval: float = parameter(2.0, "longest time between two flushes to disk; every decision flushes too",
                                      unit="s", minimum=0.05, maximum=60.0)
    compression: str = parameter("none", "of the bag's chunks; without it even a chunk cut off by a crash is recovered",
                                 choices=("none", "lz4", "zstd"))
    minimum_free_mib: int = parameter(64, "the recorder stops with an error before the disk holds less", unit="MiB",
                                      minimum=1, maximum=1 << 30)


@dataclass
class PlayerParameters:
    """Parameters of the player."""

    bag: str = parameter("", "bag to replay: its folder, or the folder of the experiment", path=True)
    planner: str = parameter("planner", "name of the planner node in this namespace")
    autostart: bool = parameter(True, "configure and activate itself, then the planner, and send it the recorded experiment")
    planner_timeout: float = parameter(60.0, "longest time for the planner to appear or to go through a transition",
                                       unit="s", minimum=1.0, maximum=600.0)
