"""Beam and scan of a micro-scan, and the fine grid on which its atoms are sought."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.physics.optics import Probe

PIXEL = 0.35e-10
"""Distance [m] of two points of the fine grid: it samples what 30 mrad at 80 kV transfers, 2 alpha / lambda."""
MARGIN = 2.2e-10
"""How far [m] the fine grid reaches beyond the outermost probes at focus."""
FARTHEST = 1e-9
"""Distance of neighbouring probes [m] from which they are no micro-scan."""
_WIDENING = 0.5
"""Of a probe's radius out of focus, by which the grid reaches farther."""
BEATING = 0.12
"""Part of the spacing of a lattice's rows within which a scan's step is too like it, measured: see docs/micro_scan.md."""
SOURCE_SIZE = 0.5e-10
"""Full width at half maximum [m] of the source's image that is assumed, where none is stated."""


class BeatingWarning(UserWarning):
    """Steps of a micro-scan that are nearly the distance of a sheet's rows of atoms: probes then see the same of every row."""


@dataclass(frozen=True)
class MicroScan:
    """A square of probe positions about the site, under one beam. SI units.

    Attributes
    ----------
    probe : the illumination as far as it is known.
    points : probes along each axis; step : their distance [m].
    outer_angle : radius up to which the camera sees the whole circle [rad].
    electrons : in one pattern.
    margin : how far the fine grid reaches beyond the outermost probes [m]; 0: as far as they see, by the defocus.

    Raises
    ------
    ValueError : fewer than 2 points, a step or a number of electrons that is not positive, probes `FARTHEST` apart or more.
    """

    probe: Probe
    points: int
    step: float
    outer_angle: float
    electrons: float
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ValueError(f"a micro-scan of {self.points} x {self.points} patterns is none: it needs 2 or more an axis")
        for name in ("step", "outer_angle", "electrons"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} {getattr(self, name):g} of a micro-scan is not positive")
        if self.step >= FARTHEST:
            raise ValueError(f"step {self.step:g} m of a micro-scan is {FARTHEST:g} m or more: probes that far apart do not "
                             "see the same atoms; lengths are in metres")
        if not self.margin:
            radius = abs(self.probe.defocus) * self.probe.semi_convergence_angle
            object.__setattr__(self, "margin", MARGIN + _WIDENING * radius)

    @property
    def span(self) -> float:
        """From the first probe to the last along an axis [m]."""
        return (self.points - 1) * self.step

    def beats_with(self, spacing: float) -> bool:
        """Whether probes in a line see nearly the same of rows of atoms that are `spacing` [m] apart across it."""
        return abs(self.step / spacing - 1) < BEATING

    def line(self) -> np.ndarray:
        """Coordinate (points,) of the probes along an axis [m]; 0 is the site."""
        return (np.arange(self.points) - (self.points - 1) / 2) * self.step

    def positions(self) -> np.ndarray:
        """Probe positions (points * points, 2), (y, x), row by row [m]."""
        y, x = np.meshgrid(self.line(), self.line(), indexing="ij")
        return np.stack([y.ravel(), x.ravel()], axis=-1)

    def grid(self) -> np.ndarray:
        """Coordinate (m,) of the fine grid's points along an axis [m]; 0 is the site."""
        count = math.ceil((self.span + 2 * self.margin) / PIXEL - 1e-9)
        return (np.arange(count) - (count - 1) / 2) * PIXEL

    def with_defocus(self, defocus: float) -> MicroScan:
        """The same, grid included, with another defocus [m]."""
        return replace(self, probe=self.probe.refocused(defocus))
