"""Tilt of a specimen that has no end: every plane of atoms glides, none leaves the slab."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.specimens.slab import LARGEST_TILT


def sheared(positions: np.ndarray, alpha: float, beta: float, pivot: float = 0.0) -> np.ndarray:
    """Positions (n, 3), (z, y, x) [m], of a slab turned by small angles about x and about y, as the beam sees them.

    A right-handed turn about x by alpha takes a point at depth z to y - z tan(alpha), one about y by beta to
    x + z tan(beta). Foreshortening, cos(alpha), and change of depth are left out: 0.5 % of the
    lattice parameter at 100 mrad.

    Parameters
    ----------
    alpha, beta : [rad], at most `slab.LARGEST_TILT`.
    pivot : depth [m] that stays where it is.

    Raises
    ------
    ValueError : the tilt is too large for this.
    """
    if not max(abs(alpha), abs(beta)) <= LARGEST_TILT:
        raise ValueError(f"tilt ({alpha:.3g}, {beta:.3g}) rad is beyond the largest one, {LARGEST_TILT} rad: "
                         "the zone axis and the stage together must stay below it")
    if alpha == 0 and beta == 0:
        return positions
    depth = positions[:, 0] - pivot
    y, x = positions[:, 1] - np.tan(alpha) * depth, positions[:, 2] + np.tan(beta) * depth
    return np.column_stack([positions[:, 0], y, x])
