"""What an energy map is worth against the truth: on the whole, where defects and where strain make the energy, site by site."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.operator.energetics.truth import NM2, EnergyTruth

NINETY = 1.6448536269514722
"""Standard deviations to either side that hold 90 % of a Gaussian."""
RICH = 0.2
"""Share of the field's largest averaged energy of defects, or of strain, from which a position counts as rich in them."""
USUAL_FOOTPRINT = 1.3e-18
"""[m^2] where no structure tells one."""
REGIONS = ("defects", "strain", "rest")


@dataclass(frozen=True)
class Accuracy:
    """How far predictions are off the truth: `count` of them, root mean square `error` and `bias` (predicted less true)
    [eV/nm^2], the same `error_footprint` [eV] in a footprint, and how much of it the 90 % intervals hold."""

    count: int
    error: float
    bias: float
    error_footprint: float
    bias_footprint: float
    coverage90: float

    @classmethod
    def of(cls, predicted: np.ndarray, deviation: np.ndarray, true: np.ndarray, footprint: float) -> Accuracy:
        """From arrays of one shape [eV/nm^2]; footprint [nm^2]."""
        off = np.ravel(predicted) - np.ravel(true)
        if not len(off):
            return cls(0, *[math.nan] * 5)
        error, bias = float(np.sqrt(np.mean(off ** 2))), float(off.mean())
        held = np.abs(off) <= NINETY * np.ravel(deviation)
        return cls(len(off), error, bias, error * footprint, bias * footprint, float(held.mean()))


@dataclass(frozen=True)
class Step:
    """A map of the experiment's course: `points` measured before it, its correlation and root mean square error with the truth,
    and its own mean and largest standard deviation [eV/nm^2]."""

    points: int
    correlation: float
    error: float
    mean_deviation: float
    largest_deviation: float


@dataclass(frozen=True)
class EnergyEvaluation:
    """An energy map beside the truth.

    Attributes
    ----------
    true, true_defects : (rows, columns) [eV/nm^2], averaged as the map is. regions : (rows, columns) index of `REGIONS`.
    radius : of the averaging [m]. footprint : area of a structure [nm^2].
    whole : of the last map. apart : the same by region. sites : of the energies as they were computed, against the truth in
        each cell. course : every map. correlation : of the last.
    target : [eV/nm^2], 0: none. within_target : share of positions whose true error is at most 1.645 times it; of Gaussian
        errors of that size 90 % are. method, law_residual : of the truth. clusters : kind, number in the field and energy [eV].
    """

    true: np.ndarray
    true_defects: np.ndarray
    regions: np.ndarray
    radius: float
    footprint: float
    correlation: float
    whole: Accuracy
    apart: dict[str, Accuracy]
    sites: Accuracy
    site_correlation: float
    course: tuple[Step, ...]
    positions_share: float
    target: float
    within_target: float
    method: str
    law_residual: float
    clusters: tuple[tuple[str, int, float], ...]

    @property
    def verdict(self) -> str:
        """Whether the target holds on the true error, in words."""
        if not self.target:
            return "no target was set"
        holds = self.whole.error <= self.target and self.within_target >= 0.9
        return (f"{'holds' if holds else 'does not hold'}: target {self.target:.3g} eV/nm², true RMS error "
                f"{self.whole.error:.3g}, {100 * self.within_target:.0f} % of the positions within 1.645 times the target")

    def rows(self) -> list[tuple[str, str]]:
        """Lines for a report's table."""
        def line(a: Accuracy) -> str:
            if not a.count:
                return "no such position"
            return (f"RMS error {a.error:.3g} eV/nm² ({a.error_footprint:.3g} eV a footprint), bias {a.bias:+.3g} eV/nm², 90 % "
                    f"intervals hold {100 * a.coverage90:.0f} %, {a.count} positions")
        return [("correlation with the true map", f"{self.correlation:.3f} with {100 * self.positions_share:.1f} % of the "
                                                  "positions measured"),
                ("whole field", line(self.whole)), *((f"rich in {name}" if name != "rest" else "elsewhere", line(one))
                                                     for name, one in self.apart.items()),
                ("computed sites", f"correlation {self.site_correlation:.3f} with the truth in their cells, "
                                   + line(self.sites).replace("positions", "sites")),
                ("uncertainty target", self.verdict)]

    def save(self, path: Path) -> None:
        """Write the figures as JSON; null where there is none."""
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(one) for one in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value
        figures = {"correlation": self.correlation, "site_correlation": self.site_correlation,
                   "positions_share": self.positions_share, "target_eV_per_nm2": self.target, "verdict": self.verdict,
                   "within_target": self.within_target, "averaging_radius_nm": self.radius * 1e9,
                   "footprint_nm2": self.footprint, "whole": asdict(self.whole),
                   "apart": {name: asdict(one) for name, one in self.apart.items()}, "sites": asdict(self.sites),
                   "course": [asdict(step) for step in self.course],
                   "truth": {"method": self.method, "strain_law_residual_eV_per_nm2": self.law_residual,
                             "defects": [list(one) for one in self.clusters]}}
        path.write_text(json.dumps(plain(figures), indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class SiteEnergies:
    """Energies of sites: `positions` (n, 2), (y, x) [m]; `densities`, `errors` (n,) [eV/nm^2]; `footprints` (n,) [m^2]; `cells`
    (n, 2, 2), rows (y, x) [m], where what a cell holds was seen (`site_table`), NaN for others."""

    positions: np.ndarray
    densities: np.ndarray
    errors: np.ndarray
    footprints: np.ndarray
    cells: np.ndarray

    def true(self, truth: EnergyTruth) -> np.ndarray:
        """The truth (n,) [eV/nm^2] in each cell, or in a disc as large as the footprint where the cell is larger."""
        usual = self.footprint
        return np.array([truth.in_cell(place, cell) if np.isfinite(cell).all() else
                         sum(part[0] for part in truth.averaged(math.sqrt((area or usual) / math.pi), place[None]))
                         for place, area, cell in zip(self.positions, self.footprints, self.cells, strict=True)])

    @property
    def footprint(self) -> float:
        """Median of those known [m^2]."""
        known = self.footprints[self.footprints > 0]
        return float(np.median(known)) if len(known) else USUAL_FOOTPRINT


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's coefficient of two arrays; NaN where there are fewer than three values or one of them does not vary."""
    one, other = np.ravel(one), np.ravel(other)
    if len(one) < 3 or not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def evaluate(truth: EnergyTruth, maps: list[tuple[int, np.ndarray, np.ndarray]], sites: SiteEnergies, radius: float,
             target: float, measured: int) -> EnergyEvaluation:
    """Judge maps and sites.

    Parameters
    ----------
    maps : points measured before it, mean and standard deviation (rows, columns) [eV/nm^2] of each, the last one last.
    radius : of the disc that the maps are averaged over [m]; 0: the footprint's.
    target : largest standard deviation that was asked for [eV/nm^2]; 0: none. measured : positions that were visited.
    """
    footprint = sites.footprint
    radius = radius or math.sqrt(footprint / math.pi)
    shape = truth.field.shape
    strain, defects = (part.reshape(shape) for part in truth.averaged(radius))
    true = strain + defects
    _, mean, deviation = maps[-1]
    regions = np.full(shape, 2)
    regions[strain > RICH * strain.max()] = 1
    if defects.max() > 0:
        regions[defects > RICH * defects.max()] = 0
    area = footprint / NM2
    there = sites.true(truth)
    within = float((np.abs(mean - true) <= NINETY * target).mean()) if target else math.nan
    return EnergyEvaluation(
        true, defects, regions, radius, area, correlation(mean, true), Accuracy.of(mean, deviation, true, area),
        {name: Accuracy.of(mean[regions == number], deviation[regions == number], true[regions == number], area)
         for number, name in enumerate(REGIONS)},
        Accuracy.of(sites.densities, sites.errors, there, area),
        correlation(sites.densities, there),
        tuple(Step(count, correlation(one, true), float(np.sqrt(np.mean((one - true) ** 2))), float(spread.mean()),
                   float(spread.max())) for count, one, spread in maps),
        measured / true.size, target, within, truth.method, truth.law.residual / 1.602176634e-19 * NM2,
        tuple((cluster.kind, cluster.count, cluster.energy) for cluster in truth.clusters))
