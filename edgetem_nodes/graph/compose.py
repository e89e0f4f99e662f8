"""Run one node, or several composed in one process, until SIGINT or SIGTERM."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.graph.deadline import exit_within

NODES = {
    "microscope": "edgetem_nodes.microscope.node:MicroscopeNode",
    "detector": "edgetem_nodes.detector.node:DetectorNode",
    "compressor": "edgetem_nodes.compressor.node:CompressorNode",
    "featurizer": "edgetem_nodes.featurizer.node:FeaturizerNode",
    "planner": "edgetem_nodes.planner.node:PlannerNode",
    "hpc_bridge": "edgetem_nodes.hpc_bridge.node:HpcBridgeNode",
    "recorder": "edgetem_nodes.provenance.recorder:RecorderNode",
    "player": "edgetem_nodes.provenance.player:PlayerNode",
    "operator": "edgetem_nodes.operator.node:OperatorNode",
}
"""Where each node's class lives. Imported only when asked for: a node that needs no torch does not load it."""
LEAVE = 2.0
"""[s] that a process may take to leave the graph once its nodes are closed."""
STREAMING = frozenset({"detector", "compressor", "featurizer"})
"""Nodes whose messages come by the hundred a second: they are worth an executor that does not look at every entity for each."""


def node_class(name: str) -> type:
    """The class of a node by name.

    Raises
    ------
    ValueError : there is no such node.
    """
    if name not in NODES:
        raise ValueError(f"there is no node {name!r}; the nodes are {', '.join(NODES)}" + nearest(name, NODES))
    module, _, attribute = NODES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def spin(names: list[str], ros_arguments: list[str]) -> int:
    """Run the named nodes on one single-threaded executor; returns the exit code.

    A node may end the process by setting its attribute `exit_code` to a number.
    """
    stopping = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    rclpy.init(args=[sys.argv[0], *ros_arguments], signal_handler_options=SignalHandlerOptions.NO)
    executor, nodes = _executor(names), []
    try:
        code = _run(names, nodes, executor, stopping)
    finally:
        for node in nodes:
            node.close()
    _leave(nodes, executor, code)
    return code


def _run(names: list[str], nodes: list[Node], executor: Executor, stopping: list[int]) -> int:
    """Make the named nodes, filling `nodes`, and run them until `stopping` holds a signal; returns the exit code."""
    try:
        for name in names:
            nodes.append(node_class(name)())
            executor.add_node(nodes[-1])
        while not stopping and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            finished = [node.exit_code for node in nodes if getattr(node, "exit_code", None) is not None]
            if finished:
                return max(finished)
        return 0
    except ExternalShutdownException:
        return 0
    except Exception:  # noqa: BLE001  (say what happened, close the files, fail)
        traceback.print_exc()
        return 1


def _leave(nodes: list[Node], executor: Executor, code: int) -> None:
    """Tell the other nodes that these, whose files are closed, have gone: the middleware now and then waits for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    exit_within(LEAVE, code)
    for node in nodes:
        node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown()


def _executor(names: list[str]) -> Executor:
    """One thread for all callbacks of the named nodes.

    The executor that waits for events takes a third off the cost of receiving a block, measured; `EventsExecutor.spin` hangs in
    this release, `spin_once` does not.
    """
    return EventsExecutor() if STREAMING.issuperset(names) else SingleThreadedExecutor()


def main(arguments: list[str] | None = None) -> None:
    """`NODE... [--ros-args ...]`: entry point of `lib/edgetem/<node>` and of `edgetem compose`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    split = arguments.index("--ros-args") if "--ros-args" in arguments else len(arguments)
    names = [name for name in arguments[:split] if not name.startswith("-")]
    if not names:
        sys.exit(f"usage: edgetem compose NODE... [--ros-args ...]; the nodes are {', '.join(NODES)}")
    try:
        for name in names:
            if name not in NODES:
                node_class(name)
    except ValueError as error:
        sys.exit(str(error))
    code = spin(names, arguments[split:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is closed; the middleware's static destructors sometimes hang
