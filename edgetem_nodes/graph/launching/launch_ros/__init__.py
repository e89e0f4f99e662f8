"""The part of ROS 2's `launch_ros` that edgetem's launch files use; it needs no ROS. See `launch` beside it."""

from . import actions, descriptions, parameter_descriptions, substitutions

__all__ = ["actions", "descriptions", "parameter_descriptions", "substitutions"]
