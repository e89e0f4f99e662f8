"""Features that are sums over detectors: bright and dark fields, segments, total, width of the pattern."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.patterns import detectors
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import FeatureRefused, Picture, Result, ScanMap
from edgetem_nodes.physics.scan import Axis


class _Detector(Feature):
    """Counts on one mask of the shared pass."""

    settings: ClassVar[dict[str, Any]] = {"inner_mrad": 0.0, "outer_mrad": 0.0}
    title: ClassVar[str] = ""

    @abstractmethod
    def mask(self, inner: float | None, outer: float | None) -> np.ndarray:
        """(rows, columns) bool; limits [rad], None: the detector's own."""

    def prepare(self) -> None:
        inner, outer = (float(self.values[key]) * 1e-3 or None for key in ("inner_mrad", "outer_mrad"))
        request = self.context.request
        if self.name == "adf":
            inner, outer = inner or request.inner or None, outer or request.outer or None
        if (inner is not None or outer is not None) and "pixel_angle" not in self.context.calibration:
            self.context.calibration.require(self.name, "pixel_angle")
        if self.context.geometry.semi_convergence_angle <= 0 and None in (inner, outer):
            self.context.calibration.require(self.name, "disk_radius")
        try:
            self.context.fused.detector(self.name, self.mask(inner, outer))
        except ValueError as error:
            raise FeatureRefused(f"{self.name}: {error}" + self.unit_note()) from None

    def unit_note(self) -> str:
        """What 'mrad' in a message means where pixels have no angle."""
        return "" if "pixel_angle" in self.context.calibration else " (the pixel's angle is not known: mrad here means pixels)"

    def finish(self) -> list[Result]:
        fused = self.context.fused
        dead = fused.dead_fraction(self.name)
        title = self.title + (f" ({100 * dead:.1f} % of its area is dead)" if dead > 0 else "")
        return [ScanMap(self.name, fused.counts[self.name], "count", fused.errors[self.name], title=title)]


class BrightField(_Detector):
    """Counts in the disk of the undiffracted beam."""

    name, title, summary = "bf", "Bright field", "counts in the bright-field disk"

    def mask(self, inner: float | None, outer: float | None) -> np.ndarray:
        return detectors.annulus(self.context.source.frame_shape, self.context.geometry, inner or 0.0,
                                 outer or self.context.geometry.semi_convergence_angle)


class AnnularBrightField(_Detector):
    """Counts in the outer half of the disk."""

    name, title, summary = "abf", "Annular bright field", "counts in the outer half of the disk"

    def mask(self, inner: float | None, outer: float | None) -> np.ndarray:
        return detectors.annular_bright_field(self.context.source.frame_shape, self.context.geometry, inner, outer)


class AnnularDarkField(_Detector):
    """Counts beyond the disk."""

    name, title, summary = "adf", "Annular dark field", "counts beyond the disk, or from --inner to --outer"

    def mask(self, inner: float | None, outer: float | None) -> np.ndarray:
        return detectors.annular_dark_field(self.context.source.frame_shape, self.context.geometry, inner, outer or math.inf)


class HighAngleAnnularDarkField(_Detector):
    """Counts beyond three times the semi-convergence angle."""

    name, title, summary = "haadf", "High-angle annular dark field", "counts beyond three semi-convergence angles"

    def mask(self, inner: float | None, outer: float | None) -> np.ndarray:
        return detectors.high_angle_annular_dark_field(self.context.source.frame_shape, self.context.geometry, inner,
                                                       outer or math.inf)


class Segments(Feature):
    """Counts in equal segments of the disk."""

    name, summary = "segments", "counts in the segments of a segmented detector"
    settings: ClassVar[dict[str, Any]] = {"count": 4, "inner_mrad": 0.0, "outer_mrad": 0.0, "first_deg": -45.0}

    def prepare(self) -> None:
        self.context.calibration.require(self.name, "disk_radius")
        geometry = self.context.geometry
        try:
            masks = detectors.segments(
                self.context.source.frame_shape, geometry, int(self.values["count"]), float(self.values["inner_mrad"]) * 1e-3,
                float(self.values["outer_mrad"]) * 1e-3 or None, math.radians(float(self.values["first_deg"])))
        except ValueError as error:
            raise FeatureRefused(f"segments: {error}") from None
        self.names = tuple(masks)
        for name, mask in masks.items():
            self.context.fused.detector(name, mask)

    def finish(self) -> list[Result]:
        fused = self.context.fused
        return [ScanMap("segments", np.stack([fused.counts[name] for name in self.names], 1), "count",
                        np.stack([fused.errors[name] for name in self.names], 1), self.names, title="Segments of the disk")]


class Total(Feature):
    """All counts, and the mean and the largest pattern."""

    name, summary = "sum", "all counts; the mean and the maximum of all patterns"

    def prepare(self) -> None:
        self.context.fused.want_patterns()

    def finish(self) -> list[Result]:
        context, fused = self.context, self.context.fused
        patterns = fused.patterns
        if not patterns.count:
            raise FeatureRefused("sum: no frame was sound")
        axes = pattern_axes(context)
        mean = context.corrections.applied(patterns.mean[None])[0]
        largest = context.corrections.applied(patterns.maximum[None])[0]
        errors = np.sqrt(context.noise.variance(fused.total, math.prod(context.source.frame_shape)))
        return [ScanMap("sum", fused.total, "count", errors, title="All counts"),
                Picture("mean_pattern", mean, axes, "count", f"Mean of {patterns.count} patterns", logarithmic=True),
                Picture("maximum_pattern", largest, axes, "count", "Largest value of every pixel", logarithmic=True)]


class Variance(Feature):
    """Second moment of the pattern about its centre of mass: how far the beam is spread."""

    name, summary = "variance", "second central moments of the pattern (yy, yx, xx)"

    def finish(self) -> list[Result]:
        size, unit = self.context.pixel
        moments = self.context.fused.variance * size**2
        values = np.stack([moments[:, 0, 0], moments[:, 0, 1], moments[:, 1, 1]], 1)
        return [ScanMap("variance", values, f"{unit}^2", None, ("yy", "yx", "xx"), title="Second moments of the pattern")]


def pattern_axes(context: object) -> tuple[Axis, Axis]:
    """Axes of a pattern about the undeflected beam, [rad], or in pixels where a pixel's angle is not known."""
    size, unit = context.pixel
    centre = context.geometry.center
    return tuple(Axis(name, "" if unit == "pixel" else unit, size, -size * middle, count) for name, middle, count in zip(
        ("ky", "kx"), centre, context.source.frame_shape, strict=True))
