"""`python -m edgetem_nodes.featurizer.cbed.training CONFIG`: `edgetem train cbed` for a machine without the rest of edgetem.

It needs numpy, scipy, numba, torch, PyYAML and matplotlib. Progress is one line a stage, with the time that it took.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import yaml


class StageLines:
    """Prints when a stage begins, how far it is now and then, and how long it took."""

    def __init__(self, every: float = 10.0) -> None:
        """A line every so many seconds."""
        self._every, self._stage, self._text = every, "", ""
        self._begun = self._said = self._start = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """As `TrainingRun.report`."""
        now = time.monotonic()
        if stage != self._stage:
            self.end()
            self._stage, self._begun, self._said = stage, now, now
        self._text = text
        if now - self._said > self._every:
            self._said = now
            print(f"  {stage}: {done} of {total} after {now - self._begun:.0f} s {text}", flush=True)

    def end(self) -> None:
        """Say how long the stage at hand took; from the end of the one before, to its last report."""
        if self._stage:
            now = time.monotonic()
            print(f"{self._stage}: {now - self._begun:.1f} s, {now - self._start:.0f} s since the start. {self._text}",
                  flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgetem_nodes.featurizer.cbed.training", description=__doc__)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--from", dest="initial", type=Path)
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[])
    given = parser.parse_args(arguments)
    from edgetem_nodes.featurizer.cbed.training.run import WEIGHTS, run_training

    lines = StageLines()
    try:
        changed = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given.settings)}
        digest, trained = run_training(given.configuration, given.output, seed=given.seed, device=given.device,
                                       quick=given.quick, initial=given.initial, changed=changed, report=lines,
                                       overwrite=given.overwrite)
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"ended, nothing was written {error}".rstrip(), file=sys.stderr)
        return 130
    lines.end()
    print(f"{given.output / WEIGHTS}  sha256 {digest}", *trained.card.get("figures", []), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
