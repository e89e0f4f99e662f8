"""From diffraction patterns to an energy map: the energetics experiment as a launch graph.

    ros2 launch edgetem energetics.launch.py output:=runs/energies
    edgetem launch energetics.launch.py output:=runs/energies
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "experiment": ("energetics.yaml", "configuration: a file, or the name of one of the shipped ones; it maps energies"),
    "output": ("", "folder for the results, new or empty; default runs/<experiment>-<time>"),
    "namespace": ("", "namespace of all nodes"),
    "record": ("true", "record every topic into an MCAP bag in the output folder"),
    "resume": ("false", "go on with the experiment in the output folder"),
    "log_level": ("info", "severity from which nodes log"),
}
CHOICES = {"record": ["true", "false"], "resume": ["true", "false"],
           "log_level": ["debug", "info", "warn", "error", "fatal"]}


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=value, description=text, choices=CHOICES.get(name))
                for name, (value, text) in ARGUMENTS.items()]
    experiment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).parent / "experiment.launch.py")),
        launch_arguments={name: LaunchConfiguration(name) for name in ARGUMENTS}.items())
    return LaunchDescription([*declared, experiment])
