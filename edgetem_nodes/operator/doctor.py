"""`edgetem doctor`: what of this machine could keep an experiment from running, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgetem_nodes.graph.environment import prepare, shared_memory_segment, share_directory
from edgetem_nodes.graph.isolation import isolate

LEAST_FREE_DISK = 2 << 30
"""[byte]; a warning below."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `state` is "ok", "warning" or "error"."""

    subject: str
    state: str
    detail: str


def examine(folder: Path) -> list[Finding]:
    """Look at interpreter, compiler, versions, transport, ROS domain, discovery, launcher and the disk of `folder`."""
    return [_python(), _compiler(), _versions(), _transport(), _domain(), _discovery(), _launcher(), _disk(folder)]


def _python() -> Finding:
    version = sys.version.split()[0]
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", "ok" if supported else "error",
                   version if supported else f"{version}: edgetem needs 3.11 or 3.12")


def _compiler() -> Finding:
    found = shutil.which("c++") or shutil.which("g++")
    return Finding("C++ compiler", "ok" if found else "warning",
                   found or "none: needed only to install again; 'apt-get install g++'")


def _versions() -> Finding:
    lock = (share_directory() / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lock if "==" in line and not line.startswith("#"))
    differing = []
    for name, version in pinned.items():
        try:
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            differing.append(f"{name} {installed} instead of {version}")
    ros = [text for text in differing if text.startswith("ros-")]
    if not differing:
        return Finding("versions", "ok", f"all {len(pinned)} packages as in requirements.lock")
    shown = "; ".join((ros or differing)[:4]) + (f"; {len(differing) - 4} more" if len(differing) > 4 else "")
    return Finding("versions", "warning", f"{shown}: decisions may not replay bit for bit; ROS wheels must be those that "
                   "the interfaces were built with")


def _transport() -> Finding:
    size, reason = shared_memory_segment()
    return Finding("shared memory", "ok" if size >= 128 << 20 else "warning", reason)


def _domain() -> Finding:
    domain = os.environ.get("ROS_DOMAIN_ID")
    if domain is None:
        return Finding("ROS domain", "ok", "not set: 'edgetem run' takes a free one of 1-100 on the loopback")
    good = domain.isdigit() and 0 <= int(domain) <= 101
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    return Finding("ROS domain", "ok" if good else "error",
                   f"{domain}, discovery range {reach}" if good else
                   f"ROS_DOMAIN_ID is {domain!r}: it must be a number from 0 to 101; higher ones reach ephemeral ports")


def _discovery() -> Finding:
    """Two processes in a domain of their own: a talker here, a listener there."""
    environment = dict(os.environ)
    try:
        isolate()
        prepare()
        child = subprocess.Popen([sys.executable, "-c", _LISTENER])
        import rclpy
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import Empty
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            node = rclpy.create_node("doctor")
            publisher = node.create_publisher(Empty, "doctor", 1)
            began = time.monotonic()
            while child.poll() is None and time.monotonic() - began < 10:
                publisher.publish(Empty())
                time.sleep(0.02)
            took = time.monotonic() - began
        finally:
            rclpy.try_shutdown()
        if child.poll() is None:
            child.kill()
            child.wait()
            return Finding("discovery", "error", "two processes did not find each other within 10 s on the loopback: is "
                           "multicast on 'lo' forbidden, or a firewall in the way?")
        return Finding("discovery", "ok", f"two processes exchanged a message {took:.1f} s after the second began to start")
    except Exception as error:  # noqa: BLE001  (a diagnosis must end in words)
        return Finding("discovery", "error", f"the test of two processes failed: {error}")
    finally:
        os.environ.clear()
        os.environ.update(environment)


_LISTENER = """
from edgetem_nodes.graph.environment import prepare
prepare()
import rclpy
from std_msgs.msg import Empty
rclpy.init()
node = rclpy.create_node("patient")
heard = []
node.create_subscription(Empty, "doctor", heard.append, 1)
while not heard:
    rclpy.spin_once(node, timeout_sec=0.1)
"""


def _launcher() -> Finding:
    from edgetem_nodes.graph.launching import provide
    which = provide()
    return Finding("launcher", "ok", "the genuine launch_ros" if which == "genuine" else "edgetem's own runner")


def _disk(folder: Path) -> Finding:
    existing = next(p for p in [folder.resolve(), *folder.resolve().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    if not writable:
        return Finding("disk", "error", f"{existing} is not writable: choose another folder")
    return Finding("disk", "ok" if free > LEAST_FREE_DISK else "warning", f"{free / 2**30:.1f} GiB free under {existing}")
