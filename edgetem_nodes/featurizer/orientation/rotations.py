"""Rotations of (z, y, x): about the beam, about any axis, onto the beam, and the angle between two under symmetry."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def turned(orientation, about_z, about_y, about_x):
    """An orientation turned by small right-handed angles about the specimen's axes [rad] (z right-handed: from x to y)."""
    angle = math.sqrt(about_z * about_z + about_y * about_y + about_x * about_x)
    if angle < 1e-15:
        return orientation
    z, y, x = about_z / angle, about_y / angle, about_x / angle
    c, s = math.cos(angle), math.sin(angle)
    result = np.empty((3, 3))
    for j in range(3):
        vz, vy, vx = orientation[0, j], orientation[1, j], orientation[2, j]
        along = (1 - c) * (z * vz + y * vy + x * vx)
        # Rodrigues' formula; cross products in a right-handed frame (x, y, z)
        result[0, j] = c * vz + s * (x * vy - y * vx) + along * z
        result[1, j] = c * vy + s * (z * vx - x * vz) + along * y
        result[2, j] = c * vx + s * (y * vz - z * vy) + along * x
    return result


@njit(cache=True, nogil=True)
def about_beam(orientation, angle):
    """An orientation (3, 3) turned about the beam by an angle [rad], from x towards y."""
    cosine, sine = math.cos(angle), math.sin(angle)
    result = orientation.copy()
    for j in range(3):
        y, x = orientation[1, j], orientation[2, j]
        result[1, j], result[2, j] = cosine * y + sine * x, cosine * x - sine * y
    return result


@njit(cache=True, nogil=True)
def apart(first, second, symmetry):
    """Least angle [rad] between two orientations (3, 3) under equivalent rotations (n, 3, 3)."""
    largest = -1.0
    for k in range(len(symmetry)):
        trace = 0.0
        for i in range(3):
            for j in range(3):
                # trace of first^T second S
                entry = 0.0
                for m in range(3):
                    entry += second[i, m] * symmetry[k, m, j]
                trace += first[i, j] * entry
        largest = max(largest, trace)
    return math.acos(min(1.0, max(-1.0, (largest - 1) / 2)))


def upright(axes: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3) that lay unit vectors (n, 3), (z, y, x), along the beam by the shortest turn.

    (Moeller & Hughes, J. Graphics Tools 4, 33, 1999.) The direction against the beam is turned about x.
    """
    z, y, x = np.asarray(axes, float).reshape(-1, 3).T
    safe = np.where(z > -1 + 1e-9, 1 + z, 1.0)
    turn = np.empty((len(z), 3, 3))
    turn[:, 0] = np.stack([z, y, x], axis=-1)
    turn[:, 1] = np.stack([-y, 1 - y * y / safe, -x * y / safe], axis=-1)
    turn[:, 2] = np.stack([-x, -x * y / safe, 1 - x * x / safe], axis=-1)
    turn[z <= -1 + 1e-9] = np.diag([-1.0, -1.0, 1.0])
    return turn
