"""Which experiments run now, and where their graphs are found: a small file in the folder of each, while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgetem_nodes.operator.experiment import RUNNING

VARIABLES = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "RMW_IMPLEMENTATION")
"""What a process must share with the graph to find it."""


class NotRunningError(ValueError):
    """No experiment, or more than one, can be meant; the message says which there are."""


@dataclass(frozen=True)
class Running:
    """A running experiment: namespace of its nodes, and variables of the environment that lead to them."""

    folder: Path | None
    namespace: str
    environment: dict[str, str]


@contextmanager
def announced(folder: Path, namespace: str) -> Iterator[None]:
    """Meanwhile other processes find the graph that this one launches."""
    path = folder / RUNNING
    path.write_text(json.dumps({"process": os.getpid(), "namespace": namespace,
                                "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ}}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_running(folder: Path | None, namespace: str = "", here: Path | None = None) -> Running:
    """The experiment in a folder; without one that of ROS_DOMAIN_ID, else the only one that runs below `here`/runs.

    Raises
    ------
    NotRunningError : there is none, or several.
    """
    if folder is not None:
        found = _read(folder / RUNNING)
        if found is None:
            raise NotRunningError(f"no experiment runs in {folder}")
        return found
    if "ROS_DOMAIN_ID" in os.environ:
        return Running(None, namespace, {})
    runs = (here or Path.cwd()) / "runs"
    running = [found for path in sorted(runs.glob(f"*/{RUNNING}")) if (found := _read(path)) is not None]
    if len(running) == 1:
        return running[0]
    if not running:
        raise NotRunningError(f"no experiment runs in a folder of {runs}: name its folder with --output, or set ROS_DOMAIN_ID")
    raise NotRunningError("several experiments run: name the folder of one with --output: "
                          + ", ".join(str(one.folder) for one in running))


def _read(path: Path) -> Running | None:
    """What a file says; None where there is none, or the process that wrote it is gone."""
    try:
        record = json.loads(path.read_text())
        os.kill(int(record["process"]), 0)
    except PermissionError:
        pass  # it runs, as another user
    except (OSError, ValueError, KeyError):
        return None
    return Running(path.parent, str(record["namespace"]), dict(record["environment"]))
