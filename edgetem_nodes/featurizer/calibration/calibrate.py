"""The whole calibration of a 4D-STEM scan in one call: a detector geometry, and how well each part of it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.featurizer.calibration.descan import Descan, fit_descan
from edgetem_nodes.featurizer.calibration.detector_scale import DetectorScale, pixel_angle_of_disks
from edgetem_nodes.featurizer.calibration.disk import Disk, fit_disk
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice
from edgetem_nodes.featurizer.calibration.quantity import MEASURED, STATED, Comparison, Quantity, compare
from edgetem_nodes.featurizer.calibration.rotation import Rotation, fit_rotation
from edgetem_nodes.featurizer.calibration.scan_data import ScanData
from edgetem_nodes.featurizer.calibration.scan_scale import ScanScale, fit_scan_steps
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import wavelength

UNITS = {"center": "pixel", "radius": "pixel", "distortion": "", "pixel_angle": "rad", "semi_convergence_angle": "rad",
         "descan": "pixel/m", "rotation": "deg", "flipped": "", "scan_step": "m"}
"""Names and units of the quantities of a calibration. The rotation is in degrees, to be compared modulo a turn."""
_NO_DESCAN = 13.3
"""Sum of squares of the four components over their errors, below which a descan is none: 1 % of those without have more."""


@dataclass(frozen=True)
class Known:
    """What is known before, or stated by metadata; what is not given is measured or stays undetermined.

    Attributes
    ----------
    geometry : as stated. It stands in for what the data do not tell, and is compared with what they do.
    pixel_angle : [rad], semi_convergence_angle : [rad]; 0: those of `geometry`. Which one is trusted, if both are given and no
        lattice is, is the pixel's angle.
    high_tension : [V], for lattices in diffraction patterns.
    flipped : the flip, where it is certain.
    diffraction_lattice : of the specimen, if its Bragg disks are apart; scan_lattice : if the dark field shows it.
    """

    geometry: DetectorGeometry | None = None
    pixel_angle: float = 0.0
    semi_convergence_angle: float = 0.0
    high_tension: float = 0.0
    flipped: bool | None = None
    diffraction_lattice: PlaneLattice | None = None
    scan_lattice: PlaneLattice | None = None

    def __post_init__(self) -> None:
        if self.geometry is not None:
            object.__setattr__(self, "pixel_angle", self.pixel_angle or self.geometry.pixel_angle)
            object.__setattr__(self, "semi_convergence_angle", self.semi_convergence_angle
                               or self.geometry.semi_convergence_angle)
        if self.diffraction_lattice is not None and not (self.high_tension > 0 and self.pixel_angle > 0):
            raise ValueError("a lattice in diffraction needs the high tension and an approximate pixel angle")


@dataclass(frozen=True)
class Calibration:
    """What the data say of the detector.

    Attributes
    ----------
    quantities : by the names of `UNITS`.
    disk, descan, rotation, detector_scale, scan_scale : the measurements themselves; None where there is none.
    comparisons : of measured quantities with stated ones, by name.
    middle : (y, x) [m] of the scan: where the pattern lies at the centre; (0, 0) without a scan.
    """

    quantities: dict[str, Quantity]
    disk: Disk | None = None
    descan: Descan | None = None
    rotation: Rotation | None = None
    detector_scale: DetectorScale | None = None
    scan_scale: ScanScale | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    middle: tuple[float, float] = (0.0, 0.0)

    @property
    def geometry(self) -> DetectorGeometry:
        """Measured values, stated ones where nothing was measured. Descan, distortion and rotation that are neither are zero
        with an infinite standard error in `errors`.

        Raises
        ------
        ValueError : centre or pixel angle are neither measured nor stated.
        """
        known = self.quantities
        for name in ("center", "pixel_angle"):
            if not known[name].determined:
                raise ValueError(f"there is no detector geometry: {known[name].line()}")
        values, errors = {}, {}
        for name, nothing in (("center", None), ("pixel_angle", None), ("semi_convergence_angle", 0.0),
                              ("distortion", np.eye(2)), ("descan", np.zeros((2, 2))), ("rotation", 0.0)):
            one = known[name]
            scale = math.pi / 180 if name == "rotation" else 1.0
            values[name] = one.value * scale if one.determined else nothing
            error = one.standard_error * scale if one.determined else np.full(np.shape(nothing), np.inf)[()]
            if not np.isnan(error).any():
                errors[name] = error
        flipped = known["flipped"]
        return DetectorGeometry(tuple(np.asarray(values.pop("center"), float).tolist()), **values,
                                flipped=bool(flipped.value) if flipped.determined else False,
                                descan_origin=self.middle, errors=errors)

    def lines(self) -> list[str]:
        """For people: every quantity, then what differs from the metadata."""
        return [one.line() for one in self.quantities.values()] + [one.line() for one in self.comparisons.values()]


def calibrate(pattern: np.ndarray, scan: ScanData | None = None, known: Known | None = None, mask: np.ndarray | None = None,
              noise: CountingNoise | None = None, frames: int = 1) -> Calibration:
    """Calibrate the detector; what the data do not tell is said, with the reason, and never made up.

    The centre is that in the middle of the scan, the geometry's `descan_origin`. A descan within its errors is taken as none,
    or as stated where the measurement agrees with what is stated.

    Parameters
    ----------
    pattern : (rows, columns), sum of counts of `frames` frames (`PatternSum`, or a sum over events).
    scan : centres of mass, their errors and a dark field of these frames; None: no descan, rotation and scan step.
    mask : (rows, columns) bool, True where a pixel may be used.
    noise : of the counts.
    """
    known = known or Known()
    measuring = _Measuring(known, scan)
    disk = measuring.disk(pattern, mask, noise, frames)
    descan = measuring.descan(scan)
    scale = measuring.pixel_angle(pattern, disk, mask, noise)
    rotation = measuring.rotation(scan, disk)
    steps = measuring.scan_step(scan)
    return Calibration(measuring.ordered(), disk, descan, rotation, scale, steps, measuring.comparisons, measuring.middle)


class _Measuring:
    """Quantities as they are found; a stated one stands in for one that is not."""

    def __init__(self, known: Known, scan: ScanData | None) -> None:
        self.known, self.found, self.comparisons = known, {}, {}
        self.middle = (0.0, 0.0) if scan is None else scan.middle

    def ordered(self) -> dict[str, Quantity]:
        return {name: self.found[name] for name in UNITS}

    def _stated(self, name: str) -> object:
        geometry = self.known.geometry
        if name in ("pixel_angle", "semi_convergence_angle"):
            return getattr(self.known, name) or None
        if geometry is None or name == "radius":
            return None
        value = geometry.center + geometry.shifts(self.middle)[0] if name == "center" else getattr(geometry, name)
        return math.degrees(value) if name == "rotation" else bool(value) if name == "flipped" else np.array(value, float)

    def _enter(self, name: str, value: object, error: object, note: str = "") -> None:
        """Enter a measured quantity and compare it with a stated one."""
        label = name.replace("_", " ")
        self.found[name] = Quantity(label, value, error, UNITS[name], MEASURED, note)
        stated = self._stated(name)
        if stated is not None and name != "flipped":
            self.comparisons[name] = compare(self.found[name], stated)

    def _missing(self, reason: str, *names: str) -> None:
        """Enter stated quantities where there are any; why they were not measured goes with them."""
        reason = reason.removeprefix("not determined: ")
        for name in names:
            stated, label = self._stated(name), name.replace("_", " ")
            self.found[name] = Quantity.undetermined(label, UNITS[name], reason) if stated is None else Quantity(
                label, stated, np.full(np.shape(stated), np.nan)[()], UNITS[name], STATED, f"not measured: {reason}")

    def disk(self, pattern: np.ndarray, mask: np.ndarray | None, noise: CountingNoise | None, frames: int) -> Disk | None:
        try:
            disk = fit_disk(pattern, mask, noise, frames)
        except ValueError as error:
            self._missing(str(error), "center", "radius", "distortion")
            return None
        self._enter("center", np.array(disk.center), disk.standard_errors[:2], "of the mean pattern, at the scan's middle")
        self._enter("radius", disk.radius, float(disk.standard_errors[2]))
        if disk.elliptical:
            self._enter("distortion", disk.distortion, disk.distortion_errors, f"axes 1:{disk.axis_ratio:.4f}")
        else:
            self._missing(f"{100 * disk.edge_seen:.0f} % of the disk's edge is seen", "distortion")
        return disk

    def descan(self, scan: ScanData | None) -> Descan | None:
        try:
            if scan is None:
                raise ValueError("there is no scan")
            descan = fit_descan(scan.center_of_mass, scan.positions, scan.errors)
        except ValueError as error:
            self._missing(str(error), "descan")
            return None
        note, matrix, stated = f"{descan.used} positions, {descan.left_out} left out", descan.matrix, self._stated("descan")

        def within_errors(difference: np.ndarray) -> bool:
            return bool(((difference / descan.matrix_errors)**2).sum() < _NO_DESCAN)

        if not within_errors(matrix):
            self._enter("descan", matrix, descan.matrix_errors, note)
        elif stated is not None and stated.any() and within_errors(matrix - stated):
            self._missing(f"{note}; within its errors, as is what is stated", "descan")
        else:
            # Carried to the field's corners, an insignificant slope would only add its errors.
            self._enter("descan", np.zeros((2, 2)), descan.matrix_errors, f"{note}; within its errors, taken as none")
        return descan

    def pixel_angle(self, pattern: np.ndarray, disk: Disk | None, mask: np.ndarray | None,
                    noise: CountingNoise | None) -> DetectorScale | None:
        """Pixel angle by the lattice, or by the convergence angle; convergence angle by the pixel angle."""
        scale, known, reason = None, self.known, "there is no lattice, and no convergence angle to scale the disk by"
        if disk is None:
            reason = "there is no disk"
        elif known.diffraction_lattice is not None:
            try:
                scale = pixel_angle_of_disks(pattern, disk, known.diffraction_lattice, wavelength(known.high_tension),
                                             known.pixel_angle, mask=mask, noise=noise)
            except ValueError as error:
                reason = str(error)
        if scale is not None:
            self._enter("pixel_angle", scale.pixel_angle, scale.standard_error, f"{scale.used} Bragg disks of the lattice")
        elif disk is not None and known.semi_convergence_angle and not known.pixel_angle:
            relative = float(disk.standard_errors[2]) / disk.radius
            value = known.semi_convergence_angle / disk.radius
            self._enter("pixel_angle", value, value * relative, "from the convergence angle as stated")
        else:
            self._missing(reason, "pixel_angle")
        self._convergence(disk, scale)
        return scale

    def _convergence(self, disk: Disk | None, scale: DetectorScale | None) -> None:
        pixel = self.found["pixel_angle"]
        if disk is None or not pixel.determined:
            self._missing("there is no disk" if disk is None else "the pixel's angle is not known", "semi_convergence_angle")
        elif scale is None and pixel.source == MEASURED:
            self._missing("it was used to find the pixel's angle", "semi_convergence_angle")
        else:
            relative = math.hypot(disk.standard_errors[2] / disk.radius, np.nan_to_num(pixel.standard_error) / pixel.value)
            value = disk.radius * pixel.value
            self._enter("semi_convergence_angle", value, value * relative, "disk radius times pixel angle"
                        + ("" if pixel.source == MEASURED else " as stated"))

    def rotation(self, scan: ScanData | None, disk: Disk | None) -> Rotation | None:
        names = ("rotation", "flipped")
        try:
            if scan is None:
                raise ValueError("there is no scan")
            rows = scan.rows()
            stretch = np.eye(2) if disk is None else disk.distortion
            errors = None if scan.errors is None else scan.image(scan.errors, rows)
            images = [None if one is None else scan.image(one, rows) for one in (scan.dark_field, scan.dark_field_errors)]
            rotation = fit_rotation(scan.image(scan.center_of_mass, rows) @ stretch.T, scan.field.step, errors, *images,
                                    flipped=self.known.flipped)
        except ValueError as error:
            self._missing(str(error), *names)
            return None
        if not rotation.determined:
            self._missing(f"{math.degrees(rotation.rotation):.2f} +- {math.degrees(rotation.standard_error):.2f} deg or half a "
                          f"turn more: {rotation.polarity.problem}", "rotation")
        else:
            self._enter("rotation", math.degrees(rotation.rotation), math.degrees(rotation.standard_error),
                        f"least curl of {rows.stop - rows.start} rows, {rotation.polarity.line()}")
        self._enter("flipped", rotation.flipped, 0.0, rotation.flip_source)
        return rotation

    def scan_step(self, scan: ScanData | None) -> ScanScale | None:
        lattice = self.known.scan_lattice
        if scan is None:
            self._missing_step(None, "there is no scan")
            return None
        try:
            if lattice is None or scan.dark_field is None:
                raise ValueError("no lattice and dark field were given")
            rows = scan.rows()
            errors = None if scan.dark_field_errors is None else scan.image(scan.dark_field_errors, rows)
            steps = fit_scan_steps(scan.image(scan.dark_field, rows), lattice, scan.field.step, errors=errors)
        except ValueError as error:
            self._missing_step(np.array(scan.field.step), str(error))
            return None
        self.found["scan_step"] = Quantity("scan step", steps.steps, steps.errors, "m", MEASURED, f"{steps.peaks} peaks")
        self.comparisons["scan_step"] = compare(self.found["scan_step"], np.array(scan.field.step))
        return steps

    def _missing_step(self, stated: np.ndarray | None, reason: str) -> None:
        reason = reason.removeprefix("not determined: ")
        self.found["scan_step"] = Quantity.undetermined("scan step", "m", reason) if stated is None else Quantity(
            "scan step", stated, np.full(2, np.nan), "m", STATED, f"not measured: {reason}")
