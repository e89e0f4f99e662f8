"""The base of what decides whether an action runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .context import LaunchContext


class Condition:
    """A predicate of the launch context."""

    def __init__(self, *, predicate: Callable[[LaunchContext], bool]) -> None:
        self._predicate = predicate

    def evaluate(self, context: LaunchContext) -> bool:
        """Whether the action runs."""
        return self._predicate(context)
