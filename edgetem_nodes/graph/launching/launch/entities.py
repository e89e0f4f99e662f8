"""Launch descriptions and the base of every action in them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Optional, Union

if TYPE_CHECKING:
    from .condition import Condition
    from .context import LaunchContext


class LaunchDescriptionEntity:
    """Something that a launch visits, which may yield more entities to visit."""

    def visit(self, context: LaunchContext) -> Optional[list[LaunchDescriptionEntity]]:
        """Do what the entity does; returns the entities to visit next."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a visit does")

    def describe_sub_entities(self) -> list[LaunchDescriptionEntity]:
        """The entities inside that are known before the launch and always visited."""
        return []

    def describe_conditional_sub_entities(self) -> list[tuple[str, Iterable[LaunchDescriptionEntity]]]:
        """The entities inside that are visited only when something happens, each list with that reason."""
        return []


SomeEntitiesType = Union[LaunchDescriptionEntity, Iterable[LaunchDescriptionEntity]]


class Action(LaunchDescriptionEntity):
    """An entity that does something, if its condition holds."""

    def __init__(self, *, condition: Optional[Condition] = None) -> None:
        self.condition = condition

    def visit(self, context: LaunchContext) -> Optional[list[LaunchDescriptionEntity]]:
        if self.condition is not None and not self.condition.evaluate(context):
            return None
        try:
            return self.execute(context)
        finally:
            self._announce_completion(context)

    def _announce_completion(self, context: LaunchContext) -> None:
        from .events import ExecutionComplete

        event = ExecutionComplete(action=self)
        future = self.get_asyncio_future()
        if not any(handler.matches(event) for handler in context.handlers):
            return
        if future is None:
            context.emit_event_sync(event)
        else:
            future.add_done_callback(lambda _: context.emit_event_sync(event))

    def execute(self, context: LaunchContext) -> Optional[list[LaunchDescriptionEntity]]:
        """Do what the action does; returns the entities to visit next."""
        return None

    def get_asyncio_future(self) -> Optional[asyncio.Future]:
        """A future that is done when the action is, for actions that take time."""
        return None

    def get_sub_entities(self) -> list[LaunchDescriptionEntity]:
        """The entities inside the action, as far as they are known before the launch."""
        return []

    def describe(self) -> str:
        """The action as a person would name it."""
        return type(self).__name__

    def describe_sub_entities(self) -> list[LaunchDescriptionEntity]:
        return self.get_sub_entities() if self.condition is None else []

    def describe_conditional_sub_entities(self) -> list[tuple[str, Iterable[LaunchDescriptionEntity]]]:
        return [] if self.condition is None else [(f"condition of {self.describe()}", self.get_sub_entities())]


class LaunchDescription(LaunchDescriptionEntity):
    """A list of entities, visited in order."""

    def __init__(self, initial_entities: Optional[Iterable[LaunchDescriptionEntity]] = None, *,
                 deprecated_reason: Optional[str] = None) -> None:
        self.entities = list(initial_entities or [])
        self.deprecated_reason = deprecated_reason

    def add_action(self, action: LaunchDescriptionEntity) -> None:
        """Append an action."""
        self.entities.append(action)

    add_entity = add_action

    def visit(self, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        return self.entities

    def describe_sub_entities(self) -> list[LaunchDescriptionEntity]:
        return self.entities

    def get_launch_arguments(self, conditional_inclusion: bool = False) -> list[Any]:
        """The arguments declared here and in included files, the first declaration of each name.

        `_conditionally_included` of an argument says whether something decides if it is visited.
        """
        from .actions import DeclareLaunchArgument

        arguments: dict[str, Any] = {}
        for entity, conditional in walk(self.entities, conditional_inclusion):
            if isinstance(entity, DeclareLaunchArgument) and entity.name not in arguments:
                entity._conditionally_included = conditional or entity.condition is not None
                arguments[entity.name] = entity
        return list(arguments.values())


def walk(entities: Iterable[LaunchDescriptionEntity],
         conditional: bool = False) -> Iterator[tuple[LaunchDescriptionEntity, bool]]:
    """Every entity inside, depth first, each with whether something decides if it is visited."""
    for entity in entities:
        yield entity, conditional
        yield from walk(entity.describe_sub_entities(), conditional)
        for _, inner in entity.describe_conditional_sub_entities():
            yield from walk(inner, True)


def normalize_to_list_of_entities(entities: Any) -> list[LaunchDescriptionEntity]:
    """One entity, an iterable of them (nested or not) or None as a flat list.

    Raises
    ------
    TypeError : a part is no entity.
    """
    if entities is None:
        return []
    if isinstance(entities, LaunchDescriptionEntity):
        return [entities]
    if isinstance(entities, Iterable) and not isinstance(entities, (str, bytes)):
        return [entity for item in entities for entity in normalize_to_list_of_entities(item)]
    raise TypeError(f"{entities!r} is neither an action nor a launch description nor a list of them")
