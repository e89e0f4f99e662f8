"""A structure as it was measured: atoms, their errors, defects and what was seen of the specimen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ANGSTROM = 1e-10
"""[m]."""


class NotIdentifiable(ValueError):
    """The data does not determine a structure; the message says why."""


@dataclass(frozen=True)
class Defect:
    """A site that is not the perfect crystal's, with some probability.

    Attributes: `name`, "V_C" a vacancy on a carbon site, "N_C" nitrogen there, "vanadium_Mo" vanadium where "V_Mo" is
    a vacancy; `probability`; `position` (3,), (x, y, z) of the site [m]; `element` that may be there, atomic number, 0: none;
    `host`, that of the perfect crystal. Defects of a probability of 0.5 and more are built into the cell.
    """

    name: str
    probability: float
    position: np.ndarray
    element: int
    host: int


@dataclass(frozen=True)
class MeasuredStructure:
    """Atoms in a cell; coordinates are (x, y, z) [m], z along the beam.

    Attributes
    ----------
    atomic_numbers : (atoms,) int.
    positions : (atoms, 3).
    standard_errors : (atoms, 3), of positions relative to the middle of the cell; 0 where a coordinate is not measured.
    cell : (3, 3), rows are lattice vectors.
    periodic : x, y, z.
    source : how it was derived, for a person.
    material : name; empty: not known.
    covariances : (atoms, 2, 2) of x and y [m^2] of atoms that were measured one by one, NaN for one that was not; (0, 2, 2):
        none was.
    deformation_covariance : (4, 4) of (xx, xy, yx, yy) of L, where the true cell is 1 + L times this one; (0, 0): not known.
    footprint_area : [m^2] of the specimen that was seen, by a micro-scan a square about the place; 0: not known.
    defects : built in and possible ones.
    seen, seen_probabilities : (n, 2), (x, y) from the place [m], of sites in the footprint that are not the perfect crystal's,
        with probabilities (n,). seen_in_cell : (n,) bool, whether they are in the cell as well.
    charge : [e] of the cell.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    standard_errors: np.ndarray
    cell: np.ndarray
    periodic: tuple[bool, bool, bool]
    source: str
    material: str = ""
    covariances: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 2)))
    deformation_covariance: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    footprint_area: float = 0.0
    defects: tuple[Defect, ...] = ()
    charge: int = 0
    seen: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    seen_probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    seen_in_cell: np.ndarray = field(default_factory=lambda: np.empty(0, bool))


def relative_covariance(deformation: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Covariance (4, 4) of L = dF F^-1 (xx, xy, yx, yy) from that of F flattened (yy, yx, xy, xx): free of how F is turned."""
    plane, flipped = deformation[::-1, ::-1], covariance[::-1, ::-1]
    slope = np.einsum("ia,bk->ikab", np.eye(2), np.linalg.inv(plane)).reshape(4, 4)
    return slope @ flipped @ slope.T
