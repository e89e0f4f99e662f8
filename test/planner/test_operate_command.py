"""`edgetem operate` in a process of its own, on the real planner."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from laboratory import FIELD

COMMAND = Path(sys.executable).with_name("edgetem")


@pytest.fixture
def operate(laboratory):
    """A laboratory, and a function that runs `edgetem operate ARGUMENTS` on it: exit code, output, errors."""
    lab = laboratory(approve_batches=True, point_budget=24)

    def run(*arguments):
        process = subprocess.Popen([str(COMMAND), "operate", *map(str, arguments)], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        lab.wait(lambda: process.poll() is not None)
        return process.returncode, *process.communicate()
    return lab, run


def test_batches_are_looked_at_approved_and_rejected_from_another_terminal(operate):
    lab, run = operate
    _, future = lab.begin()
    lab.decided(1)
    code, output, _ = run("status")
    assert code == 0
    assert "waiting: decision 0 proposes 16 positions" in output and "acquisition_function=expected_improvement" in output
    assert "every batch waits for it" in output and "(y, x) from (-8, -8) to (7, 7) nm" in output
    code, output, _ = run("approve")
    assert (code, output) == (0, f"decision 1, initial: {lab.decisions[1].reason}\n")
    lab.decided(3)
    code, output, _ = run("forbid", "upper half", -9, -9, -0.5, 8)
    assert (code, output) == (0, "decision 3, operator: region 'upper half' forbidden: 128 positions\n")
    asked = json.loads(lab.decisions[3].request)
    assert [[round(1e9 * v, 6) for v in corner] for corner in asked["vertices"]] == [[-9, -9], [-9, 8], [-0.5, 8], [-0.5, -9]]
    assert min(lab.decided(5).candidates) // FIELD.shape[1] >= 8
    code, output, _ = run("reject")
    assert (code, "batch of 8 positions rejected" in output) == (0, True)
    lab.decided(7)
    code, _, _ = run("approve", "--all")
    assert code == 0
    lab.wait(future.done)
    assert future.result().result.points == 24


def test_what_is_refused_is_said_with_exit_code_1(operate):
    lab, run = operate
    handle, future = lab.begin()
    lab.decided(1)
    code, output, error = run("acquisition", "acquisition_function=expected_improvment")
    assert (code, output) == (1, "")
    assert "did you mean 'expected_improvement'?" in error and error.startswith("error: ")
    lab.refuse_scalarizer = 412
    code, output, _ = run("scalarizer", "lattise")
    assert (code, output) == (1, "decision 1, operator: refused, the scalarizer stays as it is: no such scalarizer\n")
    code, output, _ = run("stop")
    assert (code, output) == (0, "the experiment is stopping\n")
    lab.wait(future.done)
    assert future.result().result.stop_reason == "operator"
    code, _, error = run("pause")
    assert (code, "no experiment runs" in error) == (1, True)
