"""What the planner node remembers between decisions, and its checkpoint file. Knows no ROS."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from edgetem_nodes.planner.experiment import ActiveExperiment, ExperimentError
from edgetem_nodes.planner.ledger import Scalar
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.stopping import Spent


@dataclass
class Progress:
    """An experiment under way.

    Attributes
    ----------
    decisions : made and measured so far; the number of the next one.
    dose, survey_dose : [electrons]; beam_time : [s] of acquisition time.
    rows : acquisition and index of every measurement, in the order in which they were told.
    micro_scans : the same of the micro-scan at each, of an energy map; the identifier all zero: there was none.
    scalar : what is mapped, once something was measured. units : of the further outputs.
    deepening : whether energies of the better level were due when the checkpoint was written.
    note : what became of the energies of the latest batch, for the reason of the next decision; empty: it was said.
    scalarizer, scalarizer_settings : name, and JSON of all settings that differ from the configuration, once the operator
        has changed them; empty: as configured.
    paused : by the operator. approve_batches : whether each batch waits for approval.
    proposed : number of the decision whose batch waits for approval; None: none does. Not kept: a batch that was not
        measured is proposed again.
    commanded : number of the setting that the microscope was commanded to; None: not yet. Not kept: it is commanded anew.
    """

    experiment_id: uuid.UUID
    experiment: ActiveExperiment
    decisions: int = 0
    dose: float = 0.0
    survey_dose: float = 0.0
    beam_time: float = 0.0
    rows: list[tuple[uuid.UUID, int]] = field(default_factory=list)
    micro_scans: list[tuple[uuid.UUID, int]] = field(default_factory=list)
    scalar: Scalar = Scalar()
    units: tuple[str, ...] = ()
    deepening: bool = False
    note: str = ""
    scalarizer: str = ""
    scalarizer_settings: str = ""
    paused: bool = False
    approve_batches: bool = False
    proposed: int | None = None
    commanded: int | None = None

    @property
    def spent(self) -> Spent:
        """Cost so far."""
        return Spent(self.experiment.points, self.dose, self.beam_time, self.survey_dose)

    def acquisition_id(self) -> uuid.UUID:
        """Of the next decision's acquisition: it follows from the experiment, so that decisions repeat bit for bit."""
        return uuid.uuid5(self.experiment_id, str(self.decisions))

    def origin(self, candidate: int) -> tuple[uuid.UUID, int]:
        """Acquisition and index of the last measurement of a candidate."""
        told = np.flatnonzero(self.experiment.observations.candidates == candidate)
        return self.rows[int(told[-1])]

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        record = {"experiment_id": str(self.experiment_id), "decisions": self.decisions, "dose": self.dose,
                  "survey_dose": self.survey_dose, "beam_time": self.beam_time,
                  "rows": [[str(acquisition), index] for acquisition, index in self.rows],
                  "micro_scans": [[str(acquisition), index] for acquisition, index in self.micro_scans],
                  "units": list(self.units), "note": self.note, "deepening": self.deepening,
                  "scalar": [self.scalar.name, self.scalar.unit, self.scalar.version],
                  "scalarizer": self.scalarizer, "scalarizer_settings": self.scalarizer_settings,
                  "paused": self.paused, "approve_batches": self.approve_batches}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, progress=np.array(json.dumps(record)), **self.experiment.state_dict())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path, parameters: Parameters) -> Progress:
        """The experiment that a checkpoint describes.

        Raises
        ------
        ExperimentError : the file is missing, damaged, or was made with parameters that decisions depend on.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                state = dict(stored)
            record = json.loads(str(state.pop("progress")))
            return cls(uuid.UUID(record["experiment_id"]), ActiveExperiment.load_state(state, parameters),
                       record["decisions"], record["dose"], record["survey_dose"], record["beam_time"],
                       _identified(record["rows"]), _identified(record["micro_scans"]),
                       Scalar(*record["scalar"]), tuple(record["units"]), record["deepening"], record["note"],
                       record["scalarizer"], record["scalarizer_settings"], record["paused"], record["approve_batches"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            if isinstance(error, ExperimentError):
                raise
            raise ExperimentError(f"checkpoint {path} cannot be used: {error}") from None


def _identified(entries: list) -> list[tuple[uuid.UUID, int]]:
    """Acquisition and index of each of the record's entries."""
    return [(uuid.UUID(acquisition), int(index)) for acquisition, index in entries]
