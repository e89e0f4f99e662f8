"""An experiment on disk: its configuration, checked for every node, and its folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.compressor.parameters import Parameters as CompressorParameters
from edgetem_nodes.detector.parameters import Parameters as DetectorParameters
from edgetem_nodes.featurizer.parameters import Parameters as FeaturizerParameters
from edgetem_nodes.graph.configuration import Configuration, load_configuration
from edgetem_nodes.graph.environment import share_directory
from edgetem_nodes.graph.history import write_history
from edgetem_nodes.hpc_bridge.parameters import Parameters as HpcBridgeParameters
from edgetem_nodes.microscope.parameters import Parameters as MicroscopeParameters
from edgetem_nodes.operator.parameters import Parameters as OperatorParameters
from edgetem_nodes.planner.parameters import Parameters as PlannerParameters
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.parameters import Parameters as RecorderParameters
from edgetem_nodes.provenance.past import past_of

SCHEMAS: dict[str, type] = {
    "microscope": MicroscopeParameters,
    "detector": DetectorParameters,
    "compressor": CompressorParameters,
    "featurizer": FeaturizerParameters,
    "planner": PlannerParameters,
    "hpc_bridge": HpcBridgeParameters,
    "recorder": RecorderParameters,
    "operator": OperatorParameters,
}
"""Parameter dataclass of every node that a configuration may set."""

CONFIGURATION = "experiment.yaml"
ARCHIVE = "archive.h5"
BAG = "bag"
CHECKPOINT = "checkpoint.npz"
SUMMARY = "summary.json"
HISTORY = "history.npz"
REPORT = "report.html"
RESULT = "result.json"
RUNNING = "running.json"


class FolderError(ValueError):
    """An output folder that cannot be used."""


def load_experiment(path: str | Path, overrides: dict[str, Any] | None = None) -> Configuration:
    """Read and check the configuration of an experiment. A bare name is looked up among the shipped ones.

    Raises
    ------
    ConfigurationError : as `load_configuration`.
    """
    path = Path(path)
    if not path.exists() and path.name == str(path):
        shipped = share_directory() / "config" / path.with_suffix(".yaml")
        path = shipped if shipped.exists() else path
    return load_configuration(path, SCHEMAS, overrides)


def prepare_folder(folder: Path, configuration: Configuration, resume: bool = False) -> None:
    """Make the experiment's folder and write the complete configuration into it.

    Raises
    ------
    FolderError : the folder already holds an experiment (or, to resume, holds none).
    """
    if resume:
        missing = [name for name in (CONFIGURATION, CHECKPOINT) if not (folder / name).exists()]
        if missing:
            raise FolderError(f"{folder} cannot be resumed: it holds no {' and no '.join(missing)}")
        (folder / RESULT).unlink(missing_ok=True)
        (folder / CONFIGURATION).write_text(configuration.as_yaml())
        return
    text = configuration.as_yaml()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = [child for child in folder.iterdir() if child.name != RUNNING
                and (child.name != CONFIGURATION or child.read_text() != text)]
        if held:
            raise FolderError(f"the output folder {folder} is not empty, and results are never overwritten: "
                              "name another one with output:= or --output")
        (folder / CONFIGURATION).write_text(text)
    except OSError as error:
        raise FolderError(f"the output folder {folder} cannot be made: {error.strerror}") from None


def continuation(folder: Path) -> dict[str, dict[str, Any]]:
    """What microscope and detector must know to go on: parameters by node. Writes what they read into the folder.

    `initial_dose` [electrons] is the larger one of the checkpoint's and of the last state that the bag holds: an acquisition
    that was broken off has cost electrons, too. `initial_elapsed` [s] is the acquisition time of the last thing recorded,
    `history` the file of what was exposed before.

    Raises
    ------
    FolderError : the checkpoint or the bag cannot be read.
    """
    try:
        with np.load(folder / CHECKPOINT, allow_pickle=False) as stored:
            progress = json.loads(str(stored["progress"]))
        dose, sequence = float(progress["dose"]), int(progress["decisions"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FolderError(f"{folder} cannot be resumed: {CHECKPOINT} cannot be read: {error}") from None
    microscope: dict[str, Any] = {"initial_dose": dose, "initial_sequence": sequence}
    if not (folder / BAG).is_dir():
        return {"microscope": microscope}
    try:
        past = past_of(folder)
    except BagError as error:
        raise FolderError(f"{folder} cannot be resumed: {error}") from None
    write_history(folder / HISTORY, past.paths, past.overview, past.survey_elapsed, past.surveys)
    history = {"history": str(folder / HISTORY)}
    microscope.update(history, initial_dose=max(dose, past.dose), initial_elapsed=past.elapsed)
    return {"microscope": microscope, "detector": history}
