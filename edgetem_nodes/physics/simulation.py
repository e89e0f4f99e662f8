"""The simulated experiment: specimen, illumination, camera and dark-field detector under one seed.

Microscope and detector each evaluate it: every result is a pure function of the settings, the seed, and the numbers of
acquisition and frame. Parts are made on first use, so the one that needs only the survey never computes a potential.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.phase_object import Camera, PhaseObject, Probe, margin
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.sheet import Sheet


@dataclass(frozen=True)
class Settings:
    """What is simulated. Lengths [m], angles [rad]."""

    specimen: str
    field: ScanField
    strain: float
    probe: Probe
    camera: Camera
    dark_field_inner: float
    dark_field_outer: float

    @property
    def extent(self) -> tuple[float, float]:
        """Distance between the first and the last grid point, (y, x) [m]."""
        (rows, columns), step = self.field.shape, self.field.step
        return (rows - 1) * step[0], (columns - 1) * step[1]


class Simulation:
    """Patterns, survey and truth of a simulated sheet. The field's origin must be (0, 0)."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    @property
    def _overscan(self) -> float:
        """How far a probe may stand outside the grid: half a step [m]."""
        return max(self.settings.field.step) / 2

    @cached_property
    def sheet(self) -> Sheet:
        """The specimen."""
        settings = self.settings
        around = margin(settings.probe, settings.camera) + self._overscan
        return Sheet(settings.specimen, settings.extent, around, settings.strain, self.seed)

    @cached_property
    def phase_object(self) -> PhaseObject:
        """What the beam meets."""
        settings, sheet = self.settings, self.sheet
        return PhaseObject(sheet.positions, sheet.atomic_numbers, settings.extent, settings.probe, settings.camera,
                           self._overscan)

    def frames(self, positions: np.ndarray, electrons: float, sequence: int, first_index: int) -> np.ndarray:
        """Counted diffraction patterns (n, ky, kx) uint16 at positions (n, 2), (y, x) [m].

        Parameters
        ----------
        electrons : mean number of electrons in the beam during a frame.
        sequence, first_index : number of the acquisition and of the first frame in it; they and the seed fix the noise.

        Raises
        ------
        ValueError : a position is outside the field.
        """
        expected = self.phase_object.patterns(positions)
        expected *= np.float32(electrons)
        return counting.count(expected, self.seed, sequence, first_index, np.dtype("<u2"))

    def survey(self, electrons: float) -> np.ndarray:
        """Counted annular dark-field image of the whole grid, float64 (rows, columns) [electrons], `electrons` a pixel."""
        from edgetem_nodes.physics.dark_field import collected_fraction

        settings, sheet = self.settings, self.sheet
        fraction = collected_fraction(sheet.positions, sheet.atomic_numbers, settings.extent, settings.field.positions(),
                                      settings.probe, settings.dark_field_inner, settings.dark_field_outer)
        counts = counting.generator(self.seed, counting.SURVEY, 0).poisson(fraction * electrons)
        return counts.astype(float).reshape(settings.field.shape)

    def truth(self, quantity: str) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns) of a quantity that the specimen knows; raises ValueError for another."""
        unit, values = self.sheet.truth(quantity, self.settings.field.positions())
        return unit, values.reshape(self.settings.field.shape)
