"""Sources of detector frames. A source is loaded only when the configuration names it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.physics.scan import Axis


class DetectorSource(Protocol):
    """What the detector node asks of a camera, spectrometer, simulation or file."""

    name: str
    """Of the detector, e.g. "pixelated", "eels", "eds"."""
    frame_shape: tuple[int, ...]
    """(ky, kx) or (energy,)."""
    dtype: np.dtype
    """Little-endian."""
    axes: list[Axis]
    """Of the frame's dimensions, SI units."""
    pausable: bool
    """Whether frames wait until they are read."""
    real_time: bool
    """Whether `read` takes as long as the dwell time says."""

    def read(self, positions: np.ndarray, dwell: float, sequence: int, first_index: int) -> np.ndarray:
        """Frames (n, *frame_shape) at positions (n, 2), (y, x) [m].

        Parameters
        ----------
        dwell : [s] a position.
        sequence, first_index : running number of the probe path, and of the first frame in it.

        Raises
        ------
        ValueError : a position is outside the field, or the frames cannot be had; the message says why.
        """

    def close(self) -> None:
        """Release the detector."""


def make_source(instrument: Instrument, seed: int) -> DetectorSource:
    """The source that the configuration names.

    Raises
    ------
    ValueError, OSError : the configuration or a file it names cannot be used; the message says why.
    """
    if instrument.driver == "replay":
        from edgetem_nodes.detector.sources.replay import ReplaySource

        return ReplaySource(instrument)
    from edgetem_nodes.detector.sources.simulated import SimulatedSource

    return SimulatedSource(instrument, seed)
