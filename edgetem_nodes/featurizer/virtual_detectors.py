"""Scalars of diffraction patterns: counts on a disk or ring, centre of mass."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, angles, centre, finished, mark
from edgetem_nodes.featurizer.parameters import CenterOfMass, VirtualDetector
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.reduction import Reduction
from edgetem_nodes.physics.scan import Axis

LARGEST_ANGLE_ERROR = 1 / 3
"""[rad]; a deflection of three standard errors. Beyond, the distribution of an angle is not described by one."""


def ring(axes: tuple[Axis, ...], scalarizer: str, middle: tuple[float, float], inner: float, outer: float) -> np.ndarray:
    """Flat indices of the pixels whose centre lies in inner <= radius < outer [mrad] about `middle` (y, x) [mrad].

    Raises
    ------
    ValueError : no pixel does.
    """
    y, x = angles(axes, scalarizer)
    radius = np.hypot(y[:, None] - middle[0], x[None, :] - middle[1])
    chosen = np.flatnonzero((radius >= inner) & (radius < outer))
    if not chosen.size:
        raise ValueError(f"{scalarizer}: no pixel lies between {inner:g} and {outer:g} mrad about ({middle[0]:g}, "
                         f"{middle[1]:g}) mrad; the detector covers y {y.min():g} to {y.max():g}, x {x.min():g} to "
                         f"{x.max():g} mrad")
    return chosen


def _mask(axes: tuple[Axis, ...], pixels: np.ndarray) -> np.ndarray:
    """(rows, columns) bool, true at flat indices."""
    mask = np.zeros((axes[0].size, axes[1].size), bool)
    mask.flat[pixels] = True
    return mask


class VirtualDetectorScalarizer:
    """Counts on a disk (inner radius 0), ring or segment of one; where it leaves the detector, what is on it counts.

    Columns: the chosen quantity, and what it is made of. Quantities: `counts`; `fraction` of all counts on the detector;
    `difference` from the segment opposite; `asymmetry`, that difference over the sum of both. Their variances are exact (of
    ratios: to first order) for independent pixels.
    """

    def __init__(self, settings: VirtualDetector, noise: CountingNoise, axes: tuple[Axis, ...],
                 corrections: Corrections | None = None) -> None:
        if settings.outer_mrad <= settings.inner_mrad:
            raise ValueError(f"virtual_detector.outer_mrad {settings.outer_mrad:g} must be above "
                             f"virtual_detector.inner_mrad {settings.inner_mrad:g}")
        middle = centre(settings.center_mrad, "virtual_detector.center_mrad")
        self.quantity, self.noise = settings.quantity, noise
        first, last = settings.first_deg, settings.last_deg
        if not first < last <= first + 360:
            raise ValueError(f"virtual_detector.first_deg {first:g} and last_deg {last:g}: the last angle must be above the "
                             "first, by 360 deg at most")
        opposite = settings.quantity in ("difference", "asymmetry")
        if opposite and last - first > 180:
            raise ValueError(f"virtual_detector.quantity {settings.quantity}: a segment of {last - first:g} deg overlaps with "
                             "the one opposite: 180 deg or less")
        whole = ring(axes, "virtual_detector", middle, settings.inner_mrad, settings.outer_mrad)
        self.chosen = _segment(axes, whole, middle, first, last)
        self.other = np.empty(0, int)
        if opposite:
            self.other = _segment(axes, whole, middle, first, last, -1.0)
        elif settings.quantity == "fraction":
            self.other = np.setdiff1d(np.arange(axes[0].size * axes[1].size), self.chosen)
        self.names, self.units = {
            "counts": (("counts",), ("counts",)),
            "fraction": (("fraction", "counts", "other_counts"), ("", "counts", "counts")),
            "difference": (("difference", "counts", "opposite_counts"), ("counts",) * 3),
            "asymmetry": (("asymmetry", "counts", "opposite_counts"), ("", "counts", "counts")),
        }[settings.quantity]
        masks = {name: _mask(axes, pixels) for name, pixels in (("chosen", self.chosen), ("other", self.other)) if len(pixels)}
        self._reduction = Reduction((axes[0].size, axes[1].size), masks, moments=False, noise=noise,
                                    corrections=corrections)

    def __call__(self, frames: np.ndarray) -> Features:
        reduced = self._reduction(frames)
        failures = reduced.failures
        one, variance = reduced["chosen"], reduced.standard_errors[:, 0]**2
        if len(self.other):
            two, other = reduced["other"], reduced.standard_errors[:, 1]**2
        else:
            two, other = np.zeros(len(frames)), np.full(len(frames), self.noise.variance(0.0, 0))
        if self.quantity == "counts":
            return finished(one[:, None], variance[:, None], failures)
        if self.quantity == "difference":
            value, spread = one - two, variance + other
        else:
            total = one + two
            where = "on the detector" if self.quantity == "fraction" else "in the segment and its opposite"
            mark(failures, total <= 0, f"there are no counts {where}: they have no ratio")
            some = np.where(total > 0, total, 1.0)
            value = one / some if self.quantity == "fraction" else (one - two) / some
            slope = 1.0 if self.quantity == "fraction" else 2.0
            spread = slope**2 * (two**2 * variance + one**2 * other) / some**4
        return finished(np.stack([value, one, two], axis=1), np.stack([spread, variance, other], axis=1), failures)


def _segment(axes: tuple[Axis, ...], pixels: np.ndarray, middle: tuple[float, float], first: float, last: float,
             side: float = 1.0) -> np.ndarray:
    """Those of the pixels (flat indices) whose angle, from x towards y, lies in first <= angle < last [deg]; with side -1
    those opposite, rounded alike."""
    if last - first >= 360:
        return pixels
    y, x = angles(axes, "virtual_detector")
    rows, columns = np.divmod(pixels, len(x))
    angle = np.degrees(np.arctan2(side * (y[rows] - middle[0]), side * (x[columns] - middle[1])))
    chosen = pixels[np.mod(angle - first, 360.0) < last - first]
    if not chosen.size:
        raise ValueError(f"virtual_detector: no pixel lies between {first:g} and {last:g} deg: widen the segment")
    return chosen


class CenterOfMassScalarizer:
    """Mean deflection of the counts from a centre. Columns: the chosen component first, then the others [mrad].

    Its variance is that of a weighted mean of N electrons: gain * sum I (y - mean)^2 / (sum I)^2, times N / (N - 1), plus that
    of readout noise; one electron has none, and is a marked failure. The magnitude of a
    deflection smaller than its error is biased upwards (Rice distribution); y and x are not. The component `angle`, from x
    towards y, comes with a column of its own [deg], in -180 to 180; where its standard error, by first-order propagation,
    exceeds `LARGEST_ANGLE_ERROR` it is not determined: a marked failure.
    """

    def __init__(self, settings: CenterOfMass, noise: CountingNoise, axes: tuple[Axis, ...],
                 corrections: Corrections | None = None) -> None:
        self.angle = settings.component == "angle"
        columns = ("magnitude", "y", "x", *(["angle"] if self.angle else []))
        self.order = [columns.index(settings.component), *(i for i, c in enumerate(columns) if c != settings.component)]
        self.names = tuple(f"deflection_{columns[i]}" for i in self.order)
        self.units = tuple("deg" if columns[i] == "angle" else "mrad" for i in self.order)
        middle = centre(settings.center_mrad, "center_of_mass.center_mrad")
        self.chosen = ring(axes, "center_of_mass", middle, 0.0, settings.outer_mrad or np.inf)
        mask = _mask(axes, self.chosen)
        self._electron = noise.counts_per_electron
        self._scale = np.array([axis.scale * 1e3 for axis in axes])
        self._origin = np.array([axis.offset * 1e3 for axis in axes]) - middle
        self._reduction = Reduction(mask.shape, {}, moments_mask=mask, noise=noise, corrections=corrections)

    def __call__(self, frames: np.ndarray) -> Features:
        reduced = self._reduction(frames)
        failures, center = reduced.failures, reduced.center_of_mass
        for row in np.flatnonzero(~np.isfinite(reduced.center_of_mass_errors).all(axis=1)):
            electrons = reduced.total[row] / self._electron
            failures[row] = failures[row] or (f"{electrons:.3g} electrons have a centre of mass but no standard error: more "
                                              "than 1 is needed; count longer, or set counts_per_electron")
        y, x = (self._origin + self._scale * center).T
        spread = reduced.center_of_mass_covariance * np.outer(self._scale, self._scale)
        yy, xx, yx = spread[:, 0, 0], spread[:, 1, 1], spread[:, 0, 1]
        magnitude = np.hypot(y, x)
        safe = np.where(magnitude > 0, magnitude, 1.0)
        along = np.where(magnitude > 0, (y * y * yy + x * x * xx + 2 * y * x * yx) / safe**2, (yy + xx) / 2)
        values, variances = [magnitude, y, x], [along, yy, xx]
        if self.angle:
            across = (x * x * yy + y * y * xx - 2 * y * x * yx) / safe**4
            for row in np.flatnonzero((magnitude <= 0) | (across > LARGEST_ANGLE_ERROR**2)):
                failures[row] = failures[row] or (f"the angle is not determined: the deflection is {magnitude[row]:.3g} mrad, "
                                                  f"its error across {np.sqrt(across[row]) * magnitude[row]:.3g} mrad")
            values.append(np.degrees(np.arctan2(y, x)))
            variances.append(np.degrees(1.0)**2 * across)
        values, variances = np.stack(values, axis=1), np.stack(variances, axis=1)
        return finished(values[:, self.order], variances[:, self.order], failures)
