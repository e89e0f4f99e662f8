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

TOPICS = ("overview", "decision", "measurements", "experiment_map", "energetics", "site_energies", "structure", "experiment",
          "archived_block", "acquisition_end", "probe_path", "microscope_state")
Reading = dict[str, tuple[float, float, str]]
"""Columns of a measurement by name: value, standard error, unit."""


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
    columns: Reading = field(default_factory=dict)


@dataclass(frozen=True)
class SiteEnergy:
    """What came of a site of an energy map: `value` and `standard_error` in the map's unit, or `failure` with the step."""

    name: str
    acquisition_id: uuid.UUID
    index: int
    value: float
    standard_error: float
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
    micro_scans : measurements of micro-scans, in their order. site_energies : of an energy map, in their order: name of the
        level, acquisition and index of the pattern, value, standard error, failure with the step at which the site failed.
    structures : AtomicStructure messages by acquisition and index of the pattern, the last of each.
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
    micro_scans: list[Row] = field(default_factory=list)
    site_energies: list[SiteEnergy] = field(default_factory=list)
    structures: dict[tuple[uuid.UUID, int], Any] = field(default_factory=dict)
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
    scanned: list[uuid.UUID] = []
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
        elif name == "structure":
            outcome.structures[_uuid(message.acquisition_id), int(message.index)] = message
        elif name == "site_energies":
            outcome.site_energies += _site_energies(message)
        elif name == "experiment":
            outcome.experiment = message
        elif name == "microscope_state":
            outcome.dose = float(np.fmax(outcome.dose, message.dose))
        elif name == "probe_path":
            outcome.exposures += len(message.positions) // 2
            if getattr(message, "micro_scan_points", 0):  # recordings of before have none
                scanned.append(_uuid(message.acquisition_id))
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
        rows = _rows(outcome.scan_field, _uuid(decision.acquisition_id), measurements)
        if rows:
            outcome.scalar = rows[-1][1]
        outcome.rows += [row for row, _ in rows]
    for acquisition_id in dict.fromkeys(scanned):
        outcome.micro_scans += [row for row, _ in _rows(outcome.scan_field, acquisition_id, measurements)]
    if outcome.site_energies and outcome.last_map is not None:
        outcome.scalar = (outcome.last_map.name, outcome.last_map.unit)
    return outcome


def _rows(field_: ScanField, acquisition_id: uuid.UUID, measurements: dict) -> list[tuple[Row, tuple[str, str]]]:
    """Rows of an acquisition, each with name and unit of its first column."""
    rows = []
    for index, (message, number) in sorted(measurements.pop(acquisition_id, {}).items()):
        columns = len(message.names)
        position = np.asarray(message.positions).reshape(-1, 2)[number]
        values, errors = (np.asarray(what)[number * columns:(number + 1) * columns].tolist()
                          for what in (message.values, message.standard_errors))
        reading = dict(zip(message.names, zip(values, errors, message.units, strict=True), strict=True))
        rows.append((Row(acquisition_id, index, int(field_.candidates(position)[0]), values[0], errors[0],
                         bool(message.valid[number]), message.failures[number], reading), (message.names[0], message.units[0])))
    return rows


def _site_energies(message: Any) -> list[SiteEnergy]:
    return [SiteEnergy(message.names[0], _uuid(message.acquisition_id), int(index), float(value), float(error), failure)
            for index, value, error, failure in zip(message.indices, message.values, message.standard_errors, message.failures,
                                                    strict=True)]


def _uuid(message: Any) -> uuid.UUID:
    return uuid.UUID(bytes=bytes(bytearray(message.uuid)))
