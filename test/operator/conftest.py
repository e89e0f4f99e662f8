"""Fixtures that run the command `edgetem` in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, SYNTHETIC, Command


@pytest.fixture
def edgetem() -> Iterator[Callable[..., Command]]:
    """Start `edgetem ARGUMENTS`; whatever is still running at the end of the test is ended by its pid."""
    started: list[Command] = []

    def start(*arguments: object, **environment: str) -> Command:
        process = subprocess.Popen([str(COMMAND), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env={**os.environ, **environment}, start_new_session=True)
        started.append(Command(process))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGTERM)
            try:
                command.process.wait(15)
            except subprocess.TimeoutExpired:
                command.process.kill()
        command.process.stdout.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one complete run on the synthetic spectrum image."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = subprocess.run([str(COMMAND), "run", str(SYNTHETIC), "--output", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
