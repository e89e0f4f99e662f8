"""What came of every site of an energy map, from its pattern to its energy, for people."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.featurizer.structures.defects import LARGER
from edgetem_nodes.graph.identifiers import micro_scan_id
from edgetem_nodes.operator.energetics.evaluation import SiteEnergies
from edgetem_nodes.operator.outcome import Outcome, Reading, Row
from edgetem_nodes.planner.energy_map import HIGH_NAME, NAME, read_area

HIDDEN = ("rejection", "phase_probability")
"""Columns that only say why a row was refused."""


@dataclass
class SiteRecord:
    """A visit of a site.

    Attributes
    ----------
    candidate : flat grid index. acquisition_id, index : of its pattern.
    pattern, micro_scan : columns by name; empty where there was none. structure : the AtomicStructure message; None: none.
    low, high : energy and standard error of the two levels [eV/nm^2]; None: not computed. failure : where it ended, and why.
    """

    candidate: int
    acquisition_id: uuid.UUID
    index: int
    pattern: Reading
    micro_scan: Reading = field(default_factory=dict)
    structure: object = None
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    failure: str = ""

    @property
    def footprint(self) -> float:
        """Area that its energy density is the mean over [m^2]; 0: not known."""
        if self.structure is None:
            return 0.0
        return read_area(self.structure.footprint_area or math.inf, self.structure.cell)

    @property
    def cell(self) -> np.ndarray:
        """(2, 2), rows (y, x) [m], of a cell that holds no more than was seen; NaN of another, or none."""
        if self.structure is None:
            return np.full((2, 2), np.nan)
        cell = np.asarray(self.structure.cell, float).reshape(3, 3)[:2, 1::-1]
        area = abs(float(np.linalg.det(cell)))
        return cell if area <= LARGER * (self.structure.footprint_area or math.inf) else np.full((2, 2), np.nan)

    def cells(self, columns: int) -> tuple[str, ...]:
        """Its line in a table: row and column of the grid, descriptors, defects, energies, what went wrong."""
        line, column = divmod(self.candidate, columns)
        defects = ", ".join(f"{name} ({probability:.2f})" for name, probability in
                            zip(self.structure.defects, self.structure.defect_probabilities, strict=True)) \
            if self.structure is not None else ""
        return (f"{line}, {column}", _reading(self.pattern), _reading(self.micro_scan), defects, _energy(self.low),
                _energy(self.high), self.failure)


def site_records(outcome: Outcome) -> list[SiteRecord]:
    """Every visit of an energy map, in the order of the decisions."""
    scans = {(row.acquisition_id, row.candidate): row for row in outcome.micro_scans}
    records = {(row.acquisition_id, row.index): _record(row, scans.get((micro_scan_id(row.acquisition_id), row.candidate)))
               for row in outcome.rows}
    for one in outcome.site_energies:
        record = records.get((one.acquisition_id, one.index))
        if record is None:
            continue
        if one.name == NAME:
            record.failure = record.failure or one.failure
        if not one.failure and math.isfinite(one.value):
            setattr(record, "high" if one.name == HIGH_NAME else "low", (one.value, one.standard_error))
    for key, structure in outcome.structures.items():
        if key in records:
            records[key].structure = structure
    return list(records.values())


def computed_sites(records: list[SiteRecord], outcome: Outcome) -> SiteEnergies:
    """The energies that the map is learned from, at the level that was computed everywhere."""
    known = [record for record in records if record.low is not None]
    positions = outcome.scan_field.positions(np.array([record.candidate for record in known], int))
    values = np.array([record.low for record in known], float).reshape(-1, 2)
    return SiteEnergies(positions, values[:, 0], values[:, 1], np.array([record.footprint for record in known]),
                        np.array([record.cell for record in known]).reshape(-1, 2, 2))


def rejected(records: list[SiteRecord]) -> list[tuple[str, int]]:
    """Reasons for which sites came to no energy, with their numbers, the most frequent first."""
    counted: dict[str, int] = {}
    for record in records:
        if record.failure:
            counted[record.failure] = counted.get(record.failure, 0) + 1
    return sorted(counted.items(), key=lambda one: (-one[1], one[0]))


def _record(row: Row, scan: Row | None) -> SiteRecord:
    failure = "" if row.valid else f"pattern: {row.failure}"
    if scan is not None and not scan.valid and not failure:
        failure = f"micro_scan: {scan.failure}"
    return SiteRecord(row.candidate, row.acquisition_id, row.index, row.columns if row.valid else {},
                      scan.columns if scan is not None and scan.valid else {}, failure=failure)


def _reading(columns: Reading) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" + (f" ± {error:.2g}" if math.isfinite(error) else "")
                     + (f" {unit}" if unit else "") for name, (value, error, unit) in columns.items()
                     if name not in HIDDEN and math.isfinite(value))


def _energy(known: tuple[float, float] | None) -> str:
    if known is None:
        return ""
    return f"{known[0]:.3f}" + (f" ± {known[1]:.2g}" if math.isfinite(known[1]) else "")
