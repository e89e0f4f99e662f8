"""A slab cut from a crystal that is turned against the beam: the crystal turns, the surfaces stay perpendicular to the beam.

Vectors are (z, y, x). Rotations are right-handed about the axes x and y of a right-handed frame (x, y, z).
"""

from __future__ import annotations

import numpy as np

LARGEST_TILT = 0.7
"""[rad] 40 degrees: beyond what a holder reaches, a slab looks from the side."""


def rotation(alpha: float, beta: float) -> np.ndarray:
    """Matrix (3, 3) that turns (z, y, x) first by `alpha` about x, then by `beta` about y [rad].

    Raises
    ------
    ValueError : an angle is larger than `LARGEST_TILT`.
    """
    for name, angle in (("about x", alpha), ("about y", beta)):
        if not abs(angle) <= LARGEST_TILT:
            raise ValueError(f"tilt {name} of {angle:.3g} rad is beyond the largest one, {LARGEST_TILT} rad: "
                             "the zone axis and the stage together must stay below it")
    cos_a, sin_a, cos_b, sin_b = np.cos(alpha), np.sin(alpha), np.cos(beta), np.sin(beta)
    about_x = np.array([[cos_a, sin_a, 0.0], [-sin_a, cos_a, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cos_b, 0.0, -sin_b], [0.0, 1.0, 0.0], [sin_b, 0.0, cos_b]])
    return about_y @ about_x


def enclosing_box(low: np.ndarray, high: np.ndarray, depth: tuple[float, float], turn: np.ndarray,
                  centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box in the frame of the crystal that encloses a box of the specimen.

    Parameters
    ----------
    low, high : corners (y, x) [m] of the box.
    depth : its extent in z [m].
    turn : rotation (3, 3) of the crystal.
    centre : (3,) point about which it turns [m], the origin of the crystal's frame.

    Returns
    -------
    low, high : (3,) corners [m].
    """
    corners = np.array([[z, y, x] for z in depth for y in (low[0], high[0]) for x in (low[1], high[1])]) - centre
    turned = corners @ turn
    return turned.min(axis=0), turned.max(axis=0)


def axis_tilt(axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tilt (n,) about x and (n,) about y [rad] of axes (n, 3): what `rotation` turns the beam by into them."""
    return np.arctan2(-axes[:, 1], np.hypot(axes[:, 0], axes[:, 2])), np.arctan2(axes[:, 2], axes[:, 0])
