"""What an experiment left behind, read from its folder: decisions, measurements, maps and energies. Needs no ROS."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.change import changed
from edgetem_nodes.featurizer.parameters import Parameters as FeaturizerParameters
from edgetem_nodes.graph.configuration import Configuration
from edgetem_nodes.operator.experiment import CONFIGURATION, RESULT, load_experiment
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.provenance.reading import matches, read_bag

TOPICS = ("overview", "decision", "measurements", "experiment_map", "energetics", "experiment", "archived_block",
          "acquisition_end", "probe_path", "microscope_state")


@dataclass(frozen=True)
class Row:
    """One measurement: where (flat grid index), what (value, standard error), and whether it is valid."""

    acquisition_id: uuid.UUID
    index: int
    candidate: int
    value: float
    standard_error: float
    valid: bool
    failure: str


@dataclass
class Outcome:
    """An experiment as its bag tells it.

    Attributes
    ----------
    decisions : Decision messages in order, the last of each index.
    rows : measurements in the order of the decisions that asked for them; a position may occur twice. Where the operator
        changed the scalarizer, what the last one made of them.
    maps : ExperimentMap messages by decision index.
    survey : (channels, rows, columns) [counts].
    dose : electrons sent to the specimen by the microscope's own account; NaN where it never said.
    beam_time : [s] of acquisition time of all probe paths, repeated ones counted; exposures : their positions.
    result : what the operator node wrote at the end; empty after a crash.
    """

    folder: Path
    configuration: Configuration
    experiment: Any = None
    survey: np.ndarray | None = None
    survey_channels: tuple[str, ...] = ()
    survey_dose: float = float("nan")
    dose: float = float("nan")
    beam_time: float = 0.0
    exposures: int = 0
    scan_field: ScanField | None = None
    decisions: list[Any] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    maps: dict[int, Any] = field(default_factory=dict)
    energies: list[Any] = field(default_factory=list)
    scalar: tuple[str, str] = ("", "")
    messages: int = 0
    archived_bytes: int = 0
    stored_bytes: int = 0
    blocks: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def last_map(self) -> Any | None:
        """The last ExperimentMap; None before the first model."""
        return self.maps[max(self.maps)] if self.maps else None

    @property
    def stop_reason(self) -> str:
        """Why the experiment stopped; "failed" where it could not go on, "interrupted" where it never decided to."""
        if self.result.get("error_code"):
            return "failed"
        stops = [d.stop_reason for d in self.decisions if d.action == "stop"]
        return stops[-1] if stops else "interrupted"

    @property
    def discovery(self) -> str:
        """Verdict on what was sought; empty where nothing was tested, or the experiment did not come to its end."""
        return str(self.result.get("discovery", ""))

    @property
    def watchdogs(self) -> list[tuple[int, str]]:
        """Failures of model or search that were noticed: number of the decision, and what it says."""
        return [(int(d.index), str(watchdog)) for d in self.decisions if d.action != "propose"
                for watchdog in getattr(d, "watchdogs", ())]  # recordings of before have none

    @property
    def featurizer(self) -> FeaturizerParameters:
        """Parameters of the featurizer as the operator left them."""
        parameters = self.configuration.parameters("featurizer", FeaturizerParameters)
        for request in (json.loads(d.request) for d in self.decisions if d.action == "operator"):
            if request["kind"] == "change_scalarizer" and "refused" not in request:
                parameters = changed(parameters, request["scalarizer"], json.dumps(request["settings"]))
        return parameters

    def measured(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates (n,), values (n,) and standard errors (n,) of the valid rows, in order."""
        valid = [row for row in self.rows if row.valid]
        return (np.array([row.candidate for row in valid], int), np.array([row.value for row in valid]),
                np.array([row.standard_error for row in valid]))


def read_outcome(folder: str | Path) -> Outcome:
    """Read an experiment's folder.

    Raises
    ------
    BagError : there is no readable bag.
    ConfigurationError : its configuration does not fit this version.
    """
    folder = Path(folder)
    outcome = Outcome(folder, load_experiment(folder / CONFIGURATION))
    if (folder / RESULT).exists():
        outcome.result = json.loads((folder / RESULT).read_text())
    decisions: dict[int, Any] = {}
    measurements: dict[uuid.UUID, dict[int, tuple[Any, int]]] = {}
    for topic, _, message in read_bag(folder, TOPICS):
        outcome.messages += 1
        name = next(name for name in TOPICS if matches(topic, (name,)))
        if name == "decision":
            decisions[message.index] = message
        elif name == "measurements":
            rows = measurements.setdefault(_uuid(message.acquisition_id), {})
            rows.update({int(index): (message, number) for number, index in enumerate(message.indices)})
        elif name == "experiment_map":
            outcome.maps[message.decision_index] = message
        elif name == "energetics":
            outcome.energies.append(message)
        elif name == "experiment":
            outcome.experiment = message
        elif name == "microscope_state":
            outcome.dose = float(np.fmax(outcome.dose, message.dose))
        elif name == "probe_path":
            outcome.exposures += len(message.positions) // 2
            outcome.beam_time += message.position_period * (len(message.positions) // 2)
        elif name == "archived_block":
            outcome.blocks += 1
            outcome.archived_bytes += message.raw_size
            outcome.stored_bytes += message.stored_size
        elif name == "overview":
            outcome.scan_field = ScanField(tuple(message.field.origin), tuple(message.field.step),
                                           tuple(int(n) for n in message.field.shape))
            outcome.survey = np.asarray(message.data).reshape(-1, *outcome.scan_field.shape)
            outcome.survey_channels, outcome.survey_dose = tuple(message.channels), message.dose
    outcome.decisions = [decisions[index] for index in sorted(decisions)]
    for decision in outcome.decisions:
        _collect(outcome, _uuid(decision.acquisition_id), measurements)
    return outcome


def _collect(outcome: Outcome, acquisition_id: uuid.UUID, measurements: dict) -> None:
    for index, (message, number) in sorted(measurements.pop(acquisition_id, {}).items()):
        columns = len(message.names)
        position = np.asarray(message.positions).reshape(-1, 2)[number]
        outcome.scalar = (message.names[0], message.units[0])
        outcome.rows.append(Row(acquisition_id, index, int(outcome.scan_field.candidates(position)[0]),
                                float(message.values[number * columns]), float(message.standard_errors[number * columns]),
                                bool(message.valid[number]), message.failures[number]))


def _uuid(message: Any) -> uuid.UUID:
    return uuid.UUID(bytes=bytes(bytearray(message.uuid)))
