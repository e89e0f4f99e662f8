"""Regions whose atoms are asked for: what one answer can hold. Knows no ROS."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.microscope.acquisition import RefusedError
from edgetem_nodes.microscope.drivers import MicroscopeDriver
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField

MOST_ATOMS = 2_000_000
"""What one answer may hold: 80 MB."""
LONGEST_EDGE = 1e-6
"""[m] of a region whose atoms are asked for: a single sheet of atoms has more than `MOST_ATOMS` in such a square."""
_SAMPLE = 2e-9
"""Edge [m] of the boxes whose atoms are counted before a larger region is made."""


def region_of(corners: np.ndarray, field: ScanField) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner (y, x) [m] of a region (y, x, y, x) [m]; half a step around the field where all numbers are zero.

    Raises
    ------
    RefusedError : INVALID_REGION, where it has no area, is not finite or larger than any answer.
    """
    if not corners.any():
        positions, half = field.positions(), np.asarray(field.step) / 2
        return positions.min(axis=0) - half, positions.max(axis=0) + half
    low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
    if not (np.isfinite(corners).all() and (high > low).all()):
        raise RefusedError("INVALID_REGION", f"region {corners.tolist()} has no area: give y and x [m] of two opposite "
                                             "corners")
    if (high - low).max() > LONGEST_EDGE:
        raise RefusedError("INVALID_REGION", f"region of {_described(low, high)} is larger than {LONGEST_EDGE * 1e9:g} x "
                                             f"{LONGEST_EDGE * 1e9:g} nm, which no answer can hold: ask for a smaller one")
    return low, high


def estimated_atoms(driver: MicroscopeDriver, low: np.ndarray, high: np.ndarray, exposure: Exposure) -> float:
    """About how many atoms a region holds, from nine boxes of it; 0 where it is no larger than those.

    Parameters
    ----------
    low, high : (y, x) [m] of the region's corners.
    """
    boxes = 3
    size = high - low
    if np.prod(size) <= (boxes * _SAMPLE) ** 2:
        return 0.0
    edge = np.minimum(size / boxes, _SAMPLE)
    corners = [low + (np.array([row, column]) + 0.5) / boxes * size - edge / 2
               for row in range(boxes) for column in range(boxes)]
    counted = sum(len(driver.atoms(corner, corner + edge, exposure).atomic_numbers) for corner in corners)
    return counted * float(np.prod(size) / (boxes ** 2 * np.prod(edge)))


def check_atoms(low: np.ndarray, high: np.ndarray, atoms: float) -> None:
    """Raise RefusedError INVALID_REGION where a region holds more atoms than one answer."""
    if atoms > MOST_ATOMS:
        raise RefusedError("INVALID_REGION", f"region of {_described(low, high)} holds about {atoms:.3g} atoms, an answer "
                                             f"at most {MOST_ATOMS:.3g}: ask for a smaller one")


def _described(low: np.ndarray, high: np.ndarray) -> str:
    """Size of a region for people."""
    height, width = (high - low) * 1e9
    return f"{height:.4g} x {width:.4g} nm"
