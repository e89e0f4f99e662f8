"""What is simulated: specimen, column, detector, and what goes wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from edgetem_nodes.physics.damage import Damage
from edgetem_nodes.physics.energy_loss.spectrometer import Spectrometer
from edgetem_nodes.physics.instabilities import Instabilities
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import WIDEST_ANNULUS, Annulus, Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions

CAMERA_PITCH = 55e-6
"""[m] of the camera's pixels (Medipix); over the camera length it is the angle of a pixel."""
DETECTORS = ("pixelated", "annular", "eels")
"""A camera behind the specimen; currents of bright field, annular dark field and high-angle dark field; a spectrometer."""


@dataclass(frozen=True)
class Settings:
    """A simulated experiment. Lengths [m], angles [rad].

    Attributes
    ----------
    specimen, options : name and options of `specimens.catalogue`.
    field : the scan at magnification 1; its origin must be (0, 0).
    probe, probe_current [A] : as configured.
    camera : the pixelated detector at the configured camera length; camera_model : name of `cameras.CAMERAS`;
        counter_depth : of a hybrid pixel camera [bit].
    detector : one of `DETECTORS`. spectrometer : of "eels".
    dark_field : annulus of the microscope's own dark-field detector; it takes the surveys.
    height : of the specimen over the eucentric plane.
    descan : shift of the pattern per distance from the scan's centre [rad/m].
    plasmon_background : whether patterns hold the electrons that excited a plasmon.

    Raises
    ------
    ValueError : the detector is unknown.
    """

    specimen: str
    options: SpecimenOptions
    field: ScanField
    probe: Probe
    probe_current: float
    camera: Camera
    camera_model: str = "ideal"
    counter_depth: int = 12
    detector: str = "pixelated"
    spectrometer: Spectrometer = Spectrometer()
    dark_field: Annulus = Annulus(60e-3, 200e-3)
    numerics: Numerics = Numerics()
    instabilities: Instabilities = Instabilities()
    damage: Damage = field(default_factory=Damage)
    height: float = 0.0
    descan: float = 0.0
    plasmon_background: bool = False

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"detector {self.detector!r} is not one of {', '.join(DETECTORS)}")

    @property
    def extent(self) -> tuple[float, float]:
        """Distance between the first and the last grid point, (y, x) [m]."""
        (rows, columns), step = self.field.shape, self.field.step
        return (rows - 1) * step[0], (columns - 1) * step[1]

    @cached_property
    def optics(self) -> dict[str, float]:
        """The configured optics by the names of Optics."""
        probe = self.probe
        return {"high_tension": probe.high_tension, "probe_current": self.probe_current,
                "semi_convergence_angle": probe.semi_convergence_angle,
                "camera_length": CAMERA_PITCH / self.camera.pixel_angle, "defocus": probe.defocus,
                "astigmatism": probe.astigmatism, "astigmatism_angle": probe.astigmatism_angle, "coma": probe.coma,
                "coma_angle": probe.coma_angle, "spherical_aberration": probe.spherical_aberration,
                "beam_shift_y": 0.0, "beam_shift_x": 0.0, "magnification": 1.0}

    def annuli(self, disc: float) -> tuple[Annulus, Annulus, Annulus]:
        """Bright field, annular dark field from there to the high-angle dark field, and that, for a `disc` [rad].

        Bright field ends beyond the disc's edge, at 1.2 times its angle. The angles are those at the specimen: a change of
        camera length moves no detector.
        """
        border = 1.2 * disc
        inner = max(self.dark_field.inner, 1.05 * border)
        outer = min(max(self.dark_field.outer, 1.05 * inner), WIDEST_ANNULUS)
        return Annulus(0.0, border), Annulus(border, inner), Annulus(inner, outer)
