"""Runs ROS 2 launch files: with the genuine `launch`, `launch_ros`, `launch_testing` where they are installed, else with
the package's own, which lie in this directory under the same names and are put on the path only then. Imports no ROS.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping

from edgetem_nodes.graph.configuration import nearest

if TYPE_CHECKING:
    from launch import LaunchDescription

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("launch", "launch_ros", "launch_testing")
_KNOWN_TO_LAUNCH = ("sigterm_timeout", "sigkill_timeout", "emulate_tty", "launch-prefix", "launch-prefix-filter")


class LaunchFileError(ValueError):
    """A launch file or an argument that cannot be used; nothing was started."""


def provide() -> str:
    """Make `launch`, `launch_ros` and `launch_testing` importable; returns `genuine` or `edgetem`, whichever they are.

    A directory called `launch` in the working directory is importable too, as an empty namespace: only an import of
    `launch_ros.actions` tells whether ROS 2's launch is installed. `EDGETEM_LAUNCH=edgetem` in the environment chooses
    edgetem's own in any case.
    """
    try:
        if os.environ.get("EDGETEM_LAUNCH") == "edgetem" and str(_HERE) not in sys.path:
            raise ModuleNotFoundError("edgetem's own launch was asked for", name="launch_ros")
        module = importlib.import_module("launch_ros.actions")
    except ImportError as error:
        if error.name not in _PACKAGES and error.name != "launch_ros.actions":
            print(f"ROS 2's launch_ros is installed but cannot be imported ({error}): using edgetem's own", file=sys.stderr)
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        sys.path.insert(0, str(_HERE))
        importlib.invalidate_caches()
        module = importlib.import_module("launch_ros.actions")
    return "edgetem" if _HERE in Path(module.__file__).resolve().parents else "genuine"


def load(path: str | os.PathLike) -> LaunchDescription:
    """The launch description of a Python launch file.

    Raises
    ------
    LaunchFileError : the file does not exist or cannot be read as a launch file.
    """
    return _source(path).try_get_launch_description_without_context()


def describe_arguments(path: str | os.PathLike) -> str:
    """The arguments of a launch file with description, choices and default, one paragraph each."""
    lines = [f"Arguments of {path} (pass them as 'name:=value'):"]
    for argument in load(path).get_launch_arguments():
        lines += ["", f"    {argument.name!r}:" + ("*" if argument._conditionally_included else ""),
                  f"        {argument.description}"]
        if argument.default_value is not None:
            lines.append(f"        (default: {' + '.join(part.describe() for part in argument.default_value)})")
    return "\n".join(lines if len(lines) > 1 else [f"{path} takes no arguments"])


def show_arguments(path: str | os.PathLike) -> None:
    """Print `describe_arguments`."""
    print(describe_arguments(path))


def parse_arguments(texts: Iterable[str]) -> dict[str, str]:
    """`name:=value` texts of a command line as a mapping; the last one wins.

    Raises
    ------
    LaunchFileError : a text has another form.
    """
    result = {}
    for text in texts:
        name, separator, value = text.partition(":=")
        if not name or not separator:
            raise LaunchFileError(f"launch argument {text!r} is not of the form 'name:=value'")
        result[name] = value
    return result


def check_arguments(path: str | os.PathLike, arguments: Mapping[str, str]) -> None:
    """Check arguments against those that the launch file and the files it includes declare.

    Raises
    ------
    LaunchFileError : an unknown name (with the nearest known one), a value that is no choice, a required one missing.
    """
    _check(path, load(path), arguments)


def _check(path: str | os.PathLike, description: LaunchDescription, arguments: Mapping[str, str]) -> None:
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    for name, value in arguments.items():
        if name not in declared and name not in _KNOWN_TO_LAUNCH:
            raise LaunchFileError(f"{path} has no argument {name!r}{nearest(name, declared)}; "
                                  f"it has {', '.join(declared) or 'none'}")
        choices = declared[name].choices if name in declared else None
        if choices is not None and value not in choices:
            raise LaunchFileError(f"{path}: argument {name}:={value} is not one of {', '.join(choices)}"
                                  + nearest(value, choices))
    for name, argument in declared.items():
        if name not in arguments and argument.default_value is None and not argument._conditionally_included:
            raise LaunchFileError(f"{path} needs the argument {name!r} ({argument.description}): pass '{name}:=VALUE'")


def run_launch(path: str | os.PathLike, arguments: Mapping[str, Any] | None = None, *, extra_actions: Iterable[Any] = (),
               optional: Iterable[str] = (), debug: bool = False, quiet: bool = False) -> int:
    """Run a launch file to its end and return an exit code, with either implementation of launch.

    The launch runs in a forked process, with a session of its own, under this one's supervision: SIGINT, SIGTERM and
    SIGHUP end it in order, a second one hastens, and no process of it is left behind, whoever is killed. Call it
    from a main thread before the process has threads of its own.

    Parameters
    ----------
    path : the launch file.
    arguments : values of its arguments.
    extra_actions : launch actions to visit before the file's own (call `provide` before importing `launch`).
    optional : labels of processes that may fail; of any other a failure ends the launch. A process with
        `respawn=True` belongs here.
    debug : let the launch say what it does in detail.
    quiet : let it say only what goes wrong; its log file has the rest.

    Returns
    -------
    0 where every process ended well; 1 where one died, could not be started or needed more than SIGINT, or the launch
    file failed.

    Raises
    ------
    LaunchFileError : the file or an argument cannot be used; nothing was started.
    """
    source = _source(path)
    given = {name: str(value) for name, value in (arguments or {}).items()}
    _check(path, source.try_get_launch_description_without_context(), given)
    from .supervision import supervise
    from .watch import launch_and_watch

    return supervise(lambda: launch_and_watch(source, given, tuple(extra_actions), tuple(optional), debug, quiet))


def _source(path: str | os.PathLike) -> Any:
    provide()
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    if not Path(path).is_file():
        raise LaunchFileError(f"launch file {path} does not exist")
    source = PythonLaunchDescriptionSource(str(Path(path).resolve()))
    try:
        source.get_launch_description(LaunchContext())
    except Exception as error:
        raise LaunchFileError(f"launch file {path} cannot be read: {type(error).__name__}: {error}") from error
    return source


__all__ = ["LaunchFileError", "check_arguments", "describe_arguments", "load", "parse_arguments", "provide", "run_launch",
           "show_arguments"]
