"""The part of ROS 2's `launch` that edgetem's launch files use, for machines where the genuine one is not installed.

Written from the behaviour and the names of the public API; see `edgetem_nodes.graph.launching.provide`.
"""

from . import actions, conditions, event_handlers, events, launch_description_sources, logging, substitutions
from .condition import Condition
from .context import LaunchContext
from .entities import Action, LaunchDescription, LaunchDescriptionEntity, SomeEntitiesType
from .event_handlers import EventHandler
from .events import Event
from .launch_description_sources import LaunchDescriptionSource
from .service import LaunchService
from .substitution import SomeSubstitutionsType, Substitution

__all__ = [
    "Action", "Condition", "Event", "EventHandler", "LaunchContext", "LaunchDescription", "LaunchDescriptionEntity",
    "LaunchDescriptionSource", "LaunchService", "SomeEntitiesType", "SomeSubstitutionsType", "Substitution", "actions",
    "conditions", "event_handlers", "events", "launch_description_sources", "logging", "substitutions",
]
