"""Actions of launch files."""

from .basic import (AppendEnvironmentVariable, EmitEvent, LogInfo, OpaqueFunction, PopEnvironment,
                    PopLaunchConfigurations, PushEnvironment, PushLaunchConfigurations, RegisterEventHandler,
                    SetEnvironmentVariable, SetLaunchConfiguration, Shutdown, UnregisterEventHandler,
                    UnsetEnvironmentVariable, UnsetLaunchConfiguration)
from .composite import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, TimerAction
from .process import ExecuteLocal, ExecuteProcess

__all__ = [
    "AppendEnvironmentVariable", "DeclareLaunchArgument", "EmitEvent", "ExecuteLocal", "ExecuteProcess", "GroupAction",
    "IncludeLaunchDescription", "LogInfo", "OpaqueFunction", "PopEnvironment", "PopLaunchConfigurations",
    "PushEnvironment", "PushLaunchConfigurations", "RegisterEventHandler", "SetEnvironmentVariable",
    "SetLaunchConfiguration", "Shutdown", "TimerAction", "UnregisterEventHandler", "UnsetEnvironmentVariable",
    "UnsetLaunchConfiguration",
]
