"""What a nanobeam pattern says of the specimen, what it cannot say, and of which piece of the specimen it speaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNKNOWN = -1
"""Number of a phase that is none of those trained."""


@dataclass(frozen=True)
class Descriptors:
    """Of patterns, one a row; vectors and matrices (y, x) in the axes of the scan, SI units.

    A quantity that a pattern does not determine is NaN, and its flag in `identifiable` says so. A rejected pattern has a reason
    and no quantity at all. Errors are standard errors, calibrated so that 1.645 of them hold nine of ten.

    Attributes
    ----------
    phases : names; phase : (rows,) number of the one that is told, `UNKNOWN` where none is: because the material is none of
        them, or because more than one is left.
    likeliest : (rows,) number of the likeliest of them; phase_probability : (rows,) of it.
    probabilities : (rows, phases + 1) of each, and of none of them; left : (rows, phases) bool, those that are left.
    reciprocal : (rows, 2, 2) columns a*, b* [1/m], reduced; reciprocal_covariance : (rows, 4, 4) of it row by row.
    centre : (rows, 2) of the undeflected beam [pixel].
    deformation : (rows, 2, 2) F from the reference lattice, of the equivalents by the lattice's symmetry the one whose
        turn is nearest to the expected one; deformation_covariance : (rows, 4, 4) of (yy, yx, xy, xx).
    strain : (rows, 3) exx, eyy, exy; strain_error : the same. rotation, rotation_error : (rows,) [rad], x towards y. Where more
        than one phase is left, these are means over them, if they differ less than the errors.
    dilation_error : (rows,) of exx + eyy.
    thickness, thickness_error : (rows,) [m].
    tilt : (rows, 2) of the zone axis [rad]; tilt_covariance : (rows, 2, 2).
    identifiable : (rows,) bool arrays by name: lattice, strain, rotation, phase, thickness, tilt.
    rejection : (rows,) 1 or more: not like what was trained; below, nearer to 0 is more like it.
    rejected : (rows,) bool; reasons : (rows,) why it was, or why no phase is told; empty otherwise.
    footprint : (rows,) radius of the piece of the specimen [m].
    chi_square : (rows,) reduced, of the disks' places.
    """

    phases: tuple[str, ...]
    phase: np.ndarray
    likeliest: np.ndarray
    probabilities: np.ndarray
    left: np.ndarray
    reciprocal: np.ndarray
    reciprocal_covariance: np.ndarray
    centre: np.ndarray
    deformation: np.ndarray
    deformation_covariance: np.ndarray
    strain: np.ndarray
    strain_error: np.ndarray
    rotation: np.ndarray
    rotation_error: np.ndarray
    dilation_error: np.ndarray
    thickness: np.ndarray
    thickness_error: np.ndarray
    tilt: np.ndarray
    tilt_covariance: np.ndarray
    identifiable: dict[str, np.ndarray]
    rejection: np.ndarray
    rejected: np.ndarray
    reasons: list[str]
    footprint: np.ndarray
    chi_square: np.ndarray

    def __len__(self) -> int:
        return len(self.phase)

    @property
    def phase_probability(self) -> np.ndarray:
        """Of the likeliest phase (rows,), told or not; NaN for rejected patterns."""
        return np.take_along_axis(self.probabilities, self.likeliest[:, None], axis=1)[:, 0]

    @property
    def dilation(self) -> np.ndarray:
        """exx + eyy (rows,)."""
        return self.strain[:, 0] + self.strain[:, 1]


def footprint_radius(wavelength: float, semi_convergence_angle: float, thickness: np.ndarray,
                     defocus: float = 0.0) -> np.ndarray:
    """Radius (rows,) [m] of the piece of the specimen that a pattern speaks of.

    The first zero of the diffraction-limited probe, 0.61 wavelength / angle, and by how much the beam spreads geometrically
    through the thickness (rows,), NaN counting as none, and from its focus.
    """
    spread = np.nan_to_num(np.asarray(thickness, float)) + abs(defocus)
    return 0.61 * wavelength / semi_convergence_angle + spread * semi_convergence_angle
