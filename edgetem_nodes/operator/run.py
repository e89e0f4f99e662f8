"""Run an experiment from one command: folder, launch, repair, summary, report."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgetem_nodes.graph.configuration import Configuration
from edgetem_nodes.graph.environment import prepare, share_directory
from edgetem_nodes.graph.isolation import isolate
from edgetem_nodes.graph.launching import run_launch
from edgetem_nodes.operator.check import check
from edgetem_nodes.operator.experiment import (
    ARCHIVE, BAG, CHECKPOINT, CONFIGURATION, RESULT, SUMMARY, continuation, load_experiment, prepare_folder)
from edgetem_nodes.operator.running import announced

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@dataclass(frozen=True)
class Run:
    """What to run: the checked configuration, the folder for the results, and how."""

    configuration: Configuration
    folder: Path
    resume: bool = False
    namespace: str = ""
    log_level: str = "warn"


def output_folder(configuration: Configuration) -> Path:
    """runs/<configuration>-<time> in the present folder."""
    return Path("runs") / f"{configuration.source.stem}-{datetime.now():%Y%m%d-%H%M%S}"


def execute(run: Run) -> int:
    """Run the experiment and leave a complete folder behind, also after a crash; returns the exit code.

    Raises
    ------
    FolderError : the folder is in use.
    CheckError : the configuration cannot be run.
    """
    for line in check(run.configuration).lines():
        print(line)
    if run.resume:
        continuation(run.folder)
    prepare_folder(run.folder, run.configuration, run.resume)
    if "ROS_DOMAIN_ID" not in os.environ:
        isolate()
    os.environ["ROS_LOG_DIR"] = str(run.folder / "log")
    print(f"results in {run.folder}, ROS domain {os.environ['ROS_DOMAIN_ID']}", flush=True)
    prepare()
    with announced(run.folder, run.namespace):
        code = run_launch(share_directory() / "launch" / "experiment.launch.py", {
            "experiment": str(run.folder / CONFIGURATION), "output": str(run.folder), "namespace": run.namespace,
            "resume": str(run.resume).lower(), "log_level": run.log_level}, quiet=run.log_level not in ("debug", "info"))
    for line in repair_folder(run.folder):
        print(line)
    return finish(run.folder, interrupted(run.folder, code))


def interrupted(folder: Path, code: int) -> int:
    """The exit code of a graph that ended: INTERRUPTED, with what to do said, where the experiment did not come to its end."""
    if code != 0 or (folder / RESULT).exists():
        return code
    print("interrupted" + (f"; to go on: edgetem run --resume {folder}" if (folder / CHECKPOINT).exists() else
                           " before the first decision"))
    return INTERRUPTED


def after_launch(folder: Path, code: int) -> int:
    """Repair what a launch file's experiment left in its folder, and report on it where it was interrupted; the exit code.

    A folder without the configuration of an experiment is left alone.
    """
    for line in repair_folder(folder):
        print(line)
    if not (folder / CONFIGURATION).exists() or interrupted(folder, code) == code:
        return code
    return finish(folder, INTERRUPTED)


def repair_folder(folder: Path) -> list[str]:
    """Make archive and bag readable where a dead node left them open; returns what was done, for people."""
    from edgetem_nodes.archive.repair import repair as repair_archive
    from edgetem_nodes.provenance.repair import repair as repair_bag
    from edgetem_nodes.provenance.metadata import BagError
    reports = []
    if (folder / ARCHIVE).exists():
        report = repair_archive(folder / ARCHIVE)
        reports += [] if report.action == "none" else [report]
    if (folder / BAG).exists():
        try:
            report = repair_bag(folder / BAG)
            reports += [report] if report.changed else []
        except BagError as error:
            reports.append(f"nothing: {error}")
    return [f"repaired {report}" for report in reports]


def finish(folder: Path, code: int, compared: bool | None = None) -> int:
    """Write summary and report of what is in the folder; returns the exit code, 1 where they cannot be made.

    After a failure or an interruption the report leaves out the comparison with other strategies, which takes its time,
    unless `compared` says otherwise.
    """
    from edgetem_nodes.operator.report import write_report
    from edgetem_nodes.operator.summary import write_summary
    began = time.monotonic()
    try:
        write_summary(folder, code)
        write_report(folder, code == 0 if compared is None else compared)
    except Exception as error:  # noqa: BLE001  (the data is safe; say what is missing and where)
        print(f"error: no report of {folder}: {str(error) or type(error).__name__}", file=sys.stderr)
        return code or 1
    print(f"report {folder / 'report.html'} in {time.monotonic() - began:.0f} s")
    return code


def load(path: Path, overrides: dict[str, object]) -> Configuration:
    """`load_experiment`, for the command line."""
    return load_experiment(path, overrides)


def recorded_exit_code(folder: Path) -> int:
    """Exit code of the run that left the folder, as its summary has it; of one that `edgetem launch` ran, as its result."""
    try:
        return int(_stored(folder / SUMMARY)["exit_code"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return 1 if _stored(folder / RESULT)["error_code"] else 0
    except (OSError, ValueError, KeyError):
        return 1


def _stored(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())
