"""Texts that are known only when the launch runs. There is no `PythonExpression`: nothing here evaluates code."""

from __future__ import annotations

import os
import shutil
from typing import Any, Callable

from . import logging
from .conditions import evaluate_condition_expression
from .context import LaunchContext
from .substitution import (SomeSubstitutionsType, Substitution, SubstitutionFailure, TextSubstitution,
                           normalize_to_list_of_substitutions, perform_substitutions)


def _described(value: Any) -> str:
    return " + ".join(part.describe() for part in normalize_to_list_of_substitutions(value))


class LaunchConfiguration(Substitution):
    """The value of a launch argument or configuration."""

    def __init__(self, variable_name: SomeSubstitutionsType, *, default: Any = None) -> None:
        self._name = variable_name
        self._default = str(default) if isinstance(default, (bool, int, float)) else default

    def perform(self, context: LaunchContext) -> str:
        name = perform_substitutions(context, self._name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self._default is None:
            raise SubstitutionFailure(f"launch configuration {name!r} is not set; declare it with "
                                      f"DeclareLaunchArgument or pass '{name}:=VALUE'")
        return perform_substitutions(context, self._default)

    def describe(self) -> str:
        return f"LaunchConfig({_described(self._name)})"


class EnvironmentVariable(Substitution):
    """The value of an environment variable of the launch."""

    def __init__(self, name: SomeSubstitutionsType, *, default_value: SomeSubstitutionsType | None = None) -> None:
        self._name = name
        self._default = default_value

    def perform(self, context: LaunchContext) -> str:
        name = perform_substitutions(context, self._name)
        if name in context.environment:
            return context.environment[name]
        if self._default is None:
            raise SubstitutionFailure(f"environment variable {name!r} is not set")
        return perform_substitutions(context, self._default)

    def describe(self) -> str:
        return f"EnvVar({_described(self._name)})"


class PathJoinSubstitution(Substitution):
    """Parts of a path, joined; a part may be a list of substitutions."""

    def __init__(self, substitutions: Any) -> None:
        self._parts = [normalize_to_list_of_substitutions(part) for part in substitutions]

    def perform(self, context: LaunchContext) -> str:
        return os.path.join(*(perform_substitutions(context, part) for part in self._parts))

    def describe(self) -> str:
        return f"PathJoin({', '.join(_described(part) for part in self._parts)})"


class _Local(Substitution):
    key = ""

    def perform(self, context: LaunchContext) -> str:
        value = context.get_locals_as_dict().get(self.key)
        if value is None:
            raise SubstitutionFailure(f"{type(self).__name__} has a value only inside a launch file")
        return value


class ThisLaunchFile(_Local):
    """The path of the launch file at hand."""

    key = "current_launch_file_path"


class ThisLaunchFileDir(_Local):
    """The directory of the launch file at hand."""

    key = "current_launch_file_directory"


class LaunchLogDir(Substitution):
    """The directory that holds the logs of this launch."""

    def perform(self, context: LaunchContext) -> str:
        return str(logging.launch_config.log_dir)


LaunchLogDirectory = LaunchLogDir


class FindExecutable(Substitution):
    """The path of a program on PATH."""

    def __init__(self, *, name: SomeSubstitutionsType) -> None:
        self._name = name

    def perform(self, context: LaunchContext) -> str:
        name = perform_substitutions(context, self._name)
        path = shutil.which(name, path=context.environment.get("PATH"))
        if path is None:
            raise SubstitutionFailure(f"executable {name!r} is not on PATH")
        return path

    def describe(self) -> str:
        return f"FindExec({_described(self._name)})"


class _Comparison(Substitution):
    operation: Callable[[bool], bool]

    def __init__(self, left: Any, right: Any) -> None:
        self._sides = [str(side) if isinstance(side, (bool, int, float)) else side for side in (left, right)]

    def _same(self, context: LaunchContext) -> bool:
        left, right = (perform_substitutions(context, side) for side in self._sides)
        try:
            return left == right or float(left) == float(right)
        except ValueError:
            return {left.lower(), right.lower()} in ({"true"}, {"false"})


class EqualsSubstitution(_Comparison):
    """`true` where both sides are the same text or number."""

    def perform(self, context: LaunchContext) -> str:
        return str(self._same(context)).lower()


class NotEqualsSubstitution(_Comparison):
    """`true` where the sides differ."""

    def perform(self, context: LaunchContext) -> str:
        return str(not self._same(context)).lower()


class NotSubstitution(Substitution):
    """The opposite of a truth value."""

    def __init__(self, value: SomeSubstitutionsType) -> None:
        self._value = value

    def perform(self, context: LaunchContext) -> str:
        return str(not evaluate_condition_expression(context, self._value)).lower()


class AnySubstitution(Substitution):
    """`true` where one of the values is."""

    def __init__(self, *values: SomeSubstitutionsType) -> None:
        self._values = values

    def perform(self, context: LaunchContext) -> str:
        return str(any(evaluate_condition_expression(context, value) for value in self._values)).lower()


class AllSubstitution(AnySubstitution):
    """`true` where all of the values are."""

    def perform(self, context: LaunchContext) -> str:
        return str(all(evaluate_condition_expression(context, value) for value in self._values)).lower()


class AndSubstitution(AllSubstitution):
    """`true` where both values are."""

    def __init__(self, left: SomeSubstitutionsType, right: SomeSubstitutionsType) -> None:
        super().__init__(left, right)


class OrSubstitution(AnySubstitution):
    """`true` where one of two values is."""

    def __init__(self, left: SomeSubstitutionsType, right: SomeSubstitutionsType) -> None:
        super().__init__(left, right)


class IfElseSubstitution(Substitution):
    """One of two texts, by a truth value."""

    def __init__(self, condition: SomeSubstitutionsType, if_value: SomeSubstitutionsType = "",
                 else_value: SomeSubstitutionsType = "") -> None:
        self._condition = condition
        self._values = {True: if_value, False: else_value}

    def perform(self, context: LaunchContext) -> str:
        return perform_substitutions(context, self._values[evaluate_condition_expression(context, self._condition)])


__all__ = ["AllSubstitution", "AndSubstitution", "AnySubstitution", "EnvironmentVariable", "EqualsSubstitution",
           "FindExecutable", "IfElseSubstitution", "LaunchConfiguration", "LaunchLogDir", "LaunchLogDirectory",
           "NotEqualsSubstitution", "NotSubstitution", "OrSubstitution", "PathJoinSubstitution", "SubstitutionFailure",
           "TextSubstitution", "ThisLaunchFile", "ThisLaunchFileDir"]
