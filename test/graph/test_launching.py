"""Launch files behave as under ROS 2's launch, and no process outlives its launch, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import yaml

from edgetem_nodes.graph import launching

REPOSITORY = Path(__file__).resolve().parents[2]
GENUINE = subprocess.run([sys.executable, "-c", "import launch_ros.actions"], cwd="/", capture_output=True,
                         env={**os.environ, "PYTHONNOUSERSITE": "1"}).returncode == 0

RUNNER = """
import sys
from edgetem_nodes.graph import launching
try:
    print("provided", launching.provide(), flush=True)
    sys.exit(launching.run_launch(sys.argv[1], launching.parse_arguments(sys.argv[2:])))
except launching.LaunchFileError as error:
    print("refused:", error, flush=True)
    sys.exit(2)
"""

ACTOR = """
import os, signal, sys, time
journal, *ignored = sys.argv[1:]
stop = []
def note(word):
    with open(journal, "a") as file:
        print(word, os.getpid(), time.monotonic(), file=file)
def on_signal(number, frame):
    name = signal.Signals(number).name
    note(name)
    if name not in ignored:
        stop.append(name)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, on_signal)
note("up")
while not stop:
    time.sleep(0.02)
"""

HEADER = """
import sys
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import IfCondition, UnlessCondition
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import *
from launch_ros.actions import Node, PushRosNamespace
HERE = ThisLaunchFileDir()
def process(name, *cmd, **options):
    return ExecuteProcess(cmd=[sys.executable, *cmd], name=name, output=options.pop("output", "screen"), **options)
def actor(name, *ignored, **options):
    return process(name, [HERE, "/actor.py"], [HERE, "/journal-" + name], *ignored, **options)
def python(name, code, **options):
    return process(name, "-c", code, **options)
"""


class Bench:
    """A folder with launch files, and launches of them in processes of their own."""

    def __init__(self, folder: Path, implementation: str) -> None:
        self.folder, self.implementation = folder, implementation
        (folder / "actor.py").write_text(ACTOR)
        (folder / "runner.py").write_text(RUNNER)
        self.environment = {**os.environ, "ROS_LOG_DIR": str(folder / "log"), "PYTHONUNBUFFERED": "1",
                            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
        self.environment["EDGETEM_LAUNCH"] = "edgetem" if implementation == "edgetem" else ""

    def write(self, entities: str, name: str = "graph.launch.py") -> Path:
        path = self.folder / name
        body = textwrap.indent(textwrap.dedent(entities), "        ")
        path.write_text(f"{HEADER}\ndef generate_launch_description():\n    return LaunchDescription([\n{body}\n    ])\n")
        return path

    def start(self, entities: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, self.folder / "runner.py", self.write(entities), *arguments],
                                env=self.environment, cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True)

    def run(self, entities: str, *arguments: str) -> tuple[int, str]:
        launch = self.start(entities, *arguments)
        output, _ = launch.communicate(timeout=60)
        return launch.returncode, output

    def journal(self, name: str) -> list[tuple[str, int, float]]:
        path = self.folder / f"journal-{name}"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(row[0], int(row[1]), float(row[2])) for row in rows if len(row) == 3]

    def wait_up(self, *names: str) -> list[int]:
        deadline = time.monotonic() + 20
        while not all(self.journal(name) for name in names):
            assert time.monotonic() < deadline, f"{names} did not start"
            time.sleep(0.02)
        return [self.journal(name)[0][1] for name in names]

    def words(self, name: str) -> list[str]:
        return [word for word, _, _ in self.journal(name)]


@pytest.fixture(params=["edgetem", pytest.param("genuine", marks=pytest.mark.skipif(
    not GENUINE, reason="ROS 2's launch_ros is not installed"))])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, request.param)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(*pids: int, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


PAIR = "actor('planner'), actor('detector'),"


def test_the_implementation_that_was_asked_for_is_the_one_that_runs(bench: Bench) -> None:
    code, output = bench.run("LogInfo(msg='nothing to do'),")
    assert (code, f"provided {bench.implementation}" in output) == (0, True)


def test_a_killed_process_ends_the_launch_with_its_name_and_a_code(bench: Bench) -> None:
    launch = bench.start(PAIR)
    planner, detector = bench.wait_up("planner", "detector")
    os.kill(planner, signal.SIGKILL)
    output, _ = launch.communicate(timeout=30)
    assert launch.returncode == 1
    assert "planner died: killed by SIGKILL (-9)" in output
    assert bench.words("detector") == ["up", "SIGINT"]
    assert not alive(detector)


def test_an_exit_code_ends_the_launch_with_its_name(bench: Bench) -> None:
    code, output = bench.run("actor('detector'), python('planner', 'raise SystemExit(3)'),")
    assert code == 1 and "planner died: exit code 3" in output


def test_a_program_that_does_not_exist_ends_the_launch_with_its_name(bench: Bench) -> None:
    code, output = bench.run("actor('detector'), ExecuteProcess(cmd=['/nowhere/planner'], name='planner'),")
    assert code == 1 and "planner could not be started" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_reaches_every_process_once_as_sigint(bench: Bench, number: signal.Signals) -> None:
    launch = bench.start(PAIR)
    pids = bench.wait_up("planner", "detector")
    launch.send_signal(number)
    launch.communicate(timeout=30)
    assert launch.returncode == 0
    assert bench.words("planner") == bench.words("detector") == ["up", "SIGINT"]
    assert not any(map(alive, pids))


def test_sigterm_and_sigkill_follow_in_time_and_count_as_failure(bench: Bench) -> None:
    launch = bench.start("actor('planner', 'SIGINT', 'SIGTERM', sigterm_timeout='0.5', sigkill_timeout='0.7'),")
    pid, = bench.wait_up("planner")
    launch.send_signal(signal.SIGINT)
    output, _ = launch.communicate(timeout=30)
    ended = time.monotonic()
    (_, _, _), (first, _, interrupted), (second, _, terminated) = bench.journal("planner")
    assert [first, second] == ["SIGINT", "SIGTERM"] and not alive(pid)
    assert 0.45 < terminated - interrupted < 1.5 and ended - terminated > 0.6
    assert launch.returncode == 1 and "planner did not end on SIGINT: it took SIGKILL" in output


def test_a_second_signal_hastens_the_end(bench: Bench) -> None:
    launch = bench.start("actor('planner', 'SIGINT'),")
    bench.wait_up("planner")
    launch.send_signal(signal.SIGINT)
    while "SIGINT" not in bench.words("planner"):
        time.sleep(0.02)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=30)
    (_, _, interrupted), (word, _, terminated) = bench.journal("planner")[1:]
    assert word == "SIGTERM" and terminated - interrupted < 4.0  # 5 s without the second signal
    assert launch.returncode == 1


@pytest.mark.parametrize("victim", ["supervisor", "launcher"])
def test_no_process_outlives_a_launcher_that_is_killed(bench: Bench, victim: str) -> None:
    launch = bench.start(PAIR)
    pids = bench.wait_up("planner", "detector")
    launcher, = (child.pid for child in psutil.Process(launch.pid).children())
    os.kill(launch.pid if victim == "supervisor" else launcher, signal.SIGKILL)
    launch.communicate(timeout=30)
    wait_gone(launcher, *pids)
    assert launch.returncode in ((-9,) if victim == "supervisor" else (1,))


def test_what_a_process_leaves_running_is_ended(bench: Bench) -> None:
    code, output = bench.run("""
        python('planner', 'import subprocess; print("child", subprocess.Popen(["sleep", "300"]).pid, flush=True)'),""")
    assert code == 0
    assert not alive(int(output.split("child ")[1].split()[0]))


def test_scopes_conditions_includes_timers_and_handlers(bench: Bench) -> None:
    bench.write("""
        DeclareLaunchArgument('depth', default_value='1'),
        LogInfo(msg=['inner depth ', LaunchConfiguration('depth'), ' in ', ThisLaunchFileDir()]),
    """, "inner.launch.py")
    code, output = bench.run("""
        DeclareLaunchArgument('mode', default_value='fast', choices=['fast', 'slow'], description='how'),
        SetLaunchConfiguration('level', 'outer'),
        GroupAction([SetLaunchConfiguration('level', 'group'), SetEnvironmentVariable('EDGETEM_TEST', 'group'),
                     LogInfo(msg=['inside ', LaunchConfiguration('level')]),
                     python('inside', 'import os; print("variable", os.environ.get("EDGETEM_TEST"))')]),
        LogInfo(msg=['outside ', LaunchConfiguration('level'), ' ',
                     EnvironmentVariable('EDGETEM_TEST', default_value='unset')]),
        LogInfo(msg='slow', condition=IfCondition(EqualsSubstitution(LaunchConfiguration('mode'), 'slow'))),
        LogInfo(msg='not fast', condition=UnlessCondition(EqualsSubstitution(LaunchConfiguration('mode'), 'fast'))),
        IncludeLaunchDescription(PythonLaunchDescriptionSource([ThisLaunchFileDir(), '/inner.launch.py']),
                                 launch_arguments=[('depth', '2')]),
        OpaqueFunction(function=lambda context: [LogInfo(msg='opaque ' + context.launch_configurations['mode'])]),
        TimerAction(period=0.2, actions=[LogInfo(msg='timer')]),
        RegisterEventHandler(OnShutdown(on_shutdown=[LogInfo(msg='shutdown')])),
        (first := python('first', 'print(1)')),
        RegisterEventHandler(OnProcessExit(target_action=first, on_exit=[python('second', 'print(2)')])),
    """, "mode:=slow")
    lines = [line.partition(": ")[2] for line in output.splitlines() if "[launch.user]" in line]
    assert code == 0
    assert lines == ["inside group", "outside outer unset", "slow", "not fast", f"inner depth 2 in {bench.folder}",
                     "opaque slow", "timer", "shutdown"]
    assert "[inside-1] variable group" in output and "[second-3] 2" in output


def test_a_node_gets_names_parameters_and_remappings(bench: Bench) -> None:
    program = bench.folder / "lib" / "fake" / "probe"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nimport json, sys\nfiles = [open(a).read() for o, a in "
                       "zip(sys.argv, sys.argv[1:]) if o == '--params-file']\n"
                       "print('JSON', json.dumps([sys.argv[1:], files]))\n")
    program.chmod(0o755)
    marker = bench.folder / "share" / "ament_index" / "resource_index" / "packages" / "fake"
    marker.parent.mkdir(parents=True)
    marker.touch()
    bench.environment["AMENT_PREFIX_PATH"] = str(bench.folder)
    (bench.folder / "own.yaml").write_text("/**:\n  ros__parameters: {dose: 2.5}\n")
    code, output = bench.run("""
        DeclareLaunchArgument('rate', default_value='12'),
        GroupAction([PushRosNamespace('lab'), PushRosNamespace('left'),
            Node(package='fake', executable='probe', name='planner', namespace='inner', output='screen',
                 arguments=['--fast'], ros_arguments=['--log-level', 'warn'], remappings=[('a', 'b')],
                 parameters=[[HERE, '/own.yaml'], {'rate': LaunchConfiguration('rate'), 'text': '12', 'flag': True,
                             'many': [1, 2.5], 'deep': {'name': ['x-', LaunchConfiguration('rate')]}}])]),
        Node(package='fake', executable='probe', output='screen', exec_name='bare'),
    """)
    assert code == 0, output
    assert "[probe-1] JSON" in output and "[bare-2] JSON" in output
    by_name = {line.split("]")[0]: json.loads(line.split("JSON ")[1]) for line in output.splitlines() if "JSON" in line}
    arguments, (own, temporary) = by_name["[probe-1"]
    assert [a for a in arguments if not a.startswith("/tmp")][:4] == ["--fast", "--ros-args", "--log-level", "warn"]
    for pair in (["-r", "__node:=planner"], ["-r", "__ns:=/lab/left/inner"], ["-r", "a:=b"],
                 ["--params-file", str(bench.folder / "own.yaml")]):
        assert pair in [list(p) for p in zip(arguments, arguments[1:])]
    assert "dose" in own
    loaded = yaml.safe_load(temporary.replace("!!python/tuple", ""))["/lab/left/inner/planner"]["ros__parameters"]
    assert loaded == {"rate": 12, "text": "12", "flag": True, "many": [1.0, 2.5], "deep.name": "x-12"}
    assert by_name["[bare-2"] == [["--ros-args"], []]


def test_respawn_terminal_and_log_files(bench: Bench) -> None:
    code, output = bench.run("""
        python('again', 'print("lives", flush=True)', respawn=True, respawn_delay=0.1, respawn_max_retries=2),
        python('tty', 'import sys; print(sys.stdout.isatty())', emulate_tty=True),
        python('quiet', 'import sys; print("to the log"); print("to the screen", file=sys.stderr)', output='log'),
        python('formatted', 'print(1)', output_format='<{line}>'),
    """)
    assert code == 0, output
    assert output.count("[again-1] lives") == 3
    assert "[tty-2] True" in output and "<1>" in output
    assert "[quiet-3] to the screen" in output and "to the log" not in output
    logs = [path.read_text() for path in (bench.folder / "log").glob("*/launch.log")]
    assert any("[quiet-3] to the log" in text for text in logs)


def test_on_exit_shutdown_ends_the_others_in_order(bench: Bench) -> None:
    launch = bench.start("actor('detector'), actor('planner', on_exit=Shutdown(reason='the experiment is over')),")
    planner, _ = bench.wait_up("planner", "detector")
    os.kill(planner, signal.SIGTERM)
    launch.communicate(timeout=30)
    assert launch.returncode == 0 and bench.words("detector") == ["up", "SIGINT"]


@pytest.mark.parametrize("arguments, message", [
    (["exprmnt:=x"], "has no argument 'exprmnt' (did you mean 'experiment'?)"),
    (["experiment:=x", "mode:=fats"], "is not one of fast, slow (did you mean 'fast'?)"),
    ([], "needs the argument 'experiment'"),
    (["experiment=x"], "is not of the form 'name:=value'"),
])
def test_a_wrong_argument_is_refused_before_anything_starts(bench: Bench, arguments: list[str], message: str) -> None:
    code, output = bench.run("""
        DeclareLaunchArgument('experiment', description='configuration to run'),
        DeclareLaunchArgument('mode', default_value='fast', choices=['fast', 'slow']),
        actor('planner'),""", *arguments)
    assert code == 2 and message in output and not bench.journal("planner")


def test_a_launch_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(launching.LaunchFileError, match="missing.launch.py does not exist"):
        launching.load(tmp_path / "missing.launch.py")
    (tmp_path / "empty.launch.py").write_text("")
    with pytest.raises(launching.LaunchFileError, match="empty.launch.py"):
        launching.load(tmp_path / "empty.launch.py")


def test_the_arguments_are_described(tmp_path: Path) -> None:
    path = Bench(tmp_path, "").write("""
        DeclareLaunchArgument('mode', default_value='fast', choices=['fast', 'slow'], description='how to scan'),""")
    text = launching.describe_arguments(path)
    assert "'mode'" in text and "how to scan" in text and "'slow'" in text and "(default: 'fast')" in text
