"""What a structure must satisfy before an engine is asked. Every refusal names the value, the rule and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures.measured import MeasuredStructure, NotIdentifiable

ODD = "the cell has an odd number of electrons, {count}: one is unpaired, which an engine of closed shells shares out evenly"


def shortest_distance(atoms: Any) -> float:
    """Shortest distance [Angstrom] between two of the ASE atoms, periodic images included; infinite where none is below 4."""
    from ase.neighborlist import neighbor_list

    distances = neighbor_list("d", atoms, 4.0)
    return float(distances.min()) if len(distances) else np.inf


def known_deformation(deformation: np.ndarray, covariance: np.ndarray, settings: Structure) -> float:
    """The largest standard error of the deformation's components [%].

    Raises
    ------
    NotIdentifiable : the deformation is not known, or its error is above the limit.
    """
    if not (np.isfinite(deformation).all() and np.isfinite(covariance).all()):
        raise NotIdentifiable("the measurement failed: it has no strain; measure the position again")
    error = 100 * float(np.sqrt(np.diag(covariance).max()))
    if error > settings.largest_error_percent:
        raise NotIdentifiable(f"the standard error of the strain, {error:.3g} %, is above structure.largest_error_percent, "
                              f"{settings.largest_error_percent:g} %: measure with more dose")
    return error


def phase_known(name: str, probability: float, settings: Structure) -> None:
    """Raises NotIdentifiable where the phase is less probable than the settings ask for."""
    if not probability >= settings.least_phase_probability:
        raise NotIdentifiable(f"the phase is {name} with a probability of {probability:.3g}, below "
                              f"structure.least_phase_probability, {settings.least_phase_probability:g}: measure with more "
                              f"dose")


def sound_distances(atoms: Any, bond: float, settings: Structure) -> None:
    """Raises NotIdentifiable where ASE atoms are closer than the settings' fraction of the crystal's `bond` [Angstrom]."""
    shortest = shortest_distance(atoms)
    if shortest < settings.smallest_distance * bond:
        raise NotIdentifiable(f"two atoms would be {shortest:.3g} Å apart, below structure.smallest_distance, "
                              f"{settings.smallest_distance:g} of the {bond:.3g} Å of the unstrained crystal: the measured "
                              "deformation or the measured places are not those of this material")


def small_enough(count: int, settings: Structure) -> None:
    """Raises NotIdentifiable where there would be more atoms than the settings allow."""
    if count > settings.largest_atoms:
        raise NotIdentifiable(f"the cell would have {count} atoms, above structure.largest_atoms, {settings.largest_atoms}: "
                              "choose a smaller supercell, fewer layers or raise the limit")


def electrons(numbers: np.ndarray, charge: int = 0) -> str:
    """A sentence on the charge of a cell, which no pattern tells, and on an odd number of electrons."""
    count = int(np.sum(numbers)) - charge
    words = "the cell is taken to be neutral" if charge == 0 else f"the cell is given a charge of {charge:+d} e"
    return words + (f"; {ODD.format(count=count)}" if count % 2 else "")


def checked(structure: MeasuredStructure, settings: Structure, bond: float) -> MeasuredStructure:
    """The structure, if it satisfies size and distances; `bond` [Angstrom] of the perfect crystal. Raises NotIdentifiable."""
    from ase import Atoms

    small_enough(len(structure.atomic_numbers), settings)
    sound_distances(Atoms(numbers=structure.atomic_numbers, positions=structure.positions * 1e10, cell=structure.cell * 1e10,
                          pbc=structure.periodic), bond, settings)
    return structure
