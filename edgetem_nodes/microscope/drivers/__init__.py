"""Drivers of the microscope's column, stage and scan. A driver is loaded only when the configuration names it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField

if TYPE_CHECKING:
    from edgetem_nodes.physics.specimens import Atoms


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
                 "spherical_aberration": (-0.1, 0.1), "beam_shift_y": (-1e-5, 1e-5), "beam_shift_x": (-1e-5, 1e-5),
                 "magnification": (1e-3, 1e4)}
"""Range of each control of the optics, in its SI unit: what no column goes beyond."""
STAGE_LIMITS = {"x": (-1.5e-3, 1.5e-3), "y": (-1.5e-3, 1.5e-3), "z": (-4e-4, 4e-4), "alpha": (-1.4, 1.4),
                "beta": (-0.7, 0.7)}
"""Range of each axis of the stage [m], [rad]."""
HOLDER_LIMITS = {"temperature": (0.0, 2000.0), "bias": (-1000.0, 1000.0)}
"""Range of each control of the holder [K], [V]."""
_UNITS = {"high_tension": "V", "probe_current": "A", "magnification": "", "semi_convergence_angle": "rad",
          "astigmatism_angle": "rad", "coma_angle": "rad", "alpha": "rad", "beta": "rad", "temperature": "K", "bias": "V"}
"""SI units of the controls whose unit is not the metre."""


class MicroscopeDriver(Protocol):
    """What the microscope node asks of an instrument."""

    field: ScanField
    """Grid of positions that the probe can reach; a change of optics may change it."""
    real_time: bool
    """Whether acquisition time is the wall clock's."""
    steered: bool
    """Whether images follow the commanded positions and their correction, as those of measured data do not."""
    pixel_area_m2: float
    """Area of the specimen that shares the electrons of one position [m^2]."""

    def overview(self, exposure: Exposure) -> Survey:
        """Survey the whole field; the exposure says what was commanded and when, its positions are the field's."""

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        """Image float64 (rows, columns) [counts] with the instrument's own dark-field detector.

        The exposure's positions are the pixels, row-major: a regular grid anywhere within the field.
        """

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """An experiment goes on: what was exposed before, as by `expose`, and what was commanded last."""

    def expose(self, exposure: Exposure, frames: int) -> None:
        """The first `frames` positions of an acquisition were exposed: for specimens that suffer, in order of time."""

    def state(self, elapsed: float) -> ColumnState:
        """Read settings and sensors now, at `elapsed` [s] of acquisition time."""

    def set_optics(self, **changes: float) -> None:
        """Command optics by name; raises ValueError outside the range, NotSupported where the control cannot change."""

    def move_stage(self, **changes: float) -> None:
        """Move the stage; returns when it rests. Raises as `set_optics` does."""

    def set_holder(self, **changes: float) -> None:
        """Command temperature [K] and bias [V]; the specimen follows in its own time. Raises as `set_optics` does."""

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""

    def truths(self) -> list[str]:
        """Names of the quantities that `truth` knows; raises NotSimulated."""

    def truth(self, quantity: str, exposure: Exposure) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns) as an exposure of the whole field finds it.

        Raises
        ------
        NotSimulated : there is none.
        ValueError : an unknown quantity.
        """

    def atoms(self, low: np.ndarray, high: np.ndarray, exposure: Exposure) -> Atoms:
        """Atoms with low <= (y, x) < high [m], where `truths` names "atoms"; raises NotSimulated."""

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
            raise ValueError(f"{name} {value:g} is outside the range of the {what}, {low:g} to {high:g} "
                             f"{_UNITS.get(name, 'm')}".rstrip())


def initial_exposure(driver: MicroscopeDriver, dwell: float, period: float, sequence: int) -> Exposure:
    """An exposure of the whole field at the start, with what is commanded then: a survey, or a reference map.

    Parameters
    ----------
    dwell, period : time at a position, and from one to the next [s].
    sequence : as in `Exposure`.
    """
    state = driver.state(0.0)
    return Exposure(sequence, 0.0, driver.field.positions(), dwell, period, dict(state.commanded_optics),
                    dict(state.commanded_stage))


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
