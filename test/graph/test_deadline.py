"""A process whose interpreter is blocked ends in time, with its exit code."""

import subprocess
import sys

import pytest

# PyDLL keeps the interpreter's lock during the call, as rclpy does.
BLOCKED = ("import ctypes; from edgetem_nodes.graph.deadline import exit_within; exit_within({}, {}); "
           "ctypes.PyDLL(None).sleep(600)")


@pytest.mark.parametrize(("seconds", "code"), [(0.01, 0), (0.2, 3), (1.1, 130)])
def test_a_blocked_interpreter_ends_with_the_code(seconds, code):
    assert subprocess.run([sys.executable, "-c", BLOCKED.format(seconds, code)], timeout=120).returncode == code


def test_a_process_that_ends_earlier_ends_as_it_wants():
    ended = "from edgetem_nodes.graph.deadline import exit_within; exit_within(60, 3); raise SystemExit(5)"
    assert subprocess.run([sys.executable, "-c", ended], timeout=120).returncode == 5
