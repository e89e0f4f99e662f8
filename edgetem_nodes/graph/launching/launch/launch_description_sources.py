"""Where launch descriptions come from: Python files."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Optional

from .context import LaunchContext
from .entities import LaunchDescription
from .substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform_substitutions


class InvalidLaunchFileError(RuntimeError):
    """A file that is no launch file."""


class InvalidPythonLaunchFileError(InvalidLaunchFileError):
    """A Python file that gives no launch description."""


def load_python_launch_file_as_module(path: str) -> ModuleType:
    """The launch file as a module.

    Raises
    ------
    FileNotFoundError : there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"launch file {path} does not exist")
    loader = SourceFileLoader("python_launch_file", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def get_launch_description_from_python_launch_file(python_launch_file_path: str) -> LaunchDescription:
    """What `generate_launch_description` of the file returns.

    Raises
    ------
    InvalidPythonLaunchFileError : the file has no such function.
    """
    module = load_python_launch_file_as_module(python_launch_file_path)
    if not hasattr(module, "generate_launch_description"):
        raise InvalidPythonLaunchFileError(f"launch file {python_launch_file_path} has no function "
                                           "generate_launch_description()")
    return module.generate_launch_description()


class LaunchDescriptionSource:
    """A launch description, or the file it is read from when it is first wanted."""

    def __init__(self, launch_description: Optional[LaunchDescription] = None,
                 location: SomeSubstitutionsType = "<script>", method: str = "unspecified mechanism from a script") -> None:
        self._description = launch_description
        self._location = normalize_to_list_of_substitutions(location)
        self._performed: Optional[str] = None
        self.method = method

    @property
    def location(self) -> str:
        """The path, or a description of it as long as it is not known."""
        return self._performed or " + ".join(part.describe() for part in self._location)

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """The launch description; a file is read once."""
        if self._performed is None:
            self._performed = perform_substitutions(context, self._location)
        if self._description is None:
            self._description = self._read(self._performed)
        return self._description

    def try_get_launch_description_without_context(self) -> Optional[LaunchDescription]:
        """The launch description, or None where it needs values that only a launch has."""
        try:
            return self.get_launch_description(LaunchContext())
        except Exception:
            self._performed = None
            return None

    def _read(self, path: str) -> LaunchDescription:
        raise InvalidLaunchFileError(f"{type(self).__name__} at {path} holds no launch description")


class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    """A Python launch file."""

    def __init__(self, launch_file_path: SomeSubstitutionsType) -> None:
        super().__init__(None, launch_file_path, "interpreted python launch file")

    def _read(self, path: str) -> LaunchDescription:
        return get_launch_description_from_python_launch_file(path)


class AnyLaunchDescriptionSource(PythonLaunchDescriptionSource):
    """A launch file of any kind, of which only Python is known here."""

    def _read(self, path: str) -> LaunchDescription:
        if not path.endswith(".py"):
            raise InvalidLaunchFileError(f"launch file {path} is not a .py file; other kinds need the genuine ROS 2 launch")
        return super()._read(path)


__all__ = ["AnyLaunchDescriptionSource", "InvalidLaunchFileError", "InvalidPythonLaunchFileError",
           "LaunchDescriptionSource", "PythonLaunchDescriptionSource", "get_launch_description_from_python_launch_file",
           "load_python_launch_file_as_module"]
