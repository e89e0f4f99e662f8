"""Parameters of nodes as launch files write them, and how they become YAML values."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Iterable, Mapping, Union, get_args, get_origin

import yaml

from launch import LaunchContext, SomeSubstitutionsType, Substitution
from launch.substitutions import SubstitutionFailure
from launch.utilities import perform_substitutions

SCALARS = (bool, int, float, str)


class ParameterValue:
    """A value of a given type: `bool`, `int`, `float`, `str` or a list of one; without a type YAML decides."""

    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        self.value, self.value_type = value, value_type

    def evaluate(self, context: LaunchContext) -> Any:
        """The value in this context.

        Raises
        ------
        SubstitutionFailure : it is not of the type.
        """
        value = self.value
        if _is_text(value):
            text = perform_substitutions(context, value)
            value = text if self.value_type is str else _from_yaml(text)
        if self.value_type is None:
            return value
        is_list = get_origin(self.value_type) is list
        expected = get_args(self.value_type)[0] if is_list else self.value_type
        items = list(value) if is_list and isinstance(value, (list, tuple)) else [value]
        if expected is float:
            items = [float(item) if type(item) is int else item for item in items]
        if any(type(item) is not expected for item in items) or (is_list and not isinstance(value, (list, tuple))):
            raise SubstitutionFailure(f"parameter value {value!r} is not of type {self.value_type}")
        return items if is_list else items[0]


class Parameter:
    """One parameter of a node, passed on its command line."""

    def __init__(self, name: SomeSubstitutionsType, value: Any, *, value_type: Any = None) -> None:
        self.name, self.value = name, ParameterValue(value, value_type=value_type)

    def evaluate(self, context: LaunchContext) -> tuple[str, Any]:
        """Name and value in this context."""
        return perform_substitutions(context, self.name), _evaluated(context, self.value)


class ParameterFile:
    """A YAML file of parameters."""

    def __init__(self, param_file: Union[SomeSubstitutionsType, os.PathLike], *, allow_substs: bool = False) -> None:
        if allow_substs is not False:
            raise ValueError("ParameterFile: allow_substs needs the genuine ROS 2 launch_ros")
        self.param_file = param_file

    def evaluate(self, context: LaunchContext) -> Path:
        """The path of the file.

        Raises
        ------
        FileNotFoundError : there is no such file.
        """
        path = Path(perform_substitutions(context, self.param_file))
        if not path.is_file():
            raise FileNotFoundError(f"parameter file {path} does not exist")
        return path


def evaluate_parameters(context: LaunchContext, parameters: Mapping, prefix: str = "") -> dict[str, Any]:
    """A mapping of parameters, nested or not, as dotted names and plain values."""
    result: dict[str, Any] = {}
    for key, value in parameters.items():
        name = prefix + perform_substitutions(context, key)
        if isinstance(value, Mapping):
            result.update(evaluate_parameters(context, value, name + "."))
        else:
            result[name] = _evaluated(context, value)
    return result


class _Dumper(yaml.SafeDumper):
    """Quotes every text: the parser of rcl takes a bare `y`, `on` or `1e3` for something else."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def to_yaml(value: Any) -> str:
    """A value on one line of YAML, as the parameter parser of rcl reads it."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1 << 30,
                     allow_unicode=True).removesuffix("...\n").strip()


def write_parameter_file(node: str, values: Mapping[str, Any]) -> Path:
    """A temporary ROS 2 parameter file for the node, or `/**` for any."""
    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml", delete=False) as file:
        file.write(to_yaml({node: {"ros__parameters": dict(values)}}))
    return Path(file.name)


def _evaluated(context: LaunchContext, value: Any) -> Any:
    if isinstance(value, ParameterValue):
        return value.evaluate(context)
    if isinstance(value, str) or type(value) in SCALARS:
        return value
    if isinstance(value, Substitution):
        return _from_yaml(perform_substitutions(context, value))
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"parameter value {value!r} is neither a scalar nor a list nor a substitution")
    if any(isinstance(item, Substitution) for item in value):
        return _from_yaml(perform_substitutions(context, value))  # the parts of one text
    return _uniform([item if type(item) in SCALARS else _from_yaml(perform_substitutions(context, item)) for item in value])


def _uniform(items: list) -> list:
    if {type(item) for item in items} == {int, float}:
        return [float(item) for item in items]
    if not items or len({type(item) for item in items}) != 1 or type(items[0]) not in SCALARS:
        raise SubstitutionFailure(f"parameter value {items!r} must be a list of one type, not empty")
    return items


def _from_yaml(text: str) -> Any:
    try:
        value: Any = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise SubstitutionFailure(f"parameter value {text!r} is not YAML ({error}); "
                                  "for a text use ParameterValue(..., value_type=str)") from None
    if isinstance(value, list):
        return _uniform(value)
    if type(value) not in SCALARS:
        raise SubstitutionFailure(f"parameter value {text!r} is neither a scalar nor a list; "
                                  "for a text use ParameterValue(..., value_type=str)")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, Substitution)) or (
        isinstance(value, Iterable) and any(isinstance(item, Substitution) for item in value))


SomeParameters = Iterable[Union[Mapping, Parameter, ParameterFile, SomeSubstitutionsType, os.PathLike]]
