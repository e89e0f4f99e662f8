"""Features that interfere patterns: single side band ptychography."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.ptychography.single_side_band import ABERRATIONS, SingleSideBand, check_raster, largest_step
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import FeatureRefused, Result, ScanMap


class SingleSideBandPhase(Feature):
    """Phase of a thin object at focus."""

    name, summary = "ssb", "phase of a thin object: single side band ptychography; needs a step of at most wavelength/4 alpha"
    reads: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    needs_rotation: ClassVar[bool] = True
    settings: ClassVar[dict[str, Any]] = {"binning": 1, "memory_GiB": 4.0, **{f"{name}_nm" if "angle" not in name else
                                          f"{name}_deg": 0.0 for name in ABERRATIONS}}

    def prepare(self) -> None:
        calibration, source = self.context.calibration, self.context.source
        calibration.require(self.name, "high_tension", "disk_radius", "pixel_angle")
        tension, alpha = calibration["high_tension"], self.context.geometry.semi_convergence_angle
        if source.field is None:
            raise FeatureRefused(f"ssb interferes each position with its neighbours: it needs a raster with a step of at most "
                                 f"wavelength / (4 semi-convergence angle) = {largest_step(tension, alpha) * 1e9:.4g} nm; "
                                 f"{source.path.name} holds {source.places} sparse positions")
        self.context.raster(self.name)
        calibration.require(self.name, "step_y")
        check_raster(source.field, tension, alpha)

    def start(self) -> None:
        context = self.context
        aberrations = {}
        for name in ABERRATIONS:
            value = float(self.values[f"{name}_deg" if "angle" in name else f"{name}_nm"])
            if value:
                aberrations[name] = np.radians(value) if "angle" in name else value * 1e-9
        self.algorithm = SingleSideBand(
            context.source.field, context.source.frame_shape, context.geometry, context.calibration["high_tension"], aberrations,
            binning=int(self.values["binning"]), usable=context.corrections.live(context.source.frame_shape),
            noise=context.noise, memory_limit=int(float(self.values["memory_GiB"]) * 2**30))

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self.algorithm.add(places, frames)

    def finish(self) -> list[Result]:
        phase = self.algorithm.phase().ravel()
        if self.algorithm.caution:
            self.context.calibration.notes.append(f"ssb: {self.algorithm.caution}")
        errors = np.where(np.isfinite(phase), self.algorithm.standard_error, np.nan)
        return [ScanMap("ssb", phase, "rad", errors, style="diverging", title="Single side band ptychography: phase")]
