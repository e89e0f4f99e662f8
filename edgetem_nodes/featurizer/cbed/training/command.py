"""The command `edgetem train cbed`: progress and messages around a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def train(configuration: Path, output: Path, console: Console, **options: Any) -> str:
    """Run a training with a progress bar; what to tell the person at its end. Errors are those of `run_training`."""
    from edgetem_nodes.featurizer.cbed.training.run import WEIGHTS, run_training

    columns = (TextColumn("{task.description:32s}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, int] = {}

        def report(stage: str, done: int, total: int, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, figures=text)
            progress.update(tasks[stage], completed=done, total=total, figures=text)

        digest, trained = run_training(configuration, output, report=report, **options)
    lines = [f"{output / WEIGHTS}  sha256 {digest}", *(f"not for measurements: {one}"
                                                        for one in trained.settings.get("caveats", [])),
             *trained.card.get("notes", [])]
    return "\n".join(lines)
