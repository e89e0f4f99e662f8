"""What is known of microscope and detector: stated by a person, by the file, or measured on a sample of its frames."""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.archive.pattern_file import PatternFile
from edgetem_nodes.featurizer.calibration.disk import fit_disk
from edgetem_nodes.featurizer.calibration.quantity import Comparison, Quantity, compare
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.patterns.reduction import PatternSum
from edgetem_nodes.operator.processing.counting import Counting
from edgetem_nodes.operator.processing.direct_beam import find_bragg_pattern
from edgetem_nodes.operator.processing.known_lattice import measure_pixel_angle
from edgetem_nodes.operator.processing.request import Request
from edgetem_nodes.operator.processing.results import FeatureRefused, Known

WORDS = {"high_tension": ("the high tension", "--high-tension KV"),
         "semi_convergence_angle": ("the semi-convergence angle", "--semi-convergence MRAD"),
         "pixel_angle": ("the angle of a detector pixel", "--pixel-angle MRAD (or --semi-convergence MRAD where the disk is "
                         "measured)"),
         "center_y": ("the undeflected beam on the detector", "--center Y,X"),
         "center_x": ("the undeflected beam on the detector", "--center Y,X"),
         "disk_radius": ("the radius of the bright-field disk", "--radius PIXELS, or --semi-convergence MRAD and "
                         "--pixel-angle MRAD"),
         "step_y": ("the scan step", "--step NM"), "step_x": ("the scan step", "--step NM"),
         "rotation": ("the rotation of the detector against the scan", "--rotation DEG")}
"""What a number is, for people, and the option that states it."""
UNKNOWN_ANGLE = 1e-3
"""[rad] that stands for a pixel where its angle is not known: what is said in mrad then means pixels."""
_DISAGREEMENT = 0.05
"""Relative difference of a stated and a measured number from which a note is made."""
_SIGNIFICANT = 3.0
"""Standard errors from which on an ellipticity is corrected; less is noise, which correcting would add to every mask."""


class Calibration:
    """Numbers by name with their sources, and sentences about what does not fit together."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.notes: list[str] = []
        self.distortion = np.eye(2)
        self.flipped = False
        self.half_turn_open = False
        self.mean_pattern: np.ndarray | None = None
        self.descan, self.descan_origin = np.zeros((2, 2)), (0.0, 0.0)
        self.comparisons: dict[str, Comparison] = {}
        self._noted: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.known

    def __getitem__(self, name: str) -> float:
        return self.known[name].value

    def get(self, name: str, default: float = 0.0) -> float:
        """A number, or the default where it is not known."""
        return self.known[name].value if name in self.known else default

    def error(self, name: str) -> float:
        """Its standard error; 0: not known."""
        return self.known[name].error if name in self.known else 0.0

    def set(self, name: str, value: float, unit: str, source: str, error: float = 0.0) -> None:
        """Enter a number; one that is known stays."""
        self.known.setdefault(name, Known(float(value), unit, source, float(error)))

    def note(self, subject: str, text: str) -> None:
        """A sentence about a subject, in place of an earlier one about it."""
        earlier = self._noted.get(subject)
        if earlier in self.notes:
            self.notes.remove(earlier)
        self._noted[subject] = text
        self.notes.append(text)

    def measured(self, name: str, value: float, unit: str, error: float, prefer: bool = False) -> None:
        """Enter a measured number. One that is stated or in the file is kept, unless `prefer`, and compared with."""
        known = self.known.get(name)
        if known is not None and known.source in ("stated", "file"):
            quantity = Quantity(name, float(value), float(error), unit, "measured")
            self.comparisons[name] = compare(quantity, Quantity(name, known.value, known.error or math.nan, unit, known.source))
            if not prefer:
                return
        self.known[name] = Known(float(value), unit, "measured", float(error))

    def require(self, feature: str, *names: str) -> None:
        """Check that numbers are known.

        Raises
        ------
        FeatureRefused : one is not; names the option that states it.
        """
        for name in names:
            if name not in self.known:
                what, option = WORDS[name]
                raise FeatureRefused(f"{feature} needs {what}, which the file does not say and the frames do not tell: state "
                                     f"it with {option}")

    def geometry(self) -> DetectorGeometry:
        """Of the detector; a pixel counts as `UNKNOWN_ANGLE` where its angle is not known."""
        angle = self.get("pixel_angle", UNKNOWN_ANGLE)
        alpha = self.get("disk_radius") * angle or self.get("semi_convergence_angle")
        errors = {"center": (self.error("center_y"), self.error("center_x"))} if self.error("center_y") else {}
        return DetectorGeometry((self["center_y"], self["center_x"]), angle, alpha, self.distortion,
                                descan=self.descan, rotation=self.get("rotation"), flipped=self.flipped,
                                descan_origin=self.descan_origin, errors=errors)


def calibrate(source: PatternFile, request: Request, corrections: Corrections, noise: CountingNoise,
              counting: Counting | None = None) -> Calibration:
    """Take what is stated, else what the file says, else what a sample of frames shows; compare where both are there."""
    result = Calibration()
    _stated(result, request)
    _from_file(result, source)
    if len(source.frame_shape) == 2:
        _measured(result, source, request, corrections, noise, counting)
    if counting is not None:
        result.notes.append(counting.line())
        result.set("counts_per_electron", counting.learned.counts_per_electron, "count", "measured")
        result.set("detective_efficiency", counting.learned.efficiency, "", "measured")
    result.set("counts_per_electron", noise.counts_per_electron, "count",
               "stated" if request.counts_per_electron != 1.0 else "assumed")
    if request.rotation is not None:
        result.set("rotation", request.rotation, "rad", "stated")
        result.flipped = bool(request.flipped)
    return result


def _stated(result: Calibration, request: Request) -> None:
    for name, unit in (("high_tension", "V"), ("semi_convergence_angle", "rad"), ("pixel_angle", "rad")):
        if getattr(request, name) > 0:
            result.set(name, getattr(request, name), unit, "stated")
    if request.center is not None:
        result.set("center_y", request.center[0], "pixel", "stated")
        result.set("center_x", request.center[1], "pixel", "stated")
    if request.radius > 0:
        result.set("disk_radius", request.radius, "pixel", "stated")
    if request.step > 0:
        result.set("step_y", request.step, "m", "stated")
        result.set("step_x", request.step, "m", "stated")


def _from_file(result: Calibration, source: PatternFile) -> None:
    units = {"high_tension": "V", "semi_convergence_angle": "rad", "camera_length": "m", "dwell_time": "s",
             "collection_angle": "rad", "probe_current": "A"}
    for name, unit in units.items():
        if source.conditions.get(name, 0.0) > 0:
            result.set(name, source.conditions[name], unit, "file")
    if source.field is not None and source.calibrated:
        for name, step in zip(("step_y", "step_x"), source.field.step, strict=True):
            result.set(name, step, "m", "file")
    if len(source.axes) != 2:
        return
    y, x = source.axes
    if not math.isclose(abs(y.scale), abs(x.scale), rel_tol=1e-3):
        result.notes.append(f"the file's detector pixels are {y.scale:g} x {x.scale:g} {y.unit}, not square: x is used")
    if x.unit == "rad" and x.scale != 0:
        result.set("pixel_angle", abs(x.scale), "rad", "file")
    elif x.unit == "m" and source.conditions.get("camera_length", 0.0) > 0:
        result.set("pixel_angle", abs(x.scale) / source.conditions["camera_length"], "rad", "file")


def _measured(result: Calibration, source: PatternFile, request: Request, corrections: Corrections, noise: CountingNoise,
              counting: Counting | None) -> None:
    """Centre and radius of the disk from a sample of frames; the middle of the detector stands in where there is no disk."""
    _, frames = source.sample()
    if counting is not None:
        frames = counting.sample(frames)
    frames_read, frames = len(frames), frames[usable(frames, noise)]
    pattern = PatternSum(source.frame_shape)
    pattern.add(frames)
    corrected = corrections.applied(pattern.mean[None])[0] if pattern.count else np.full(source.frame_shape, np.nan)
    result.mean_pattern = corrected
    try:
        if not pattern.count:
            raise ValueError(f"none of {frames_read} frames of the sample can be used")
        total, live = corrected * pattern.count, np.isfinite(corrected)
        bragg = find_bragg_pattern(total, live, noise, pattern.count)
        disk = bragg.disk if bragg is not None else fit_disk(total, live, noise, pattern.count)
    except ValueError as error:
        _without_disk(result, source, str(error))
        if request.lattice:
            result.note("pixel angle", f"{request.lattice.text} does not tell the pixel's angle: there is no disk")
        return
    errors = disk.standard_errors
    for name, value, error in zip(("center_y", "center_x"), disk.center, errors[:2], strict=True):
        _compared(result, name, value, error, "pixel", 3.0)
    _compared(result, "disk_radius", disk.radius, errors[2], "pixel", 1.0)
    if disk.elliptical:
        result.set("ellipticity", disk.axis_ratio - 1, "", "measured", 2 * float(np.hypot(*errors[3:5])))
        measured = result.known["disk_radius"].source == "measured"
        if measured and result["ellipticity"] > _SIGNIFICANT * result.error("ellipticity"):
            result.distortion = disk.distortion
    if bragg is not None:
        lengths = ", ".join(f"{length:.2f}" for length in np.linalg.norm(bragg.basis, axis=0))
        result.notes.append(f"patterns have Bragg disks, {bragg.spots} on a lattice of vectors {lengths} pixels long"
                            + (f"; {bragg.doubt}" if bragg.doubt else ""))
    if request.lattice:
        measure_pixel_angle(result, request.lattice, bragg, total, live, noise, request.use_measured)
    _angles(result)


def usable(frames: np.ndarray, noise: CountingNoise) -> np.ndarray:
    """Frames of a sample (frames,) bool that are finite and not saturated anywhere."""
    flat = frames.reshape(len(frames), -1)
    good = flat.max(axis=1) < noise.saturation_level(frames.dtype)
    return good & np.isfinite(flat.sum(axis=1, dtype=float)) if frames.dtype.kind == "f" else good


def _without_disk(result: Calibration, source: PatternFile, reason: str) -> None:
    result.notes.append(f"the bright-field disk was not measured: {reason}")
    for name, size in zip(("center_y", "center_x"), source.frame_shape, strict=True):
        result.set(name, (size - 1) / 2, "pixel", "assumed")
    if "semi_convergence_angle" in result and "pixel_angle" in result:
        result.set("disk_radius", result["semi_convergence_angle"] / result["pixel_angle"], "pixel", "derived")
    if "disk_radius" in result:
        _angles(result)


def _angles(result: Calibration) -> None:
    """Of angle a pixel, radius in pixels and semi-convergence angle, two give the third."""
    radius, error = result["disk_radius"], result.error("disk_radius") / result["disk_radius"]
    if "pixel_angle" in result and "semi_convergence_angle" in result:
        expected = result["semi_convergence_angle"] / result["pixel_angle"]
        if abs(radius / expected - 1) > _DISAGREEMENT:
            result.notes.append(f"the disk has a radius of {radius:.4g} pixels, the semi-convergence angle and the pixel's "
                                f"angle say {expected:.4g}: check both; the measured radius is used for detectors")
    elif "pixel_angle" in result:
        angle = radius * result["pixel_angle"]
        result.set("semi_convergence_angle", angle, "rad", "derived", angle * error)
    elif "semi_convergence_angle" in result:
        angle = result["semi_convergence_angle"] / radius
        result.set("pixel_angle", angle, "rad", "derived", angle * error)


def _compared(result: Calibration, name: str, value: float, error: float, unit: str, allowed: float) -> None:
    """Enter a measured number; where one is stated, keep that, compare, and note a difference of more than is allowed."""
    if name in result and abs(result[name] - value) > allowed:
        result.notes.append(f"{name} is stated as {result[name]:.4g} {unit} and measured as {value:.4g}: the stated one is "
                            "used")
    result.measured(name, value, unit, error)
