"""Cells of crystals from a measured phase, deformation and thickness: bulk, slab, layers of a sheet."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import checks
from edgetem_nodes.featurizer.structures.measured import ANGSTROM, MeasuredStructure, NotIdentifiable, relative_covariance


def unit_cell(material: Material, layers: int = 1) -> Any:
    """ASE atoms [Angstrom] of a material, `layers` cells along the beam, which is z; the first lattice vector is along x.

    The in-plane axes of patterns, (y, x), become (x, y): a rotation from x towards y stays one.
    """
    from ase import Atoms

    positions, numbers, _ = material.positions(layers)
    cell = material.cell.copy()
    cell[2] *= layers
    return Atoms(numbers=numbers, positions=positions[:, ::-1] / ANGSTROM, cell=cell[:, ::-1] / ANGSTROM,
                 pbc=not material.sheet)


def deformed_cell(atoms: Any, deformation: np.ndarray, covariance: np.ndarray, settings: Structure, name: str = "",
                  thickness: float = 0.0, thickness_error: float = 0.0) -> MeasuredStructure:
    """A supercell of a crystal under a measured deformation in the plane across the beam.

    Parameters
    ----------
    atoms : ASE atoms [Angstrom] of the undeformed cell, z along the beam: `unit_cell`, or what ASE reads from a CIF file.
        Periodic along z: the result is bulk, its spacing along the beam, which is not measured, that of the undeformed crystal.
    deformation, covariance : F (2, 2), (y, x), and (4, 4) of F flattened (yy, yx, xy, xx).
    thickness, thickness_error : of the specimen [m]; 0: bulk. Else the result is a slab of as many cells along z, in vacuum.

    Raises
    ------
    NotIdentifiable : strain not known well enough, thickness not known to half a cell, too many atoms, atoms too close.
    """
    error = checks.known_deformation(deformation, covariance, settings)
    bond, count, cells = checks.shortest_distance(atoms), settings.supercell, 1
    height = float(atoms.cell[2, 2]) * ANGSTROM
    if thickness:
        cells = max(1, round(thickness / height))
        if not thickness_error <= height / 2:
            raise NotIdentifiable(f"the thickness is {thickness * 1e9:.3g} nm with a standard error of "
                                  f"{thickness_error * 1e9:.2g} nm; a slab needs it to half a cell, {height * 5e8:.2g} nm: "
                                  "ask for a bulk cell")
    checks.small_enough(len(atoms) * count ** 2 * cells, settings)
    made = atoms * (count, count, cells)
    slab = bool(thickness) or not atoms.pbc[2]
    plane = np.eye(3)
    plane[:2, :2] = deformation[::-1, ::-1]
    made.set_cell(made.cell.array @ plane.T, scale_atoms=True)
    if slab:
        made.center(vacuum=settings.vacuum_nm * 10, axis=2)
    made.pbc = (True, True, not slab)
    checks.sound_distances(made, bond, settings)
    offsets = made.positions[:, :2] - made.cell.array[:2, :2].sum(axis=0) / 2
    relative = relative_covariance(deformation, covariance)
    errors = np.zeros((len(made), 3))
    errors[:, :2] = np.sqrt(np.maximum(np.einsum("aj,ak,ijik->ai", offsets, offsets, relative.reshape(2, 2, 2, 2)), 0.0))
    kind = f"slab of {cells} cells along the beam, measured {thickness * 1e9:.3g} nm" if thickness else \
        "sheet" if slab else "bulk cell"
    source = (f"{name or made.get_chemical_formula()}, {count} x {count} {kind}, standard error of the strain up to "
              f"{error:.2g} %; lengths along the beam are those of the undeformed crystal; {checks.electrons(made.numbers)}")
    return MeasuredStructure(np.asarray(made.numbers), made.positions * ANGSTROM, errors * ANGSTROM,
                             made.cell.array * ANGSTROM, tuple(bool(p) for p in made.pbc), source, name,
                             deformation_covariance=relative)
