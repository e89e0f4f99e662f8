"""Run the tests in two processes at once: rooms that mostly compute beside rooms that mostly wait for other processes.

`python scripts/test.py [PYTEST OPTIONS]`; with options pytest runs once, as it is. Exit code 0 where all passed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "test"
COMPUTING = ("archive", "featurizer", "physics")
"""Rooms of the one process; the other takes what else there is."""


def started(rooms: list[str], **options: object) -> subprocess.Popen:
    """pytest on some rooms."""
    places = [str(TESTS / room) for room in rooms]
    return subprocess.Popen([sys.executable, "-m", "pytest", *places], cwd=TESTS.parent, **options)


def main(arguments: list[str]) -> int:
    """Run all tests; returns the exit code."""
    if arguments:
        return subprocess.call([sys.executable, "-m", "pytest", *arguments], cwd=TESTS.parent)
    rooms = sorted(path.name for path in TESTS.iterdir() if any(path.glob("test_*.py")))
    with tempfile.TemporaryFile() as said:
        beside = started([room for room in rooms if room in COMPUTING], stdout=said, stderr=subprocess.STDOUT)
        code = started([room for room in rooms if room not in COMPUTING]).wait()
        code = max(code, beside.wait())
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
