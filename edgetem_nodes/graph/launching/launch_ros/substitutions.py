"""Where packages and their executables lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

from launch import LaunchContext, SomeSubstitutionsType, Substitution
from launch.substitutions import SubstitutionFailure
from launch.utilities import perform_substitutions


class PackageNotFoundError(SubstitutionFailure):
    """A package that is in no prefix."""


def prefixes(context: LaunchContext) -> Iterator[Path]:
    """The prefixes of `AMENT_PREFIX_PATH` in order, then `sys.prefix`, where pip installs."""
    for prefix in [*context.environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]:
        if prefix:
            yield Path(prefix)


class FindPackagePrefix(Substitution):
    """The prefix that a package is installed under.

    Raises
    ------
    PackageNotFoundError : the package is in no prefix.
    """

    def __init__(self, package: SomeSubstitutionsType) -> None:
        self.package = package

    def perform(self, context: LaunchContext) -> str:
        package = perform_substitutions(context, self.package)
        for prefix in prefixes(context):
            if (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).exists():
                return str(prefix)
        raise PackageNotFoundError(f"package {package!r} is installed under none of "
                                   f"{', '.join(map(str, prefixes(context)))}")


class FindPackageShare(FindPackagePrefix):
    """The share directory of a package."""

    def perform(self, context: LaunchContext) -> str:
        return str(Path(super().perform(context)) / "share" / perform_substitutions(context, self.package))


FindPackage = FindPackagePrefix


class ExecutableInPackage(Substitution):
    """The path of an executable of a package.

    Raises
    ------
    SubstitutionFailure : no prefix holds it.
    """

    def __init__(self, executable: SomeSubstitutionsType, package: SomeSubstitutionsType) -> None:
        self.executable, self.package = executable, package

    def perform(self, context: LaunchContext) -> str:
        package, executable = (perform_substitutions(context, part) for part in (self.package, self.executable))
        searched = []
        for prefix in prefixes(context):
            path = prefix / "lib" / package / executable
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
            if path.parent not in searched:
                searched.append(path.parent)
        known = sorted({file.name for folder in searched if folder.is_dir() for file in folder.iterdir()})
        raise SubstitutionFailure(f"package {package!r} has no executable {executable!r} in "
                                  f"{', '.join(map(str, searched))}" + (f"; it has {', '.join(known)}" if known else ""))


__all__ = ["ExecutableInPackage", "FindPackage", "FindPackagePrefix", "FindPackageShare", "PackageNotFoundError"]
