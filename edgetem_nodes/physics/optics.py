"""Illumination and detection of a scanning transmission electron microscope: probe, aberrations, camera, annular detectors.

Angles are wavelength times spatial frequency. A wave in the back focal plane is aperture * exp(-i chi),
chi = 2 pi / lambda (a^2/2 (C10 + C12 cos 2(phi - phi12)) + a^3/3 C21 cos(phi - phi21) + a^4/4 C30), C10 = -defocus
(Kirkland, Advanced Computing in Electron Microscopy, chapters 2 and 3; Krivanek et al., Ultramicroscopy 78, 1, 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from edgetem_nodes.physics.electrons import ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT, wavelength

FWHM = 2 * np.sqrt(2 * np.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""
WIDEST_CAMERA = 0.3
"""Largest angle [rad] of a camera's border along an axis: in its corner, at 0.42 rad, sine and angle differ by 3 %."""
WIDEST_ANNULUS = 0.5
"""Largest angle [rad] of an annular detector: the theory is that of small angles, and sine and angle differ by 4 % there."""
_EDGE = 4.0
"""Standard deviations beyond which a blurred edge is dark."""
_WANDERING = 0.75
_AIRY = 1.619
"""Radius of the diffraction-limited probe over wavelength / semi-convergence angle: the third dark ring, 94 % of it."""


@dataclass(frozen=True)
class Camera:
    """A square pixelated detector: pixels along an axis, and the angle that a pixel subtends [rad].

    Raises ValueError if there are no pixels, the angle is not positive, or the border lies beyond `WIDEST_CAMERA`.
    """

    pixels: int
    pixel_angle: float

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"a camera of {self.pixels} pixels sees nothing: it needs at least 1")
        if not self.pixel_angle > 0:
            raise ValueError(f"pixel angle {self.pixel_angle} rad is not positive")
        if not self.edge <= WIDEST_CAMERA * (1 + 1e-9):
            raise ValueError(f"a camera of {self.pixels} pixels of {self.pixel_angle * 1e3:.4g} mrad reaches "
                             f"{self.edge * 1e3:.4g} mrad, beyond the {WIDEST_CAMERA * 1e3:.4g} mrad up to which angles are "
                             "small: use fewer or smaller pixels, or a longer camera length")

    @property
    def offset(self) -> float:
        """Angle of pixel 0 [rad]: the undiffracted beam is centred on pixel pixels // 2."""
        return -(self.pixels // 2) * self.pixel_angle

    @property
    def edge(self) -> float:
        """Largest angle [rad] along an axis that the camera sees: the outer border of its farthest pixel."""
        return (self.pixels // 2 + 0.5) * self.pixel_angle


@dataclass(frozen=True)
class Annulus:
    """An annular detector between two scattering angles [rad]; inner 0 is a disc (bright field).

    Raises ValueError if the angles are not 0 <= inner < outer, or beyond `WIDEST_ANNULUS`.
    """

    inner: float
    outer: float

    def __post_init__(self) -> None:
        if not 0 <= self.inner < self.outer:
            raise ValueError(f"annular detector from {self.inner * 1e3:.4g} to {self.outer * 1e3:.4g} mrad is empty: it "
                             "needs 0 <= inner < outer")
        if not self.outer <= WIDEST_ANNULUS * (1 + 1e-9):
            raise ValueError(f"annular detector from {self.inner * 1e3:.4g} to {self.outer * 1e3:.4g} mrad reaches beyond "
                             f"the {WIDEST_ANNULUS * 1e3:.4g} mrad up to which angles are small: lower its outer angle")


@dataclass(frozen=True)
class Probe:
    """Illumination. Lengths [m], angles [rad], high tension [V].

    Attributes
    ----------
    high_tension, semi_convergence_angle : of the beam.
    defocus : -C10; positive is underfocus.
    astigmatism, astigmatism_angle : C12 and phi12; coma, coma_angle : C21 and phi21; spherical_aberration : C30.
    source_size : full width at half maximum of the source's image at the specimen.
    chromatic_aberration : Cc; energy_spread : of the beam, full width at half maximum [eV].

    Raises
    ------
    ValueError : a high tension, semi-convergence angle, size or spread that cannot be; a value that is not finite.
    """

    high_tension: float
    semi_convergence_angle: float
    defocus: float = 0.0
    astigmatism: float = 0.0
    astigmatism_angle: float = 0.0
    coma: float = 0.0
    coma_angle: float = 0.0
    spherical_aberration: float = 0.0
    source_size: float = 0.0
    chromatic_aberration: float = 0.0
    energy_spread: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not np.isfinite(value):
                raise ValueError(f"{name} {value} is not a finite number")
        wavelength(self.high_tension)
        if not 0 < self.semi_convergence_angle < 0.2:
            raise ValueError(f"semi-convergence angle {self.semi_convergence_angle * 1e3:.4g} mrad is not between 0 and "
                             "200 mrad")
        if self.source_size < 0:
            raise ValueError(f"source size {self.source_size * 1e9:.4g} nm is negative: 0 is a point source")
        if self.energy_spread < 0:
            raise ValueError(f"energy spread {self.energy_spread:.4g} eV is negative: 0 is a monochromatic beam")
        if self.chromatic_aberration < 0:
            raise ValueError(f"chromatic aberration {self.chromatic_aberration * 1e3:.4g} mm is negative: 0 switches it off")

    @cached_property
    def wavelength(self) -> float:
        """[m]."""
        return wavelength(self.high_tension)

    @property
    def focal_spread(self) -> float:
        """Standard deviation of the defocus [m]: Cc dE/E (1 + E/mc^2) / (1 + E/2mc^2) (Kirkland, chapter 3)."""
        relative = ELEMENTARY_CHARGE * self.high_tension / (ELECTRON_MASS * SPEED_OF_LIGHT ** 2)
        spread = self.energy_spread / FWHM / self.high_tension
        return self.chromatic_aberration * spread * (1 + relative) / (1 + relative / 2)

    @property
    def source_sigma(self) -> float:
        """Standard deviation of the source's image along an axis [m]."""
        return self.source_size / FWHM

    def refocused(self, defocus: float) -> Probe:
        """The same probe with another defocus [m]."""
        return replace(self, defocus=defocus)

    def aberration_phase(self, angle_y: np.ndarray, angle_x: np.ndarray) -> np.ndarray:
        """chi [rad] at angles [rad] that broadcast against each other."""
        square = angle_y ** 2 + angle_x ** 2
        cos2, sin2 = np.cos(2 * self.astigmatism_angle), np.sin(2 * self.astigmatism_angle)
        twofold = (angle_x ** 2 - angle_y ** 2) * cos2 + 2 * angle_x * angle_y * sin2
        onefold = square * (angle_x * np.cos(self.coma_angle) + angle_y * np.sin(self.coma_angle))
        path = ((self.astigmatism * twofold - self.defocus * square) / 2 + self.coma * onefold / 3
                + self.spherical_aberration * square ** 2 / 4)
        return 2 * np.pi / self.wavelength * path

    def aperture(self, step: float, blur: float = 0.0) -> np.ndarray:
        """Wave in the aperture, complex128 (2n + 1, 2n + 1), (y, x), at angles (-n..n) * step [rad]; sum of |.|^2 is 1.

        Parameters
        ----------
        blur : standard deviation [rad] of the Gaussian by which the edge is blurred, and moved outwards by blur / sqrt(pi) so
            that the disc of intensity keeps its size; 0: the edge is a ramp one step wide.
        """
        reach = self.reach(step, blur)
        angle = np.arange(-reach, reach + 1) * step
        y, x = angle[:, None], angle[None, :]
        inside = self.semi_convergence_angle + blur / np.sqrt(np.pi) - np.hypot(y, x)
        covered = ndtr(inside / blur) * (inside > -_EDGE * blur) if blur else np.clip(inside / step + 0.5, 0.0, 1.0)
        covered[len(angle) // 2, len(angle) // 2] = 1.0
        wave = covered * np.exp(-1j * self.aberration_phase(y, x))
        return wave / np.sqrt((np.abs(wave) ** 2).sum())

    def reach(self, step: float, blur: float = 0.0) -> int:
        """Number of steps [rad] from the axis to the last sample of the aperture, as `aperture` has it, that is not dark."""
        if blur:
            return math.ceil((self.semi_convergence_angle + (_EDGE + 1 / math.sqrt(math.pi)) * blur) / step)
        return int(np.ceil(self.semi_convergence_angle / step + 0.5)) - 1 or 1

    def contrast_transfer(self, frequency_y: np.ndarray, frequency_x: np.ndarray) -> np.ndarray:
        """Transfer of a weak phase object to axial bright field, 2 sin(chi) with its envelopes, at frequencies [1/m].

        By reciprocity that of a conventional microscope; negative where atoms are dark. The focal spread's envelope is
        exp(-(pi lambda f^2 D)^2 / 2), the source's exp(-2 pi^2 s^2 f^2) (Reimer & Kohl, Transmission Electron Microscopy,
        chapter 6).
        """
        y, x = self.wavelength * np.asarray(frequency_y), self.wavelength * np.asarray(frequency_x)
        square = (y ** 2 + x ** 2) / self.wavelength ** 2
        temporal = np.exp(-0.5 * (np.pi * self.wavelength * self.focal_spread * square) ** 2)
        spatial = np.exp(-2 * np.pi ** 2 * self.source_sigma ** 2 * square)
        inside = np.hypot(y, x) <= self.semi_convergence_angle
        return inside * 2 * np.sin(self.aberration_phase(y, x)) * temporal * spatial

    def radius(self, thickness: float = 0.0, seen: float = 0.0) -> float:
        """Radius [m] of the probe anywhere in a specimen of `thickness` [m] whose entrance surface is at z = 0.

        Diffraction-limited radius, plus the largest transverse ray aberration lambda / 2 pi |grad chi| at either surface
        with three standard deviations of the focal spread, plus half the beam broadening of a dense solid; or, if the
        diffraction up to an angle `seen` [rad] is wanted pixel by pixel, plus what waves scattered by this angle travel
        sideways from three quarters of the thickness on.
        """
        angle = np.linspace(-1, 1, 41) * self.semi_convergence_angle
        y, x = np.meshgrid(angle, angle, indexing="ij")
        inside = np.hypot(y, x) <= self.semi_convergence_angle * (1 + 1e-9)
        rays = 0.0
        for defocus in (self.defocus, self.defocus - thickness):
            slope = np.gradient(self.refocused(defocus).aberration_phase(y, x), angle, angle, edge_order=2)
            rays = max(rays, float(np.hypot(*slope)[inside].max()) * self.wavelength / (2 * np.pi))
        rays += 3 * self.focal_spread * self.semi_convergence_angle
        return _AIRY * self.wavelength / self.semi_convergence_angle + rays + max(
            broadening(thickness, self.high_tension) / 2, _WANDERING * thickness * seen)


def check_camera(probe: Probe, camera: Camera) -> None:
    """Refuse a camera that does not hold the bright-field disc.

    Raises
    ------
    ValueError : it does not.
    """
    if probe.semi_convergence_angle > camera.edge - camera.pixel_angle / 2:
        raise ValueError(f"semi-convergence angle {probe.semi_convergence_angle * 1e3:.3g} mrad does not fit on a camera of "
                         f"{camera.pixels} pixels of {camera.pixel_angle * 1e3:.3g} mrad, which ends at "
                         f"{(camera.edge - camera.pixel_angle / 2) * 1e3:.4g} mrad: enlarge either")


def full_width(probe: Probe) -> float:
    """Full width at half maximum [m] of a probe: diffraction, source and defocus added in quadrature."""
    diffraction = 0.51 * wavelength(probe.high_tension) / probe.semi_convergence_angle
    defocused = math.sqrt(2) * abs(probe.defocus) * probe.semi_convergence_angle
    return math.sqrt(diffraction ** 2 + probe.source_size ** 2 + defocused ** 2)


def broadening(thickness: float, high_tension: float) -> float:
    """Diameter [m] by which elastic scattering broadens a beam in a dense solid of `thickness` [m].

    b = 6.25e5 Z/E sqrt(rho / A) t^1.5 in cm, eV, g/cm^3 (Goldstein et al., SEM 1977, vol. 1, p. 315), for a chosen mean
    Z = 24, A = 54, rho = 6.5: 1.3 times as much as in strontium titanate, nine tenths of that in lead titanate.
    """
    return 1e-2 * 6.25e5 * 24 / high_tension * np.sqrt(6.5 / 54) * (100 * thickness) ** 1.5


def gaussian_quadrature(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Abscissae and weights (points,) of the mean over a standard normal variable (Gauss-Hermite)."""
    abscissae, weights = np.polynomial.hermite_e.hermegauss(points)
    return abscissae, weights / weights.sum()
