"""What a text in a launch file may be made of, and how it becomes text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Iterable, Union

import yaml

if TYPE_CHECKING:
    from .context import LaunchContext


class SubstitutionFailure(RuntimeError):
    """A substitution that has no value in this context."""


class Substitution:
    """A text that is known only when the launch runs."""

    def perform(self, context: LaunchContext) -> str:
        """The text in this context."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is performed")

    def describe(self) -> str:
        """The substitution as a person would write it."""
        return f"{type(self).__name__}()"


SomeSubstitutionsType = Union[str, Substitution, Iterable[Union[str, Substitution]]]


class TextSubstitution(Substitution):
    """A text that is known already."""

    def __init__(self, *, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"TextSubstitution: {text!r} is not a str")
        self.text = text

    def perform(self, context: LaunchContext) -> str:
        return self.text

    def describe(self) -> str:
        return repr(self.text)


def normalize_to_list_of_substitutions(value: Any) -> list[Substitution]:
    """A text, path, substitution or iterable of them as a flat list of substitutions.

    Raises
    ------
    TypeError : a part is none of these.
    """
    if isinstance(value, Substitution):
        return [value]
    if isinstance(value, (str, os.PathLike)):
        return [TextSubstitution(text=os.fspath(value))]
    if isinstance(value, Iterable):
        return [part for item in value for part in normalize_to_list_of_substitutions(item)]
    raise TypeError(f"{value!r} is neither a text nor a substitution nor a list of them")


def perform_substitutions(context: LaunchContext, value: Any) -> str:
    """The text that a text, a substitution or a list of them stands for."""
    return "".join(part.perform(context) for part in normalize_to_list_of_substitutions(value))


def perform_typed(context: LaunchContext, value: Any, expected: type) -> Any:
    """A `bool`, `int`, `float` or `str` given as itself or as substitutions.

    Raises
    ------
    SubstitutionFailure : the text is not of that type.
    """
    if isinstance(value, (bool, int, float)):
        return expected(value)
    text = perform_substitutions(context, value)
    if expected is str:
        return text
    parsed = yaml.safe_load(text)
    if expected is float and type(parsed) is int:
        parsed = float(parsed)
    if expected is float and isinstance(parsed, str):
        try:
            parsed = float(parsed)  # YAML 1.1 reads "1e-3" as text
        except ValueError:
            pass
    if type(parsed) is not expected:
        raise SubstitutionFailure(f"{text!r} is not of type {expected.__name__}")
    return parsed
