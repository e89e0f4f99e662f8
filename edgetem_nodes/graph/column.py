"""Messages about the microscope's column: state, optics, probe path, scan field, survey image, atoms."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from edgetem.msg import AtomicStructure, MicroscopeState, Optics, ProbePath, ReferenceImage, ScanField, StagePose
from edgetem_nodes.graph.messages import byte_array, from_uuid, number_array, numbers, positions_array
from edgetem_nodes.physics import exposure as physics
from edgetem_nodes.physics.exposure import Exposure, MicroScan
from edgetem_nodes.physics.specimens import Atoms


def fill(message: Any, values: Any) -> Any:
    """Copy what `values` (attributes or a mapping) has under the names of the message's fields; None: nothing is known.

    Returns the message. A float field for which nothing is known becomes NaN.
    """
    for name, kind in message.get_fields_and_field_types().items():
        value = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
        if kind in ("double", "float"):
            setattr(message, name, math.nan if value is None else float(value))
        elif hasattr(getattr(message, name), "get_fields_and_field_types"):
            if name != "header":
                fill(getattr(message, name), value)
        elif value is not None:
            setattr(message, name, list(value) if isinstance(value, (tuple, np.ndarray)) else value)
    return message


def given(message: Any) -> dict[str, float]:
    """The fields of a message of floats that are not NaN, by name: what a command changes."""
    values = {name: getattr(message, name) for name in message.get_fields_and_field_types()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def state_message(column: Any, blanked: bool, dose: float, peak_dose: float) -> MicroscopeState:
    """The microscope's state, without a stamp: `dose` [electrons], `peak_dose` [1/m²]."""
    message = fill(MicroscopeState(), column)
    message.header.frame_id = "specimen"
    message.beam_blanked, message.dose, message.peak_dose = bool(blanked), float(dose), float(peak_dose)
    return message


def optics_hash(optics: Mapping[str, float]) -> str:
    """SHA-256 (hex) of optics: the message's fields in order, each as a little-endian double, NaN where not known."""
    values = [optics.get(name, math.nan) for name in Optics.get_fields_and_field_types()]
    return hashlib.sha256(np.asarray(values, "<f8").tobytes()).hexdigest()


def path_message(exposure: Exposure, acquisition_id: uuid.UUID, detector: str, reference_dose: float = 0.0) -> ProbePath:
    """An exposure as the message that triggers it, without a stamp; `reference_dose` [electrons] was spent for it before."""
    path = ProbePath(acquisition_id=from_uuid(acquisition_id), sequence=exposure.sequence, elapsed=float(exposure.elapsed),
                     dwell_time=float(exposure.dwell), position_period=float(exposure.period), detector=detector,
                     optics=fill(Optics(), exposure.optics), stage=fill(StagePose(), exposure.stage),
                     survey_dose=float(exposure.survey_dose), optics_hash=optics_hash(exposure.optics),
                     correction=np.asarray(exposure.correction, float),
                     correction_rate=np.asarray(exposure.correction_rate, float), reference_dose=float(reference_dose),
                     reference_images=[_reference_message(image) for image in exposure.reference_images])
    if exposure.micro_scan is not None:
        path.micro_scan_points, path.micro_scan_step = exposure.micro_scan.points, float(exposure.micro_scan.step)
    path.header.frame_id = "scan"
    path.positions = number_array(exposure.positions)
    path.holder_programme = number_array(exposure.holder)
    return path


def exposure_of(path: ProbePath) -> Exposure:
    """What a probe path asks for; the arrays are copies. Raises ValueError where they are not of whole rows."""
    scan = MicroScan(int(path.micro_scan_points), path.micro_scan_step) if path.micro_scan_points else None
    return Exposure(int(path.sequence), path.elapsed, positions_array(path.positions).copy(), path.dwell_time,
                    path.position_period, given(path.optics), given(path.stage),
                    numbers(path.holder_programme, (-1, 3)).copy(), tuple(float(value) for value in path.correction),
                    tuple(float(value) for value in path.correction_rate), path.survey_dose,
                    tuple(_reference_of(image) for image in path.reference_images), scan)


def _reference_message(image: physics.ReferenceImage) -> ReferenceImage:
    return ReferenceImage(elapsed=float(image.elapsed), corner=np.asarray(image.corner, float),
                          extent=np.asarray(image.extent, float), dose=float(image.dose),
                          correction=np.asarray(image.correction, float),
                          beam_shift=np.asarray(image.beam_shift, float), stage=fill(StagePose(), image.stage))


def _reference_of(message: ReferenceImage) -> physics.ReferenceImage:
    pairs = {name: tuple(float(value) for value in getattr(message, name))
             for name in ("corner", "extent", "correction", "beam_shift")}
    return physics.ReferenceImage(message.elapsed, dose=message.dose, stage=given(message.stage), **pairs)


def atoms_message(atoms: Atoms, source: str) -> AtomicStructure:
    """Atoms of a specimen in the frame "scan", positions (x, y, z); the cell is zero: they are a piece, not a crystal."""
    structure = AtomicStructure(label="atoms", source=source)
    structure.header.frame_id = "scan"
    structure.atomic_numbers = byte_array(np.asarray(atoms.atomic_numbers, np.uint8))
    structure.positions = number_array(np.asarray(atoms.positions, float)[:, ::-1])
    return structure


def field_message(field: Any) -> ScanField:
    """A `physics.scan.ScanField` as a message."""
    return ScanField(origin=np.asarray(field.origin, float), step=np.asarray(field.step, float),
                     shape=np.asarray(field.shape, np.uint32))


def image_message(header: Header, image: np.ndarray) -> Image:
    """A two-dimensional array as a 32-bit float image."""
    image = np.ascontiguousarray(image, "<f4")
    return Image(header=header, height=image.shape[0], width=image.shape[1], encoding="32FC1", is_bigendian=0,
                 step=4 * image.shape[1], data=byte_array(image))
