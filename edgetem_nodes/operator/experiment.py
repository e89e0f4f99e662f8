"""An experiment on disk: its configuration, checked for every node, and its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.compressor.parameters import Parameters as CompressorParameters
from edgetem_nodes.detector.parameters import Parameters as DetectorParameters
from edgetem_nodes.featurizer.parameters import Parameters as FeaturizerParameters
from edgetem_nodes.graph.configuration import Configuration, load_configuration
from edgetem_nodes.graph.environment import share_directory
from edgetem_nodes.hpc_bridge.parameters import Parameters as HpcBridgeParameters
from edgetem_nodes.microscope.parameters import Parameters as MicroscopeParameters
from edgetem_nodes.operator.parameters import Parameters as OperatorParameters
from edgetem_nodes.planner.parameters import Parameters as PlannerParameters
from edgetem_nodes.provenance.parameters import Parameters as RecorderParameters

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
REPORT = "report.html"
RESULT = "result.json"


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
        return
    if folder.exists() and any(child.name != CONFIGURATION for child in folder.iterdir()):
        raise FolderError(f"the output folder {folder} is not empty, and results are never overwritten: "
                          "name another one with output:= or --output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIGURATION).write_text(configuration.as_yaml())


def spent_dose(folder: Path) -> float:
    """Electrons that an interrupted experiment had spent by its checkpoint, so that the microscope goes on counting.

    Raises
    ------
    FolderError : the checkpoint cannot be read.
    """
    try:
        with np.load(folder / CHECKPOINT, allow_pickle=False) as stored:
            return float(json.loads(str(stored["progress"]))["dose"])
    except (OSError, ValueError, KeyError) as error:
        raise FolderError(f"{folder} cannot be resumed: {CHECKPOINT} cannot be read: {error}") from None
