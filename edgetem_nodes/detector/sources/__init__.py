"""Sources of detector frames. A source is loaded only when the configuration names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import Axis


class DetectorSource(Protocol):
    """What the detector node asks of a camera, spectrometer, simulation or file.

    A source that can pause may offer `read_into(exposure, first, frames)` besides `read`: it fills an array that is there,
    which spares a copy.
    """

    name: str
    """Of the detector, e.g. "pixelated", "eels", "eds"."""
    frame_shape: tuple[int, ...]
    """(ky, kx) or (energy,); of micro-scans (y, x, ky, kx)."""
    dtype: np.dtype
    """Little-endian."""
    axes: list[Axis]
    """Of the frame's dimensions, SI units; looked at afresh for every block, since optics may change them."""
    pausable: bool
    """Whether frames wait until they are read."""
    real_time: bool
    """Whether `read` takes as long as the dwell time says."""

    def prepare(self) -> None:
        """Load and compute what the first frame would wait for; called once, before anything else."""

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] that the detector cannot follow (ValueError, which names value and limit)."""

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """An experiment goes on: exposures before, and how many positions of each the beam visited."""

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Frames (count, *frame_shape) of an exposure, from its position `first` on; read in order, from 0.

        Raises
        ------
        ValueError : a position is outside the field, or the frames cannot be had; the message says why.
        """

    def close(self) -> None:
        """Release the detector."""


def make_source(instrument: Instrument, seed: int, places: int = 0) -> DetectorSource:
    """The source that the configuration names, judged but not yet prepared: nothing is computed.

    With `places` a simulated camera draws from patterns at so many places along each axis of the field, see `stream`.

    Raises
    ------
    ValueError, OSError : the configuration or a file it names cannot be used; the message says why.
    """
    if places:
        from edgetem_nodes.detector.sources.stream import StreamSource

        return StreamSource(instrument, seed, places)
    if instrument.driver == "replay":
        from edgetem_nodes.detector.sources.replay import ReplaySource

        return ReplaySource(instrument)
    from edgetem_nodes.detector.sources.simulated import SimulatedSource

    return SimulatedSource(instrument, seed)


def make_micro_scan_source(source: DetectorSource, instrument: Instrument) -> DetectorSource:
    """The detector "micro_scan" beside the `source` that `make_source` made.

    Raises
    ------
    ValueError : this source or instrument takes no micro-scans; the message says why and what to do.
    """
    from edgetem_nodes.graph.instrument import micro_scan

    micro_scan(instrument)
    from edgetem_nodes.detector.sources.simulated import SimulatedSource

    if not isinstance(source, SimulatedSource):
        raise ValueError("micro-scans cannot be drawn from patterns that were computed before: set stream.places to 0")
    from edgetem_nodes.detector.sources.micro_scan import MicroScanSource

    return MicroScanSource(source, instrument)
