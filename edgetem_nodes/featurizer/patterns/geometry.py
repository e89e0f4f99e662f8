"""Where on the detector which angle lies, and how the detector is turned against the scan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from edgetem_nodes.physics.scan import Axis


@dataclass(frozen=True)
class DetectorGeometry:
    """From pixels to angles, and from the detector's axes to those of the scan. Vectors are (y, x).

    The angle [rad] of pixel p, in the detector's axes, is pixel_angle * distortion @ (p - center), where the centre of frame
    at scan position r [m] is center + descan @ (r - descan_origin). A deflection d in the detector's axes is, in the scan's
    axes, R(-rotation) d', where d' is d with y negated if `flipped` (the flip comes first) and R(a) turns x towards y by a:
    R(a) (y, x) = (y cos a + x sin a, x cos a - y sin a).

    Attributes
    ----------
    center : of the undeflected beam at scan position `descan_origin`, (y, x) [pixel].
    pixel_angle : [rad] a pixel.
    semi_convergence_angle : radius of the bright-field disk [rad]; 0: not known.
    distortion : (2, 2), symmetric, of determinant 1; the identity for a detector without ellipticity.
    descan : (2, 2) [pixel/m] shift of the pattern by scan position.
    rotation : of the scan's axes as seen on the detector, x towards y [rad].
    flipped : whether the detector's y runs against the scan's.
    descan_origin : (y, x) [m]; the middle of a scan keeps the errors of descan out of the centre.
    errors : standard errors by attribute name, in the same shape and unit; absent: taken as given, not measured.
    """

    center: tuple[float, float]
    pixel_angle: float
    semi_convergence_angle: float = 0.0
    distortion: np.ndarray = field(default_factory=lambda: np.eye(2))
    descan: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    rotation: float = 0.0
    flipped: bool = False
    descan_origin: tuple[float, float] = (0.0, 0.0)
    errors: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pixel_angle > 0 or not math.isfinite(self.pixel_angle):
            raise ValueError(f"a pixel angle of {self.pixel_angle:g} rad is not positive")

    @classmethod
    def of_axes(cls, axes: tuple[Axis, ...], semi_convergence_angle: float = 0.0) -> DetectorGeometry:
        """What calibrated axes (y, x) of frames say: undeflected beam at angle 0, no rotation.

        Raises
        ------
        ValueError : the frames are not patterns with axes in rad and square pixels.
        """
        if len(axes) != 2 or any(axis.unit != "rad" for axis in axes):
            shown = ", ".join(f"{axis.name} [{axis.unit or 'uncalibrated'}]" for axis in axes)
            raise ValueError(f"patterns need two axes in rad; the frames have {shown}: state the pixel's angle")
        y, x = axes
        if not math.isclose(abs(y.scale), abs(x.scale), rel_tol=1e-3):
            raise ValueError(f"pixels of {y.scale * 1e3:g} x {x.scale * 1e3:g} mrad are not square")
        if y.scale < 0 or x.scale < 0:
            raise ValueError("the angle falls along a detector axis: turn the frames so that it rises")
        return cls((-y.offset / y.scale, -x.offset / x.scale), x.scale, semi_convergence_angle)

    def angles(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Angle (y, x) of every pixel in the detector's axes, two arrays of the frame's shape [rad]."""
        y, x = np.meshgrid(np.arange(shape[0]) - self.center[0], np.arange(shape[1]) - self.center[1], indexing="ij")
        m = self.pixel_angle * np.asarray(self.distortion)
        return m[0, 0] * y + m[0, 1] * x, m[1, 0] * y + m[1, 1] * x

    def to_scan(self) -> np.ndarray:
        """Matrix (2, 2) that turns vectors (y, x) from the detector's axes to the scan's."""
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        sign = -1.0 if self.flipped else 1.0
        return np.array([[sign * cosine, -sine], [sign * sine, cosine]])

    def to_detector(self) -> np.ndarray:
        """Matrix (2, 2) that turns vectors (y, x) from the scan's axes to the detector's: the inverse of `to_scan`."""
        return self.to_scan().T

    def shifts(self, positions: np.ndarray) -> np.ndarray:
        """By how much the pattern of each scan position (frames, 2) [m] lies off `center`: (frames, 2) [pixel]."""
        return (np.asarray(positions, float).reshape(-1, 2) - self.descan_origin) @ np.asarray(self.descan).T

    def with_scale(self, pixel_angle: float) -> DetectorGeometry:
        """The same with another angle a pixel [rad]; the disk keeps its radius in pixels."""
        return replace(self, pixel_angle=pixel_angle,
                       semi_convergence_angle=self.semi_convergence_angle * pixel_angle / self.pixel_angle)
