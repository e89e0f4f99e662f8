"""What structures are compared with: the perfect sheet of the engine itself, and reservoirs of atoms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetem_nodes.hpc_bridge import elasticity, engines, reservoirs, sheets
from edgetem_nodes.hpc_bridge.structures import to_atoms

if TYPE_CHECKING:
    from edgetem_nodes.hpc_bridge.energetics import Plan

STRAIN_STEP = 5e-3
"""Strain of the finite difference behind the elastic constants."""
FINE_FORCE = 0.02
"""[eV/Angstrom] to which cells are relaxed at least: their strain energies are small."""
WIDTH_STEP, WIDTH_TRIES = 0.01, 8
"""Of the search for the width of a sheet by a method without stress: relative step, and how often it is moved."""
IN_PLANE, ALL = (1, 1, 0, 0, 0, 1), (1, 1, 1, 1, 1, 1)

Step = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Reference:
    """The engine's own sheet without stress: energy of the whole supercell [J], cell (3, 3) [m], `thickness` [m],
    `lattice` constant [m] (mean), residual in-plane `stress` [N/m] (largest component), steps taken, the elastic constants
    `c11` and `c12` [N/m], atoms relaxed; all but the energy of what relaxes. Where another method gives the energies, they are
    of cells `scale` times as wide: its own lattice constant over that of what relaxes."""

    energy: float
    cell: np.ndarray
    thickness: float
    lattice: float
    stress: float
    steps: int
    c11: float
    c12: float
    scale: float = 1.0


def compute_reference(work: Plan, step: Step = lambda *_: None, canceled: Callable[[], bool] = lambda: False) -> Reference:
    """Relax the sheet without strain, atoms and in-plane cell, in the plan's supercell.

    Sampling at Gamma only makes the stress-free cell depend a little on the supercell (0.1 % for graphene), and summing
    over repeated sheets makes it depend on the height; so each supercell has a reference of its own.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    sheet, relaxing = work.match.sheet, work.relaxing
    guess = sheet.guess.get(relaxing.calculation.method, (sheet.lattice, sheet.thickness))
    start = sheets.build(sheet, *guess, work.match.supercell, work.height)
    atoms = engines.attach(to_atoms(start, work.vacuum), relaxing.engine, relaxing.calculation)
    steps = _relax_cell(atoms, f"the reference ({sheet.name})", IN_PLANE, work, step, canceled)
    result = engines.outcome(atoms, True, steps)
    cell = atoms.cell.array * 1e-10
    scale = math.sqrt(abs(np.linalg.det(cell[:2, :2]) / np.linalg.det(start.cell[:2, :2])))
    c11, c12 = elasticity.elastic_constants(*(_strained_stress(atoms, work, sign * STRAIN_STEP, canceled) for sign in (1, -1)),
                                            STRAIN_STEP, cell[2, 2])
    width, energy = (1.0, result.energy) if work.final == relaxing else _own_width(atoms, work, canceled)
    return Reference(energy, cell, float(np.ptp(result.positions[:, 2])), guess[0] * scale,
                     float(np.abs(result.stress[:2, :2]).max() * cell[2, 2]), steps, c11, c12, width)


def final_energy(atoms: Any, work: Plan, scale: float) -> float:
    """Energy [J] of ASE atoms by what the plan's energies come from, their sheet widened by `scale` in its plane.

    Raises
    ------
    EngineError : as `engines.calculate`.
    """
    wide = atoms.copy()
    wide.set_constraint()
    wide.set_cell(atoms.cell.array @ np.diag([scale, scale, 1.0]), scale_atoms=True)
    return engines.energy(wide, work.final.engine, work.final.calculation)


def _own_width(atoms: Any, work: Plan, canceled: Callable[[], bool]) -> tuple[float, float]:
    """By how much a relaxed sheet is to be widened to be without stress for the method that gives the energies, and its energy
    [J] then: of parabolas through three widths."""
    middle, known = 1.0, {}
    for _ in range(WIDTH_TRIES):
        widths = np.array([middle - WIDTH_STEP, middle, middle + WIDTH_STEP])
        for width in widths:
            if canceled():
                raise engines.Canceled
            if round(width, 9) not in known:
                known[round(width, 9)] = final_energy(atoms, work, width)
        second, first, zeroth = np.polyfit(widths - middle, [known[round(width, 9)] for width in widths], 2)
        if second > 0 and abs(first / (2 * second)) <= WIDTH_STEP:
            return middle - first / (2 * second), zeroth - first ** 2 / (4 * second)
        away = -first / (2 * second) / WIDTH_STEP if second > 0 else -np.sign(first)
        middle += WIDTH_STEP * round(float(np.clip(away, -3, 3)))
    raise engines.EngineError(f"no width of {work.match.sheet.name} within {abs(middle - 1):.0%} of that of "
                              f"{work.relaxing.calculation.method} is without stress for {work.final.calculation.method}")


def compute_reservoir(work: Plan, reservoir: reservoirs.Reservoir, step: Step = lambda *_: None,
                      canceled: Callable[[], bool] = lambda: False) -> float:
    """Energy of a reservoir a formula unit [J], relaxed: atoms of a molecule, also the cell of a crystal or sheet.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    relaxing, name = work.relaxing, f"the reservoir ({reservoir.words})"
    atoms, units = reservoirs.atoms_of(reservoir, work.match.cells, work.height)
    for level in {relaxing, work.final}:
        unknown = set(atoms.numbers.tolist()) - level.engine.elements
        if unknown:
            raise engines.EngineError(f"{name} could not be computed: {level.engine.name} does not know atomic number "
                                      f"{min(unknown)}")
    engines.attach(atoms, relaxing.engine, relaxing.calculation)
    if reservoir.kind == "molecule":
        _relax(atoms, atoms, name, work, step, canceled)
    else:
        _relax_cell(atoms, name, ALL if reservoir.kind == "crystal" else IN_PLANE, work, step, canceled)
    if work.final != relaxing:
        if reservoir.kind == "sheet":
            return _own_width(atoms, work, canceled)[1] / units
        return engines.energy(atoms, work.final.engine, work.final.calculation) / units
    return engines.outcome(atoms, True, 0).energy / units


def _relax_cell(atoms: Any, name: str, mask: tuple, work: Plan, step: Step, canceled: Callable[[], bool]) -> int:
    from ase.filters import FrechetCellFilter

    # The filter's matrix logarithm warns of errors of 1e-13.
    warnings.filterwarnings("ignore", "logm result may be inaccurate", RuntimeWarning)
    return _relax(FrechetCellFilter(atoms, mask=list(mask)), atoms, name, work, step, canceled)


def _relax(target: Any, atoms: Any, name: str, work: Plan, step: Step, canceled: Callable[[], bool]) -> int:
    """Relax a target, atoms or a filter of them; returns the steps. Raises EngineError where it does not converge."""
    from ase.optimize import BFGS

    calculation = work.relaxing.calculation
    optimizer, converged = BFGS(target, logfile=None), False
    try:
        limit = min(calculation.max_force_ev_per_angstrom, FINE_FORCE)
        for converged in optimizer.irun(fmax=limit, steps=max(100, calculation.max_steps)):
            forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
            step(optimizer.nsteps, atoms.get_potential_energy() * engines.ELECTRONVOLT, forces * engines.EV_PER_ANGSTROM)
            if canceled():
                raise engines.Canceled
    except (RuntimeError, ValueError) as error:
        raise engines.EngineError(f"{name} could not be computed: {error}") from error
    if not converged:
        raise engines.EngineError(f"{name} has not converged in {optimizer.nsteps} steps")
    return optimizer.nsteps


def _strained_stress(atoms: Any, work: Plan, strain: float, canceled: Callable[[], bool]) -> np.ndarray:
    """Stress (3, 3) [Pa] of a perfect sheet under a strain along x, atoms relaxed."""
    further = atoms.copy()
    further.set_cell(atoms.cell.array @ np.diag([1 + strain, 1.0, 1.0]), scale_atoms=True)
    engines.attach(further, work.relaxing.engine, work.relaxing.calculation)
    _relax(further, further, f"the reference ({work.match.sheet.name})", work, lambda *_: None, canceled)
    return engines.outcome(further, True, 0).stress
