"""The command `edgetem` in a process of its own, with the synthetic spectrum image."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

COMMAND = Path(sys.executable).with_name("edgetem")
SYNTHETIC = Path(__file__).resolve().parents[1] / "data" / "synthetic.yaml"
SLOWLY = ["--set", "/**.instrument.replay.real_time=true", "--set", "/**.instrument.dwell_ms=100.0"]
"""Settings that make an acquisition of the synthetic image last long enough to be interrupted."""


@dataclass
class Command:
    """A running `edgetem`; its output is read as it comes."""

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)

    def wait_for(self, text: str) -> str:
        """Read until a line holds `text`; returns it. Fails when the output ends before."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return line
        pytest.fail(f"no line with {text!r} in:\n{self.output}")

    def finish(self) -> int:
        """Read to the end; returns the exit code."""
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait()

    @property
    def output(self) -> str:
        """All lines so far."""
        return "\n".join(self.lines)

    def node(self, name: str) -> psutil.Process:
        """The process of a node."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.cmdline()[1:4] == ["-m", "edgetem_nodes", name]:
                return child
        pytest.fail(f"there is no process of node {name}")

    def descendants(self) -> list[psutil.Process]:
        """All processes below the command."""
        return psutil.Process(self.process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], within: float) -> bool:
    """Whether all processes have ended, waiting for that no longer than `within` seconds."""
    deadline = time.monotonic() + within
    return not psutil.wait_procs(processes, timeout=max(0.0, deadline - time.monotonic()))[1]
