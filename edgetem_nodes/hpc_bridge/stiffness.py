"""What errors of positions leave in a restrained structure, from the stiffness of the perfect sheet, to second order.

With energy x K x / 2 about the relaxed atoms, errors n of covariance S and a restraint of stiffness R = kT S^-1 the atoms come
to rest at x = (K + R)^-1 R n, of covariance P, and keep tr(K P) / 2 on average, with a variance of tr(K P K P) / 2. By how much
they moved to get there, n - x, the errors tell themselves whether they are as large as was stated. K is that of the perfect
sheet without strain: a translation of the lattice takes it to itself, so it takes the forces of a few displaced
atoms. Energies in eV, lengths in Angstrom, as ASE has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetem_nodes.hpc_bridge import engines, sheets
from edgetem_nodes.hpc_bridge.restraint import BOLTZMANN, Restraint
from edgetem_nodes.hpc_bridge.structures import to_atoms

if TYPE_CHECKING:
    from edgetem_nodes.hpc_bridge.energetics import Plan
    from edgetem_nodes.hpc_bridge.reference import Reference, Step

DISPLACEMENT = 0.01
"""[Angstrom] of the finite difference."""
SOFTEST = 0.5
"""[eV/Angstrom^2] below which atoms without a restraint are taken to go along: ripples of a flat sheet."""
FEWEST = 8
"""Atoms by which it is told whether errors are as large as stated."""
NEIGHBOURS = 2.1
"""Bonds within which a defect moves atoms."""


def compute_stiffness(work: Plan, reference: Reference, step: Step = lambda *_: None,
                      canceled: Callable[[], bool] = lambda: False) -> np.ndarray:
    """Stiffness (atoms, 3, atoms, 3) [eV/Angstrom^2] of the perfect sheet in the plan's supercell, in the order of
    `sheets.build`.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    atoms, level, count = _perfect(work, reference), work.relaxing, work.match.sheet.atoms
    engines.attach(atoms, level.engine, level.calculation)
    rest, rows = atoms.positions.copy(), np.empty((count, 3, len(atoms), 3))
    firsts = _images(atoms, count)
    for basis, axis in np.ndindex(count, 3):
        forces = []
        for sign in (1, -1):
            atoms.positions[:] = rest
            atoms.positions[firsts[basis, 0], axis] += sign * DISPLACEMENT
            try:
                forces.append(atoms.get_forces())
            except engines.FAILURES as error:
                raise engines.EngineError(f"the stiffness of {work.match.sheet.name} could not be computed: {error}") from error
            if canceled():
                raise engines.Canceled
        rows[basis, axis] = (forces[1] - forces[0]) / (2 * DISPLACEMENT)
        step(3 * basis + axis, 0.0, 0.0)
    return _everywhere(rows, rest, atoms.cell.array, firsts)


def _perfect(work: Plan, reference: Reference) -> Any:
    """ASE atoms of the engine's own sheet without stress."""
    made = sheets.build(work.match.sheet, reference.lattice, reference.thickness, work.match.supercell, work.height)
    atoms = to_atoms(made, work.vacuum)
    atoms.set_cell(reference.cell * 1e10, scale_atoms=True)
    return atoms


def _images(atoms: Any, count: int) -> np.ndarray:
    """Indices (count, cells) of the lattice's translations of each of the first `count` atoms, which are a unit cell."""
    return np.arange(len(atoms)).reshape(-1, count).T


def _everywhere(rows: np.ndarray, positions: np.ndarray, cell: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The whole stiffness from the rows (count, 3, atoms, 3) of one unit cell, symmetric and without net force."""
    inverse, total = np.linalg.inv(cell), len(positions)
    fractions = positions @ inverse
    result = np.empty((total, 3, total, 3))
    for basis, row in enumerate(images):
        for atom in row:
            moved = fractions + (fractions[atom] - fractions[row[0]])
            away = moved[:, None] - fractions[None]
            target = np.linalg.norm((away - np.round(away)) @ cell, axis=2).argmin(axis=1)
            result[atom][:, target] = rows[basis]
    flat = result.reshape(3 * total, 3 * total)
    flat = (flat + flat.T) / 2
    result = flat.reshape(total, 3, total, 3)
    own = np.arange(total)
    result[own, :, own, :] -= result.sum(axis=2)
    return result


def left_by_errors(atoms: Any, restraint: Restraint, stiffness: np.ndarray, work: Plan,
                   reference: Reference) -> tuple[float, float]:
    """Energy [eV] that errors of the positions leave on average in restrained ASE atoms at rest, and its variance [eV^2].

    Every atom has the stiffness of the site that it is nearest to; sites without an atom, or with one that was not measured,
    go along with the others, and so do heights. Errors that are seen to be smaller than stated, by how far the atoms moved to
    their rest, leave so much less; larger ones may as well be a distortion that is real.
    """
    sites = _sites(atoms, work, reference)
    total = len(stiffness)
    measured = np.flatnonzero(restraint.known)
    kept = (3 * sites[measured][:, None] + np.arange(2)).ravel()
    whole = stiffness.reshape(3 * total, 3 * total)
    others = np.setdiff1d(np.arange(3 * total), kept)
    values, vectors = np.linalg.eigh(whole[np.ix_(others, others)])
    coupling = whole[np.ix_(kept, others)] @ vectors[:, values > SOFTEST]
    reduced = whole[np.ix_(kept, kept)] - (coupling / values[values > SOFTEST]) @ coupling.T
    spread = np.zeros((len(kept), len(kept)))
    for place, covariance in enumerate(restraint.covariances[measured]):
        spread[2 * place:2 * place + 2, 2 * place:2 * place + 2] = covariance
    # (K + kT S^-1)^-1 kT S^-1 n, by (1 + S K / kT)^-1 n
    passed = np.linalg.inv(np.eye(len(kept)) + spread @ reduced / (BOLTZMANN * restraint.temperature))
    product = reduced @ passed @ spread @ passed.T
    left, variance = float(np.trace(product) / 2), float(np.trace(product @ product) / 2)
    undisturbed = _undisturbed(atoms, sites, work, reference)[measured]
    if undisturbed.sum() < FEWEST:
        return left, variance
    moved = np.eye(len(kept)) - passed
    expected = np.einsum("ij,ij->i", moved, np.linalg.solve(spread, moved @ spread)).reshape(-1, 2).sum(axis=1)
    scale = min(1.0, float(restraint.squares(atoms)[measured][undisturbed].sum() / expected[undisturbed].sum()))
    # a sum of so many squares says how large the errors are to within sqrt(2 / coordinates)
    return scale * left, scale ** 2 * (variance + left ** 2 / undisturbed.sum())


def _undisturbed(atoms: Any, sites: np.ndarray, work: Plan, reference: Reference) -> np.ndarray:
    """Whether each atom (atoms,) has none but the perfect sheet's neighbours: others move for another reason than errors."""
    perfect = _perfect(work, reference)
    foreign = np.ones(len(perfect), bool)
    foreign[sites] = perfect.numbers[sites] != atoms.numbers
    if not foreign.any():
        return np.ones(len(atoms), bool)
    away = perfect.get_all_distances(mic=True)[:, foreign].min(axis=1)
    bond = np.sort(perfect.get_all_distances(mic=True), axis=1)[:, 1].min()
    return away[sites] > NEIGHBOURS * bond


def _sites(atoms: Any, work: Plan, reference: Reference) -> np.ndarray:
    """For every atom the perfect sheet's site (atoms,) that it is at, each at most once, after the best of all shifts by which
    the first atom comes to a site, the sheet as it is or turned by 180 degrees."""
    from scipy.optimize import linear_sum_assignment

    perfect = _perfect(work, reference)
    unit = work.match.sheet.atoms
    middle = np.argmin(np.linalg.norm(atoms.positions - atoms.cell.array.sum(axis=0) / 2, axis=1))
    best, least = None, np.inf
    for sign in (1, -1):
        fractions = sign * perfect.positions @ np.linalg.inv(perfect.cell.array)
        for start in range(unit):
            away = (atoms.positions @ np.linalg.inv(atoms.cell.array))[:, None] - fractions[None]
            away = away - away[middle, start]
            away -= np.round(away)
            distance = ((away @ atoms.cell.array)[..., :2] ** 2).sum(axis=2)
            # two atoms of a column are apart in height alone
            heights = atoms.positions[:, None, 2] - perfect.positions[None, :, 2]
            foreign = atoms.numbers[:, None] != perfect.numbers[None]
            distance = distance + 0.1 * (heights - heights.mean()) ** 2 + foreign
            rows, columns = linear_sum_assignment(distance)
            cost = float(distance[rows, columns].sum())
            if cost < least:
                best, least = columns, cost
    return best
