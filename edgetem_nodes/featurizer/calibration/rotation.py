"""Rotation and flip of the detector against the scan, from the centres of mass of a raster scan.

The deflection of the beam is the gradient of a phase, so it has no curl in the right axes. With curl C and divergence D of the
field as if the axes were parallel, the curl after a rotation t is C cos t - D sin t; its power is least at
t = atan2(2 <CD>, <DD> - <CC>) / 2, for the detector as it is and with its y negated. This leaves half a turn open: see
`polarity`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from edgetem_nodes.featurizer.calibration.deflection import Field, Raster, field, weights
from edgetem_nodes.featurizer.calibration.polarity import Polarity, by_dark_field, by_skewness

LARGEST_ERROR = math.radians(5.0)
MOST_CURL = 0.15
"""Part of the signal that may be rotational; in the axes of a wrong flip it is a half for most specimens."""
LEAST_EVIDENCE = 6.0
"""Difference of log likelihoods that decides the flip: odds of 400."""
_LEAST_DIFFERENCE = 0.05
_LARGEST_CHANCE, _DOUBTFUL = 1e-3, 5.0
"""A signal below so many times the noise must also have fewer chances than this to be made by phases at random; a stronger one
may have few frequencies, all of which agree."""


@dataclass(frozen=True)
class Rotation:
    """How the scan's axes lie on the detector, as `DetectorGeometry` has it.

    Attributes
    ----------
    rotation : [rad], -pi to pi; where the sign is not determined, -pi/2 to pi/2, and half a turn may have to be added.
    standard_error : [rad], from the errors of the deflections, and from curl that these do not explain.
    flipped : whether the detector's y runs against the scan's.
    flip_source : "curl", "dark field" or "given".
    flip_evidence : by curl: difference of log likelihoods; by dark field: ratio of the correlations.
    curl : part of the power of the signal, above noise, that remains rotational.
    curl_of_other : the same with the other flip.
    signal_to_noise : mean power of the signal over that of noise, of the frequencies that count.
    polarity : which of two opposite rotations it is, and how sure that is.
    """

    rotation: float
    standard_error: float
    flipped: bool
    flip_source: str
    flip_evidence: float
    curl: float
    curl_of_other: float
    signal_to_noise: float
    polarity: Polarity

    @property
    def determined(self) -> bool:
        """Whether the sign is determined too; without it a field points either towards atoms or away."""
        return self.polarity.determined

    def lines(self) -> list[str]:
        """For people."""
        flip = "flipped" if self.flipped else "not flipped"
        how = {"curl": f"by curl, log odds {self.flip_evidence:.3g}", "given": "as given",
               "dark field": f"by the dark field, {self.flip_evidence:.1f} times the correlation of the other"}
        degrees, error = math.degrees(self.rotation), math.degrees(self.standard_error)
        return [f"rotation {degrees:.2f} +- {error:.2f} deg{'' if self.determined else ' or half a turn more'}, {flip} "
                f"({how[self.flip_source]}); curl {100 * self.curl:.1f} % of the signal, "
                f"{100 * self.curl_of_other:.1f} % with the other flip", self.polarity.line()]


def fit_rotation(deflection: np.ndarray, steps: tuple[float, float], errors: np.ndarray | None = None,
                 dark_field: np.ndarray | None = None, dark_field_errors: np.ndarray | None = None,
                 flipped: bool | None = None) -> Rotation:
    """Rotation, flip and sign from one raster scan; a plane (descan, mean field) is taken off first.

    Parameters
    ----------
    deflection : (rows, columns, 2), centre of mass (y, x) in the detector's axes, corrected for its ellipticity; any unit.
        At most a tenth may be NaN. The step should be at most wavelength / (4 semi-convergence angle).
    steps : (y, x) [m] of the scan.
    errors : standard errors, same shape and unit; without them the noise is estimated from most frequencies.
    dark_field : (rows, columns), an annular dark-field image of the same scan, atoms bright.
    dark_field_errors : same shape and unit.
    flipped : the flip where it is known; None: it is to be determined.

    Raises
    ------
    ValueError : shapes that do not fit; or "not determined: ..." with the reason: no signal above noise, curl in any axes,
        or the two flips equally good.
    """
    deflection = np.asarray(deflection, float)
    _check(deflection, errors, dark_field, dark_field_errors)
    raster = Raster.of(deflection.shape[:2], steps)
    fits = {flip: _Fit.of(field(raster, deflection, errors, flip)) for flip in (False, True)}
    if any(one is None for one in fits.values()):
        raise ValueError("not determined: the deflections show nothing above their noise; sum more frames or scan longer")
    image = None if dark_field is None else (np.asarray(dark_field, float), dark_field_errors)
    flip, source, evidence = (flipped, "given", math.nan) if flipped is not None else _flip(fits, image)
    best, other = fits[flip], fits[not flip]
    best.check()
    polarity = by_dark_field(best.field, best.rotation, best.weight, *image) if image is not None else by_skewness(
        best.field, best.rotation, best.weight)
    rotation = best.rotation
    if polarity.determined and polarity.reversed:
        rotation = rotation - math.pi if rotation > 0 else rotation + math.pi
    return Rotation(rotation, best.standard_error, flip, source, evidence, best.curl, other.curl, best.signal_to_noise,
                    polarity)


def _check(deflection: np.ndarray, errors: np.ndarray | None, dark_field: np.ndarray | None,
           dark_field_errors: np.ndarray | None) -> None:
    if deflection.ndim != 3 or deflection.shape[2] != 2:
        raise ValueError(f"deflections of shape {deflection.shape} are not (rows, columns, 2)")
    for name, values, shape in (("errors", errors, deflection.shape), ("dark_field", dark_field, deflection.shape[:2]),
                                ("dark_field_errors", dark_field_errors, deflection.shape[:2])):
        if values is not None and np.shape(values) != shape:
            raise ValueError(f"{name} of shape {np.shape(values)} do not fit deflections of shape {deflection.shape}")


@dataclass(frozen=True)
class _Fit:
    """The best rotation with one flip, modulo half a turn."""

    field: Field
    weight: np.ndarray
    rotation: float
    standard_error: float
    likelihood: float
    curl: float
    chi_square: float
    signal_to_noise: float
    chance: float

    @classmethod
    def of(cls, one: Field) -> _Fit | None:
        """None: there is no signal."""
        weight = weights(one)
        if np.count_nonzero(weight) < 4:
            return None
        cross = 2 * (weight * (one.curl * one.divergence.conj()).real).sum()
        difference = (weight * (np.abs(one.divergence) ** 2 - np.abs(one.curl) ** 2)).sum()
        rotation, anisotropy = 0.5 * math.atan2(cross, difference), math.hypot(cross, difference)
        curl, divergence = one.turned(rotation)
        noise, total = weight.sum() * one.noise, (weight * (np.abs(curl) ** 2 + np.abs(divergence) ** 2)).sum()
        rotational = (weight * np.abs(curl) ** 2).sum()
        chi_square = rotational / noise
        # phases at random between frequencies would make an anisotropy of this square
        random = (weight**2 * (2 * (one.curl * one.divergence.conj()).real) ** 2 + weight**2 * (
            np.abs(one.divergence) ** 2 - np.abs(one.curl) ** 2) ** 2).sum() * 2 * one.raster.correlation
        error = math.sqrt(_variance(one, weight, divergence) * max(chi_square, 1.0)) / anisotropy
        # means over independent frequencies, of which every one comes twice
        likelihood = (weight * np.abs(divergence) ** 2).sum() / (2 * one.raster.correlation)
        return cls(one, weight, rotation, error, float(likelihood), float(max(rotational - noise, 0.0) / max(
            total - 2 * noise, 1e-300)), float(chi_square), float(total / (2 * noise) - 1), math.exp(-anisotropy**2 / random))

    def check(self) -> None:
        """Refuse a rotation that means nothing (ValueError)."""
        doubtful = self.signal_to_noise < _DOUBTFUL and self.chance > _LARGEST_CHANCE
        if self.standard_error > LARGEST_ERROR or doubtful:
            raise ValueError(f"not determined: the deflections are {self.signal_to_noise:.2g} times their noise, which leaves "
                             f"{math.degrees(self.standard_error):.1f} deg of rotation open (chance of such a field without "
                             f"signal {self.chance:.2g}); sum more frames or scan a longer time")
        if self.curl > MOST_CURL:
            raise ValueError(f"not determined: {100 * self.curl:.0f} % of the deflections' power is rotational in any axes, "
                             f"more than {100 * MOST_CURL:.0f} %: the scan's step is too large or its size wrong, the scan is "
                             "distorted, or the specimen is magnetic")


def _variance(one: Field, weight: np.ndarray, divergence: np.ndarray) -> float:
    """Variance of sum(weight Re(curl* divergence)) from the noise of the deflections: linear, and noise times noise.

    The linear part is the sum of each position's own noise times the derivative by it (the weighted divergence, transformed
    back, under the window).
    """
    raster = one.raster
    wavenumber = np.where(raster.used, raster.wavenumber, np.inf)
    seen = fft.ifft2(weight * divergence / wavenumber).real * raster.window * raster.window.size
    slopes = sum(raster.derivative(seen, axis) ** 2 for axis in (0, 1))
    mean = one.noise / (raster.window**2).sum()
    linear = (slopes * one.variance).sum() * mean
    return float(linear + (weight**2).sum() * one.noise**2 * raster.correlation)


def _flip(fits: dict[bool, _Fit | None], image: tuple[np.ndarray, np.ndarray | None] | None) -> tuple[bool, str, float]:
    """Which flip, how it was found, and its evidence (ValueError: it cannot be told)."""
    best = min(fits, key=lambda flip: fits[flip].curl)
    good, bad = fits[best], fits[not best]
    good.check()
    evidence = (good.likelihood - bad.likelihood) / max(good.chi_square, 1.0)
    if evidence >= LEAST_EVIDENCE and bad.curl > 1.5 * good.curl + _LEAST_DIFFERENCE:
        return best, "curl", evidence
    reason = (f"not determined: the curl is {100 * good.curl:.1f} % and {100 * bad.curl:.1f} % of the signal for either flip "
              f"(log odds {evidence:.2g}), as for a square lattice of which only the innermost frequencies are seen")
    if image is None:
        raise ValueError(f"{reason}; give a dark-field image, or the flip if it is known")
    found = {flip: by_dark_field(one.field, one.rotation, one.weight, *image) for flip, one in fits.items()}
    best = max(found, key=lambda flip: abs(found[flip].correlation))
    ratio = abs(found[best].correlation) / max(abs(found[not best].correlation), 1e-3)
    if not found[best].determined or ratio < 2:
        raise ValueError(f"{reason}, and the dark field's correlation with the divergence is {found[best].correlation:.2f} and "
                         f"{found[not best].correlation:.2f}")
    return best, "dark field", ratio
