"""Features made of the centre of mass: deflection, integrated phase, curl, divergence, electric field."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.patterns import detectors, fields, vector_field
from edgetem_nodes.operator.processing.feature import Context, Feature
from edgetem_nodes.operator.processing.results import FeatureRefused, Result, ScanMap


class _Deflection(Feature):
    """The centre of mass less the undeflected beam, in the scan's axes where the rotation is known."""

    turns: ClassVar[bool] = True

    def deflection(self) -> tuple[np.ndarray, np.ndarray]:
        """Deflection and its standard errors, (places, 2) (y, x) [rad], in the scan's axes."""
        return deflections(self.context)

    def on_raster(self, values: np.ndarray) -> np.ndarray:
        """(places, ...) as (rows, columns, ...)."""
        return values.reshape(*self.context.raster(self.name).shape, *values.shape[1:])

    def step(self) -> tuple[float, float]:
        """Of the scan [m]."""
        return self.context.calibration["step_y"], self.context.calibration["step_x"]


def check_rotation(context: Context, name: str) -> None:
    """Refuse a feature that compares directions on the detector with those of the scan, where these are not known."""
    calibration = context.calibration
    if "rotation" not in calibration:
        raise FeatureRefused(f"{name} compares directions on the detector with those of the scan, whose rotation is not known: "
                             "state --rotation")
    if calibration.half_turn_open:
        turn = math.degrees(calibration["rotation"])
        raise FeatureRefused(f"{name}: the rotation is {turn:.1f} deg or half a turn more, which changes its sign: state "
                             f"--rotation {turn:.1f} or {turn + 180:.1f}")


def deflections(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Deflection and its standard errors (places, 2), (y, x), in the scan's axes: [rad], or [pixel] without a pixel's angle."""
    size, _ = context.pixel
    geometry, fused = context.geometry, context.fused
    matrix = geometry.to_scan() @ geometry.distortion
    values = (fused.center_of_mass - geometry.center - geometry.shifts(context.source.all_positions())) * size
    return values @ matrix.T, np.sqrt((fused.center_of_mass_errors * size)**2 @ (matrix**2).T)


class CenterOfMass(_Deflection):
    """Deflection of the beam: centre of mass of the pattern."""

    name, summary = "com", "deflection of the beam: centre of mass of the pattern (y, x)"

    def finish(self) -> list[Result]:
        values, errors = self.deflection()
        unit = self.context.pixel[1]
        try:
            ratio = fields.signal_to_noise(values, errors)
            self.context.calibration.notes.append(
                f"com: signal-to-noise ratio {ratio.ratio:.3g} (variation {_shown(ratio.signal, unit)} rms, noise "
                f"{_shown(ratio.noise, unit)} rms, peak {_shown(ratio.peak, unit)})")
        except ValueError as error:
            self.context.calibration.notes.append(f"com: {error}")
        frame = "the scan's axes" if "rotation" in self.context.calibration else "the detector's axes"
        return [ScanMap("com", values, unit, errors, ("y", "x"), "vector", f"Deflection, in {frame}")]


def _shown(value: float, unit: str) -> str:
    return f"{value * 1e3:.4g} mrad" if unit == "rad" else f"{value:.4g} {unit}"


class DifferentialPhaseContrast(_Deflection):
    """Deflection from the differences of four quadrants of the disk."""

    name, summary = "dpc", "deflection from the differences of four quadrants"

    def prepare(self) -> None:
        self.context.calibration.require(self.name, "disk_radius")
        shape, geometry = self.context.source.frame_shape, self.context.geometry
        masks = detectors.segments(shape, geometry, 4, 0.0, math.inf, 0.0)
        self.names = [f"dpc_{name}" for name in masks]
        for name, mask in zip(self.names, masks.values(), strict=True):
            self.context.fused.detector(name, mask)

    def finish(self) -> list[Result]:
        fused, geometry, unit = self.context.fused, self.context.geometry, self.context.pixel[1]
        counts = np.stack([fused.counts[name] for name in self.names], 1)
        variances = np.stack([fused.errors[name]**2 for name in self.names], 1)
        radius = self.context.calibration["disk_radius"] * self.context.pixel[0]
        result = fields.differential_phase_contrast(counts, variances, radius)
        matrix = geometry.to_scan()
        return [ScanMap("dpc", result.deflection @ matrix.T, unit, np.sqrt(result.errors**2 @ (matrix**2).T), ("y", "x"),
                        "vector", "Deflection from four quadrants")]


class _Derived(_Deflection):
    """What needs deflections on a raster, in rad, in the scan's axes, with a step."""

    needs: ClassVar[tuple[str, ...]] = ("pixel_angle", "step_y")

    def prepare(self) -> None:
        self.context.raster(self.name)
        self.context.calibration.require(self.name, *self.needs)

    def field(self) -> tuple[np.ndarray, np.ndarray]:
        """Deflection and its errors (rows, columns, 2) [rad].

        Raises
        ------
        FeatureRefused : the axes of detector and scan are not known against each other, or only to half a turn.
        """
        check_rotation(self.context, self.name)
        values, errors = self.deflection()
        return self.on_raster(values), self.on_raster(errors)


class IntegratedCenterOfMass(_Derived):
    """Phase of the object from the integrated deflection."""

    name, summary = "icom", "phase of the object: integrated deflection"
    needs: ClassVar[tuple[str, ...]] = ("pixel_angle", "step_y", "high_tension")
    settings: ClassVar[dict[str, Any]] = {"boundary": "open", "subtract_mean": True}

    def finish(self) -> list[Result]:
        values, errors = self.field()
        if self.values["subtract_mean"]:
            # The undeflected beam is known from the same data, no better than their mean; the rest would be a ramp.
            values = values - np.nanmean(values, axis=(0, 1))
        tension, step = self.context.calibration["high_tension"], self.step()
        gradient, spread = fields.phase_gradient(values, tension), fields.phase_gradient(errors, tension)
        phase = vector_field.integrate(gradient, step, str(self.values["boundary"]))
        noise = float(np.sqrt(np.nanmean(spread**2)))
        error = vector_field.integral_error(noise, phase.shape, step, str(self.values["boundary"]))
        flat = np.where(np.isfinite(phase), error, np.nan).ravel()
        return [ScanMap("icom", phase.ravel(), "rad", flat, style="diverging", title="Integrated centre of mass: phase")]


class Curl(_Derived):
    """Curl of the deflection: noise, magnetic fields, or a wrong rotation."""

    name, summary = "curl", "curl of the deflection"

    def finish(self) -> list[Result]:
        values, errors = self.field()
        step = self.step()
        return [ScanMap("curl", vector_field.curl(values, step).ravel(), "rad/m",
                        vector_field.curl_errors(errors, step).ravel(), style="diverging", title="Curl of the deflection")]


class Divergence(_Derived):
    """Divergence of the deflection: negative at atoms, which draw the beam together."""

    name, summary = "div", "divergence of the deflection"

    def finish(self) -> list[Result]:
        values, errors = self.field()
        step = self.step()
        return [ScanMap("div", vector_field.divergence(values, step).ravel(), "rad/m",
                        vector_field.divergence_errors(errors, step).ravel(), style="diverging",
                        title="Divergence of the deflection")]


class ElectricField(_Derived):
    """Electric field integrated along the beam, and the charge that makes it."""

    name, summary = "field", "projected electric field; with a raster also the projected charge"
    needs: ClassVar[tuple[str, ...]] = ("pixel_angle", "high_tension")

    def prepare(self) -> None:
        self.context.calibration.require(self.name, *self.needs)

    def finish(self) -> list[Result]:
        check_rotation(self.context, self.name)
        values, errors = self.deflection()
        tension = self.context.calibration["high_tension"]
        field = fields.projected_electric_field(values, tension)
        spread = np.abs(fields.projected_electric_field(errors, tension))
        results = [ScanMap("field", field, "V", spread, ("y", "x"), "vector", "Electric field, integrated along the beam")]
        try:
            step = self.step()
            charge, noise = (fields.projected_charge(derive(self.on_raster(v), step)).ravel() for derive, v in (
                (vector_field.divergence, field), (vector_field.divergence_errors, spread)))
        except (FeatureRefused, KeyError):
            return results
        return [*results, ScanMap("charge", charge, "C/m^2", noise, style="diverging", title="Projected charge")]
