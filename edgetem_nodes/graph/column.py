"""Messages about the microscope's column: state, optics, scan field, survey image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from edgetem.msg import MicroscopeState, Optics, ScanField
from edgetem_nodes.graph.messages import byte_array


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


def optics_hash(column: Any) -> str:
    """SHA-256 (hex) of the commanded optics: its fields in order, each as a little-endian double."""
    optics = fill(MicroscopeState(), column).commanded_optics
    values = [getattr(optics, name) for name in Optics.get_fields_and_field_types()]
    return hashlib.sha256(np.asarray(values, "<f8").tobytes()).hexdigest()


def field_message(field: Any) -> ScanField:
    """A `physics.scan.ScanField` as a message."""
    return ScanField(origin=np.asarray(field.origin, float), step=np.asarray(field.step, float),
                     shape=np.asarray(field.shape, np.uint32))


def image_message(header: Header, image: np.ndarray) -> Image:
    """A two-dimensional array as a 32-bit float image."""
    image = np.ascontiguousarray(image, "<f4")
    return Image(header=header, height=image.shape[0], width=image.shape[1], encoding="32FC1", is_bigendian=0,
                 step=4 * image.shape[1], data=byte_array(image))
