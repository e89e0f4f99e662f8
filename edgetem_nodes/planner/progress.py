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
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.stopping import Spent


@dataclass
class Progress:
    """An experiment under way.

    Attributes
    ----------
    decisions : made and measured so far; the number of the next one.
    dose, survey_dose : [electrons]; beam_time : [s] of acquisition time.
    origins : acquisition and index of the last measurement of each candidate.
    """

    experiment_id: uuid.UUID
    experiment: ActiveExperiment
    decisions: int = 0
    dose: float = 0.0
    survey_dose: float = 0.0
    beam_time: float = 0.0
    origins: dict[int, tuple[uuid.UUID, int]] = field(default_factory=dict)
    scalar_name: str = ""
    scalar_unit: str = ""
    scalarizer_version: int = 0

    @property
    def spent(self) -> Spent:
        """Cost so far."""
        return Spent(self.experiment.points, self.dose, self.beam_time, self.survey_dose)

    def acquisition_id(self) -> uuid.UUID:
        """Of the next decision's acquisition: it follows from the experiment, so that decisions repeat bit for bit."""
        return uuid.uuid5(self.experiment_id, str(self.decisions))

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        record = {"experiment_id": str(self.experiment_id), "decisions": self.decisions, "dose": self.dose,
                  "survey_dose": self.survey_dose, "beam_time": self.beam_time,
                  "scalar_name": self.scalar_name,
                  "scalar_unit": self.scalar_unit, "scalarizer_version": self.scalarizer_version,
                  "origins": {str(c): [str(a), i] for c, (a, i) in self.origins.items()}}
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
            origins = {int(c): (uuid.UUID(a), int(i)) for c, (a, i) in record["origins"].items()}
            return cls(uuid.UUID(record["experiment_id"]), ActiveExperiment.load_state(state, parameters),
                       record["decisions"], record["dose"], record["survey_dose"], record["beam_time"], origins,
                       record["scalar_name"], record["scalar_unit"], record["scalarizer_version"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            if isinstance(error, ExperimentError):
                raise
            raise ExperimentError(f"checkpoint {path} cannot be used: {error}") from None
