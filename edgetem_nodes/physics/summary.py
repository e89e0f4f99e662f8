"""What is simulated, in a line for people: specimen, detector, method, and what was switched on."""

from __future__ import annotations

import math

from edgetem_nodes.physics.settings import Settings
from edgetem_nodes.physics.specimens import Specimen

_FLAT = 1e-9
"""[m]: a thinner specimen is a sheet, whose thickness tells nothing."""


def summary(settings: Settings, specimen: Specimen) -> str:
    """Specimen and detector, how patterns are computed, and what goes wrong."""
    thickness = f" {specimen.thickness * 1e9:.3g} nm" if specimen.thickness > _FLAT else ""
    options = settings.options
    doped = f" with {options.dopant_fraction * 100:.3g} % {options.dopant}" if options.dopant else ""
    parts = [settings.specimen + thickness + doped, _detector(settings)]
    if settings.detector != "eels":
        parts.append(_method(settings, specimen))
    switched = ", ".join(_switched_on(settings))
    return ", ".join(parts) + (f"; switched on: {switched}" if switched else "; nothing goes wrong")


def _detector(settings: Settings) -> str:
    """Detector, and the camera that it uses."""
    if settings.detector == "annular":
        return "annular detectors"
    camera = settings.camera_model.replace("_", " ")
    depth = f" of {settings.counter_depth} bit" if settings.camera_model == "hybrid_pixel" else ""
    return f"{'spectrometer' if settings.detector == 'eels' else 'pixelated camera'} {camera}{depth}"


def _method(settings: Settings, specimen: Specimen) -> str:
    """How diffraction is computed, with what "auto" comes to."""
    numerics, name = settings.numerics, settings.numerics.method
    if name == "auto":
        slicing = numerics.slicing(specimen.thickness, settings.probe.wavelength, settings.camera.edge)
        name = "single_slice" if slicing.count == 1 else "multislice"
    phonons = numerics.phonon_configurations if specimen.crystalline else 0
    return name.replace("_", " ") + (f" with {phonons} phonon configurations" if phonons else "")


def _switched_on(settings: Settings) -> list[str]:
    """Whatever makes the instrument or the specimen worse than ideal."""
    wrong, damage, probe = settings.instabilities, settings.damage, settings.probe
    found = [
        (wrong.drift_speed, f"drift {wrong.drift_speed * 60e9:.3g} nm/min"),
        (wrong.drift_wander, f"wandering drift {wrong.drift_wander * 1e9:.3g} nm"),
        (wrong.drift_relaxation, f"creep of the stage {wrong.drift_relaxation * 1e9:.3g} nm"),
        (wrong.scan_scale_y or wrong.scan_scale_x or wrong.scan_shear or wrong.scan_rotation, "distorted scan"),
        (wrong.line_noise, f"line noise {wrong.line_noise * 1e12:.3g} pm"),
        (wrong.flyback, f"flyback {wrong.flyback * 100:.3g} %"),
        (wrong.defocus_drift or wrong.defocus_wander, "unsteady defocus"),
        (wrong.current_decay or wrong.current_rate or wrong.current_noise, "unsteady current"),
        (settings.descan, f"descan {settings.descan * 1e-3:.3g} mrad/um"),
        (wrong.holder_time, f"slow holder {wrong.holder_time:.3g} s"),
        (wrong.sensor_noise, "sensor noise"),
        (wrong.faults, f"{len(wrong.faults)} wrong metadata"),
        (probe.astigmatism or probe.coma or probe.spherical_aberration or probe.chromatic_aberration, "aberrations"),
        (probe.source_size, f"source size {probe.source_size * 1e12:.3g} pm"),
        (settings.height, f"height {settings.height * 1e9:.3g} nm"),
        (any(settings.options.tilt), f"tilt {math.hypot(*settings.options.tilt) * 1e3:.3g} mrad"),
        (settings.options.transition, "transition"),
        (damage.displacement, "displacement of atoms"),
        (damage.contamination, "contamination"),
        (settings.plasmon_background, "plasmon background"),
    ]
    return [text for present, text in found if present]
