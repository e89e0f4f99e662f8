"""Drivers of the microscope's column, stage and scan. A driver is loaded only when the configuration names it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.physics.scan import ScanField


class NotSupported(Exception):  # noqa: N818  (a fact about the driver, not a failure)
    """The driver has no such control; the message names it and what to do."""


class NotSimulated(Exception):  # noqa: N818
    """The specimen is real: nobody knows the truth about it."""


@dataclass(frozen=True)
class Survey:
    """An image of the whole field: `data` float64 (channels, rows, columns) [counts]; `dose` [electrons]; `duration` [s]."""

    channels: list[str]
    data: np.ndarray
    dose: float
    duration: float


@dataclass(frozen=True)
class ColumnState:
    """What the column is set to and what its sensors say, under the names of Optics, StagePose and Holder; SI units.

    A name that is missing is not known.
    """

    commanded_optics: dict[str, float] = field(default_factory=dict)
    sensed_optics: dict[str, float] = field(default_factory=dict)
    commanded_stage: dict[str, float] = field(default_factory=dict)
    sensed_stage: dict[str, float] = field(default_factory=dict)
    commanded_holder: dict[str, float] = field(default_factory=dict)
    sensed_holder: dict[str, float] = field(default_factory=dict)
    lens_names: list[str] = field(default_factory=list)
    lens_currents: list[float] = field(default_factory=list)
    vacuum: float = math.nan
    beam_blanked: bool = True


OPTICS_LIMITS = {"high_tension": (1e3, 3e6), "probe_current": (0.0, 1e-6), "semi_convergence_angle": (0.0, 0.1),
                 "camera_length": (0.0, 100.0), "defocus": (-1e-4, 1e-4), "astigmatism": (0.0, 1e-4),
                 "astigmatism_angle": (-math.pi, math.pi), "coma": (0.0, 1e-3), "coma_angle": (-math.pi, math.pi),
                 "spherical_aberration": (-0.1, 0.1)}
"""Range of each control of the optics, in its SI unit: what no column goes beyond."""
STAGE_LIMITS = {"x": (-1.5e-3, 1.5e-3), "y": (-1.5e-3, 1.5e-3), "z": (-4e-4, 4e-4), "alpha": (-1.4, 1.4),
                "beta": (-0.7, 0.7)}
"""Range of each axis of the stage [m], [rad]."""


class MicroscopeDriver(Protocol):
    """What the microscope node asks of an instrument."""

    field: ScanField
    """Grid of positions that the probe can reach."""
    real_time: bool
    """Whether acquisition time is the wall clock's."""
    pixel_area_m2: float
    """Area of the specimen that shares the electrons of one position [m^2]."""

    def overview(self) -> Survey:
        """Survey the whole field."""

    def state(self) -> ColumnState:
        """Read settings and sensors now."""

    def set_optics(self, **changes: float) -> None:
        """Command optics by name; raises ValueError outside the range, NotSupported where the control cannot change."""

    def move_stage(self, **changes: float) -> None:
        """Move the stage; returns when it rests. Raises as `set_optics` does."""

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""

    def truths(self) -> list[str]:
        """Names of the quantities that `truth` knows; raises NotSimulated."""

    def truth(self, quantity: str) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns); raises NotSimulated, ValueError for an unknown quantity."""

    def electrons(self, count: int, dwell: float) -> float:
        """Electrons that `count` positions of `dwell` [s] cost."""

    def close(self) -> None:
        """Release the instrument, beam blanked."""


def check_range(changes: dict[str, float], limits: dict[str, tuple[float, float]], what: str) -> None:
    """Check commanded values by name.

    Raises
    ------
    ValueError : an unknown name, or a value that is not finite or outside its range.
    """
    for name, value in changes.items():
        if name not in limits:
            raise ValueError(f"{what} has no control {name!r}; it has {', '.join(limits)}")
        low, high = limits[name]
        if not low <= value <= high:
            raise ValueError(f"{name} {value:g} is outside the range of the {what}, {low:g} to {high:g} (SI units)")


def make_driver(instrument: Instrument, seed: int) -> MicroscopeDriver:
    """The driver that the configuration names.

    Raises
    ------
    ValueError, OSError : the configuration or a file it names cannot be used; the message says why.
    """
    if instrument.driver == "replay":
        from edgetem_nodes.microscope.drivers.replay import ReplayDriver

        return ReplayDriver(instrument)
    from edgetem_nodes.microscope.drivers.simulated import SimulatedDriver

    return SimulatedDriver(instrument, seed)
