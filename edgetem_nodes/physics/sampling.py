"""How finely a diffraction experiment is sampled: the window around a probe.

A window is a square of the specimen around a probe, wide enough for the probe anywhere in the specimen. Its edge is a
multiple (the oversampling) of wavelength / pixel angle: a whole one for a thin specimen, whose pixels are sums of samples;
of a quarter for a thick one, whose pixels are integrals (`pixels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgetem_nodes.physics.fourier import fast_length
from edgetem_nodes.physics.multislice import clear_angle
from edgetem_nodes.physics.numerics import Numerics, Slicing
from edgetem_nodes.physics.optics import Camera, Probe

_GUARD, _GUARD_OF_DISC = 0.55, 1.68
"""Over the largest angle seen, and over the disc's: what several slices of a thin specimen need between the angle seen and the
Nyquist angle."""


_MOST_SAMPLES = 1 << 16
"""Along an axis of a window; one wave on so many would be 32 GiB."""
_STEPS = 4
"""Widths of a thick specimen's window in wavelength / pixel angle."""


@dataclass(frozen=True)
class Window:
    """The grid around one probe: samples along an axis, their distance [m], samples a camera pixel, slices, and what a probe
    keeps free of other probes in its window on all sides [m]."""

    samples: int
    step: float
    oversampling: float
    slicing: Slicing
    margin: float = field(compare=False)

    @property
    def band_limited(self) -> bool:
        """Whether only two thirds of the Nyquist angle are used."""
        return not self.slicing.thin

    @property
    def length(self) -> float:
        """Edge of the window [m]."""
        return self.samples * self.step


def window(probe: Probe, camera: Camera, thickness: float, numerics: Numerics, largest_angle: float,
           wider: int = 0, seen: float = 0.0) -> Window:
    """The smallest window that holds the probe and the angles up to `largest_angle` [rad], or one by `wider` steps wider.

    A thin specimen needs no more than that angle and the disc's radius below the Nyquist angle; multislice needs its band
    limit. `seen` [rad]: up to which angle diffraction is wanted pixel by pixel, and not only summed over detectors.

    Raises
    ------
    ValueError : it would have more samples than any memory holds.
    """
    slicing = numerics.slicing(thickness, probe.wavelength, largest_angle)
    unit = probe.wavelength / camera.pixel_angle
    margin, steps = probe.radius(thickness, seen), 1 if slicing.thin else _STEPS
    oversampling = (max(steps + steps // _STEPS, math.ceil(2 * steps * margin / unit - 1e-2)) + wider) / steps
    length = oversampling * unit
    angle_step = camera.pixel_angle / oversampling
    reach = probe.reach(angle_step, numerics.blur(probe.semi_convergence_angle, camera.pixel_angle))
    if slicing.thin:
        last = math.ceil(largest_angle / angle_step - 1e-6)
        # What one slice scatters out of the window comes back in at its other side; the next must not scatter it into sight.
        guard = reach if slicing.count == 1 else max(math.ceil(_GUARD * last), math.ceil(_GUARD_OF_DISC * reach))
        samples = 2 * (last + guard + 1)
    else:
        nyquist = max(largest_angle, (reach + 1) * angle_step) * length / probe.wavelength
        samples = math.ceil(nyquist / clear_angle(1.0, probe.high_tension) * probe.wavelength - 1e-6)
        samples = max(samples, math.ceil(length / numerics.sampling))
    if samples > _MOST_SAMPLES:
        raise ValueError(f"a probe window of {length * 1e9:.3g} nm for angles up to {largest_angle * 1e3:.3g} mrad needs "
                         f"{samples} samples an axis, and at most {_MOST_SAMPLES} are made: use a smaller probe (defocus, "
                         "aberrations, convergence), a thinner specimen or larger camera pixels")
    samples = fast_length(samples)
    return Window(samples, length / samples, oversampling, slicing, margin)
