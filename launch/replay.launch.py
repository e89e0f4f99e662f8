"""Replay of a recorded experiment: the real planner, served from a bag by the player, which compares every decision.

    ros2 launch edgetem replay.launch.py bag:=runs/first/bag
    edgetem launch replay.launch.py bag:=runs/first/bag
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from edgetem_nodes.graph import environment
from edgetem_nodes.provenance.reading import bag_folder
from edgetem_nodes.provenance.recording import experiment_of


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("bag", description="bag to replay: its folder, or the folder of the experiment"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the two nodes"),
        DeclareLaunchArgument("log_level", default_value="warn", choices=["debug", "info", "warn", "error", "fatal"],
                              description="severity from which nodes log"),
        OpaqueFunction(function=graph),
    ])


def graph(context):
    """Player and planner, the latter with the recorded parameters, but without an output folder."""
    value = lambda name: LaunchConfiguration(name).perform(context)  # noqa: E731
    folder = bag_folder(value("bag"))
    recorded = experiment_of(folder).nodes["planner"]
    environment.prepare()
    shared = [SetEnvironmentVariable(name, os.environ[name])
              for name in (*environment.THREAD_VARIABLES, "FASTDDS_DEFAULT_PROFILES_FILE", "AMENT_PREFIX_PATH")
              if name in os.environ]

    def node(name, output_format, parameters):
        return Node(package="edgetem", executable=name, name=name, namespace=value("namespace"),
                    parameters=[{key: value_ for key, value_ in parameters.items() if value_ != []}],
                    ros_arguments=["--log-level", value("log_level")], output="screen", emulate_tty=False,
                    output_format=output_format, on_exit=Shutdown(reason=f"{name} ended"))

    return [*shared,
            node("planner", "[{this.process_description.final_name}] {line}",
                 {**recorded, "output": ""}),
            node("player", "{line}", {"bag": str(folder.resolve())})]
