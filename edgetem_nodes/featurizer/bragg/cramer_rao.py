"""How well strain can be known: the Cramer-Rao bound of a lattice of disks with Poisson counts.

Expected counts are m(p) = b(p) + sum_k a_k t(p - c_k), with c_k = centre + basis @ (h, k). The Fisher information of
independent Poisson counts is J_ij = sum_p (dm/di)(dm/dj) / m; readout noise of variance r^2 makes it / (m + r^2) in the
Gaussian limit. Unknown amplitudes and background are eliminated (Schur complement), and the bound of the lattice goes on to
the strain to first order. It uses none of the fit's code: derivatives are differences of patterns drawn from the profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from collections.abc import Callable

import numpy as np

from edgetem_nodes.featurizer.deformation import strain

_STEP = 1e-3

Profile = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A disk's fraction in pixels whose centres lie (dy, dx) [pixel] from its own."""


@dataclass(frozen=True)
class Pattern:
    """An ideal pattern.

    Attributes
    ----------
    shape : of the detector; profile : of a disk.
    centre, basis : (2,), (2, 2) of the lattice, vectors as columns [pixel]; indices : (disks, 2).
    electrons : (disks,) in each disk; background : electrons a pixel, one number or (rows, columns).
    mask : (rows, columns) bool, pixels in use; None: all.
    readout : standard deviation of a pixel's readout [electrons].
    """

    shape: tuple[int, int]
    profile: Profile
    centre: np.ndarray
    basis: np.ndarray
    indices: np.ndarray
    electrons: np.ndarray
    background: np.ndarray | float
    mask: np.ndarray | None = None
    readout: float = 0.0

    def places(self) -> np.ndarray:
        """Centres (disks, 2) [pixel]."""
        return np.asarray(self.centre) + np.asarray(self.indices) @ np.asarray(self.basis).T

    def disk(self, place: np.ndarray) -> np.ndarray:
        """Fraction of a disk at a place in every pixel (rows, columns)."""
        y, x = np.indices(self.shape)
        return self.profile(y - place[0], x - place[1])

    def expected(self) -> np.ndarray:
        """Expected electrons (rows, columns)."""
        total = np.zeros(self.shape) + self.background
        for place, electrons in zip(self.places(), self.electrons, strict=True):
            total += electrons * self.disk(place)
        return total


def lattice_bound(pattern: Pattern, known_amplitudes: bool = False, known_background: bool = True) -> np.ndarray:
    """Smallest covariance (6, 6) of an unbiased estimate of the lattice: centre, then basis row by row [pixel^2].

    Parameters
    ----------
    known_amplitudes : whether the electrons of the disks are known beforehand.
    known_background : whether the background is; else one factor for all of it is estimated too.

    Raises
    ------
    ValueError : the disks do not determine a lattice.
    """
    expected = pattern.expected()
    used = expected > 0
    if pattern.mask is not None:
        used &= pattern.mask
    columns = _derivatives(pattern, known_amplitudes, known_background)[:, used]
    information = (columns / (expected[used] + pattern.readout**2)) @ columns.T
    lattice, cross, rest = information[:6, :6], information[:6, 6:], information[6:, 6:]
    effective = lattice - cross @ np.linalg.pinv(rest, hermitian=True) @ cross.T if len(rest) else lattice
    scale = 1 / np.sqrt(np.maximum(np.diag(effective), 1e-300))
    if np.linalg.matrix_rank(effective * np.outer(scale, scale), tol=1e-9) < 6:
        raise ValueError(f"{len(pattern.indices)} disks, on one line or without electrons, do not determine a lattice")
    return np.linalg.inv(effective)


def _derivatives(pattern: Pattern, known_amplitudes: bool, known_background: bool) -> np.ndarray:
    """Derivatives (parameters, rows, columns) of the expected counts: six of the lattice, then what else is unknown."""
    lattice, others = np.zeros((6, *pattern.shape)), []
    for place, (h, k), electrons in zip(pattern.places(), pattern.indices, pattern.electrons, strict=True):
        for axis in (0, 1):
            step = _STEP * np.eye(2)[axis]
            slope = electrons * (pattern.disk(place + step) - pattern.disk(place - step)) / (2 * _STEP)
            lattice[axis] += slope
            lattice[2 + 2 * axis] += h * slope
            lattice[3 + 2 * axis] += k * slope
        if not known_amplitudes:
            others.append(pattern.disk(place))
    if not known_background:
        others.append(np.zeros(pattern.shape) + pattern.background)
    return np.concatenate([lattice, np.array(others).reshape(-1, *pattern.shape)])


def strain_bound(pattern: Pattern, to_scan: np.ndarray | None = None, **known: bool) -> dict[str, float]:
    """Smallest standard error of exx, eyy, exy, dilation (fractions) and rotation [rad] of an unbiased estimate.

    Parameters
    ----------
    to_scan : (2, 2) from pixels to the axes of the strain; None: the detector's own.
    known : as for `lattice_bound`.
    """
    axes = np.eye(2) if to_scan is None else np.asarray(to_scan, float)
    vectors = axes @ pattern.basis
    scale = np.kron(axes, np.linalg.inv(vectors).T)
    covariance = scale @ lattice_bound(pattern, **known)[2:, 2:] @ scale.T
    return {name: float(np.sqrt(value[0])) for name, value in strain(np.eye(2)[None], covariance[None]).variances.items()}
