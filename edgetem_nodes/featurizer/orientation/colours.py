"""Colours of orientations for pictures: the place of a direction in the inverse pole figure."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.orientation.misorientation import rotation_axes
from edgetem_nodes.featurizer.orientation.symmetry import Symmetry

_NOT_INDEXED = (0.0, 0.0, 0.0)
_CUBIC = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
_ORDERS = {"6/mmm": 6, "6/m": 6, "-3m": 3, "-3": 3, "4/mmm": 4, "4/m": 4}
"""Of the main axis; of the other classes that are not cubic, 2."""


def _corners(symmetry: Symmetry) -> np.ndarray:
    """Unit vectors (3, 3) at the corners of the triangle, red, green and blue, in the frame of `_frame`.

    Cubic: 001, 101, 111. With a main axis of order n: the axis, x, and the direction 180/n degrees from x.
    """
    if symmetry.laue_class.startswith("m-3"):
        corners = _CUBIC
    else:
        azimuth = np.pi / _ORDERS.get(symmetry.laue_class, 2)
        corners = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, np.sin(azimuth), np.cos(azimuth)]])
    return corners / np.linalg.norm(corners, axis=1, keepdims=True)


def _frame(symmetry: Symmetry) -> np.ndarray:
    """Orthonormal rows (3, 3): the main axis, y, and x, a twofold axis across it or, of -3m, the mirror plane there.

    Of axes of one order the main one is that next to the crystal's z, and x that next to its x.
    """
    turns = symmetry.rotations[1:]
    orders = np.rint(2 * np.pi / np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))).astype(int)
    axes = rotation_axes(turns)
    if symmetry.laue_class.startswith("m-3"):
        axes, orders = axes[orders % 2 == 0], orders[orders % 2 == 0]
    if not len(axes):
        return np.eye(3)
    highest = axes[orders == orders.max()]
    main = highest[np.argmax(np.abs(highest[:, 0]))]
    across = axes[(orders == 2) & (np.abs(axes @ main) < 1e-3)]
    if symmetry.laue_class == "m-3m":
        across = highest[np.abs(highest @ main) < 1e-3]
    if symmetry.laue_class == "-3m":
        across = np.cross(across, main)
    if not len(across):
        across = np.eye(3)[np.argmin(np.abs(main))][None]
        across = across - (across @ main)[:, None] * main
    second = across[np.argmax(np.abs(across[:, 2]))]
    second = second / np.linalg.norm(second)
    return np.array([main, np.cross(main, second), second])


def inverse_pole_figure_colours(matrices: np.ndarray, symmetry: Symmetry,
                                direction: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> np.ndarray:
    """Red, green, blue (..., 3) in 0 to 1 of the crystal direction that lies along a direction of the specimen.

    Red, green and blue are the corners of the standard triangle of the Laue class, 001, 101 and 111 for cubic crystals. Classes
    with less symmetry than a triangle needs are folded into one by mirrors, so that some directions share a colour. Black: not
    indexed.

    Parameters
    ----------
    matrices : (..., 3, 3) orientations.
    direction : (z, y, x) in the specimen's axes; (1, 0, 0) is the beam.
    """
    wanted = np.asarray(direction, float) / np.linalg.norm(direction)
    matrices = np.asarray(matrices, float)
    directions = np.swapaxes(matrices, -1, -2) @ wanted
    flat = directions.reshape(-1, 3)
    missing = ~np.isfinite(flat).all(axis=1)
    amounts = np.maximum(_folded(np.where(missing[:, None], [1.0, 0.0, 0.0], flat), symmetry)
                         @ np.linalg.inv(_corners(symmetry)), 0.0)
    # the brightest channel full, and the root, so that the middle of the triangle is not all grey
    colours = np.sqrt(amounts / amounts.max(axis=1, keepdims=True))
    colours[missing] = _NOT_INDEXED
    return colours.reshape(directions.shape)


def _folded(directions: np.ndarray, symmetry: Symmetry) -> np.ndarray:
    """Directions (n, 3) in the triangle of `_corners`, by the rotations and mirrors of the Laue class with that triangle."""
    directions = directions @ _frame(symmetry).T
    if symmetry.laue_class.startswith("m-3"):
        ordered = np.sort(np.abs(directions), axis=1)
        return np.stack([ordered[:, 2], ordered[:, 0], ordered[:, 1]], axis=-1)
    order = _ORDERS.get(symmetry.laue_class, 2)
    around = np.hypot(directions[:, 1], directions[:, 2])
    # an inversion takes the lower half into the upper, half a turn on: for an odd axis that is another azimuth
    azimuth = np.arctan2(directions[:, 1], directions[:, 2]) + np.where(directions[:, 0] < 0, np.pi, 0.0)
    azimuth = np.abs((azimuth + np.pi / order) % (2 * np.pi / order) - np.pi / order)
    return np.stack([np.abs(directions[:, 0]), around * np.sin(azimuth), around * np.cos(azimuth)], axis=-1)
