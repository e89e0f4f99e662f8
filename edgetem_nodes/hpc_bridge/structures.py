"""Atomic structures: checked arrays in SI units, and ASE atoms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ANGSTROM = 1e-10
"""[m]."""
SMALLEST_ANGLE = 20.0
"""[deg] between two periodic cell vectors; below it the search for neighbours over adjacent cells is not complete."""
LONGEST_CELL = 1e-6
"""[m]."""
BUILT_IN = 0.5
"""Probability from which a defect is in the cell."""
SAME_SITE = 0.3e-10
"""[m] within which two possible defects are of one site."""


class StructureError(ValueError):
    """A structure that cannot be computed; the message names the value and the rule."""


@dataclass(frozen=True)
class Structure:
    """Atoms in SI units.

    Attributes: `atomic_numbers` (atoms,) int; `positions` (atoms, 3), (x, y, z) [m]; `cell` (3, 3), rows are lattice vectors
    [m], a row that is not periodic may be zero; `periodic` of each row; `charge` [e]; `standard_errors` (atoms, 3) of the
    positions [m], or (0, 3) where they are not known; `covariances` (atoms, 2, 2) of x and y [m^2] of atoms that were measured
    one by one, NaN of one that was not, or (0, 2, 2); `deformation_covariance` (4, 4) of L (xx, xy, yx, yy), where the true
    cell is 1 + L times this one, or (0, 0); `defect_probabilities` (defects,) of what may be there, those of 0.5 and more are
    built in; `defect_numbers` (defects,) atomic numbers of it, 0 a vacancy, `defect_hosts` (defects,) of what the perfect sheet
    has there, `defect_positions` (defects, 3) [m].
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    periodic: tuple[bool, bool, bool] = (False, False, False)
    charge: int = 0
    standard_errors: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    covariances: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 2)))
    deformation_covariance: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    defect_probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    defect_numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    defect_hosts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    defect_positions: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))


def structure(atomic_numbers: Any, positions: Any, cell: Any, periodic: Any, charge: int = 0,
              standard_errors: Any = (), covariances: Any = (), deformation_covariance: Any = (),
              defect_probabilities: Any = (), defect_numbers: Any = (), defect_hosts: Any = (),
              defect_positions: Any = ()) -> Structure:
    """A structure from flat arrays, as a message holds them.

    Raises
    ------
    StructureError : the lengths do not belong together.
    """
    numbers = np.array(atomic_numbers, np.int64).reshape(-1)
    flat = np.array(positions, np.float64).reshape(-1)
    errors = np.array(standard_errors, np.float64).reshape(-1)
    vectors = np.array(cell, np.float64).reshape(-1)
    if len(flat) != 3 * len(numbers):
        raise StructureError(f"{len(numbers)} atomic numbers go with {3 * len(numbers)} coordinates (x, y, z each), "
                             f"not {len(flat)}")
    if len(errors) not in (0, len(flat)):
        raise StructureError(f"position_standard_errors holds {len(errors)} numbers; it is empty or holds {len(flat)}, "
                             "as the positions")
    apart = np.array(covariances, np.float64).reshape(-1)
    if len(apart) not in (0, 4 * len(numbers)):
        raise StructureError(f"position_covariances holds {len(apart)} numbers; it is empty or holds {4 * len(numbers)}, "
                             "2 x 2 an atom")
    whole = np.array(deformation_covariance, np.float64).reshape(-1)
    if len(whole) not in (0, 16):
        raise StructureError(f"deformation_covariance holds {len(whole)} numbers; it is empty or holds 16")
    if len(vectors) != 9:
        raise StructureError(f"the cell holds {len(vectors)} numbers; it is three lattice vectors, 9 numbers")
    return Structure(numbers, flat.reshape(-1, 3), vectors.reshape(3, 3), tuple(bool(p) for p in periodic), int(charge),
                     errors.reshape(-1, 3), apart.reshape(-1, 2, 2), whole.reshape(4, 4) if len(whole) else np.empty((0, 0)),
                     *_defects(defect_probabilities, defect_numbers, defect_hosts, defect_positions))


def _defects(probabilities: Any, numbers: Any, hosts: Any, positions: Any) -> tuple[np.ndarray, ...]:
    """Arrays of the defects that may be there; raises StructureError where their lengths do not belong together."""
    likely, places = (np.array(values, np.float64).reshape(-1) for values in (probabilities, positions))
    kinds = [np.array(values, np.int64).reshape(-1) for values in (numbers, hosts)]
    if not len(likely) == len(kinds[0]) == len(kinds[1]) or len(places) != 3 * len(likely):
        raise StructureError(f"{len(likely)} defect_probabilities go with as many defect_atomic_numbers and defect_hosts and "
                             f"{3 * len(likely)} coordinates, not with {len(kinds[0])}, {len(kinds[1])} and {len(places)}")
    if not (np.isfinite(places).all() and ((likely >= 0) & (likely <= 1)).all()):
        raise StructureError(f"defect_probabilities are {likely.tolist()}; they must be between 0 and 1, with finite positions")
    return likely, *kinds, places.reshape(-1, 3)


def check(candidate: Structure, elements: frozenset[int], largest: int, shortest_distance: float) -> None:
    """Refuse what no engine should be asked.

    Parameters
    ----------
    elements : atomic numbers that the engine knows.
    largest : most atoms.
    shortest_distance : of two atoms, periodic images included [m].

    Raises
    ------
    StructureError : with the value and the rule.
    """
    count = len(candidate.atomic_numbers)
    if count == 0:
        raise StructureError("the structure has no atoms; it needs at least 1")
    if count > largest:
        raise StructureError(f"the structure has {count} atoms; the limit is {largest} (parameter limits.atoms)")
    unknown = sorted(set(candidate.atomic_numbers.tolist()) - elements)
    if unknown:
        raise StructureError(f"atomic number {', '.join(map(str, unknown))}: the engine knows {_ranges(elements)}")
    for name, values in (("positions", candidate.positions), ("cell", candidate.cell),
                         ("position_standard_errors", candidate.standard_errors)):
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            raise StructureError(f"{name}[{place[0]}, {place[1]}] is {values[tuple(place)]}; every number must be finite")
    _check_covariances(candidate)
    if (candidate.standard_errors < 0).any():
        raise StructureError(f"a position's standard error is {candidate.standard_errors.min():g} m; none can be negative")
    if abs(candidate.charge) > count:
        raise StructureError(f"the charge is {candidate.charge}; it may not exceed the number of atoms, {count}")
    extent = np.ptp(candidate.positions, axis=0).max()
    if extent > LONGEST_CELL:
        raise StructureError(f"the atoms are spread over {extent:g} m; the limit is {LONGEST_CELL:g} m: "
                             "positions are in metres")
    _check_cell(candidate)
    distance, first, second = nearest_pair(candidate)
    if distance < shortest_distance:
        other = f"atom {second}" if first != second else "its own periodic image"
        raise StructureError(f"atom {first} and {other} are {distance * 1e12:.3g} pm apart; the shortest distance allowed "
                             f"is {shortest_distance * 1e12:g} pm (positions are in metres)")


def _check_covariances(candidate: Structure) -> None:
    """Refuse what is no covariance: an atom's is finite and positive definite, or NaN."""
    measured = ~np.isnan(candidate.covariances).all(axis=(1, 2))
    for index in np.flatnonzero(measured):
        covariance = candidate.covariances[index]
        if not np.isfinite(covariance).all() or np.linalg.eigvalsh((covariance + covariance.T) / 2).min() <= 0:
            raise StructureError(f"position_covariances of atom {index} is {covariance.tolist()} m^2; it must be finite and "
                                 "positive definite, or all NaN for an atom that was not measured")
    whole, wrong = candidate.deformation_covariance, False
    if len(whole):
        wrong = not np.isfinite(whole).all()
        wrong = wrong or np.linalg.eigvalsh((whole + whole.T) / 2).min() < -1e-9 * max(np.trace(whole), 0)
    if wrong:
        raise StructureError(f"deformation_covariance is {whole.tolist()}; it must be finite and without negative eigenvalues")
    odd = candidate.defect_probabilities[~((candidate.defect_probabilities >= 0) & (candidate.defect_probabilities <= 1))]
    if len(odd):
        raise StructureError(f"the probability of a defect is {odd[0]:g}; it must be between 0 and 1")


def _check_cell(candidate: Structure) -> None:
    vectors = candidate.cell[list(candidate.periodic)]
    lengths = np.linalg.norm(vectors, axis=1)
    for index, length in zip(np.flatnonzero(candidate.periodic), lengths, strict=True):
        if not 0.5 * ANGSTROM <= length <= LONGEST_CELL:
            raise StructureError(f"periodic cell vector {index} is {length:g} m long; it must be between "
                                 f"{0.5 * ANGSTROM:g} and {LONGEST_CELL:g} m")
    for (i, a), (j, b) in itertools.combinations(enumerate(vectors), 2):
        cosine = np.clip(a @ b / lengths[i] / lengths[j], -1, 1)
        angle = np.degrees(np.arccos(cosine))
        if not SMALLEST_ANGLE <= angle <= 180 - SMALLEST_ANGLE:
            raise StructureError(f"periodic cell vectors meet at {angle:.1f} deg; the angle must be between "
                                 f"{SMALLEST_ANGLE:g} and {180 - SMALLEST_ANGLE:g} deg: use a less oblique cell")
    if len(vectors) == 3:
        volume = abs(np.linalg.det(vectors / lengths[:, None]))
        if volume < 0.05:
            raise StructureError(f"the cell is flat: its volume is {volume:.3g} of the product of its edges, at least 0.05")
    if candidate.periodic[2] and not (candidate.periodic[0] and candidate.periodic[1]) \
            or candidate.periodic[0] != candidate.periodic[1]:
        raise StructureError(f"periodic is {candidate.periodic}; a structure is periodic nowhere, in x and y (a sheet), "
                             "or everywhere")


def nearest_pair(candidate: Structure) -> tuple[float, int, int]:
    """Shortest distance between two atoms or an atom and a periodic image [m], and the two indices.

    Exact for cells that `check` accepts: differences are wrapped into the cell, then compared over adjacent cells.
    """
    count = len(candidate.atomic_numbers)
    periodic = np.array(candidate.periodic)
    vectors = candidate.cell[periodic]
    difference = candidate.positions[:, None] - candidate.positions[None]
    if len(vectors):
        inverse = np.linalg.pinv(vectors)
        difference = difference - np.round(difference @ inverse) @ vectors
    best, pair = np.inf, (0, 0)
    for image in itertools.product((-2, -1, 0, 1, 2), repeat=len(vectors)):
        shift = np.array(image, float) @ vectors if len(vectors) else np.zeros(3)
        distances = np.linalg.norm(difference + shift, axis=2)
        if not any(image):
            np.fill_diagonal(distances, np.inf)
        index = int(distances.argmin())
        if distances.flat[index] < best:
            best, pair = float(distances.flat[index]), divmod(index, count)
    return best, *pair


def to_atoms(candidate: Structure, vacuum: float) -> Any:
    """ASE atoms [Å].

    A sheet (periodic in x and y only) gets a third cell vector along z that leaves `vacuum` [m] on either side, because
    engines repeat it in z; a molecule gets no cell.
    """
    from ase import Atoms

    positions, cell = candidate.positions.copy(), candidate.cell.copy()
    periodic = candidate.periodic
    if periodic == (True, True, False):
        cell[2] = (0.0, 0.0, np.ptp(positions[:, 2]) + 2 * vacuum)
        positions[:, 2] += cell[2, 2] / 2 - (positions[:, 2].min() + positions[:, 2].max()) / 2
        periodic = (True, True, True)
    elif not any(periodic):
        cell = np.zeros((3, 3))
    return Atoms(numbers=candidate.atomic_numbers, positions=positions / ANGSTROM, cell=cell / ANGSTROM, pbc=periodic)


def from_atoms(atoms: Any, charge: int = 0, standard_errors: Any = ()) -> Structure:
    """A structure from ASE atoms [Å]; `standard_errors` (atoms, 3) [m] or empty."""
    return structure(atoms.numbers, atoms.positions * ANGSTROM, atoms.cell.array * ANGSTROM, atoms.pbc, charge,
                     standard_errors)


def _ranges(elements: frozenset[int]) -> str:
    values = sorted(elements)
    if values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
