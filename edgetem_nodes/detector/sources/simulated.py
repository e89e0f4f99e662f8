"""Diffraction patterns of the simulated sheet on a counting pixelated detector."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, simulation
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.scan import Axis


class SimulatedSource:
    """See `DetectorSource`. A frame depends on seed, position, dwell time, probe path and index, not on how it is read."""

    name = "pixelated"
    pausable = True
    real_time = False

    def __init__(self, instrument: Instrument, seed: int) -> None:
        self._simulation = simulation(instrument, seed)
        self._current = instrument.probe_current_pA * 1e-12
        camera = self._simulation.settings.camera
        self.frame_shape = (camera.pixels, camera.pixels)
        self.dtype = np.dtype("<u2")
        self.axes = [Axis(name, "rad", camera.pixel_angle, camera.offset, camera.pixels) for name in ("ky", "kx")]
        self._simulation.phase_object  # noqa: B018  (made now: the first frame must not wait for it)

    def read(self, positions: np.ndarray, dwell: float, sequence: int, first_index: int) -> np.ndarray:
        """Counted patterns (n, ky, kx) uint16; raises ValueError for a position outside the field."""
        self._simulation.settings.field.candidates(positions)
        return self._simulation.frames(positions, electrons(self._current, dwell), sequence, first_index)

    def close(self) -> None:
        """Nothing is held."""
