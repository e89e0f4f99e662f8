"""What is known of the instrument where patterns are turned into angles and images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgetem_nodes.featurizer.features import centre
from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.scan import Axis


@dataclass(frozen=True)
class PatternInstrument:
    """Beam and detector. SI units.

    Attributes
    ----------
    high_tension, semi_convergence_angle : of the beam [V, rad].
    rotation, flipped : of the scan on the detector, see `DetectorGeometry`.
    center : (y, x) angle of the undeflected beam by the frames' axes [rad].
    """

    high_tension: float
    semi_convergence_angle: float
    rotation: float = 0.0
    flipped: bool = False
    center: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, parameters: Parameters) -> PatternInstrument:
        """What the featurizer's parameters say; raises ValueError where `geometry.center_mrad` is not two numbers."""
        geometry, beam = parameters.geometry, parameters.instrument
        y, x = centre(geometry.center_mrad, "geometry.center_mrad")
        return cls(beam.high_tension_kV * 1e3, beam.semi_convergence_mrad * 1e-3, math.radians(geometry.rotation_deg),
                   geometry.flipped, (y * 1e-3, x * 1e-3))

    def geometry(self, axes: tuple[Axis, ...]) -> DetectorGeometry:
        """Of frames with these axes; raises ValueError where they are no patterns in angles."""
        stated = DetectorGeometry.of_axes(axes, self.semi_convergence_angle)
        center = tuple(c + angle / stated.pixel_angle for c, angle in zip(stated.center, self.center, strict=True))
        return replace(stated, center=center, rotation=self.rotation, flipped=self.flipped)
