"""Draws the disks of a nanobeam pattern, filled with rocking curves, onto a camera; the inner loops.

Pixel p of the camera lies at the angle `to_angle` @ (p - centre). The disk of a beam at the angle `place` holds at the angle d
from it what a plane wave at d carries into the beam: the rocking curve at back @ (d - tilt) + shift, in the axes of the
undeformed crystal, whose zone axis has the direction `tilt`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.special import ndtr

EDGE_REACH, _EDGE_STEP = 4.0, 0.05
"""[pixel] either side of an aperture's radius to where its edge is tabulated, and in what steps."""
_INSIDE = 5


def edge_profiles(radii: np.ndarray, blurs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge of apertures as pixels see it, and the sum of a disk over pixels.

    The amplitude is that of `optics.Probe.aperture`, an error function moved so that the disk of intensity keeps its area; the
    intensity is averaged over the width of a pixel.

    Parameters
    ----------
    radii, blurs : (n,) of aperture and edge [pixel].

    Returns
    -------
    Profiles (n, points) at EDGE_REACH * [-1, 1] from the radius, and sums (n,).
    """
    blurs = np.minimum(blurs, radii / 3)[:, None, None]
    within = (np.arange(_INSIDE) + 0.5) / _INSIDE - 0.5
    points = np.arange(round(2 * EDGE_REACH / _EDGE_STEP) + 1) * _EDGE_STEP - EDGE_REACH
    place = points[:, None] + within
    profiles = (ndtr((blurs / np.sqrt(np.pi) - place) / blurs) ** 2).mean(axis=2)
    radius = np.maximum(radii[:, None] + points, 0.0)
    middle = np.pi * np.maximum(radii - EDGE_REACH, 0.0) ** 2
    sums = middle * profiles[:, 0] + np.trapezoid(2 * np.pi * radius * profiles, points, axis=1)
    return profiles, sums


@njit(cache=True, fastmath=True, nogil=True)
def draw_disks(image: np.ndarray, sums: np.ndarray, amplitudes: np.ndarray, weight: float, step: float, places: np.ndarray,
               centre: np.ndarray, to_angle: np.ndarray, to_pixel: np.ndarray, back: np.ndarray, tilt: np.ndarray,
               shifts: np.ndarray, radius: float, pixel_angle: float, profile: np.ndarray, scale: np.ndarray) -> None:
    """Add all disks to an image, and each one's sum over the image to `sums`.

    Parameters
    ----------
    image : (rows, columns) float32. sums : (beams,).
    amplitudes : (1 or 2, beams, n, n) uint16 at the thicknesses below and above; weight : of the second.
    step : of the table's tilts [rad]. places : (beams, 2) [rad].
    centre : (2,) [pixel]; to_angle, to_pixel : (2, 2) [rad/pixel] and inverse; back : (2, 2), tilt : (2,) [rad],
    shifts : (beams, 2) [rad] as above.
    radius : of the aperture [rad]; profile : of its edge, from `edge_profiles`.
    scale : (beams,) of a disk's intensities in a pixel.
    """
    rows, columns = image.shape
    half = amplitudes.shape[2] // 2
    two = amplitudes.shape[0] > 1
    reach = radius / pixel_angle + 4.0
    for beam in range(places.shape[0]):
        y = centre[0] + to_pixel[0, 0] * places[beam, 0] + to_pixel[0, 1] * places[beam, 1]
        x = centre[1] + to_pixel[1, 0] * places[beam, 0] + to_pixel[1, 1] * places[beam, 1]
        first_row, last_row = max(0, int(np.ceil(y - reach))), min(rows - 1, int(np.floor(y + reach)))
        first, last = max(0, int(np.ceil(x - reach))), min(columns - 1, int(np.floor(x + reach)))
        total = 0.0
        for row in range(first_row, last_row + 1):
            for column in range(first, last + 1):
                dy = to_angle[0, 0] * (row - y) + to_angle[0, 1] * (column - x)
                dx = to_angle[1, 0] * (row - y) + to_angle[1, 1] * (column - x)
                from_edge = (np.sqrt(dy * dy + dx * dx) - radius) / pixel_angle
                if from_edge >= EDGE_REACH - _EDGE_STEP:
                    continue
                at = max(0.0, (from_edge + EDGE_REACH) / _EDGE_STEP)
                near = int(at)
                covered = profile[near] + (at - near) * (profile[near + 1] - profile[near])
                if covered < 1e-4:
                    continue
                uy, ux = dy - tilt[0], dx - tilt[1]
                ty = (back[0, 0] * uy + back[0, 1] * ux + shifts[beam, 0]) / step + half
                tx = (back[1, 0] * uy + back[1, 1] * ux + shifts[beam, 1]) / step + half
                ty, tx = min(max(ty, 0.0), 2.0 * half - 1e-6), min(max(tx, 0.0), 2.0 * half - 1e-6)
                value = _looked_up(amplitudes[0, beam], ty, tx)
                if two:
                    value += weight * (_looked_up(amplitudes[1, beam], ty, tx) - value)
                value *= covered * scale[beam]
                image[row, column] += value
                total += value
        sums[beam] += total


@njit(cache=True, fastmath=True, nogil=True)
def _looked_up(plane: np.ndarray, ty: float, tx: float) -> float:
    """Intensity at a place between grid points: bilinear in the intensity of the stored amplitudes."""
    i, j = int(ty), int(tx)
    fy, fx = ty - i, tx - j
    a, b = np.float64(plane[i, j]), np.float64(plane[i, j + 1])
    c, d = np.float64(plane[i + 1, j]), np.float64(plane[i + 1, j + 1])
    upper, lower = a * a * (1 - fx) + b * b * fx, c * c * (1 - fx) + d * d * fx
    return (upper * (1 - fy) + lower * fy) / 4294836225.0


@njit(cache=True, fastmath=True, nogil=True)
def draw_radial(image: np.ndarray, profile: np.ndarray, step: float, centre: np.ndarray, to_angle: np.ndarray,
                slope: np.ndarray) -> None:
    """Add a background that depends on the angle from the centre, profile (points,) in steps of `step` [rad].

    slope : (2,) [1/rad], by which it grows along y and x; it never falls below zero.
    """
    last = profile.size - 2
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            y, x = row - centre[0], column - centre[1]
            dy, dx = to_angle[0, 0] * y + to_angle[0, 1] * x, to_angle[1, 0] * y + to_angle[1, 1] * x
            at = np.sqrt(dy * dy + dx * dx) / step
            near = min(int(at), last)
            value = profile[near] + (at - near) * (profile[near + 1] - profile[near])
            image[row, column] += max(0.0, value * (1 + slope[0] * dy + slope[1] * dx))
