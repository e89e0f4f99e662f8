"""Specimens: atoms, what energy-loss spectra need, and the truth. A specimen is a pure function of its settings and a seed.

Lengths in m; lateral coordinates (y, x) in the frame of the scan as it was when the microscope became active, the corner grid
point of the field at the origin; z along the beam, 0 at the entrance surface. A specimen has no end: what lies around the
field goes on as far as anyone asks, and is made only where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

ROOM_TEMPERATURE = 293.15
"""[K]."""


@dataclass(frozen=True)
class Condition:
    """What has been done to the specimen; everything that a structure may depend on besides the seed.

    Attributes
    ----------
    elapsed : [s] since the microscope became active.
    holder : (steps, 3) programme of the holder: elapsed [s], temperature [K], bias [V]; before the first row it is at room
        temperature and 0 V.
    alpha, beta : tilt of the stage [rad] about x and about y.
    """

    elapsed: float = 0.0
    holder: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class Atoms:
    """Atoms of a piece of specimen.

    Attributes
    ----------
    positions : (n, 3) float64, (z, y, x) [m], at equilibrium.
    atomic_numbers : (n,) int64.
    displacement_rms : (n,) float64, thermal displacement along one axis [m].
    identity : (n,) uint64: the same atom has the same number however the piece is cut, so its thermal displacement and what
        the beam does to it can be drawn from it.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    displacement_rms: np.ndarray
    identity: np.ndarray


def require_quantity(specimen: Specimen, quantity: str) -> None:
    """Raise ValueError where a specimen's truth does not know a quantity; the message names those that it knows."""
    if quantity not in specimen.quantities:
        raise ValueError(f"there is no truth {quantity!r} of {specimen.name}; there is {', '.join(specimen.quantities)}")


class Specimen(Protocol):
    """What the simulation asks of a specimen."""

    name: str
    thickness: float
    """[m] of the slab, from z = 0, that holds every atom."""
    crystalline: bool
    """Whether it is thick enough to need frozen phonons (a sheet a few atoms thick takes a Debye-Waller factor)."""
    quantities: dict[str, str]
    """Names that `truth` knows, and their units (SI; "" for numbers)."""

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m]; the same atoms in the same order of identity however the plane is cut."""

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) float64 of a quantity at positions (n, 2), (y, x) [m]; raises ValueError where it is unknown."""

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of each material at positions (n, 2): names of `energy_loss.materials.MATERIALS`."""

    def edge_distance(self, positions: np.ndarray) -> np.ndarray | None:
        """Signed distance (n,) [m] from the outline of the material, outside positive; None: it has no edge in the field."""
