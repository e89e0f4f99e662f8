"""The node as a process of its own: Ctrl-C in the middle of a calculation."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import psutil
import rclpy
from edgetem.action import ComputeEnergetics
from edgetem.msg import AtomicStructure
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sheet_structures import strained

from edgetem_nodes.graph import messages

LIMIT = 60.0


def test_interrupt_ends_the_process_in_a_few_seconds_and_leaves_none_behind():
    # A namespace of its own: lifecycle services of a node that was destroyed earlier in this process may linger.
    process = subprocess.Popen([sys.executable, "-m", "edgetem_nodes", "hpc_bridge", "--ros-args", "-r", "__ns:=/alone"],
                               stdout=subprocess.DEVNULL)
    rclpy.init()
    probe = rclpy.create_node("probe", namespace="/alone")
    executor = SingleThreadedExecutor()
    executor.add_node(probe)
    client = ActionClient(probe, ComputeEnergetics, "compute_energetics")
    try:
        change = probe.create_client(ChangeState, "hpc_bridge/change_state")
        assert change.wait_for_service(LIMIT)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            future = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            executor.spin_until_future_complete(future, timeout_sec=LIMIT)
            assert future.result().success
        assert client.wait_for_server(LIMIT)
        sheet = strained(rattle=0.08)
        structure = AtomicStructure(atomic_numbers=messages.byte_array(sheet.atomic_numbers.astype(np.uint8)),
                                    positions=messages.number_array(sheet.positions), cell=sheet.cell.ravel(),
                                    periodic=list(sheet.periodic))
        feedback = []
        goal = ComputeEnergetics.Goal(structure=structure, settings='{"reference": false}')
        client.send_goal_async(goal, feedback.append)
        while not feedback:
            executor.spin_once(timeout_sec=1.0)
        children = psutil.Process(process.pid).children(recursive=True)
        begin = time.monotonic()
        process.send_signal(2)
        assert process.wait(10) == 0
        assert time.monotonic() - begin < 8 and len(children) >= 3
        assert psutil.wait_procs(children, 5)[1] == []
    finally:
        process.kill()
        process.wait()
        client.destroy()
        probe.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
