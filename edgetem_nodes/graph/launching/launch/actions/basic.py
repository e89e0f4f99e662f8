"""Actions that are done at once."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Optional

from .. import logging
from ..context import LaunchContext
from ..entities import Action, LaunchDescriptionEntity
from ..event_handlers import EventHandler
from ..events import Event
from ..events import Shutdown as ShutdownEvent
from ..substitution import SomeSubstitutionsType, perform_substitutions


class LogInfo(Action):
    """Write a message to the screen and the log."""

    def __init__(self, *, msg: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.msg = msg

    def execute(self, context: LaunchContext) -> None:
        logging.get_logger("launch.user").info(perform_substitutions(context, self.msg))


class OpaqueFunction(Action):
    """Call `function(context, *args, **kwargs)` and visit what it returns."""

    def __init__(self, *, function: Callable, args: Optional[Iterable[Any]] = None, kwargs: Optional[dict] = None,
                 **options: Any) -> None:
        super().__init__(**options)
        if not callable(function):
            raise TypeError(f"OpaqueFunction: {function!r} is not callable")
        self._function, self._args, self._kwargs = function, tuple(args or ()), dict(kwargs or {})

    def execute(self, context: LaunchContext) -> Optional[list[LaunchDescriptionEntity]]:
        return self._function(context, *self._args, **self._kwargs)


class EmitEvent(Action):
    """Emit an event."""

    def __init__(self, *, event: Event, **options: Any) -> None:
        super().__init__(**options)
        self.event = event

    def execute(self, context: LaunchContext) -> None:
        context.emit_event_sync(self.event)


class Shutdown(Action):
    """End the launch."""

    def __init__(self, *, reason: str = "reason not given", **options: Any) -> None:
        super().__init__(**options)
        self.reason = reason

    def execute(self, context: LaunchContext) -> None:
        if context.is_shutdown:
            return
        logging.get_logger("launch").info(f"ending the launch: {self.reason}")
        context.emit_event_sync(ShutdownEvent(reason=self.reason))


class RegisterEventHandler(Action):
    """Register an event handler."""

    def __init__(self, event_handler: EventHandler, **options: Any) -> None:
        super().__init__(**options)
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        context.register_event_handler(self.event_handler)

    def describe_conditional_sub_entities(self) -> list:
        return [("an event", self.event_handler.entities)]


class UnregisterEventHandler(Action):
    """Remove an event handler."""

    def __init__(self, event_handler: EventHandler, **options: Any) -> None:
        super().__init__(**options)
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        context.unregister_event_handler(self.event_handler)


class SetLaunchConfiguration(Action):
    """Set a launch configuration."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        name = perform_substitutions(context, self.name)
        context.launch_configurations[name] = perform_substitutions(context, self.value)


class UnsetLaunchConfiguration(Action):
    """Remove a launch configuration."""

    def __init__(self, name: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.name = name

    def execute(self, context: LaunchContext) -> None:
        context.launch_configurations.pop(perform_substitutions(context, self.name), None)


class SetEnvironmentVariable(Action):
    """Set an environment variable for the processes that are started later."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        context.environment[perform_substitutions(context, self.name)] = perform_substitutions(context, self.value)


class UnsetEnvironmentVariable(Action):
    """Remove an environment variable for the processes that are started later."""

    def __init__(self, name: SomeSubstitutionsType, **options: Any) -> None:
        super().__init__(**options)
        self.name = name

    def execute(self, context: LaunchContext) -> None:
        context.environment.pop(perform_substitutions(context, self.name), None)


class AppendEnvironmentVariable(SetEnvironmentVariable):
    """Append to an environment variable, or prepend, with a separator."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType, prepend: bool = False, *,
                 separator: str = os.pathsep, **options: Any) -> None:
        super().__init__(name, value, **options)
        self.prepend, self.separator = prepend, separator

    def execute(self, context: LaunchContext) -> None:
        name, value = (perform_substitutions(context, part) for part in (self.name, self.value))
        present = [context.environment[name]] if name in context.environment else []
        parts = [value, *present] if self.prepend else [*present, value]
        context.environment[name] = self.separator.join(parts)


class PushLaunchConfigurations(Action):
    """Begin a scope of launch configurations."""

    def execute(self, context: LaunchContext) -> None:
        context.push("launch_configurations")


class PopLaunchConfigurations(Action):
    """End a scope of launch configurations."""

    def execute(self, context: LaunchContext) -> None:
        context.pop("launch_configurations")


class PushEnvironment(Action):
    """Begin a scope of environment variables."""

    def execute(self, context: LaunchContext) -> None:
        context.push("environment")


class PopEnvironment(Action):
    """End a scope of environment variables."""

    def execute(self, context: LaunchContext) -> None:
        context.pop("environment")
