"""Axes and metadata of a vendor's file in SI units: what RosettaSciIO reports, made unambiguous."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE, wavelength
from edgetem_nodes.physics.scan import Axis

_LENGTHS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "μm": 1e-6, "um": 1e-6, "micron": 1e-6, "nm": 1e-9, "n_m": 1e-9,
            "Å": 1e-10, "Å": 1e-10, "A": 1e-10, "angstrom": 1e-10, "pm": 1e-12}
_ENERGIES = {"eV": ELEMENTARY_CHARGE, "keV": 1e3 * ELEMENTARY_CHARGE, "meV": 1e-3 * ELEMENTARY_CHARGE, "J": 1.0}
_ANGLES = {"rad": 1.0, "mrad": 1e-3, "µrad": 1e-6, "μrad": 1e-6, "deg": math.pi / 180, "°": math.pi / 180}
_FREQUENCIES = {"1/nm": 1e9, "nm^-1": 1e9, "nm-1": 1e9, "1/Å": 1e10, "1/Å": 1e10, "1/A": 1e10, "Å^-1": 1e10, "A^-1": 1e10,
                "1/m": 1.0}


class VendorFileError(ValueError):
    """A vendor's file that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class FileAxis:
    """An axis as the file gives it: offset + scale * index in `unit`; `navigate` None where the file does not say."""

    name: str
    unit: str
    scale: float
    offset: float
    size: int
    navigate: bool | None

    @property
    def is_energy(self) -> bool:
        """Whether values along the axis are energies."""
        return self.unit in _ENERGIES or "energy" in self.name.lower()

    @property
    def length(self) -> tuple[float, float] | None:
        """Scale and offset [m], or None where the axis is no calibrated length."""
        factor = _LENGTHS.get(self.unit)
        if factor is None or not math.isfinite(self.scale) or self.scale == 0:
            return None
        return self.scale * factor, self.offset * factor

    def describe(self) -> str:
        """For people: name, size, step and unit as in the file."""
        unit = self.unit or "uncalibrated"
        return f"{self.name or 'unnamed'} {self.size} x {self.scale:.5g} from {self.offset:.5g} {unit}"


def file_axes(signal: dict[str, Any], where: str) -> list[FileAxis]:
    """The axes of a RosettaSciIO signal in the order of its array.

    Raises
    ------
    VendorFileError : an axis is not uniform.
    """
    result = []
    for axis in signal["axes"]:
        size = int(axis.get("size", 0) or len(axis.get("axis", ())))
        scale, offset = axis.get("scale"), axis.get("offset")
        if scale is None and "axis" in axis:
            values = np.asarray(axis["axis"], float)
            steps = np.diff(values)
            if len(steps) and not np.allclose(steps, steps.mean(), rtol=1e-3, atol=0):
                raise VendorFileError(f"{where}: axis {axis.get('name')!r} is not uniform; resample the data to equal steps")
            scale, offset = (float(steps.mean()) if len(steps) else 1.0), float(values[0])
        navigate = axis.get("navigate")
        result.append(FileAxis(_text(axis.get("name")), _text(axis.get("units")), float(1.0 if scale is None else scale),
                               float(offset or 0.0), size, None if navigate is None else bool(navigate)))
    return result


def _text(value: Any) -> str:
    """Names and units come as text, None or a library's marker of absence."""
    return value.strip() if isinstance(value, str) else ""


def scan_axes(axes: list[FileAxis]) -> tuple[list[int], list[int]] | None:
    """Numbers of the scan axes (rows, columns; one for a line) and of the signal axes; None where it is no scan.

    A spectrum image may carry its energy axis anywhere: DigitalMicrograph puts it first and then calls it navigation. Of
    four axes without a word about navigation (Arina) the first two are the scan.
    """
    energies = [i for i, axis in enumerate(axes) if axis.is_energy]
    if len(energies) == 1:
        scan = [i for i in range(len(axes)) if i != energies[0]]
        return (scan, energies) if len(scan) in (1, 2) else None
    scan = [i for i, axis in enumerate(axes) if axis.navigate]
    if len(axes) == 4 and not scan:
        scan = [0, 1]
    signal = [i for i in range(len(axes)) if i not in scan]
    return (scan, signal) if len(scan) in (1, 2) and len(signal) in (1, 2) else None


def signal_axis(axis: FileAxis, high_tension: float) -> Axis:
    """A signal axis in SI units; energies [J], angles [rad], lengths on the camera [m]; index numbers where uncalibrated.

    Spatial frequencies become angles where the high tension [V] is known (not 0).
    """
    for table, unit in ((_ENERGIES, "J"), (_ANGLES, "rad"), (_LENGTHS, "m")):
        if axis.unit in table:
            factor = table[axis.unit]
            return Axis(axis.name, unit, axis.scale * factor, axis.offset * factor, axis.size)
    if axis.unit in _FREQUENCIES and high_tension > 0:
        factor = _FREQUENCIES[axis.unit] * wavelength(high_tension)
        return Axis(axis.name, "rad", axis.scale * factor, axis.offset * factor, axis.size)
    return Axis(axis.name, "", 1.0, 0.0, axis.size)


def conditions(metadata: dict[str, Any]) -> dict[str, float]:
    """Conditions that the file's metadata state, in SI units; zero means "not filled in" in these files and is left out.

    Keys: high_tension [V], semi_convergence_angle [rad], probe_current [A], camera_length [m], collection_angle [rad],
    dwell_time [s], alpha [rad].
    """
    instrument = metadata.get("Acquisition_instrument", {})
    column = instrument.get("TEM") or instrument.get("SEM") or {}
    detectors = column.get("Detector", {})
    eels = detectors.get("EELS", {}) if isinstance(detectors, dict) else {}
    stage = column.get("Stage", {})
    found = {"high_tension": (column.get("beam_energy"), 1e3),
             "semi_convergence_angle": (column.get("convergence_angle"), 1e-3),
             "probe_current": (column.get("beam_current"), 1e-9), "camera_length": (column.get("camera_length"), 1e-3),
             "collection_angle": (eels.get("collection_angle"), 1e-3), "dwell_time": (column.get("dwell_time"), 1.0),
             "alpha": (stage.get("tilt_alpha") if isinstance(stage, dict) else None, math.pi / 180)}
    return {name: float(value) * factor for name, (value, factor) in found.items()
            if isinstance(value, (int, float, np.number)) and math.isfinite(value) and value != 0}
