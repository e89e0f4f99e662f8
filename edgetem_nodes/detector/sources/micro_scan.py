"""The detector "micro_scan" of the virtual microscope: its camera, which takes a square of patterns at every position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetem_nodes.detector.sources.simulated import SimulatedSource
from edgetem_nodes.graph.instrument import Instrument, micro_scan
from edgetem_nodes.physics.exposure import MICRO_SCAN, Exposure
from edgetem_nodes.physics.scan import Axis


class MicroScanSource:
    """See `DetectorSource`: frames (y, x, ky, kx) of the camera of a simulated source, which has seen what both have read.

    Parameters
    ----------
    camera : whose patterns they are; it is prepared, resumed and closed for both. instrument : of both.

    Raises
    ------
    ValueError : the instrument takes no micro-scans; the message says why.
    """

    name = MICRO_SCAN
    pausable = True
    real_time = False

    def __init__(self, camera: SimulatedSource, instrument: Instrument) -> None:
        self._scan, self._camera = micro_scan(instrument), camera
        self._shortest = instrument.limits.shortest_dwell_ms * 1e-3
        self.frame_shape = (self._scan.points, self._scan.points, *camera.frame_shape)
        self.dtype = camera.dtype

    @property
    def axes(self) -> list[Axis]:
        """Of a frame: the probes about their position, then the pattern at the camera length that was commanded last."""
        return [*self._scan.axes, *self._camera.axes]

    def prepare(self) -> None:
        """The camera is prepared for itself."""

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] that leaves each probe less than the shortest one, or than a frame of the camera needs."""
        each = dwell / self._scan.count
        if each < self._shortest * (1 - 1e-9):
            raise ValueError(f"dwell time {dwell * 1e3:g} ms gives each of the {self._scan.count} probes of a micro-scan "
                             f"{each * 1e3:g} ms; the shortest is {self._shortest * 1e3:g} ms")
        self._camera.check_dwell(each)

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """The camera is resumed for itself."""

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Frames (count, *frame_shape) of micro-scans; see `SimulatedSource.read`.

        Raises
        ------
        ValueError : a position outside the field, or an exposure of another micro-scan than the configuration says.
        """
        if exposure.micro_scan != self._scan:
            raise ValueError(f"the probe path asks for {exposure.micro_scan}, this detector takes {self._scan}: give "
                             "microscope and detector the same instrument.micro_scan")
        return self._camera.read(exposure, first, count)

    def close(self) -> None:
        """The camera is closed for itself."""
