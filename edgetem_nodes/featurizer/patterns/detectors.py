"""Masks of virtual detectors, from angles or from multiples of the convergence angle."""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry


def annulus(shape: tuple[int, int], geometry: DetectorGeometry, inner: float, outer: float,
            segment: tuple[float, float] | None = None) -> np.ndarray:
    """Pixels (rows, columns) bool whose centre lies in inner <= angle < outer [rad], and in first <= azimuth < last [rad].

    Azimuths run from x towards y in the detector's axes. A disk has inner = 0.

    Raises
    ------
    ValueError : no pixel does, or the limits are not ascending.
    """
    if not 0 <= inner < outer:
        raise ValueError(f"a detector from {inner * 1e3:g} to {outer * 1e3:g} mrad: the inner angle must be 0 or more, the "
                         "outer one above it")
    y, x = geometry.angles(shape)
    angle = np.hypot(y, x)
    chosen = (angle >= inner) & (angle < outer)
    where = f"between {inner * 1e3:g} and {outer * 1e3:g} mrad"
    if segment is not None:
        first, last = segment
        if not first < last <= first + 2 * math.pi:
            raise ValueError(f"a segment from {first:g} to {last:g} rad: the last azimuth must be above the first, by 2 pi at "
                             "most")
        if last - first < 2 * math.pi:
            chosen &= np.mod(np.arctan2(y, x) - first, 2 * math.pi) < last - first
            where += f" and {first:g} and {last:g} rad"
    if not chosen.any():
        raise ValueError(f"no pixel lies {where}; the detector covers {angle.min() * 1e3:g} to {angle.max() * 1e3:g} mrad")
    return chosen


def bright_field(shape: tuple[int, int], geometry: DetectorGeometry, outer: float | None = None) -> np.ndarray:
    """The disk of the undiffracted beam, to `outer` [rad]; None: the semi-convergence angle."""
    return annulus(shape, geometry, 0.0, _alpha(geometry) if outer is None else outer)


def annular_bright_field(shape: tuple[int, int], geometry: DetectorGeometry, inner: float | None = None,
                         outer: float | None = None) -> np.ndarray:
    """The outer half of the disk, alpha/2 to alpha [rad] (Okunishi et al., Microsc. Microanal. 15 (2009) S2, 164)."""
    return annulus(shape, geometry, _alpha(geometry) / 2 if inner is None else inner,
                   _alpha(geometry) if outer is None else outer)


def annular_dark_field(shape: tuple[int, int], geometry: DetectorGeometry, inner: float | None = None,
                       outer: float = math.inf) -> np.ndarray:
    """Beyond the disk, from `inner` [rad] (None: the semi-convergence angle) to `outer` or the detector's edge."""
    return annulus(shape, geometry, _alpha(geometry) if inner is None else inner, outer)


def high_angle_annular_dark_field(shape: tuple[int, int], geometry: DetectorGeometry, inner: float | None = None,
                                  outer: float = math.inf) -> np.ndarray:
    """From `inner` [rad], None: three times the semi-convergence angle, where contrast is chiefly incoherent."""
    return annulus(shape, geometry, 3 * _alpha(geometry) if inner is None else inner, outer)


def segments(shape: tuple[int, int], geometry: DetectorGeometry, count: int = 4, inner: float = 0.0,
             outer: float | None = None, first: float = -math.pi / 4) -> dict[str, np.ndarray]:
    """A ring cut into `count` equal segments, the first from azimuth `first` [rad] on: masks by name, segment_0 and so on.

    They are disjoint and together the whole ring, inner to `outer` [rad] (None: the semi-convergence angle).
    """
    if count < 2:
        raise ValueError(f"a ring cut into {count} segments: 2 or more")
    y, x = geometry.angles(shape)
    ring = annulus(shape, geometry, inner, _alpha(geometry) if outer is None else outer)
    turn = np.mod((np.arctan2(y, x) - first) / (2 * math.pi), 1.0)
    number = np.minimum((turn * count).astype(int), count - 1)
    masks = {f"segment_{k}": ring & (number == k) for k in range(count)}
    for name, mask in masks.items():
        if not mask.any():
            raise ValueError(f"{name} of {count} holds no pixel: fewer segments, or a wider ring")
    return masks


def _alpha(geometry: DetectorGeometry) -> float:
    if not geometry.semi_convergence_angle > 0:
        raise ValueError("the semi-convergence angle is not known: calibrate it, or give the detector's angles")
    return geometry.semi_convergence_angle
