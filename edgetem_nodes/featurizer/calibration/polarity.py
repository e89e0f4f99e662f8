"""Which of two opposite rotations of the detector is right: electrons are drawn towards atoms.

So the deflections converge, and their divergence is negative, where atoms are. Atoms are bright in the dark field; every
frequency of both images is passed on by the same probe, so the sign of their correlation holds at any defocus of a thin
specimen. Without a dark field the skewness of the divergence tells it, if atoms are sharper than the gaps between them; it
cannot be trusted where a lattice of rings (graphene) is barely resolved, or out of focus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from edgetem_nodes.featurizer.calibration.deflection import Field, levelled

LEAST_CORRELATION, LEAST_SKEWNESS, LEAST_SIGNIFICANCE = 0.25, 1.0, 3.0
_BLOCKS = 6
_SHELL = 1.4
_LEAST_BEYOND = 0.1
"""Part of the divergence's power that must lie at more than `_SHELL` times its innermost frequency for a skewness to count."""


@dataclass(frozen=True)
class Polarity:
    """The sign of the deflections in the axes of a rotation.

    Attributes
    ----------
    reversed : whether half a turn has to be added.
    source : "dark field" or "skewness".
    correlation : of minus the divergence with the dark field, -1 to 1; or minus the skewness of the divergence.
    significance : of that, in standard errors.
    problem : why the sign is not determined; empty if it is.
    """

    reversed: bool
    source: str
    correlation: float
    significance: float
    problem: str = ""

    @property
    def determined(self) -> bool:
        """Whether the evidence is enough."""
        return not self.problem

    @property
    def confidence(self) -> float:
        """Chance that noise alone has not turned the sign round, a half to 1."""
        return 1 - 0.5 * math.erfc(self.significance / math.sqrt(2))

    def line(self) -> str:
        """For people."""
        what = ("correlation of convergence with the dark field" if self.source == "dark field"
                else "skewness of the convergence")
        verdict = "sign determined" if self.determined else f"sign not determined: {self.problem}"
        return f"{verdict}; {what} {abs(self.correlation):.2f}, {self.significance:.1f} standard errors"


def by_dark_field(one: Field, rotation: float, weight: np.ndarray, image: np.ndarray,
                  errors: np.ndarray | None = None) -> Polarity:
    """The sign by an annular dark-field image (rows, columns) of the same scan, atoms bright; errors of the same shape.

    `weight` (rows, columns) is that of the frequencies.
    """
    raster = one.raster
    bright = fft.fft2(raster.window * levelled(image))
    _, divergence = one.turned(rotation)
    convergence = -divergence
    if errors is None:
        noise = float(np.median(np.abs(bright[raster.used]) ** 2)) / math.log(2)
    else:
        noise = float((raster.window**2 * np.nan_to_num(np.asarray(errors, float)) ** 2).sum())
    product = (weight * (bright.conj() * convergence).real).sum()
    power = (weight * np.abs(bright) ** 2).sum() * (weight * np.abs(convergence) ** 2).sum()
    variance = raster.correlation * (weight**2 * (np.abs(bright) ** 2 * one.noise + np.abs(convergence) ** 2 * noise)).sum()
    correlation = product / math.sqrt(power) if power > 0 else 0.0
    significance = abs(product) / math.sqrt(variance) if variance > 0 else 0.0
    problem = ""
    if abs(correlation) < LEAST_CORRELATION or significance < LEAST_SIGNIFICANCE:
        problem = "the dark field does not show where the deflections converge"
    return Polarity(bool(product < 0), "dark field", float(correlation), float(significance), problem)


def by_skewness(one: Field, rotation: float, weight: np.ndarray) -> Polarity:
    """The sign by the skewness of the divergence, its noise filtered out; the error from the scatter between parts of the
    field."""
    raster = one.raster
    _, divergence = one.turned(rotation)
    image = -fft.ifft2(divergence * raster.wavenumber * weight * one.noise).real
    size = [count // _BLOCKS for count in raster.shape]
    first = [(count - _BLOCKS * part) // 2 for count, part in zip(raster.shape, size, strict=True)]
    inner = image[first[0]:first[0] + _BLOCKS * size[0], first[1]:first[1] + _BLOCKS * size[1]]
    cubes = (inner**3).reshape(_BLOCKS, size[0], _BLOCKS, size[1]).mean(axis=(1, 3)).ravel()
    seen = raster.window[first[0]:first[0] + _BLOCKS * size[0], first[1]:first[1] + _BLOCKS * size[1]] ** 3
    seen = seen.reshape(_BLOCKS, size[0], _BLOCKS, size[1]).mean(axis=(1, 3)).ravel()
    cube = cubes @ seen / (seen @ seen)
    error = np.sqrt((seen**2 * (cubes - cube * seen) ** 2).sum()) / (seen @ seen)
    skewness = float(cubes.mean() / (inner**2).mean() ** 1.5)
    significance = float(abs(cube) / error) if error > 0 else 0.0
    problem = ""
    if abs(skewness) < LEAST_SKEWNESS or significance < LEAST_SIGNIFICANCE:
        problem = (f"its skewness is less than {LEAST_SKEWNESS:g} or {LEAST_SIGNIFICANCE:g} standard errors, as out of focus; "
                   "give a dark-field image")
    elif _beyond(one, divergence, weight) < _LEAST_BEYOND:
        problem = ("only the innermost frequencies of a lattice are seen, where gaps may be sharper than atoms; give a "
                   "dark-field image")
    return Polarity(skewness < 0, "skewness", skewness, significance, problem)


def _beyond(one: Field, divergence: np.ndarray, weight: np.ndarray) -> float:
    """Part of the divergence's power, above noise, beyond the innermost frequencies that hold any."""
    wavenumber = one.raster.wavenumber
    power = np.where(weight > 0, np.maximum(np.abs(divergence) ** 2 - one.noise, 0.0) * wavenumber**2, 0.0)
    order = np.argsort(wavenumber.ravel())
    share = np.cumsum(power.ravel()[order]) / max(power.sum(), 1e-300)
    innermost = wavenumber.ravel()[order][np.searchsorted(share, 0.1)]
    return float(power[wavenumber > _SHELL * innermost].sum() / max(power.sum(), 1e-300))
