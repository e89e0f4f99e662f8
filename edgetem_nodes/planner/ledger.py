"""Which measurements of an acquisition have come, whoever sent them and in whatever order. Knows no ROS."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Reading:
    """One row: scalar and standard error, and whether it is valid."""

    value: float
    standard_error: float
    valid: bool


@dataclass
class Pending:
    """The rows of one acquisition, by index, until there is one for every position.

    Attributes
    ----------
    first_latency : [s] from the decision's publication to the receipt of the first block, source time taken off; NaN before.
    """

    acquisition_id: uuid.UUID
    count: int
    published_ns: int
    rows: dict[int, Reading] = field(default_factory=dict)
    scalar: tuple[str, str] = ("", "")
    """Name and unit."""
    scalarizer_version: int = 0
    beam_time: float = 0.0
    """[s] of acquisition time that the probe path takes."""
    first_latency: float = float("nan")

    @property
    def complete(self) -> bool:
        """Whether there is a row, valid or a marked failure, for every index."""
        return len(self.rows) == self.count

    def missing(self) -> list[int]:
        """Indices without a row."""
        return [index for index in range(self.count) if index not in self.rows]

    def add(self, indices: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray,
            received_ns: int, source_duration: float) -> None:
        """Take rows in; (rows,) arrays. A repeated index replaces the earlier row, one beyond the count is ignored.

        Parameters
        ----------
        received_ns : monotonic clock when the block arrived at the featurizer.
        source_duration : [s] that the source spent on the block.
        """
        if not self.rows and len(indices) and received_ns:
            self.first_latency = (received_ns - self.published_ns) / 1e9 - source_duration
        for index, value, error, good in zip(indices, values, standard_errors, valid, strict=True):
            if 0 <= int(index) < self.count:
                self.rows[int(index)] = Reading(float(value), float(error), bool(good))

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, standard errors and validity in order of index, (count,) each; all rows must be there."""
        rows = [self.rows[index] for index in range(self.count)]
        return (np.array([row.value for row in rows], np.float64),
                np.array([row.standard_error for row in rows], np.float64),
                np.array([row.valid for row in rows], bool))
