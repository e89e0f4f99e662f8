"""Features that interfere patterns: single side band ptychography and parallax."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.ptychography.parallax import Parallax
from edgetem_nodes.featurizer.ptychography.single_side_band import ABERRATIONS, SingleSideBand, check_raster, largest_step
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import FeatureRefused, Picture, Result, ScanMap
from edgetem_nodes.physics.scan import Axis


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
            context.source.field, context.source.frame_shape, context.geometry, context.calibration["high_tension"],
            aberrations, binning=int(self.values["binning"]), usable=context.corrections.live(context.source.frame_shape),
            noise=context.noise, memory_limit=int(float(self.values["memory_GiB"]) * 2**30))

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self.algorithm.add(places, frames)

    def finish(self) -> list[Result]:
        phase = self.algorithm.phase().ravel()
        if self.algorithm.caution:
            self.context.calibration.notes.append(f"ssb: {self.algorithm.caution}")
        errors = np.where(np.isfinite(phase), self.algorithm.standard_error, np.nan)
        return [ScanMap("ssb", phase, "rad", errors, style="diverging", title="Single side band ptychography: phase")]


class ParallaxPhase(Feature):
    """Phase of a thin, defocused object, and the aberrations that were found."""

    name, summary = "parallax", "phase of a defocused object, with the aberrations fitted; the step may be coarser than for ssb"
    reads: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    needs_rotation: ClassVar[bool] = True
    settings: ClassVar[dict[str, Any]] = {"least_defocus_nm": -1000.0, "largest_defocus_nm": 1000.0, "astigmatism": True,
                                          "coma": False, "upsampling": 1, "regularisation": 0.01, "binning": 1,
                                          "memory_GiB": 4.0}

    def prepare(self) -> None:
        self.context.raster(self.name)
        self.context.calibration.require(self.name, "high_tension", "disk_radius", "pixel_angle", "step_y")

    def start(self) -> None:
        context, shape = self.context, self.context.source.frame_shape
        self.algorithm = Parallax(context.source.field, shape, context.geometry, context.calibration["high_tension"],
                                  binning=int(self.values["binning"]), usable=context.corrections.live(shape),
                                  noise=context.noise, memory_limit=int(float(self.values["memory_GiB"]) * 2**30))

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self.algorithm.add(places, frames)

    def finish(self) -> list[Result]:
        known, values = self.context.calibration, self.values
        unknown_rotation = "rotation" not in known
        fit = self.algorithm.fit((float(values["least_defocus_nm"]) * 1e-9, float(values["largest_defocus_nm"]) * 1e-9),
                                 astigmatism=bool(values["astigmatism"]), coma=bool(values["coma"]), rotation=unknown_rotation,
                                 flip=unknown_rotation)
        for name, value in fit.aberrations.items():
            if value:
                known.set(name, value, "rad" if "angle" in name else "m", "measured", _finite(fit.errors.get(name, 0.0)))
        if unknown_rotation:
            known.notes.append(f"parallax found a rotation of {np.degrees(fit.geometry.rotation):.2f} deg"
                               f"{', flipped' if fit.geometry.flipped else ''}, modulo half a turn, which changes the sign")
        finer, field = int(values["upsampling"]), self.context.source.field
        phase = self.algorithm.phase(fit, finer, float(values["regularisation"]))
        known.set("parallax_phase_error", self.algorithm.standard_error, "rad of phase", "measured")
        image = self.algorithm.image(fit, finer)
        axes = tuple(Axis(name, "m", step / finer, origin, size) for name, step, origin, size in zip(
            "yx", field.step, field.origin, phase.shape, strict=True))
        return [Picture("parallax", phase, axes, "rad", "Parallax: phase", "diverging"),
                Picture("parallax_bright_field", image, axes, "", "Aligned bright field over its mean")]


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
