"""Conditions of actions."""

from __future__ import annotations

from typing import Any

from .condition import Condition
from .context import LaunchContext
from .substitution import perform_substitutions

_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class InvalidConditionExpressionError(ValueError):
    """A text that is neither true nor false."""


def evaluate_condition_expression(context: LaunchContext, expression: Any) -> bool:
    """`true`, `1`, `false` or `0`, in any case, as a bool.

    Raises
    ------
    InvalidConditionExpressionError : the text is none of these.
    """
    text = perform_substitutions(context, expression).strip()
    if text.lower() not in _TRUTH:
        raise InvalidConditionExpressionError(f"condition {text!r} is neither true, 1, false nor 0")
    return _TRUTH[text.lower()]


class IfCondition(Condition):
    """True where the expression is."""

    def __init__(self, predicate_expression: Any) -> None:
        super().__init__(predicate=lambda context: evaluate_condition_expression(context, predicate_expression))


class UnlessCondition(Condition):
    """True where the expression is not."""

    def __init__(self, predicate_expression: Any) -> None:
        super().__init__(predicate=lambda context: not evaluate_condition_expression(context, predicate_expression))


class LaunchConfigurationEquals(Condition):
    """True where a launch configuration is set and equals the expected text."""

    def __init__(self, launch_configuration_name: str, expected_value: Any) -> None:
        super().__init__(predicate=lambda context: _equals(context, launch_configuration_name, expected_value))


class LaunchConfigurationNotEquals(Condition):
    """True where a launch configuration is not set or differs from the expected text."""

    def __init__(self, launch_configuration_name: str, expected_value: Any) -> None:
        super().__init__(predicate=lambda context: not _equals(context, launch_configuration_name, expected_value))


def _equals(context: LaunchContext, name: str, expected_value: Any) -> bool:
    expected = None if expected_value is None else perform_substitutions(context, expected_value)
    return context.launch_configurations.get(name) == expected


__all__ = ["IfCondition", "InvalidConditionExpressionError", "LaunchConfigurationEquals", "LaunchConfigurationNotEquals",
           "UnlessCondition", "evaluate_condition_expression"]
