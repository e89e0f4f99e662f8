"""Parameter dataclasses as ROS 2 parameters: declared with descriptor and range, read back as the dataclass."""

from __future__ import annotations

import typing
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgetem_nodes.graph.configuration import Declared, build, checked, declared

_TYPES = {bool: Parameter.Type.BOOL, int: Parameter.Type.INTEGER, float: Parameter.Type.DOUBLE, str: Parameter.Type.STRING,
          list[bool]: Parameter.Type.BOOL_ARRAY, list[int]: Parameter.Type.INTEGER_ARRAY,
          list[float]: Parameter.Type.DOUBLE_ARRAY, list[str]: Parameter.Type.STRING_ARRAY}
_UNBOUNDED = {int: (-2**62, 2**62), float: (-1.7e308, 1.7e308)}


def descriptor(parameter: Declared) -> ParameterDescriptor:
    """The ROS descriptor: description with unit and choices, and the range of a number. Read-only: set at start."""
    rule = parameter.rule
    text = rule.description + (f" [{rule.unit}]" if rule.unit else "")
    message = ParameterDescriptor(description=text, read_only=True)
    if rule.choices:
        message.additional_constraints = "one of " + ", ".join(map(str, rule.choices))
    bounded = rule.minimum is not None or rule.maximum is not None
    if bounded and parameter.type in _UNBOUNDED:
        low, high = _UNBOUNDED[parameter.type]
        low = parameter.type(rule.minimum) if rule.minimum is not None else low
        high = parameter.type(rule.maximum) if rule.maximum is not None else high
        if parameter.type is int:
            message.integer_range = [IntegerRange(from_value=low, to_value=high)]
        else:
            message.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return message


def declare(node: Node, dataclass_type: type) -> None:
    """Declare every parameter of the dataclass on the node; overrides from the command line and files are taken."""
    for parameter in declared(dataclass_type).values():
        value = Parameter(parameter.name, _TYPES[parameter.type], parameter.default).value
        message = descriptor(parameter)
        message.type = _TYPES[parameter.type].value
        message.dynamic_typing = value is not None and parameter.default == []  # rclpy cannot tell of what an empty list is
        node.declare_parameter(parameter.name, list(value) if typing.get_origin(parameter.type) is list else value, message)


def read(node: Node, dataclass_type: type) -> Any:
    """The parameter dataclass with the node's present values.

    Raises
    ------
    ValueError : a value is outside its range or not one of the choices.
    """
    values = {}
    for parameter in declared(dataclass_type).values():
        value = node.get_parameter(parameter.name).value
        if typing.get_origin(parameter.type) is list:
            value = [] if value is None else list(value)
        values[parameter.name] = checked(parameter, value)
    return build(dataclass_type, values)
