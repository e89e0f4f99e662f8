"""Atoms of a strained sheet from its measured deformation, ready for an engine. Imports no ROS.

The structure is a periodic supercell: fractional coordinates follow the measured cell, heights above the sheet's plane are
the unstrained material's (a diffraction pattern in projection says nothing of them).
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.lattice import lattice_constant
from edgetem_nodes.featurizer.parameters import Lattice, Structure
from edgetem_nodes.featurizer.structures import checks
from edgetem_nodes.featurizer.structures.measured import ANGSTROM, MeasuredStructure, relative_covariance
from edgetem_nodes.physics.specimens.sheet import MOS2_THICKNESS


def strained_sheet(deformation: np.ndarray, covariance: np.ndarray, lattice: Lattice, settings: Structure) -> MeasuredStructure:
    """The supercell of a sheet under a measured deformation.

    Parameters
    ----------
    deformation : F (2, 2), rows and columns (y, x): a vector x of the unstrained sheet becomes F x.
    covariance : (4, 4) of F flattened row-major (yy, yx, xy, xx).
    lattice : material, lattice constant and orientation of the unstrained sheet.
    settings : size of the supercell and limits.

    Raises
    ------
    NotIdentifiable : the deformation is not known, its standard error is above the limit, or atoms come too close.
    """
    error = checks.known_deformation(deformation, covariance, settings)
    sheet = undeformed(lattice, settings, settings.supercell)
    checks.small_enough(len(sheet), settings)
    bond = checks.shortest_distance(sheet)
    plane = deformation[::-1, ::-1]
    middle = sheet.cell.array[:2, :2].sum(axis=0) / 2
    errors = np.zeros((len(sheet), 3))
    flipped = covariance[::-1, ::-1].reshape(2, 2, 2, 2)
    offsets = sheet.positions[:, :2] - middle
    errors[:, :2] = np.sqrt(np.maximum(np.einsum("aj,ak,ijik->ai", offsets, offsets, flipped), 0.0))
    cell = sheet.cell.array.copy()
    cell[:2, :2] = cell[:2, :2] @ plane.T
    sheet.set_cell(cell, scale_atoms=True)
    checks.sound_distances(sheet, bond, settings)
    exx, eyy, exy = _strain(plane)
    count = settings.supercell
    source = (f"{lattice.material} {count} x {count} supercell, a0 = {lattice_constant(lattice) / ANGSTROM:.4g} Å, strain "
              f"exx {exx:+.3f} %, eyy {eyy:+.3f} %, exy {exy:+.3f} % from nanobeam diffraction, standard error up to "
              f"{error:.2g} %; heights are those of the unstrained sheet; {checks.electrons(sheet.numbers)}")
    return MeasuredStructure(np.asarray(sheet.numbers), sheet.positions * ANGSTROM, errors * ANGSTROM, cell * ANGSTROM,
                             (True, True, False), source, lattice.material,
                             deformation_covariance=relative_covariance(deformation, covariance))


def undeformed(lattice: Lattice, settings: Structure, count: int) -> object:
    """The unstrained supercell as ASE Atoms [Å], turned to the lattice's orientation, vacuum along z."""
    from ase.build import graphene, mx2

    constant = lattice_constant(lattice) / ANGSTROM
    size = (count, count, 1)
    vacuum = settings.vacuum_nm * 10
    if lattice.material == "MoS2":
        sheet = mx2("MoS2", kind="2H", a=constant, thickness=MOS2_THICKNESS / ANGSTROM, size=size, vacuum=vacuum)
    else:
        sheet = graphene("C2", a=constant, size=size, vacuum=vacuum)
    sheet.rotate(lattice.rotation_deg, "z", rotate_cell=True)
    sheet.pbc = (True, True, False)
    return sheet


def _strain(plane: np.ndarray) -> tuple[float, float, float]:
    """exx, eyy, exy [%] of a deformation in (x, y), rotation taken off."""
    left, _, right = np.linalg.svd(plane)
    stretch = (left @ right).T @ plane
    return 100 * (stretch[0, 0] - 1), 100 * (stretch[1, 1] - 1), 50 * (stretch[0, 1] + stretch[1, 0])
