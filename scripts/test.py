"""Run the tests in two processes at once: rooms that mostly compute beside rooms that mostly wait for other processes.

`python scripts/test.py [PYTEST OPTIONS]`: options go to both, `--last-failed` runs in each what failed there. With places
(files, folders, tests) pytest runs once, as it is. Exit code 0 where all passed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "test"
COMPUTING = ("archive", "featurizer", "physics", "planner")
"""Rooms of the one process; the other takes what else there is."""
NOTHING_TO_RUN = 5
"""Exit code of pytest."""


def started(name: str, rooms: list[str], options: list[str], **pipes: object) -> subprocess.Popen:
    """pytest on some rooms, with a memory of its own of what failed: two that share one forget the other's failures."""
    places = [str(TESTS / room) for room in rooms]
    return subprocess.Popen([sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{name}",
                             "--last-failed-no-failures=none", *options, *places], cwd=ROOT, **pipes)


def failed(code: int, options: list[str]) -> bool:
    """Whether an exit code of pytest is a failure; a process that has nothing to run again has not failed."""
    return code != 0 and not (code == NOTHING_TO_RUN and "--last-failed" in options)


def main(arguments: list[str]) -> int:
    """Run all tests; returns the exit code."""
    if any((ROOT / argument.split("::")[0]).exists() for argument in arguments):
        return subprocess.call([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    rooms = sorted(path.name for path in TESTS.iterdir() if any(path.glob("test_*.py")))
    with tempfile.TemporaryFile() as said:
        beside = started("computing", [room for room in rooms if room in COMPUTING], arguments, stdout=said,
                         stderr=subprocess.STDOUT)
        codes = [started("waiting", [room for room in rooms if room not in COMPUTING], arguments).wait(), beside.wait()]
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    return int(any(failed(code, arguments) for code in codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
