"""Parameters of the operator node."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import parameter


@dataclass
class Parameters:
    """What brings the graph up and runs one experiment on it."""

    output: str = parameter("", "folder of the experiment", path=True)
    nodes: list[str] = parameter(
        ["recorder", "compressor", "featurizer", "detector", "microscope", "hpc_bridge", "planner"],
        "nodes to bring up, in order of activation; shutdown reverses it")
    together: list[str] = parameter([], "nodes that share a process, e.g. [compressor, featurizer, detector] for a fast "
                                    "camera: blocks are then handed on, not copied, and one fault ends all; empty: each its "
                                    "own")
    bring_up_timeout_s: float = parameter(30.0, "longest wait for one node to appear or to change its state", unit="s",
                                          minimum=1.0, maximum=600.0)
    launched_ns: int = parameter(0, "monotonic clock at the start of the launch; 0: when this node started", unit="ns",
                                 minimum=0)
    resume: bool = parameter(False, "go on from the checkpoint in the experiment's folder")
