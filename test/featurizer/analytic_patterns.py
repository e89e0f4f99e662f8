"""Analytic nanobeam patterns: sharp disks at the places of a deformed hexagonal lattice, integrated over square pixels."""

import numpy as np

from edgetem_nodes.physics.scan import Axis


def pattern_axes(size: int = 64, pitch_mrad: float = 1.0) -> tuple[Axis, Axis]:
    """Axes of a square detector with the central pixel's centre at zero."""
    return tuple(Axis(name, "rad", pitch_mrad * 1e-3, -size // 2 * pitch_mrad * 1e-3, size) for name in ("ky", "kx"))


def hexagonal_places(lattice_constant: float, wavelength: float, deformation: np.ndarray) -> np.ndarray:
    """Places (spots, 2), (y, x) [mrad], of the shells {10}, {11} of a lattice a1 = (0, a) turned and stretched by F.

    Written from the definition b_i . a_j = delta_ij of the deformed direct cell, independent of the code under test.
    """
    direct = lattice_constant * np.array([[0.0, 1.0], [np.sqrt(3) / 2, -0.5]])
    deformed = (deformation @ direct.T).T
    b1 = np.array([deformed[1, 1], -deformed[1, 0]]) / (deformed[0, 0] * deformed[1, 1] - deformed[0, 1] * deformed[1, 0])
    b2 = np.array([-deformed[0, 1], deformed[0, 0]]) / (deformed[0, 0] * deformed[1, 1] - deformed[0, 1] * deformed[1, 0])
    shells = [(1, 0), (0, 1), (1, -1), (-1, 0), (0, -1), (-1, 1), (1, 1), (2, -1), (1, -2), (-1, -1), (-2, 1), (-1, 2)]
    return np.array([wavelength * 1e3 * (h * b1 + k * b2) for h, k in shells])


def disk_image(places: np.ndarray, electrons: np.ndarray, radius: float, axes: tuple[Axis, Axis], background: float = 0.0,
               subdivision: int = 10) -> np.ndarray:
    """Expected counts (rows, columns) of disks of `radius` [mrad] at places (spots, 2) [mrad], `background` a pixel."""
    sub = (np.arange(subdivision) + 0.5) / subdivision - 0.5
    y, x = (np.add.outer(axis.values() * 1e3, sub * axis.scale * 1e3).ravel() for axis in axes)
    image = np.zeros((axes[0].size, axes[1].size))
    area = np.pi * radius**2 / (axes[0].scale * axes[1].scale * 1e6)
    for (py, px), number in zip(places, electrons, strict=True):
        disk = (np.hypot(y[:, None] - py, x[None, :] - px) <= radius).astype(float)
        image += number / area * disk.reshape(axes[0].size, subdivision, axes[1].size, subdivision).mean(axis=(1, 3))
    return image + background


def deformation(exx: float = 0.0, eyy: float = 0.0, exy: float = 0.0, rotation: float = 0.0) -> np.ndarray:
    """F = R (1 + strain), rows and columns (y, x); rotation [rad] from x towards y."""
    turn = np.array([[np.cos(rotation), np.sin(rotation)], [-np.sin(rotation), np.cos(rotation)]])
    return turn @ (np.eye(2) + np.array([[eyy, exy], [exy, exx]]))
