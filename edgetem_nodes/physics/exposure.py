"""One exposure of the specimen: what the instrument was told, and when. All that a simulation needs to know of a probe path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ReferenceImage:
    """A part of the field that the microscope has imaged for itself, and what was commanded then.

    Attributes
    ----------
    elapsed : acquisition time of its first pixel [s] since the microscope became active.
    corner, extent : (y, x) [m]: where it begins in the frame of the scan, half a pixel before the first pixel; nominal.
    dose : areal dose that it gave there [1/m^2].
    correction : (y, x) [m] that drift tracking added. beam_shift : (y, x) [m].
    stage : by the names of StagePose, SI units; what is missing is not known.
    """

    elapsed: float
    corner: tuple[float, float]
    extent: tuple[float, float]
    dose: float
    correction: tuple[float, float] = (0.0, 0.0)
    beam_shift: tuple[float, float] = (0.0, 0.0)
    stage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Exposure:
    """A sequence of probe positions with everything that was commanded while they were visited.

    Attributes
    ----------
    sequence : running number of the probe path, or `counting.SURVEY` minus the running number of an image of the microscope.
    elapsed : acquisition time of the first position [s] since the microscope became active.
    positions : (count, 2), (y, x) [m], nominal: on the survey's grid.
    dwell, period : time at a position, and from one to the next [s].
    optics, stage : commanded values by the names of Optics and StagePose, SI units; what is missing is not known.
    holder : (steps, 3) float64: the holder's programme so far, one row a change: elapsed [s], temperature [K], bias [V].
    correction : (y, x) [m] that drift tracking adds to every position, valid at `elapsed`.
    correction_rate : (y, x) [m/s] by which the correction grows.
    survey_dose : areal dose that images of the whole field have given before [1/m^2].
    reference_images : images of parts of the field since the last acquisition that exposed anything, in order of time.
    """

    sequence: int
    elapsed: float
    positions: np.ndarray
    dwell: float
    period: float
    optics: Mapping[str, float]
    stage: Mapping[str, float] = field(default_factory=dict)
    holder: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    correction: tuple[float, float] = (0.0, 0.0)
    correction_rate: tuple[float, float] = (0.0, 0.0)
    survey_dose: float = 0.0
    reference_images: tuple[ReferenceImage, ...] = ()

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.positions)

    def times(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Acquisition time (n,) [s] since activation of `count` positions from `first` on; all of them by default."""
        last = self.count if count is None else first + count
        return self.elapsed + self.period * np.arange(first, last)

    def steered(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Where the scan generator sends the probe: nominal positions plus correction, (n, 2), (y, x) [m]."""
        last = self.count if count is None else first + count
        since = (self.times(first, last - first) - self.elapsed)[:, None]
        return self.positions[first:last] + np.asarray(self.correction) + since * np.asarray(self.correction_rate)
