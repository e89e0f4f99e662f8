"""Actions that start ROS nodes and shape their names, parameters and topics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from launch import Action, LaunchContext, SomeSubstitutionsType
from launch.actions import ExecuteProcess, SetEnvironmentVariable
from launch.events import ExecutionComplete
from launch.event_handlers import EventHandler
from launch.substitutions import SubstitutionFailure
from launch.utilities import perform_substitutions

from .parameter_descriptions import (Parameter, ParameterFile, SomeParameters, evaluate_parameters, to_yaml,
                                     write_parameter_file)
from .substitutions import ExecutableInPackage, prefixes

_NAMESPACE, _PARAMETERS, _REMAPS = "ros_namespace", "global_params", "ros_remaps"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Node(ExecuteProcess):
    """Run a ROS node.

    Parameters
    ----------
    executable, package : `lib/<package>/<executable>` of a prefix; without a package, a program.
    name, namespace : what the node is called; a relative namespace goes under the one that was pushed.
    exec_name : label of the process.
    parameters : mappings (written to a temporary YAML file), paths of YAML files, `Parameter`, `ParameterFile`.
    remappings : pairs of old and new names.
    arguments, ros_arguments : put before and after `--ros-args`.
    options : as of `ExecuteProcess`.
    """

    def __init__(self, *, executable: SomeSubstitutionsType, package: Optional[SomeSubstitutionsType] = None,
                 name: Optional[SomeSubstitutionsType] = None, namespace: Optional[SomeSubstitutionsType] = None,
                 exec_name: Optional[SomeSubstitutionsType] = None, parameters: Optional[SomeParameters] = None,
                 remappings: Optional[Iterable[tuple[SomeSubstitutionsType, SomeSubstitutionsType]]] = None,
                 ros_arguments: Optional[Iterable[SomeSubstitutionsType]] = None,
                 arguments: Optional[Iterable[SomeSubstitutionsType]] = None, **options: Any) -> None:
        if parameters is not None and (isinstance(parameters, (str, Mapping)) or not isinstance(parameters, Iterable)):
            raise TypeError(f"parameters {parameters!r} must be a list of mappings and files")
        program = executable if package is None else ExecutableInPackage(executable=executable, package=package)
        ros = ["--ros-args", *ros_arguments] if ros_arguments else []
        super().__init__(cmd=[program, *(arguments or ()), *ros, "--ros-args"], name=exec_name, **options)
        self._node, self._namespace = name, namespace
        self._parameters, self._remappings = list(parameters or ()), list(remappings or ())
        self.node_package, self.node_executable = package, executable
        self.node_name = ""
        self._temporary: list[Path] = []

    def execute(self, context: LaunchContext) -> None:
        name, namespace = self._full_name(context)
        self.node_name = f"{(namespace or '').rstrip('/')}/{name}" if name else ""
        self.cmd += [] if name is None else ["-r", f"__node:={name}"]
        self.cmd += [] if namespace is None else ["-r", f"__ns:={namespace}"]
        for parameters in [*context.launch_configurations.get(_PARAMETERS, ()), *self._parameters]:
            self.cmd += self._parameter_arguments(context, parameters, name is not None and namespace is not None)
        own = [tuple(perform_substitutions(context, side) for side in pair) for pair in self._remappings]
        for source, target in [*context.launch_configurations.get(_REMAPS, ()), *own]:
            self.cmd += ["-r", f"{source}:={target}"]
        if self._temporary:
            context.register_event_handler(EventHandler(
                matcher=lambda event: isinstance(event, ExecutionComplete) and event.action is self,
                entities=lambda event, context: self._remove_temporary()))
        super().execute(context)

    def _full_name(self, context: LaunchContext) -> tuple[Optional[str], Optional[str]]:
        name = None if self._node is None else perform_substitutions(context, self._node)
        if name is not None and not _NAME.fullmatch(name):
            raise SubstitutionFailure(f"node name {name!r} must be letters, digits and _, not starting with a digit")
        own = None if self._namespace is None else perform_substitutions(context, self._namespace)
        return name, _joined(context.launch_configurations.get(_NAMESPACE), own)

    def _parameter_arguments(self, context: LaunchContext, parameters: Any, is_full: bool) -> list[str]:
        if isinstance(parameters, Mapping):
            path = write_parameter_file(self.node_name if is_full else "/**", evaluate_parameters(context, parameters))
            self._temporary.append(path)
            return ["--params-file", str(path)]
        if isinstance(parameters, Parameter):
            name, value = parameters.evaluate(context)
            return ["-p", f"{name}:={to_yaml(value)}"]
        if not isinstance(parameters, ParameterFile):
            parameters = ParameterFile(parameters)
        return ["--params-file", str(parameters.evaluate(context))]

    def _remove_temporary(self) -> None:
        for path in self._temporary:
            path.unlink(missing_ok=True)

    def _resolved(self, context: LaunchContext) -> dict[str, Any]:
        details = super()._resolved(context)
        if self._env is None:
            details["env"]["AMENT_PREFIX_PATH"] = ":".join(dict.fromkeys(str(prefix) for prefix in prefixes(context)))
        return details


class LifecycleNode(Node):
    """Run a ROS node that has a lifecycle; name and namespace must be given. Transitions are left to the graph."""

    def __init__(self, *, name: SomeSubstitutionsType, namespace: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(name=name, namespace=namespace, **options)


class PushRosNamespace(Action):
    """Put the nodes of the rest of this group into a namespace."""

    def __init__(self, namespace: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.namespace = namespace

    def execute(self, context: LaunchContext) -> None:
        outer = context.launch_configurations.get(_NAMESPACE)
        inner = _joined(outer, perform_substitutions(context, self.namespace))
        if inner is not None:
            context.launch_configurations[_NAMESPACE] = inner


PushROSNamespace = PushRosNamespace


class SetParameter(Action):
    """Give every node of the rest of this group a parameter; the node's own win."""

    def __init__(self, name: SomeSubstitutionsType, value: Any, **options: Any) -> None:
        super().__init__(**options)
        self.parameter = Parameter(name, value)

    def execute(self, context: LaunchContext) -> None:
        configurations = context.launch_configurations
        configurations[_PARAMETERS] = [*configurations.get(_PARAMETERS, ()), Parameter(*self.parameter.evaluate(context))]


class SetParametersFromFile(Action):
    """Give every node of the rest of this group a file of parameters; the node's own win."""

    def __init__(self, filename: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.file = ParameterFile(filename)

    def execute(self, context: LaunchContext) -> None:
        configurations = context.launch_configurations
        configurations[_PARAMETERS] = [*configurations.get(_PARAMETERS, ()), str(self.file.evaluate(context))]


class SetUseSimTime(SetParameter):
    """Let every node of the rest of this group take its time from /clock, or not."""

    def __init__(self, value: Any, **options: Any) -> None:
        super().__init__("use_sim_time", value, **options)


class SetRemap(Action):
    """Rename a topic, service or action for every node of the rest of this group."""

    def __init__(self, src: SomeSubstitutionsType, dst: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.src, self.dst = src, dst

    def execute(self, context: LaunchContext) -> None:
        pair = (perform_substitutions(context, self.src), perform_substitutions(context, self.dst))
        context.launch_configurations[_REMAPS] = [*context.launch_configurations.get(_REMAPS, ()), pair]


class SetROSLogDir(SetEnvironmentVariable):
    """Let the nodes that are started later write their logs to this directory."""

    def __init__(self, new_log_dir: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__("ROS_LOG_DIR", new_log_dir, **options)


def _joined(outer: Optional[str], inner: Optional[str]) -> Optional[str]:
    """The absolute namespace that `inner` names inside `outer`; None where neither is given."""
    if inner is None and outer is None:
        return None
    joined = inner if inner and inner.startswith("/") else f"{outer or ''}/{inner or ''}"
    parts = [part for part in joined.split("/") if part]
    for part in parts:
        if not _NAME.fullmatch(part):
            raise SubstitutionFailure(f"namespace {joined!r}: {part!r} must be letters, digits and _, "
                                      "not starting with a digit")
    return "/" + "/".join(parts)


__all__ = ["LifecycleNode", "Node", "PushROSNamespace", "PushRosNamespace", "SetParameter", "SetParametersFromFile",
           "SetROSLogDir", "SetRemap", "SetUseSimTime"]
