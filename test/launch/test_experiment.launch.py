"""The launch graph runs a whole experiment on the synthetic spectrum image and leaves a complete folder behind."""

from edgetem_nodes.graph.isolation import isolate

isolate()

import shutil  # noqa: E402  (the ROS domain must be set before anything imports rclpy)
import tempfile  # noqa: E402
import unittest  # noqa: E402
from pathlib import Path  # noqa: E402

import h5py  # noqa: E402
import launch_testing  # noqa: E402
import launch_testing.actions  # noqa: E402
import launch_testing.asserts  # noqa: E402
from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402

from edgetem_nodes.graph.environment import share_directory  # noqa: E402
from edgetem_nodes.operator.outcome import read_outcome  # noqa: E402

NODES = ("recorder", "compressor", "featurizer", "detector", "microscope", "hpc_bridge", "planner")
POINTS = 48


def generate_test_description():
    folder = Path(tempfile.mkdtemp(prefix="edgetem-launch-"))
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share_directory() / "launch" / "experiment.launch.py")),
        launch_arguments={"experiment": str(Path(__file__).parents[1] / "data" / "synthetic.yaml"),
                          "output": str(folder / "run"), "namespace": "scope_a"}.items())
    return LaunchDescription([graph, launch_testing.actions.ReadyToTest()]), {"folder": folder / "run"}


class TestRunning(unittest.TestCase):
    def test_all_nodes_become_active(self, proc_output):
        proc_output.assertWaitFor("all nodes active", timeout=30, stream="stdout")

    def test_the_experiment_reaches_its_point_budget(self, proc_output):
        proc_output.assertWaitFor("stopped: point_budget", timeout=90, stream="stdout")

    def test_all_processes_end_by_themselves(self, proc_info):
        for name in (*NODES, "operator"):
            proc_info.assertWaitForShutdown(process=name, timeout=30)


@launch_testing.post_shutdown_test()
class TestLeftBehind(unittest.TestCase):
    def test_every_process_ended_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_bag_and_archive_hold_every_point(self, folder):
        outcome = read_outcome(folder)
        candidates, values, errors = outcome.measured()
        assert len(set(candidates)) == len(candidates) == POINTS, candidates
        assert (errors > 0).all()
        assert [d.index for d in outcome.decisions] == list(range(len(outcome.decisions)))
        assert outcome.decisions[-1].stop_reason == "point_budget"
        with h5py.File(folder / "archive.h5") as file:
            frames = []
            file.visititems(lambda name, item: frames.append(len(item)) if name.endswith("frames/data") else None)
        assert sum(frames) == POINTS
        shutil.rmtree(folder.parent)
