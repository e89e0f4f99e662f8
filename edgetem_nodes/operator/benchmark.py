"""`edgetem bench NAME`: runs bench/NAME.py, prints a table for people or one JSON line."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

from edgetem_nodes import __version__
from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.graph.environment import share_directory


class BenchmarkError(ValueError):
    """There is no such benchmark."""


def run_benchmark(name: str, as_json: bool, quick: bool) -> dict[str, Any]:
    """Run one benchmark and print its record.

    Raises
    ------
    BenchmarkError : there is none of this name.
    """
    folder = share_directory() / "bench"
    known = sorted(path.stem for path in folder.glob("*.py"))
    if name not in known:
        raise BenchmarkError(f"there is no benchmark {name!r}; there are {', '.join(known)}" + nearest(name, known))
    spec = importlib.util.spec_from_file_location(f"edgetem_bench_{name.replace('-', '_')}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    record = {"name": name, "version": __version__, "cpu": cpu(), "threads": 1, "quick": quick, **module.run(quick)}
    if as_json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:24s} {value:.4g}" if isinstance(value, float) else f"{key:24s} {value}")
    return record


def cpu() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
