"""The part of ROS 2's `launch_testing` that edgetem's launch tests use. See `launch` beside it."""

from . import actions, asserts, markers, util
from .loader import post_shutdown_test, ready_to_test_action_timeout
from .output import ActiveIoHandler, IoHandler
from .parametrize import parametrize
from .proc_info import ActiveProcInfoHandler, ProcInfoHandler

__all__ = ["ActiveIoHandler", "ActiveProcInfoHandler", "IoHandler", "ProcInfoHandler", "actions", "asserts", "markers",
           "parametrize", "post_shutdown_test", "ready_to_test_action_timeout", "util"]
