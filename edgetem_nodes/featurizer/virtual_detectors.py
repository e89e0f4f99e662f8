"""Scalars of diffraction patterns: counts on a disk or ring, centre of mass."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, angles, centre, finished
from edgetem_nodes.featurizer.parameters import CenterOfMass, VirtualDetector
from edgetem_nodes.physics.scan import Axis


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


class VirtualDetectorScalarizer:
    """Counts on a disk (inner radius 0) or ring; where it leaves the detector, what is on it counts. Column: counts."""

    names = ("counts",)
    units = ("counts",)

    def __init__(self, settings: VirtualDetector, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        if settings.outer_mrad <= settings.inner_mrad:
            raise ValueError(f"virtual_detector.outer_mrad {settings.outer_mrad:g} must be above "
                             f"virtual_detector.inner_mrad {settings.inner_mrad:g}")
        middle = centre(settings.center_mrad, "virtual_detector.center_mrad")
        self.chosen = ring(axes, "virtual_detector", middle, settings.inner_mrad, settings.outer_mrad)
        self.noise = noise

    def __call__(self, frames: np.ndarray) -> Features:
        pixels = np.take(frames.reshape(len(frames), -1), self.chosen, axis=1)
        failures = self.noise.failures(pixels)
        if pixels.dtype.kind == "f":
            pixels = np.where(np.isfinite(pixels), pixels, 0)
        total = pixels.sum(axis=1, dtype=float)
        return finished(total[:, None], self.noise.variance(total, len(self.chosen))[:, None], failures)


class CenterOfMassScalarizer:
    """Mean deflection of the counts from a centre. Columns: the chosen component first, then the others [mrad].

    Its variance is that of a weighted mean of Poisson counts: gain * sum I (y - mean)^2 / (sum I)^2. The magnitude of a
    deflection smaller than its error is biased upwards (Rice distribution); y and x are not.
    """

    def __init__(self, settings: CenterOfMass, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        columns = ("magnitude", "y", "x")
        self.order = [columns.index(settings.component), *(i for i, c in enumerate(columns) if c != settings.component)]
        self.names = tuple(f"deflection_{columns[i]}" for i in self.order)
        self.units = ("mrad",) * 3
        middle = centre(settings.center_mrad, "center_of_mass.center_mrad")
        self.chosen = ring(axes, "center_of_mass", middle, 0.0, settings.outer_mrad or np.inf)
        y, x = angles(axes, "center_of_mass")
        rows, columns_ = np.divmod(self.chosen, len(x))
        self.y, self.x = y[rows] - middle[0], x[columns_] - middle[1]
        self.noise = noise

    def __call__(self, frames: np.ndarray) -> Features:
        pixels = np.take(frames.reshape(len(frames), -1), self.chosen, axis=1)
        failures = self.noise.failures(pixels)
        usable = np.array([not failure for failure in failures], bool)
        counts = np.where(usable[:, None], pixels, 0).astype(float)
        total = counts.sum(axis=1)
        for row in np.flatnonzero(usable & (total <= 0)):
            failures[row] = f"the frame is empty: {total[row]:g} counts have no centre of mass"
        some = np.where(total > 0, total, 1.0)
        y, x = (counts * self.y).sum(axis=1) / some, (counts * self.x).sum(axis=1) / some
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        spread = gain * np.maximum(counts, 0.0) + readout**2
        dy, dx = self.y - y[:, None], self.x - x[:, None]
        yy, xx, yx = ((spread * a * b).sum(axis=1) / some**2 for a, b in ((dy, dy), (dx, dx), (dy, dx)))
        magnitude = np.hypot(y, x)
        safe = np.where(magnitude > 0, magnitude, 1.0)
        along = np.where(magnitude > 0, (y * y * yy + x * x * xx + 2 * y * x * yx) / safe**2, (yy + xx) / 2)
        values, variances = np.stack([magnitude, y, x], axis=1), np.stack([along, yy, xx], axis=1)
        return finished(values[:, self.order], variances[:, self.order], failures)
