"""The autonomous experiment as a launch graph: every node, brought up and run by the operator node.

    ros2 launch edgetem experiment.launch.py experiment:=config/cuzn_eels.yaml output:=runs/first
    edgetem launch experiment.launch.py experiment:=config/cuzn_eels.yaml output:=runs/first
"""

import os
import time
from datetime import datetime
from pathlib import Path

import yaml
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from edgetem_nodes.graph import environment
from edgetem_nodes.operator.check import consistent
from edgetem_nodes.operator.experiment import continuation, load_experiment, prepare_folder


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("experiment", default_value="default.yaml",
                              description="configuration: a file, or the name of one of the shipped ones"),
        DeclareLaunchArgument("output", default_value="",
                              description="folder for the results, new or empty; default runs/<experiment>-<time>"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument("record", default_value="true", choices=["true", "false"],
                              description="record every topic into an MCAP bag in the output folder"),
        DeclareLaunchArgument("resume", default_value="false", choices=["true", "false"],
                              description="go on with the experiment in the output folder"),
        DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"],
                              description="severity from which nodes log"),
        OpaqueFunction(function=graph),
    ])


def graph(context):
    """The nodes, with the parameters of the checked configuration. Errors in it end the launch before anything starts."""
    value = lambda name: LaunchConfiguration(name).perform(context)  # noqa: E731
    launched = time.monotonic_ns()
    configuration = load_experiment(value("experiment"))
    consistent(configuration)
    resume = value("resume") == "true"
    folder = Path(value("output") or f"runs/{configuration.source.stem}-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    prepare_folder(folder, configuration, resume)
    environment.prepare()
    nodes = [name for name in configuration.nodes["operator"]["nodes"] if name != "recorder" or value("record") == "true"]
    shared = [SetEnvironmentVariable(name, os.environ[name])
              for name in (*environment.THREAD_VARIABLES, "FASTDDS_DEFAULT_PROFILES_FILE", "AMENT_PREFIX_PATH")
              if name in os.environ]

    continued = continuation(folder) if resume else {}

    def settings(name, **extra):
        chosen = {key: value_ for key, value_ in configuration.nodes[name].items() if value_ != []}
        return chosen | ({"output": str(folder)} if "output" in chosen else {}) | continued.get(name, {}) | extra

    def process(names, parameters, **options):
        return Node(package="edgetem", executable=names[0], arguments=names[1:], namespace=value("namespace"),
                    parameters=[parameters], ros_arguments=["--log-level", value("log_level")], output="screen",
                    emulate_tty=False, on_exit=Shutdown(reason=f"{'+'.join(names)} ended"),
                    **{"output_format": "[{this.process_description.final_name}] {line}"} | options)

    def composed(names):
        file = folder / "together.yaml"
        file.write_text(yaml.safe_dump({f"/**/{name}": {"ros__parameters": settings(name)} for name in names}))
        return process(names, str(file), exec_name="+".join(names))

    together = [name for name in configuration.nodes["operator"]["together"] if name in nodes]
    alone = [name for name in nodes if name not in together]
    return [*shared, *([composed(together)] if together else []),
            *(process([name], settings(name), name=name) for name in alone),
            process(["operator"], settings("operator", nodes=nodes, launched_ns=launched, resume=resume), name="operator",
                    output_format="{line}")]
