"""Excess energies of sheets by the engine of a run, one after the other in this process: what the truth is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement

import numpy as np
from scipy.stats import qmc

from edgetem_nodes.hpc_bridge import energetics, reference, reservoirs, sheets
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.structures import Structure

ELECTRONVOLT = 1.602176634e-19
"""[J], exact (SI)."""
POINTS = 36
"""Strains for which the engine is asked."""
SUPERCELL = 5
"""Unit cells along each axis of a strained sheet: as many atoms as a footprint of 1.3 nm^2 of graphene has."""
SEED = 20260102
"""Of the strains' order; the law must not depend on it."""


@dataclass
class SheetEngine:
    """An engine and its settings; references and reservoirs are computed once.

    Attributes: `material`, the name of one of `sheets.SHEETS`; `engine`; `calculation`; `vacuum` on either side [m].
    A ValueError where there is no such sheet: of that specimen nobody knows the energy.
    """

    material: str
    engine: str = "tblite"
    calculation: Calculation = field(default_factory=Calculation)
    vacuum: float = 1e-9

    def __post_init__(self) -> None:
        known = {sheet.name: sheet for sheet in sheets.SHEETS}
        if self.material not in known:
            raise ValueError(f"the specimen {self.material!r} is none of the sheets whose energy can be computed: "
                             + ", ".join(known))
        self.sheet = known[self.material]
        self._references: dict[tuple, reference.Reference] = {}
        self._reservoirs: dict[tuple, float] = {}

    def perfect(self, cells: int, deformation: np.ndarray | None = None) -> Structure:
        """The perfect sheet of `cells` x `cells` unit cells, its first vector along x, under a deformation (2, 2) of (x, y)."""
        height = self.sheet.thickness + 2 * self.vacuum
        made = sheets.build(self.sheet, self.sheet.lattice, self.sheet.thickness, cells * np.eye(2, dtype=int), height)
        if deformation is None:
            return made
        whole = np.eye(3)
        whole[:2, :2] = deformation
        return replace(made, cell=made.cell @ whole.T, positions=made.positions @ whole.T)

    def excess(self, structure: Structure, host: Structure | None = None) -> energetics.Result:
        """What the hpc_bridge would answer for the structure; `host`: the perfect sheet in the same cell that it came from.

        Raises
        ------
        ValueError : it is no sheet, or one whose energy would be wrong.
        """
        found, without = sheets.match(host or structure)
        if found is None:
            raise ValueError(f"no excess energy of a structure of {len(structure.atomic_numbers)} atoms: {without}")
        surplus = Counter(structure.atomic_numbers.tolist())
        surplus.subtract({element: each * found.cells for element, each in found.sheet.formula})
        found = replace(found, surplus=tuple(sorted((element, more) for element, more in surplus.items() if more)))
        potentials, without = reservoirs.potentials(found, self.calculation.environment)
        if without:
            raise ValueError(without)
        work = energetics.Plan(structure, self.engine, self.calculation, self.vacuum, float(structure.cell[2, 2]), found, "",
                               potentials)
        if work.reference_key not in self._references:
            self._references[work.reference_key] = reference.compute_reference(work)
        needed = reservoirs.needed(work.potentials)
        for reservoir in needed.values():
            key = work.reservoir_key(reservoir)
            if key not in self._reservoirs:
                self._reservoirs[key] = reference.compute_reservoir(work, reservoir)
        energies = {name: self._reservoirs[work.reservoir_key(reservoir)] for name, reservoir in needed.items()}
        return energetics.compute(work, self._references[work.reference_key], energies)


def _invariants(stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trace, squared shear, and the cube of the shear that sixfold symmetry allows, of stretches (n, 2, 2) less 1, (x, y)."""
    strain = stretch - np.eye(2)
    trace = strain[:, 0, 0] + strain[:, 1, 1]
    shear = strain[:, 0, 0] - strain[:, 1, 1] + 2j * strain[:, 0, 1]
    return trace, np.abs(shear) ** 2, (shear ** 3).real


def _terms(stretch: np.ndarray) -> np.ndarray:
    """Every polynomial of the invariants from second to fourth order in strain, (n, terms)."""
    trace, square, cube = _invariants(stretch)
    factors = [(trace, 1), (square, 2), (cube, 3)]
    columns = []
    for count in range(1, 5):
        for chosen in combinations_with_replacement(range(3), count):
            if 2 <= sum(factors[number][1] for number in chosen) <= 4:
                columns.append(np.prod([factors[number][0] for number in chosen], axis=0))
    return np.stack(columns, axis=1)


def stretches(deformation: np.ndarray) -> np.ndarray:
    """Right stretches U (n, 2, 2) of deformations F = R U (n, 2, 2): free of rotation."""
    _, values, right = np.linalg.svd(deformation)
    return np.swapaxes(right, 1, 2) @ (values[:, :, None] * right)


@dataclass(frozen=True)
class StrainEnergyLaw:
    """Strain energy of a sheet per area of the unstrained one, a polynomial of the stretch's invariants.

    Attributes: `coefficients` [J/m^2]; `residual`, root mean square of what each engine point is off when left out of the fit
    [J/m^2]; `points`, their number; `largest`, the largest strain component of them.
    """

    coefficients: np.ndarray
    residual: float
    points: int
    largest: float

    @classmethod
    def fitted(cls, engine: SheetEngine, largest: float, tell: Callable[[int, int], None] = lambda *_: None) -> StrainEnergyLaw:
        """Ask the engine for strains up to `largest` in each normal component, and fit. `tell` : called after each of all."""
        drawn = qmc.Halton(3, rng=np.random.default_rng(SEED)).random(POINTS) * 2 - 1
        strains = drawn * largest * [1.0, 1.0, 0.5]
        stretch = np.eye(2) + np.stack([strains[:, [0, 2]], strains[:, [2, 1]]], axis=1)
        energies = np.empty(POINTS)
        area = None
        for number, one in enumerate(stretch):
            structure = engine.perfect(SUPERCELL, one)
            area = abs(np.linalg.det(structure.cell[:2, :2])) / np.linalg.det(one)
            energies[number] = engine.excess(structure).excess_energy / area
            tell(number + 1, POINTS)
        terms = _terms(stretch)
        coefficients, *_ = np.linalg.lstsq(terms, energies, rcond=None)
        hat = np.einsum("ni,ni->n", terms @ np.linalg.pinv(terms.T @ terms), terms)
        off = (energies - terms @ coefficients) / (1 - hat)
        return cls(coefficients, float(np.sqrt(np.mean(off ** 2))), POINTS, largest)

    def __call__(self, deformation: np.ndarray) -> np.ndarray:
        """Strain energy (n,) [J/m^2] of deformations F (n, 2, 2) of (x, y), the sheet's first vector along x."""
        return _terms(stretches(np.asarray(deformation, float))) @ self.coefficients
