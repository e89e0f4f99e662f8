"""The action that lets the tests begin."""

from __future__ import annotations

from launch import Action, LaunchContext

READY = "launch_testing_ready"
"""Global of the launch context: the function that lets the tests begin."""


class ReadyToTest(Action):
    """Let the active tests begin. Every description of a launch test holds exactly one, at any depth."""

    def execute(self, context: LaunchContext) -> None:
        ready = context.get_locals_as_dict().get(READY)
        if ready is not None:
            ready()


__all__ = ["ReadyToTest"]
