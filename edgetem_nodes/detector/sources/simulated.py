"""Frames of the virtual microscope's detector: a camera, annular detectors or a spectrometer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, simulation
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import Axis
from edgetem_nodes.physics.simulation import Simulation


class SimulatedSource:
    """See `DetectorSource`. A frame depends on settings, seed and exposures, not on how it is read."""

    pausable = True
    real_time = False

    def __init__(self, instrument: Instrument, seed: int) -> None:
        self._simulation = simulation(instrument, seed)
        self.name = self._simulation.settings.detector
        self.frame_shape = self._simulation.frame_shape
        self.dtype = self._simulation.camera_model.dtype
        self._optics = dict(self._simulation.settings.optics)
        self._last: Exposure | None = None
        self._read = 0
        self._simulation.verify()

    @property
    def simulation(self) -> Simulation:
        """What gives the frames."""
        return self._simulation

    @property
    def axes(self) -> list[Axis]:
        """Of a frame, at the camera length that was commanded last."""
        return self._simulation.axes(self._optics)

    def prepare(self) -> None:
        """Compute a pattern, and with it the potentials around the first grid point."""
        self._simulation.prepare()

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] shorter than a frame of the camera (ValueError)."""
        self._simulation.camera_model.check_dwell(dwell)

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """The specimen has received what it has, and the camera length stays as it was."""
        for exposure, count in history:
            self._simulation.expose(exposure, count)
        self._optics = dict(history[-1][0].optics)

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Frames (count, *frame_shape); raises ValueError for a position outside the field, or a dwell time that is too short.

        What earlier exposures did to the specimen is accounted for when the next one begins.
        """
        if self._last is not None and self._last is not exposure and self._last.sequence != exposure.sequence:
            self._simulation.expose(self._last, self._read)
            self._read = 0
        self._last, self._optics = exposure, dict(exposure.optics)
        frames = self._simulation.frames(exposure, first, count)
        self._read = max(self._read, first + count)
        return frames

    def point(self, exposure: Exposure) -> None:
        """Take note of what was commanded: `axes` are those of this exposure from now on."""
        self._optics = dict(exposure.optics)

    def close(self) -> None:
        """Nothing is held."""
