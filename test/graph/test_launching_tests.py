"""Launch tests are collected by pytest and judged as launch_testing judges them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from test_launching import GENUINE, REPOSITORY

TEST = '''
import sys, unittest
import launch, launch_testing, launch_testing.actions, launch_testing.asserts, pytest
from launch.actions import ExecuteProcess

CODE = """
import sys, time
try:
    print("ready", sys.argv[1], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("bye", flush=True)
"""

@pytest.mark.launch_test
@launch_testing.parametrize("word", ["one", "two"])
def generate_test_description(word):
    child = ExecuteProcess(cmd=[sys.executable, "-c", CODE, word], name="child", output="screen")
    short = ExecuteProcess(cmd=[sys.executable, "-c", "raise SystemExit(4)"], name="short", emulate_tty=True,
                           output="screen")
    return launch.LaunchDescription([child, short, launch_testing.actions.ReadyToTest()]), {"child": child}

class TestActive(unittest.TestCase):
    @classmethod
    def setUpClass(cls, word):
        cls.word = word

    def test_output(self, proc_output, proc_info, child):
        proc_info.assertWaitForStartup(process=child, timeout=10)
        proc_output.assertWaitFor("ready " + self.word, process=child, timeout=10, stream="stdout")
        proc_info.assertWaitForShutdown(process="short", timeout=10)

    def test_expectation(self, word):
        self.assertNotEqual(word, EXPECTED)

@launch_testing.post_shutdown_test()
class TestAfter(unittest.TestCase):
    def test_codes(self, proc_info, proc_output, child):
        launch_testing.asserts.assertExitCodes(proc_info, process=child)
        launch_testing.asserts.assertExitCodes(proc_info, [4], process="short")
        launch_testing.asserts.assertInStdout(proc_output, "bye", process=child)
'''


@pytest.fixture(params=["edgetem", pytest.param("genuine", marks=pytest.mark.skipif(
    not GENUINE, reason="ROS 2's launch_testing is not installed"))])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "EDGETEM_LAUNCH": request.param, "ROS_LOG_DIR": str(tmp_path / "log"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}


def collect(folder: Path, environment: dict[str, str], text: str) -> subprocess.CompletedProcess:
    (folder / "test_child.launch.py").write_text(text)
    strict = ["-W", "error"] if environment["EDGETEM_LAUNCH"] == "edgetem" else []
    return subprocess.run([sys.executable, "-m", "pytest", "-rA", *strict,
                           "-p", "edgetem_nodes.graph.launching.pytest_plugin", "--rootdir", folder, folder],
                          env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_every_parameter_set_is_a_test_that_passes(tmp_path: Path, environment: dict[str, str]) -> None:
    result = collect(tmp_path, environment, "EXPECTED = 'none'\n" + TEST)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout and "test_child[one]" in result.stdout


def test_a_failing_test_is_reported_with_name_and_reason(tmp_path: Path, environment: dict[str, str]) -> None:
    result = collect(tmp_path, environment, "EXPECTED = 'two'\n" + TEST)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 failed, 1 passed" in result.stdout
    assert "TestActive.test_expectation" in result.stdout and "'two' == 'two'" in result.stdout


def test_a_launch_that_ends_before_its_tests_fails(tmp_path: Path, environment: dict[str, str]) -> None:
    text = ("EXPECTED = ''\n" + TEST).replace("time.sleep(60)", "sys.exit(5)").replace(
        'proc_info.assertWaitForShutdown(process="short", timeout=10)', "import time; time.sleep(20)")
    result = collect(tmp_path, environment, text)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "2 failed" in result.stdout


@pytest.mark.skipif(not GENUINE, reason="ROS 2's launch_testing is not installed")
def test_the_genuine_launch_test_runs_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "test_child.launch.py"
    path.write_text("EXPECTED = 'none'\n" + TEST)
    result = subprocess.run([sys.executable, "-m", "launch_testing.launch_test", path], cwd=tmp_path, text=True,
                            capture_output=True, timeout=120, env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")})
    assert result.returncode == 0, result.stdout + result.stderr
