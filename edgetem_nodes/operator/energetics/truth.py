"""The excess energy of a true sheet, atom by atom, and averages of it over discs and footprints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from edgetem_nodes.hpc_bridge.structures import Structure
from edgetem_nodes.operator.energetics.engine_energies import ELECTRONVOLT, SheetEngine, StrainEnergyLaw
from edgetem_nodes.operator.energetics.true_sheet import NOTHING, TrueSheet
from edgetem_nodes.physics.scan import ScanField

NM2 = 1e-18
"""[m^2]."""
DEFECT_CELLS = 7
"""Unit cells along each axis of the sheet in which a cluster of defects is computed: not a multiple of three, see `sheets`."""
SAME = 0.03e-9
"""[m] within which two sites are the same."""
FINE = 0.1e-9
"""[m]: grid on which the part of a disc that lies in the field is counted."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Cluster:
    """Neighbouring defects of a kind: `kind` in words, `count` of them in the field, excess `energy` of one [eV]."""

    kind: str
    count: int
    energy: float


@dataclass(frozen=True)
class EnergyTruth:
    """Where the excess energy of a sheet sits.

    Attributes
    ----------
    places : (sites, 2), (y, x) [m]. strain, defects : (sites,) strain energy of each, and energy of the defects there [eV].
    field : what is averaged over, with half a step around it.
    law : of the strain energy. clusters : kinds of defects in the field. method : of the engine.
    """

    places: np.ndarray
    strain: np.ndarray
    defects: np.ndarray
    field: ScanField
    law: StrainEnergyLaw
    clusters: tuple[Cluster, ...]
    method: str

    def averaged(self, radius: float, positions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Energy densities of strain and of defects, (n,) each [eV/nm^2], over discs [m] about positions (n, 2).

        By default about every position of the field. A disc counts as far as it lies in the field.
        """
        positions = self.field.positions() if positions is None else np.asarray(positions, float).reshape(-1, 2)
        inside = self.field.contains(self.places)
        tree, fine = cKDTree(self.places[inside]), cKDTree(self._fine())
        area = np.asarray(fine.query_ball_point(positions, radius, return_length=True)) * FINE ** 2 / NM2
        near = tree.query_ball_point(positions, radius)
        return tuple(np.array([values[inside][index].sum() for index in near]) / area for values in (self.strain, self.defects))

    def in_cell(self, place: np.ndarray, cell: np.ndarray) -> float:
        """Energy density [eV/nm^2] of sites nearer to a place (2,) [m] than to its images by a cell (2, 2), rows (y, x) [m]:
        those that a periodic cell of the atoms about the place holds, within the field or not."""
        images = np.array([cell[0], cell[1], cell[0] + cell[1], cell[0] - cell[1]])
        away = (self.places - place) @ images.T
        inside = (np.abs(away) <= np.square(images).sum(axis=1) / 2).all(axis=1)
        return float((self.strain + self.defects)[inside].sum()) / abs(float(np.linalg.det(cell))) * NM2

    def save(self, path: Path, key: str) -> None:
        """Write it as arrays; `key` says what it was computed of."""
        facts = {"key": key, "method": self.method, "clusters": [[c.kind, c.count, c.energy] for c in self.clusters],
                 "law": [self.law.residual, self.law.points, self.law.largest]}
        np.savez(path, places=self.places, strain=self.strain, defects=self.defects, coefficients=self.law.coefficients,
                 facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path, key: str, field: ScanField) -> EnergyTruth | None:
        """What `save` wrote under the same key; None where there is none."""
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            if facts["key"] != key:
                return None
            law = StrainEnergyLaw(stored["coefficients"], *facts["law"])
            return cls(stored["places"], stored["strain"], stored["defects"], field, law,
                       tuple(Cluster(*one) for one in facts["clusters"]), facts["method"])

    def _fine(self) -> np.ndarray:
        """Points (n, 2) [m] that fill the field."""
        low = np.asarray(self.field.origin) - np.asarray(self.field.step) / 2
        extent = np.asarray(self.field.step) * self.field.shape
        axes = [low[axis] + FINE * (np.arange(round(extent[axis] / FINE)) + 0.5) for axis in (0, 1)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def energy_truth(sheet: TrueSheet, field: ScanField, engine: SheetEngine, tell: Tell = lambda _: None) -> EnergyTruth:
    """Compute the truth about a sheet.

    The strain energy of each atom is that of its local deformation, by a law fitted to the engine. Each kind of cluster of
    defects is computed by the engine alone in a sheet without strain; that its energy changes with strain, and that clusters
    feel each other, is left out.
    """
    largest = max(0.01, 1.05 * float(np.abs(sheet.deformation - np.eye(2)).max()))
    tell(f"strain energy: the engine at strains up to {100 * largest:.2g} %")
    law = StrainEnergyLaw.fitted(engine, largest)
    each = engine.perfect(1).cell
    area = abs(float(np.linalg.det(each[:2, :2]))) / engine.sheet.atoms
    strain = law(sheet.deformation) * area / ELECTRONVOLT
    defects, counted, energies = np.zeros(len(strain)), {}, {}
    for sites in sheet.clusters():
        key, kind = _kind(sheet, sites)
        if key not in energies:
            tell(f"defects: {kind}")
            energies[key] = engine.excess(*_defective(engine, sheet, sites)).excess_energy / ELECTRONVOLT
        defects[sites] = energies[key] / len(sites)
        if field.contains(sheet.places[sites].mean(axis=0)[None])[0]:
            counted[key, kind] = counted.get((key, kind), 0) + 1
    clusters = tuple(Cluster(kind, count, energies[key]) for (key, kind), count in counted.items())
    return EnergyTruth(sheet.places, strain, defects, field, law, tuple(sorted(clusters, key=lambda c: (-c.count, c.kind))),
                       f"{engine.engine} {engine.calculation.method}")


def _kind(sheet: TrueSheet, sites: np.ndarray) -> tuple[tuple, str]:
    """What tells this kind of cluster from others, distances and elements, and words for it."""
    from ase.data import chemical_symbols

    offsets = sheet.unstrained[sites][:, None] - sheet.unstrained[sites]
    distances = np.rint(np.linalg.norm(offsets, axis=-1) * 1e11).astype(int)
    names = []
    for site in sites:
        host = chemical_symbols[sheet.host[site]]
        names.append(f"V_{host}" if sheet.occupied[site] == NOTHING else f"{chemical_symbols[sheet.occupied[site]]}_{host}")
    pairs = tuple(sorted((*sorted((names[i], names[j])), int(distances[i, j]))
                         for i in range(len(sites)) for j in range(i)))
    words = " + ".join(f"{names.count(name)} {name}" if names.count(name) > 1 else name for name in sorted(set(names)))
    apart = sorted({pair[2] for pair in pairs})
    if apart:
        words += f", {' and '.join(f'{one / 100:.2g}' for one in apart)} nm apart"
    return (tuple(sorted(names)), pairs), words


def _defective(engine: SheetEngine, sheet: TrueSheet, sites: np.ndarray) -> tuple[Structure, Structure]:
    """A cluster in the middle of a perfect sheet of the engine, and that sheet."""
    whole = engine.perfect(DEFECT_CELLS)
    places = whole.positions[:, :2]
    middle = places[np.argmin(np.linalg.norm(places - whole.cell[:2, :2].sum(axis=0) / 2, axis=1))]
    wanted = (sheet.unstrained[sites] - sheet.unstrained[sites[0]])[:, ::-1]
    numbers, chosen = whole.atomic_numbers.copy(), []
    outwards = np.argsort(np.linalg.norm(places - middle, axis=1), kind="stable")
    # a site of every sublattice is among those nearest to the middle, and one of them is like the cluster's first
    for start in outwards[:4 * engine.sheet.atoms]:
        apart = np.linalg.norm(places[None] - (places[start] + wanted)[:, None], axis=2)
        apart[sheet.host[sites][:, None] != whole.atomic_numbers] = np.inf
        chosen = apart.argmin(axis=1)
        if apart.min(axis=1).max() < SAME:
            break
    kept = np.ones(len(numbers), bool)
    for atom, site in zip(chosen, sites, strict=True):
        kept[atom] = sheet.occupied[site] != NOTHING
        numbers[atom] = sheet.occupied[site] or numbers[atom]
    return replace(whole, atomic_numbers=numbers[kept], positions=whole.positions[kept]), whole
