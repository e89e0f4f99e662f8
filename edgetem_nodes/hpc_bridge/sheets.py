"""Known sheets: which one a structure is, in which supercell, and how it is deformed. Imports ASE only to build one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from edgetem_nodes.hpc_bridge.structures import Structure
from edgetem_nodes.physics.specimens.sheet import GRAPHENE_LATTICE, MOS2_LATTICE, MOS2_THICKNESS

LARGEST_STRAIN = 0.15
"""Principal strain above which a structure is no longer taken for a strained sheet."""


LARGEST_SHARE = 0.25
"""Of all atoms, those of elements foreign to a sheet, or those that it lacks, above which a structure is not taken for it."""
ORDERED = 0.55
"""Amplitude of the second reflections, over that of perfect order, above which atoms are on the sites of a lattice: graphene's
first ones have 0.5, errors of 0.2 Angstrom a coordinate leave 0.59 of the second."""
SECOND = np.array([[1, 1], [1, -2], [2, -1]])
"""Indices of the second reflections, in the reciprocal of unit vectors at 120 deg."""


@dataclass(frozen=True)
class Sheet:
    """A hexagonal sheet.

    Attributes: `formula`, atoms a unit cell by atomic number, of a compound the cation first; `lattice`, literature lattice
    constant [m]; `thickness`, distance of its outermost planes [m], 0: a flat honeycomb, else the trigonal prisms of 2H;
    `touching`, fractional k points at which its bands touch; `guess`, by method, lattice constant and thickness [m] near which
    a search for the engine's own begins.
    """

    name: str
    formula: tuple[tuple[int, int], ...]
    lattice: float
    thickness: float = 0.0
    touching: tuple[tuple[float, float], ...] = ()
    guess: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def atoms(self) -> int:
        """Atoms a unit cell."""
        return sum(each for _, each in self.formula)


def _prisms(metal: int, chalcogen: int, name: str, lattice: float, thickness: float, **more: object) -> Sheet:
    """A 2H sheet; lengths in Angstrom."""
    return Sheet(name, ((metal, 1), (chalcogen, 2)), lattice * 1e-10, thickness * 1e-10, **more)


SHEETS = (
    Sheet("graphene", ((6, 2),), GRAPHENE_LATTICE, 0.0, ((1 / 3, 1 / 3), (-1 / 3, -1 / 3)),
          {"GFN1-xTB": (2.456e-10, 0.0), "GFN2-xTB": (2.449e-10, 0.0)}),
    Sheet("h-BN", ((5, 1), (7, 1)), 2.504e-10),
    Sheet("MoS2", ((42, 1), (16, 2)), MOS2_LATTICE, MOS2_THICKNESS, (),
          {"GFN1-xTB": (3.277e-10, 3.134e-10), "GFN2-xTB": (3.095e-10, 3.242e-10)}),
    _prisms(74, 16, "WS2", 3.153, 3.14),
    _prisms(42, 34, "MoSe2", 3.288, 3.34),
    _prisms(74, 34, "WSe2", 3.282, 3.34),
)
"""The lattice vectors meet at 120 deg, as in ASE's builders; the K points of graphene are +-(1/3, 1/3)."""


@dataclass(frozen=True)
class Match:
    """A structure seen as a strained sheet.

    Attributes: `sheet`; `lattice` constant without strain [m]; `supercell` (2, 2) integers, rows are the cell vectors in
    unit vectors; `deformation` (2, 2), x' = deformation @ x, from the unstrained lattice to the structure; `cells`, unit
    cells of the supercell; `surplus`, atoms by atomic number that the structure has above the perfect supercell, negative where
    they are missing; empty but for defects.
    """

    sheet: Sheet
    lattice: float
    supercell: np.ndarray
    deformation: np.ndarray
    cells: int
    surplus: tuple[tuple[int, int], ...]

    @property
    def strain(self) -> np.ndarray:
        """Green-Lagrange strain (2, 2), (x, y): free of rotation."""
        return (self.deformation.T @ self.deformation - np.eye(2)) / 2


def unit_vectors(lattice: float) -> np.ndarray:
    """Lattice vectors (2, 2), rows, (x, y) [m]; the first along x, the second at 120 deg."""
    return lattice * np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)]])


def match(candidate: Structure, lattice: float = 0.0) -> tuple[Match | None, str]:
    """The structure as a strained sheet, or None and why not.

    A quarter of its atoms may be foreign, and some missing: `surplus` counts them. Two missing atoms make a whole unit cell of
    graphene, so the number of atoms says less of the supercell than where they are.

    Parameters
    ----------
    lattice : constant of the unstrained sheet [m]; 0: the literature value.
    """
    if candidate.periodic[:2] != (True, True):
        return None, "not periodic in x and y"
    if candidate.charge:
        return None, "charged"
    if np.abs(candidate.cell[:2, 2]).max() > 1e-3 * np.abs(candidate.cell[:2, :2]).max():
        return None, "the sheet is not in the x-y plane"
    counts = Counter(candidate.atomic_numbers.tolist())
    fitting = [sheet for sheet in SHEETS if set(dict(sheet.formula)) <= set(counts)]
    sheet = min(fitting, key=lambda each: _foreign(each, counts), default=None)
    if sheet is None or _foreign(sheet, counts) > LARGEST_SHARE * len(candidate.atomic_numbers):
        return None, "no known sheet has these elements: " + ", ".join(s.name for s in SHEETS)
    lattice = lattice or sheet.lattice
    found = _supercell(candidate, sheet, unit_vectors(lattice))
    area = 0 if found is None else round(abs(np.linalg.det(found[0])))
    surplus = Counter(counts)
    surplus.subtract({number: each * area for number, each in sheet.formula})
    if found is None or -sum(min(count, 0) for count in surplus.values()) > LARGEST_SHARE * area * sheet.atoms:
        return None, (f"the cell is no supercell of {sheet.name} (a = {lattice * 1e9:.4g} nm) within "
                      f"{LARGEST_STRAIN:.0%} strain, with the atoms on its sites")
    supercell, deformation = found
    if any(np.allclose(supercell @ k, np.round(supercell @ k), atol=1e-9) for k in sheet.touching):
        return None, (f"a {sheet.name} supercell {supercell.tolist()} folds the points where its bands touch onto Gamma, "
                      "the only point sampled: strain energies would be wrong several times over; use 4 x 4 or 5 x 5")
    return Match(sheet, lattice, supercell, deformation, area,
                 tuple(sorted((number, count) for number, count in surplus.items() if count))), ""


def _order(fractions: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How well atoms are on the sites of honeycombs, (rows, columns), 1 at best, for pairs of supercell vectors.

    All sites of a honeycomb scatter in phase into its second reflections.

    Parameters
    ----------
    fractions : (atoms, 2) of the cell. first, second : (rows, 2) and (columns, 2) integers, the cell's vectors in unit vectors.
    """
    numbers = [vectors @ SECOND.T for vectors in (first, second)]
    largest = max(int(np.abs(part).max(initial=0)) for part in numbers)
    orders = np.arange(-largest, largest + 1)
    waves = [np.exp(2j * np.pi * np.outer(orders, column)) for column in fractions.T]
    amplitudes = np.abs(waves[0] @ waves[1].T) / len(fractions)
    rows, columns = (part + largest for part in numbers)
    return amplitudes[rows[:, None], columns[None]].min(axis=2)


def _foreign(sheet: Sheet, counts: Counter) -> int:
    """Atoms of elements that are not the sheet's."""
    return sum(number for element, number in counts.items() if element not in dict(sheet.formula))


def _supercell(candidate: Structure, sheet: Sheet, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the supercells (2, 2) on whose sites the atoms are that of least strain, then of least rotation, and the deformation
    to the structure's cell; None: there is none."""
    cell, atoms = candidate.cell[:2, :2], len(candidate.atomic_numbers)
    constant = np.linalg.norm(vectors[0])
    reach = int(np.ceil(np.linalg.norm(cell, axis=1).max() * 1.4 / constant)) + 1
    grid = np.arange(-reach, reach + 1)
    candidates = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    lengths = np.linalg.norm(candidates @ vectors, axis=1)
    rows = [candidates[np.abs(lengths / np.linalg.norm(row) - 1) < 1.2 * LARGEST_STRAIN] for row in cell]
    cells = (rows[0][:, :1] * rows[1][:, 1] - rows[0][:, 1:] * rows[1][:, 0]) * np.sign(np.linalg.det(cell))
    share = cells * sheet.atoms / atoms
    ordered = _order(candidate.positions[:, :2] @ np.linalg.inv(cell), *rows) > ORDERED
    best, key = None, (LARGEST_STRAIN, np.inf)
    for first, second in np.argwhere(ordered & (share > 1 - LARGEST_SHARE) & (share * (1 - LARGEST_SHARE) < 1)):
        supercell = np.array([rows[0][first], rows[1][second]])
        deformation = np.linalg.solve(supercell @ vectors, cell).T
        left, stretch, right = np.linalg.svd(deformation)
        rotation = left @ right
        turn = abs(float(np.arctan2(rotation[1, 0], rotation[0, 0])))
        this = (round(float(np.abs(stretch - 1).max()), 9), round(turn, 9))
        if this < key:
            best, key = (supercell, deformation), this
    return best


def build(sheet: Sheet, lattice: float, thickness: float, supercell: np.ndarray, height: float) -> Structure:
    """The perfect sheet in a supercell, periodic everywhere; lattice constant, thickness and cell along z in m."""
    from ase.build import graphene, make_supercell, mx2

    constant, thickness = lattice * 1e10, thickness * 1e10
    if sheet.thickness:
        atoms = mx2("MoS2", kind="2H", a=constant, thickness=thickness, vacuum=10.0)
        atoms.numbers[:] = [sheet.formula[0][0], sheet.formula[1][0], sheet.formula[1][0]]
    else:
        atoms = graphene(a=constant, vacuum=10.0)
        atoms.numbers[:] = [sheet.formula[0][0], sheet.formula[-1][0]]
    matrix = np.eye(3, dtype=int)
    matrix[:2, :2] = supercell
    if np.linalg.det(supercell) < 0:
        matrix[2, 2] = -1
    atoms = make_supercell(atoms, matrix)
    cell = atoms.cell.array * 1e-10
    cell[2] = (0.0, 0.0, height)
    positions = atoms.positions * 1e-10
    positions[:, 2] += height / 2 - (positions[:, 2].min() + positions[:, 2].max()) / 2
    return Structure(atoms.numbers.astype(np.int64), positions, cell, (True, True, True))


def carry_over(candidate: Structure, found: Match, reference_cell: np.ndarray, thickness: float) -> Structure:
    """The structure's deformation applied to another unstrained sheet: the engine's own.

    An engine's lattice constant differs from the measured one by up to some percent. Computed as it stands, a structure
    would carry that difference as strain; the measured strain itself is what should cost energy.

    Parameters
    ----------
    reference_cell : (3, 3) of the engine's sheet without stress, same supercell [m].
    thickness : distance of its outermost planes [m]; heights are scaled by its ratio to the sheet's.
    """
    cell = reference_cell.copy()
    cell[:2, :2] = reference_cell[:2, :2] @ found.deformation.T
    fractions = np.linalg.solve(candidate.cell[:2, :2].T, candidate.positions[:, :2].T).T
    positions = np.empty_like(candidate.positions)
    positions[:, :2] = fractions @ cell[:2, :2]
    heights = candidate.positions[:, 2] - (candidate.positions[:, 2].min() + candidate.positions[:, 2].max()) / 2
    scale = thickness / found.sheet.thickness if found.sheet.thickness else 1.0
    positions[:, 2] = heights * scale + reference_cell[2, 2] / 2
    change = np.linalg.solve(candidate.cell[:2, :2], cell[:2, :2]).T
    return replace(candidate, positions=positions, cell=cell, periodic=(True, True, True),
                   covariances=change @ candidate.covariances @ change.T)
