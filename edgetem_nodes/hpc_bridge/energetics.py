"""What is computed for a structure: its energy, the same sheet without strain, the excess energy and its error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.hpc_bridge import engines, sheets
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.structures import Structure, to_atoms

SMALLEST_STEP = 2e-3
"""Strain step of the finite difference behind the second-order error."""


@dataclass(frozen=True)
class Plan:
    """One calculation as it goes to a worker.

    Attributes: `height` of the cell along z [m] that a sheet and its reference share; `match` None: no reference, and
    `without` says why.
    """

    structure: Structure
    engine: str
    calculation: Calculation
    vacuum: float
    height: float
    match: sheets.Match | None
    without: str

    @property
    def reference_key(self) -> tuple:
        """Equal for structures that share a reference: same sheet, supercell, engine, method, settings."""
        return (self.match.sheet.name, self.match.lattice, tuple(self.match.supercell.ravel().tolist()),
                round(self.height * 1e12), self.engine, self.calculation)


@dataclass(frozen=True)
class Reference:
    """The engine's own sheet without stress: energy of the whole supercell [J], cell (3, 3) [m], `thickness` [m],
    `lattice` constant [m] (mean), residual in-plane `stress` [N/m] (largest component), steps taken."""

    energy: float
    cell: np.ndarray
    thickness: float
    lattice: float
    stress: float
    steps: int


@dataclass(frozen=True)
class Result:
    """Energies [J], forces (atoms, 3) [N], largest force [N], convergence, steps; NaN where there is no reference."""

    energy: float
    reference_energy: float
    excess_energy: float
    standard_error: float
    forces: np.ndarray
    max_force: float
    converged: bool
    steps: int


def plan(structure: Structure, engine: str, calculation: Calculation, lattice: float, vacuum: float) -> Plan:
    """What is to be done for a checked structure.

    Parameters
    ----------
    lattice : constant of the unstrained sheet [m]; 0: the literature value.
    vacuum : on either side of a sheet that is not periodic along z [m].
    """
    match, without = None, "not asked for"
    if calculation.reference:
        match, without = sheets.match(structure, lattice)
    if engine == "emt":
        match, without = None, "emt knows no sheet"
    height = 0.0
    if match is not None:
        height = structure.cell[2, 2] if structure.periodic[2] else match.sheet.thickness + 2 * vacuum
    return Plan(structure, engine, calculation, vacuum, float(height), match, without)


def compute_reference(work: Plan, step: Callable[[int, float, float], None] = lambda *_: None,
                      canceled: Callable[[], bool] = lambda: False) -> Reference:
    """Relax the sheet without strain, atoms and in-plane cell, in the plan's supercell.

    Sampling at Gamma only makes the stress-free cell depend a little on the supercell (0.1 % for graphene), and summing
    over repeated sheets makes it depend on the height; so each supercell has a reference of its own.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    engine = engines.engine(work.engine)
    sheet = work.match.sheet
    guess = sheet.guess.get(work.calculation.method, (sheet.lattice, sheet.thickness))
    start = sheets.build(sheet, *guess, work.match.supercell, work.height)
    atoms = engines.attach(to_atoms(start, work.vacuum), engine, work.calculation)
    optimizer = BFGS(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1]), logfile=None)
    converged = False
    # The filter's matrix logarithm warns of errors of 1e-13.
    warnings.filterwarnings("ignore", "logm result may be inaccurate", RuntimeWarning)
    try:
        limit = min(work.calculation.max_force_ev_per_angstrom, 0.02)
        for converged in optimizer.irun(fmax=limit, steps=max(100, work.calculation.max_steps)):
            forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
            step(optimizer.nsteps, atoms.get_potential_energy() * engines.ELECTRONVOLT, forces * engines.EV_PER_ANGSTROM)
            if canceled():
                raise engines.Canceled
    except (RuntimeError, ValueError) as error:
        raise engines.EngineError(f"the reference ({work.match.sheet.name}) could not be computed: {error}") from error
    if not converged:
        raise engines.EngineError(f"the reference ({work.match.sheet.name}) has not converged in {optimizer.nsteps} steps")
    result = engines.outcome(atoms, True, optimizer.nsteps)
    cell = atoms.cell.array * 1e-10
    scale = math.sqrt(abs(np.linalg.det(cell[:2, :2]) / np.linalg.det(start.cell[:2, :2])))
    return Reference(result.energy, cell, float(np.ptp(result.positions[:, 2])), guess[0] * scale,
                     float(np.abs(result.stress[:2, :2]).max() * cell[2, 2]), result.steps)


def compute(work: Plan, reference: Reference | None, step: Callable[[int, float, float], None] = lambda *_: None,
            canceled: Callable[[], bool] = lambda: False) -> Result:
    """Energy of the structure, and its excess over the reference where there is one.

    Raises
    ------
    EngineError, Canceled : as `engines.calculate`.
    """
    structure = work.structure
    if reference is not None:
        structure = sheets.carry_over(structure, work.match, reference.cell, reference.thickness)
    engine = engines.engine(work.engine)
    atoms = to_atoms(structure, work.vacuum)
    result = engines.calculate(atoms, engine, work.calculation, structure.charge, step, canceled)
    energy_of_reference = excess = error = math.nan
    if reference is not None:
        energy_of_reference = reference.energy * work.match.share
        excess = result.energy - energy_of_reference
        if len(structure.standard_errors) and not canceled():
            error = standard_error(atoms, work.structure)
    return Result(result.energy, energy_of_reference, excess, error, result.forces,
                  float(np.linalg.norm(result.forces, axis=1).max()), result.converged, result.steps)


def strain_errors(structure: Structure) -> np.ndarray:
    """Standard errors (3,) of the strains xx, yy, xy that the positions' standard errors amount to.

    Taken as those of one homogeneous deformation about the middle of the cell, because a structure from one diffraction
    pattern has no other freedom: the variance of an atom's x at (x, y) from the middle is then a x^2 + 2 c x y + b y^2, with
    a and b the variances of the deformation's components xx and xy; fitted by least squares. Errors of single columns that
    are independent of one another are overestimated. Components are taken as uncorrelated.
    """
    offsets = structure.positions[:, :2] - structure.cell[:2, :2].sum(0) / 2
    scale = np.abs(offsets).max()
    x, y = (offsets / scale).T
    forms = np.stack([x * x, 2 * x * y, y * y], 1)
    variances = np.linalg.lstsq(forms, structure.standard_errors[:, :2] ** 2, rcond=None)[0] / scale ** 2
    (xx, xy), (yx, yy) = np.maximum(variances[[0, 2]].T, 0.0)
    return np.sqrt([xx, yy, (xy + yx) / 4])


def standard_error(atoms: object, structure: Structure) -> float:
    """Standard error of the energy [J] from the uncertainty of the strain (Gaussian, components independent).

    Along x and y to second order, because the first vanishes where there is no strain:
    variance = sum of (g e)^2 + (k e^2)^2 / 2, with the strain error e, the gradient g = volume * stress at the relaxed
    atoms, and the curvature k from the gradient at a small further strain with the atoms carried along, which overestimates
    k by some 10 % where the sheet has inner freedom. Shear enters to first order. The atoms' calculator is used up.
    """
    errors = strain_errors(structure)
    volume, stress = atoms.get_volume(), atoms.get_stress(voigt=False)
    variance = (2 * volume * stress[0, 1] * errors[2]) ** 2
    for axis, error in enumerate(errors[:2]):
        size = max(float(error), SMALLEST_STEP)
        further = atoms.copy()
        stretch = np.eye(3)
        stretch[axis, axis] += size
        further.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
        further.calc = atoms.calc
        gradient = volume * stress[axis, axis]
        curvature = (further.get_volume() * further.get_stress(voigt=False)[axis, axis] - gradient) / size
        variance += (gradient * error) ** 2 + (curvature * error ** 2) ** 2 / 2
    return math.sqrt(variance) * engines.ELECTRONVOLT


def describe(work: Plan, reference: Reference | None) -> tuple[str, dict]:
    """The reference in words, and what the settings JSON says of the carried-over strain."""
    if reference is None:
        return "", {"without_reference": work.without}
    match = work.match
    part = "" if match.share == 1 else f", times {match.share:.6g} for the atoms present"
    words = (f"{match.sheet.name} without stress, supercell {match.supercell.tolist()}, "
             f"a = {reference.lattice * 1e9:.5f} nm in {work.engine} {work.calculation.method}{part}")
    return words, {"sheet": match.sheet.name, "supercell": match.supercell.tolist(), "strain": match.strain.tolist(),
                   "unstrained_nm": match.lattice * 1e9, "engine_nm": reference.lattice * 1e9,
                   "height_nm": work.height * 1e9}
