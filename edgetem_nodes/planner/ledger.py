"""Which measurements have come, whoever sent them and in whatever order. Knows no ROS."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Told = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Values and standard errors (rows, outputs), validity (rows,)."""


@dataclass(frozen=True)
class Reading:
    """One row: scalars and standard errors, the first one mapped, whether it is valid, and why it is not."""

    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    valid: bool
    failure: str = ""


@dataclass(frozen=True)
class Scalar:
    """What the first column is: name, unit, and the version of the scalarizer that made it."""

    name: str = ""
    unit: str = ""
    version: int = 0


def columns(names: Sequence[str], outputs: Sequence[str]) -> list[int]:
    """Columns of the measurements that are learned: the first, then `outputs` by name.

    Raises
    ------
    ValueError : there is no column of a name.
    """
    missing = [name for name in outputs if name not in names]
    if missing:
        raise ValueError(f"the measurements have no column {missing[0]!r} that planner.outputs names; they have "
                         f"{', '.join(names)}")
    return [0, *(list(names).index(name) for name in outputs)]


@dataclass
class Pending:
    """The rows of one acquisition, by index, until there is one for every position.

    Attributes
    ----------
    first_latency : [s] from the decision's publication to the receipt of the first block, source time taken off; NaN before.
    reference_dose : [electrons] of the images taken for the acquisition beside its positions.
    problem : why its rows cannot be used; empty: they can.
    outputs : columns that are taken besides the first, where they are not the experiment's; None: they are.
    units : of the columns that are taken.
    """

    acquisition_id: uuid.UUID
    count: int
    published_ns: int
    outputs: tuple[str, ...] | None = None
    units: tuple[str, ...] = ()
    rows: dict[int, Reading] = field(default_factory=dict)
    scalar: Scalar = Scalar()
    beam_time: float = 0.0
    """[s] of acquisition time that the probe path takes."""
    reference_dose: float = 0.0
    first_latency: float = float("nan")
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is a row, valid or a marked failure, for every index."""
        return len(self.rows) == self.count

    def missing(self) -> list[int]:
        """Indices without a row."""
        return [index for index in range(self.count) if index not in self.rows]

    def add(self, indices: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray,
            received_ns: int, source_duration: float, failures: Sequence[str] = ()) -> None:
        """Take rows in. A repeated index replaces the earlier row, one beyond the count is ignored.

        Parameters
        ----------
        indices, valid : (rows,). values, standard_errors : (rows, outputs).
        received_ns : monotonic clock when the block arrived at the featurizer.
        source_duration : [s] that the source spent on the block.
        failures : (rows,) why each is not valid; not known by default.
        """
        if not self.rows and len(indices) and received_ns:
            self.first_latency = (received_ns - self.published_ns) / 1e9 - source_duration
        reasons = failures if len(failures) == len(indices) else [""] * len(indices)
        for index, value, error, good, reason in zip(indices, values, standard_errors, valid, reasons, strict=True):
            if 0 <= int(index) < self.count:
                self.rows[int(index)] = Reading(tuple(map(float, value)), tuple(map(float, error)), bool(good), str(reason))

    def sorted(self) -> Told:
        """All rows in order of index; they must be there."""
        return told([self.rows[index] for index in range(self.count)])


@dataclass
class Recomputed:
    """Rows that another scalarizer reads anew from the same data, until each of those wanted has come.

    Attributes
    ----------
    wanted : acquisition and index of each, in the order in which they were told.
    after : version before the change; rows of it and of earlier ones do not count.
    """

    wanted: Sequence[tuple[uuid.UUID, int]]
    after: int
    rows: dict[tuple[uuid.UUID, int], Reading] = field(default_factory=dict)
    scalar: Scalar = Scalar()
    problem: str = ""

    def add(self, acquisition_id: uuid.UUID, indices: np.ndarray, values: np.ndarray, standard_errors: np.ndarray,
            valid: np.ndarray) -> None:
        """Take rows of one acquisition in; shapes as in `Pending.add`."""
        for index, value, error, good in zip(indices, values, standard_errors, valid, strict=True):
            self.rows[acquisition_id, int(index)] = Reading(tuple(map(float, value)), tuple(map(float, error)), bool(good))

    def missing(self) -> int:
        """How many of the wanted rows have not come."""
        return sum(key not in self.rows for key in self.wanted)

    def sorted(self) -> Told:
        """All wanted rows in their order; they must be there."""
        return told([self.rows[key] for key in self.wanted])


def told(rows: Sequence[Reading]) -> Told:
    """Rows as arrays."""
    return (np.array([row.values for row in rows], np.float64), np.array([row.standard_errors for row in rows], np.float64),
            np.array([row.valid for row in rows], bool))
