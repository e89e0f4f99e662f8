"""Strained supercells for the tests, built with ASE independently of the package."""

from __future__ import annotations

import numpy as np
from ase.build import graphene, mx2

from edgetem_nodes.hpc_bridge import structures


def strained(name: str = "graphene", size: int = 4, strain: tuple[float, float, float] = (0.0, 0.0, 0.0),
             rotation: float = 0.0, strain_error: float = 0.0, rattle: float = 0.0) -> structures.Structure:
    """A sheet under strain (xx, yy, xy), then rotated [rad], with position errors of an isotropic strain error."""
    if name == "graphene":
        atoms = graphene(a=2.46, size=(size, size, 1), vacuum=5)
    else:
        atoms = mx2(name, a=3.16, thickness=3.17, size=(size, size, 1), vacuum=5)
    xx, yy, xy = strain
    cosine, sine = np.cos(rotation), np.sin(rotation)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    deformation = turn @ np.array([[1 + xx, xy, 0], [xy, 1 + yy, 0], [0, 0, 1]])
    atoms.set_cell(atoms.cell.array @ deformation.T, scale_atoms=True)
    if rattle:
        atoms.rattle(rattle, seed=3)
    atoms.pbc = (True, True, False)
    errors = ()
    if strain_error:
        offsets = atoms.positions - atoms.cell.array[:2].sum(0) / 2
        errors = np.abs(offsets) * [1, 1, 0] * strain_error * 1e-10
    return structures.from_atoms(atoms, standard_errors=errors)
