"""Cells from atoms that were found in an image: a cluster as it is, or a periodic cell along the fitted lattice."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import checks
from edgetem_nodes.featurizer.structures.defects import SheetAtoms, defect_cell
from edgetem_nodes.featurizer.structures.measured import ANGSTROM, MeasuredStructure, NotIdentifiable

NEAR = 0.2
"""[Angstrom] within which atoms belong to one column."""


def cluster(atoms: Any, centre: tuple[float, float], radius: float, settings: Structure, bond: float) -> MeasuredStructure:
    """The atoms within a radius of a place, periodic nowhere: edges are not saturated, so only their inside means something.

    Parameters
    ----------
    atoms : ASE atoms [Angstrom] of an image (`FoundAtoms.to_atoms`); their array `position_error` (n, 3), NaN: not measured.
    centre, radius : (x, y) and distance in the frame of the atoms [Angstrom].
    bond : of the perfect crystal [Angstrom].

    Raises
    ------
    NotIdentifiable : no atoms there, too many, an element is not known, or atoms come too close.
    """
    inside = np.flatnonzero(np.hypot(*(atoms.positions[:, :2] - np.asarray(centre)).T) < radius)
    if not len(inside):
        raise NotIdentifiable(f"there is no atom within {radius:g} Å of ({centre[0]:g}, {centre[1]:g}) Å: choose another place")
    _known(atoms.numbers[inside])
    errors = np.nan_to_num(_errors(atoms)[inside]) * ANGSTROM
    source = (f"cluster of {len(inside)} atoms within {radius / 10:.3g} nm, from an image; its edge is not saturated; "
              f"{checks.electrons(atoms.numbers[inside])}")
    made = MeasuredStructure(np.asarray(atoms.numbers[inside]), atoms.positions[inside] * ANGSTROM, errors,
                             np.zeros((3, 3)), (False, False, False), source, str(atoms.info.get("material", "")))
    return checks.checked(made, settings, bond)


def image_cell(atoms: Any, vectors: np.ndarray, covariance: np.ndarray, sheet: Any, centre: tuple[float, float], radius: float,
               settings: Structure, name: str) -> MeasuredStructure:
    """A periodic cell cut along the lattice of an image about a place.

    Parameters
    ----------
    atoms : ASE atoms [Angstrom] of an image (`FoundAtoms.to_atoms`), x along its rows and y down: with the arrays `probability`
        and `position_error`, and missing columns in `info["vacancies"]`.
    vectors : (2, 2) rows, the fitted lattice (y, x) [Angstrom]; covariance : (4, 4) of them flattened.
    sheet : ASE atoms of the undeformed unit cell, its first vector along x, the second at 120 degrees.
    centre, radius : (x, y) and distance [Angstrom] within which atoms are used.
    name : of the material.

    Raises
    ------
    NotIdentifiable : see `defects.defect_cell`; or an element is not known.
    """
    deformation, spread = _deformation(vectors, covariance, sheet.cell.array[:2, :2])
    found = _columns(atoms, sheet, np.asarray(centre), radius)
    return defect_cell(sheet, deformation, spread, found, settings, name)


def _deformation(vectors: np.ndarray, covariance: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F (2, 2) and its covariance (4, 4), (y, x), from lattice vectors that may meet at 60 or 120 degrees, in either order."""
    chosen = min((np.array(m) for m in _bases()), key=lambda m: _misfit(m @ vectors, reference[:, ::-1]))
    inverse = np.linalg.inv(reference[:, ::-1])
    deformation = (inverse @ chosen @ vectors).T
    slope = np.einsum("bi,ac->abic", inverse @ chosen, np.eye(2)).reshape(4, 4)
    return deformation, slope @ covariance @ slope.T


def _bases() -> list[tuple]:
    units = [(1, 0), (0, 1), (1, 1), (1, -1), (-1, 0), (0, -1), (-1, -1), (-1, 1)]
    return [(a, b) for a in units for b in units if abs(a[0] * b[1] - a[1] * b[0]) == 1]


def _misfit(candidate: np.ndarray, reference: np.ndarray) -> float:
    """How far the deformation of a basis is from a rotation; its mirror images do not count."""
    deformation = np.linalg.solve(reference, candidate)
    if np.linalg.det(deformation) < 0:
        return np.inf
    turn = abs(np.arctan2(deformation[0, 1] - deformation[1, 0], np.trace(deformation)))
    return float(np.abs(np.linalg.svd(deformation, compute_uv=False) - 1).max().round(6) + 1e-6 * turn)


def _columns(atoms: Any, sheet: Any, centre: np.ndarray, radius: float) -> SheetAtoms:
    """Entries for every atom that the perfect sheet has in the columns within the radius."""
    bases = {int(number): int(np.count_nonzero(np.linalg.norm(sheet.positions[:, :2] - place[:2], axis=1) < NEAR))
             for number, place in zip(sheet.numbers, sheet.positions, strict=True)}
    order = sorted(bases, reverse=True)
    hosts = _hosts(atoms, order)
    left = np.flatnonzero(np.hypot(*(atoms.positions[:, :2] - centre).T) < radius).tolist()
    _known(atoms.numbers[left])
    elements = tuple(dict.fromkeys([0, *bases, *np.unique(atoms.numbers).tolist()]))
    places, errors, host, layer, probabilities = [], [], [], [], []
    known, certain = _errors(atoms), _probability(atoms)

    def enter(place: np.ndarray, error: np.ndarray, usual: int, number: int, there: int, sure: float) -> None:
        row = np.zeros(len(elements))
        row[elements.index(usual)] += 1 - sure
        row[elements.index(there)] += sure
        for values, value in ((places, place), (errors, error), (host, usual), (layer, number), (probabilities, row)):
            values.append(value)

    while left:
        first = left[0]
        column = [i for i in left if np.hypot(*(atoms.positions[i, :2] - atoms.positions[first, :2])) < NEAR]
        left = [i for i in left if i not in column]
        usual = int(hosts[first])
        for number in range(bases[usual]):
            there = int(atoms.numbers[column[number]]) if number < len(column) else 0
            which = column[min(number, len(column) - 1)]
            enter(atoms.positions[which, :2] - centre, known[which, :2], usual, number, there, float(certain[which]))
    for vacancy in json.loads(atoms.info.get("vacancies", "[]")):
        place = np.array([vacancy["x"], vacancy["y"]]) - centre
        if np.hypot(*place) < radius:
            usual = order[int(vacancy["sublattice"]) % len(order)]
            for number in range(bases[usual]):
                enter(place, np.full(2, np.nan), usual, number, 0, float(vacancy["probability"]))
    spread = np.array(errors).reshape(-1, 2)[:, ::-1]
    covariances = np.zeros((len(spread), 2, 2))
    covariances[:, [0, 1], [0, 1]] = (spread * ANGSTROM) ** 2
    covariances[np.isnan(spread).any(axis=1)] = np.nan
    return SheetAtoms(np.array(places).reshape(-1, 2)[:, ::-1] * ANGSTROM, covariances, np.array(host, int),
                      np.array(layer, int), np.array(probabilities), elements, np.pi * (radius * ANGSTROM) ** 2)


def _hosts(atoms: Any, order: list[int]) -> np.ndarray:
    """Atomic number (n,) that the perfect sheet has in every atom's column; `order`: of the sublattices, number 0 first."""
    if "sublattice" not in atoms.arrays or len(order) == 1:
        return np.array([number if number in order else order[0] for number in atoms.numbers])
    return np.array([order[min(max(int(sublattice), 0), len(order) - 1)] for sublattice in atoms.arrays["sublattice"]])


def _errors(atoms: Any) -> np.ndarray:
    return atoms.arrays.get("position_error", np.full((len(atoms), 3), np.nan))


def _probability(atoms: Any) -> np.ndarray:
    return np.nan_to_num(atoms.arrays.get("probability", np.ones(len(atoms))), nan=1.0)


def _known(numbers: np.ndarray) -> None:
    if 0 in np.asarray(numbers).tolist():
        raise NotIdentifiable("the element of an atom is not known (X): say what lighter and heavier columns are (lighter=, "
                              "heavier= of to_atoms) before an engine is asked")
