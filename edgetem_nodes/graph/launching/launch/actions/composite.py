"""Actions that hold other actions, and the arguments of a launch file."""

from __future__ import annotations

import asyncio
import difflib
from pathlib import Path
from typing import Any, Iterable, Optional, Union

from ..context import LaunchContext
from ..entities import Action, LaunchDescription, LaunchDescriptionEntity
from ..event_handlers import EventHandler, OnShutdown
from ..events import TimerEvent
from ..launch_description_sources import AnyLaunchDescriptionSource, LaunchDescriptionSource
from ..substitution import (SomeSubstitutionsType, SubstitutionFailure, TextSubstitution,
                            normalize_to_list_of_substitutions, perform_substitutions, perform_typed)
from .basic import (OpaqueFunction, PopEnvironment, PopLaunchConfigurations, PushEnvironment, PushLaunchConfigurations,
                    SetLaunchConfiguration)


class DeclareLaunchArgument(Action):
    """An argument of the launch file, `name:=value` on the command line.

    Raises
    ------
    RuntimeError : the default is a plain text that is not among the choices.
    """

    def __init__(self, name: str, *, default_value: Optional[SomeSubstitutionsType] = None,
                 description: Optional[str] = None, choices: Optional[Iterable[str]] = None, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.default_value = None if default_value is None else normalize_to_list_of_substitutions(default_value)
        self.choices = None if choices is None else list(choices)
        text = description or "no description given"
        self.description = text if self.choices is None else f"{text.rstrip('.')}. Valid choices are: {self.choices}"
        self._conditionally_included = False
        if self.choices is not None and self.default_value is not None and all(
                isinstance(part, TextSubstitution) for part in self.default_value):
            self._check("".join(part.text for part in self.default_value), RuntimeError)

    def _check(self, value: str, error: type[Exception]) -> None:
        if self.choices is None or value in self.choices:
            return
        near = difflib.get_close_matches(value, self.choices, n=1)
        raise error(f"launch argument {self.name!r}: {value!r} is not one of {', '.join(map(repr, self.choices))}"
                    + (f" (did you mean {near[0]!r}?)" if near else ""))

    def execute(self, context: LaunchContext) -> None:
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise SubstitutionFailure(f"launch argument {self.name!r} ({self.description}) has no default: "
                                          f"pass '{self.name}:=VALUE'")
            context.launch_configurations[self.name] = perform_substitutions(context, self.default_value)
        self._check(context.launch_configurations[self.name], SubstitutionFailure)


class GroupAction(Action):
    """Actions with a scope of launch configurations and environment variables of their own.

    With `forwarding=False` the scope starts with nothing but `launch_configurations`.
    """

    def __init__(self, actions: Iterable[Action], *, scoped: bool = True, forwarding: bool = True,
                 launch_configurations: Optional[dict] = None, **options: Any) -> None:
        super().__init__(**options)
        self._actions = list(actions)
        self._scoped, self._forwarding = scoped, forwarding
        self._configurations = dict(launch_configurations or {})

    def get_sub_entities(self) -> list[LaunchDescriptionEntity]:
        return self._actions

    def execute(self, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        configurations = {perform_substitutions(context, name): perform_substitutions(context, value)
                          for name, value in self._configurations.items()}
        setters = [SetLaunchConfiguration(name, value) for name, value in configurations.items()]
        if not self._scoped:
            return [*setters, *self._actions]
        clear = [] if self._forwarding else [OpaqueFunction(function=_forget_everything)]
        return [PushLaunchConfigurations(), PushEnvironment(), *clear, *setters, *self._actions,
                PopEnvironment(), PopLaunchConfigurations()]


def _forget_everything(context: LaunchContext) -> None:
    context.launch_configurations.clear()
    context.environment = dict(LaunchContext().environment)


class IncludeLaunchDescription(Action):
    """Visit another launch file, or a launch description, with arguments."""

    def __init__(self, launch_description_source: Union[LaunchDescriptionSource, SomeSubstitutionsType], *,
                 launch_arguments: Optional[Iterable[tuple[SomeSubstitutionsType, SomeSubstitutionsType]]] = None,
                 **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(launch_description_source, LaunchDescriptionSource):
            launch_description_source = AnyLaunchDescriptionSource(launch_description_source)
        self.launch_description_source = launch_description_source
        self.launch_arguments = tuple(launch_arguments or ())

    def get_sub_entities(self) -> list[LaunchDescriptionEntity]:
        description = self.launch_description_source.try_get_launch_description_without_context()
        return [] if description is None else [description]

    def execute(self, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        description: LaunchDescription = self.launch_description_source.get_launch_description(context)
        given = {perform_substitutions(context, name): value for name, value in self.launch_arguments}
        for argument in description.get_launch_arguments():
            if not (argument._conditionally_included or argument.default_value is not None or argument.name in given
                    or argument.name in context.launch_configurations):
                raise SubstitutionFailure(f"launch file {self.launch_description_source.location} needs the argument "
                                          f"{argument.name!r} ({argument.description}): pass '{argument.name}:=VALUE'")
        outside = {key: context.get_locals_as_dict().get(key)
                   for key in ("current_launch_file_path", "current_launch_file_directory")}
        path = Path(self.launch_description_source.location)
        if path.exists():
            context.extend_locals({"current_launch_file_path": str(path.resolve()),
                                   "current_launch_file_directory": str(path.resolve().parent)})
        return [*(SetLaunchConfiguration(name, value) for name, value in given.items()), description,
                OpaqueFunction(function=lambda context: context.extend_locals(outside))]


class TimerAction(Action):
    """Visit actions after `period` seconds, unless the launch ends before."""

    def __init__(self, *, period: Union[float, SomeSubstitutionsType], actions: Iterable[LaunchDescriptionEntity],
                 cancel_on_shutdown: Union[bool, SomeSubstitutionsType] = True, **options: Any) -> None:
        super().__init__(**options)
        self.period = period
        self.actions = list(actions)
        self._cancel_on_shutdown = cancel_on_shutdown
        self._canceled = asyncio.Event()
        self._future: Optional[asyncio.Future] = None

    def describe_conditional_sub_entities(self) -> list:
        return [(f"{self.period} s have passed", self.actions)]

    def cancel(self) -> None:
        """Do nothing when the period ends; from the thread of the loop."""
        self._canceled.set()

    def execute(self, context: LaunchContext) -> None:
        period = perform_typed(context, self.period, float)
        values = context.get_locals_as_dict()
        context.register_event_handler(EventHandler(
            matcher=lambda event: isinstance(event, TimerEvent) and event.timer_action is self,
            entities=lambda event, context: context.extend_locals(values) or self.actions))
        if perform_typed(context, self._cancel_on_shutdown, bool):
            context.register_event_handler(OnShutdown(on_shutdown=lambda event, context: self.cancel()))
        self._future = asyncio.ensure_future(self._wait(context, period))

    async def _wait(self, context: LaunchContext, period: float) -> None:
        try:
            await asyncio.wait_for(self._canceled.wait(), period)
        except asyncio.TimeoutError:
            context.emit_event_sync(TimerEvent(timer_action=self))

    def get_asyncio_future(self) -> Optional[asyncio.Future]:
        return self._future
