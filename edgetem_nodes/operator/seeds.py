"""Repeat an experiment with several seeds and judge the median: `edgetem run CONFIG --seeds N` writes seeds.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgetem_nodes.operator.comparison import BRIGHTEST, COMPARISON, RANDOM
from edgetem_nodes.operator.experiment import FolderError, load_experiment
from edgetem_nodes.operator.run import INTERRUPTED, Run, execute

SEEDS = "seeds.json"
QUANTITIES = ("found", "found_smoothed", "correlation", "error")
SHOWN = {"found": "top 2 % found", "found_smoothed": "the same, smoothed", "correlation": "map correlation"}


def repeat(source: Path, overrides: dict[str, Any], folder: Path, seeds: Iterable[int], log_level: str) -> int:
    """Run once for every seed into FOLDER/seed_N and write FOLDER/seeds.json; returns the worst exit code.

    Raises
    ------
    FolderError : the folder is in use.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FolderError(f"the output folder {folder} is not empty, and results are never overwritten: name another one "
                          "with --output")
    runs, worst = [], 0
    for seed in seeds:
        configuration = load_experiment(source, overrides | {"/**.seed": seed})
        code = execute(Run(configuration, folder / f"seed_{seed}", log_level=log_level))
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
        if code == 0:
            runs.append({"seed": seed, **judge(folder / f"seed_{seed}")})
            (folder / SEEDS).write_text(json.dumps(summarise(runs), indent=2) + "\n")
    if runs:
        for line in lines(summarise(runs)):
            print(line)
        print(f"written {folder / SEEDS}")
    return worst


def judge(folder: Path) -> dict[str, Any]:
    """Figures of one run and its baselines at equal points, as its report found them."""
    result = json.loads((folder / COMPARISON).read_text())
    short = {BRIGHTEST: "brightest", RANDOM: "random"}
    return {"points": result["points"],
            **{quantity: {short.get(name, "run"): value for name, value in result[quantity].items()}
               for quantity in QUANTITIES}}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Every run, and the median over them of every figure."""
    median = {quantity: {who: statistics.median(run[quantity][who] for run in runs) for who in runs[0][quantity]}
              for quantity in QUANTITIES}
    return {"schema": "edgetem-seeds-1", "runs": runs, "median": median}


def lines(summary: dict[str, Any]) -> list[str]:
    """A table for people."""
    result = [f"{'':>6s} {'':>6s}  " + "  ".join(f"{title:^24s}" for title in SHOWN.values()),
              f"{'seed':>6s} {'points':>6s}  " + "  ".join(f"{'run':>6s} {'random':>7s} {'brightest':>9s}" for _ in SHOWN)]
    for run in [*summary["runs"], {"seed": "median", "points": "", **summary["median"]}]:
        cells = "  ".join(f"{run[q]['run']:6.3f} {run[q]['random']:7.3f} {run[q]['brightest']:9.3f}" for q in SHOWN)
        result.append(f"{run['seed']!s:>6s} {run['points']!s:>6s}  {cells}")
    return result
