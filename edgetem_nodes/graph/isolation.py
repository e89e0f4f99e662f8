"""A ROS domain of one's own on the loopback range, for tests and for runs that must not meet other graphs."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

DOMAINS = range(1, 101)
"""Higher domains reach into the ephemeral port range."""

_held: list[int] = []


def isolate() -> int:
    """Take a ROS domain that no other process holds and set the environment to it; call before rclpy is imported.

    The lock is a file lock held until this process ends, so a crash leaves none behind. A second call returns the same
    domain. Child processes inherit the environment, not the lock.

    Raises
    ------
    RuntimeError : all domains are taken.
    """
    if _held:
        return int(os.environ["ROS_DOMAIN_ID"])
    folder = Path(tempfile.gettempdir()) / f"edgetem-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    start = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[start:], *DOMAINS[:start]]:
        descriptor = os.open(folder / f"domain-{domain}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _held.append(descriptor)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.pop("ROS_STATIC_PEERS", None)
        return domain
    raise RuntimeError(f"all ROS domains {DOMAINS.start}-{DOMAINS.stop - 1} are taken by other runs: "
                       f"see the locks in {folder}")
