"""Fields of a thin specimen from the deflection of the beam: electric, magnetic, polarisation, charge. SI units.

Axes: y down and x to the right as the scan is drawn, z along the beam. A deflection (y, x) [rad] in the scan's axes is the mean
transverse momentum of the electrons over their momentum. It averages the field over the probe, weighted with its intensity, and
holds while the specimen is thin: an electron leaves where it enters, and is scattered once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE, PLANCK, interaction_constant, wavelength

VACUUM_PERMITTIVITY = 8.8541878188e-12
"""[F/m], CODATA 2022."""


@dataclass(frozen=True)
class SignalToNoise:
    """How far a map of a vector stands out of its noise.

    Attributes
    ----------
    signal : root mean square of the variation over the map that is not noise, both components together; 0: none is seen.
    noise : root mean square of the standard errors, both components together.
    peak : largest magnitude.
    """

    signal: float
    noise: float
    peak: float

    @property
    def ratio(self) -> float:
        """Signal over noise; infinite without noise."""
        return self.signal / self.noise if self.noise > 0 else math.inf


def signal_to_noise(vectors: np.ndarray, errors: np.ndarray) -> SignalToNoise:
    """Of vectors (..., 2) with standard errors (..., 2); places that are not finite are left out.

    Raises
    ------
    ValueError : fewer than two places are finite.
    """
    values, spread = np.asarray(vectors, float).reshape(-1, 2), np.asarray(errors, float).reshape(-1, 2)
    good = np.isfinite(values).all(axis=1) & np.isfinite(spread).all(axis=1)
    if np.count_nonzero(good) < 2:
        raise ValueError(f"{np.count_nonzero(good)} of {len(values)} positions have a deflection: a ratio needs two")
    values, spread = values[good], spread[good]
    noise = (spread**2).sum(axis=1).mean()
    variation = values.var(axis=0, ddof=1).sum() - noise
    return SignalToNoise(math.sqrt(max(variation, 0.0)), math.sqrt(noise), float(np.hypot(values[:, 0], values[:, 1]).max()))


def phase_gradient(deflection: np.ndarray, high_tension: float) -> np.ndarray:
    """Gradient of the object's phase [rad/m] from deflections [rad]: 2 pi / wavelength times them."""
    return 2 * math.pi / wavelength(high_tension) * np.asarray(deflection, float)


def projected_electric_field(deflection: np.ndarray, high_tension: float) -> np.ndarray:
    """Electric field integrated along the beam [V], same shape as the deflection [rad], (y, x).

    E = -grad V and the phase is interaction constant times projected potential, so E = -2 pi / (wavelength * interaction
    constant) times the deflection: electrons turn towards the positive side (Muller et al., Nat. Commun. 5, 5653, 2014).
    Divide by the thickness [m] for the mean field [V/m].
    """
    return -phase_gradient(deflection, high_tension) / interaction_constant(high_tension)


def projected_magnetic_field(deflection: np.ndarray, high_tension: float) -> np.ndarray:
    """In-plane magnetic flux density integrated along the beam [T m], (y, x), from deflections [rad].

    The Lorentz force on electrons that fly along z deflects by (y, x) = e wavelength / h * (-B_x t, B_y t): right angles to
    the field (Chapman, J. Phys. D 17, 623, 1984). Where both fields act they cannot be told apart without turning the specimen.
    """
    deflection = np.asarray(deflection, float)
    momentum = PLANCK / wavelength(high_tension)
    return np.stack([deflection[..., 1], -deflection[..., 0]], axis=-1) * (momentum / ELEMENTARY_CHARGE)


def projected_charge(field_divergence: np.ndarray) -> np.ndarray:
    """Charge integrated along the beam [C/m^2] from the divergence [V/m] of the projected electric field (Gauss's law).

    Nuclei and electrons together, blurred by the probe.
    """
    return VACUUM_PERMITTIVITY * np.asarray(field_divergence, float)


def dielectric_polarization(projected_field: np.ndarray, thickness: float, relative_permittivity: float) -> np.ndarray:
    """Polarisation [C/m^2] that a mean electric field makes in a linear dielectric: P = eps0 (eps_r - 1) E.

    The answer to a field, not a spontaneous polarisation: of a ferroelectric only what belongs to the field that is measured.

    Parameters
    ----------
    projected_field : (..., 2) [V]. thickness : [m].

    Raises
    ------
    ValueError : the thickness is not positive, or the permittivity is below 1.
    """
    if not thickness > 0:
        raise ValueError(f"a thickness of {thickness:g} m is not positive")
    if relative_permittivity < 1:
        raise ValueError(f"a relative permittivity of {relative_permittivity:g} is below that of the vacuum, 1")
    return VACUUM_PERMITTIVITY * (relative_permittivity - 1) * np.asarray(projected_field, float) / thickness


def depolarization(projected_field: np.ndarray, thickness: float) -> np.ndarray:
    """Spontaneous polarisation [C/m^2] whose bound charges, screened by nothing, make the mean field: P = -eps0 E.

    The largest it can be for a given field; free charges and adsorbates screen most of it in practice.

    Parameters
    ----------
    projected_field : (..., 2) [V]. thickness : [m].
    """
    if not thickness > 0:
        raise ValueError(f"a thickness of {thickness:g} m is not positive")
    return -VACUUM_PERMITTIVITY * np.asarray(projected_field, float) / thickness


@dataclass(frozen=True)
class SegmentedDeflection:
    """Deflections from four quadrants.

    Attributes
    ----------
    deflection : (frames, 2), (y, x) [rad] in the detector's axes; NaN where there are no counts.
    errors : (frames, 2) [rad], from counting statistics.
    """

    deflection: np.ndarray
    errors: np.ndarray


def differential_phase_contrast(quadrants: np.ndarray, variances: np.ndarray,
                                semi_convergence_angle: float) -> SegmentedDeflection:
    """Deflection of a uniform disk from the differences of a quadrant detector that is larger than the disk.

    A disk of radius a that moves by d along an axis brings 4 a d more to one half and as much less to the other of its
    area pi a^2: d = pi a / 4 times difference over sum, for d well below a.

    Parameters
    ----------
    quadrants : (frames, 4) counts in the quadrants around 45, 135, 225 and 315 deg, from x towards y.
    variances : the same shape, of the counts.
    semi_convergence_angle : radius of the disk [rad].

    Raises
    ------
    ValueError : the shapes differ, or the angle is not positive.
    """
    quadrants, variances = np.asarray(quadrants, float), np.asarray(variances, float)
    if quadrants.ndim != 2 or quadrants.shape[1] != 4 or quadrants.shape != variances.shape:
        raise ValueError(f"counts {quadrants.shape} and variances {variances.shape} of quadrants must both be (frames, 4)")
    if not semi_convergence_angle > 0:
        raise ValueError(f"a semi-convergence angle of {semi_convergence_angle:g} rad is not positive: it sets the scale")
    total = quadrants.sum(axis=1, keepdims=True)
    some = np.where(total > 0, total, np.nan)
    signs = np.array([[1, 1, -1, -1], [1, -1, -1, 1]])
    contrast = quadrants @ signs.T / some
    scale = math.pi * semi_convergence_angle / 4
    slopes = (signs[None] - contrast[:, :, None]) / some[:, :, None]
    return SegmentedDeflection(scale * contrast, scale * np.sqrt((slopes**2 * variances[:, None, :]).sum(axis=2)))
