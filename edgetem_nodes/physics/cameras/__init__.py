"""Cameras: what a detector makes of the electrons that reach it. See `model.CameraModel` for what every camera offers."""

from __future__ import annotations

from edgetem_nodes.physics.cameras.active_pixel import ActivePixel
from edgetem_nodes.physics.cameras.hybrid_pixel import HybridPixel
from edgetem_nodes.physics.cameras.ideal import Ideal
from edgetem_nodes.physics.cameras.integrating import Integrating
from edgetem_nodes.physics.cameras.model import CameraModel

CAMERAS = {camera.name: camera for camera in (Ideal, HybridPixel, Integrating, ActivePixel)}
"""Every camera by its name."""

__all__ = ["CAMERAS", "ActivePixel", "CameraModel", "HybridPixel", "Ideal", "Integrating", "make_camera"]


def make_camera(name: str, high_tension: float, **options: object) -> CameraModel:
    """A camera by name, for electrons of `high_tension` [V]; options are the attributes of its class.

    Raises
    ------
    ValueError : the name is not one of `CAMERAS`, or a value is outside what the camera allows.
    """
    if name not in CAMERAS:
        raise ValueError(f"camera {name!r} is not one of {', '.join(CAMERAS)}")
    if name == Ideal.name:
        return Ideal(**options)
    return CAMERAS[name](high_tension=high_tension, **options)
