"""One exposure of the specimen: what the instrument was told, and when. All that a simulation needs to know of a probe path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgetem_nodes.physics.scan import Axis

MICRO_SCAN = "micro_scan"
"""Name of the detector that takes a square of patterns, one frame, at every position."""


@dataclass(frozen=True)
class MicroScan:
    """A square of `points` x `points` probes about each position, `step` [m] apart along y and x; row-major in time.

    Raises
    ------
    ValueError : fewer than two points, or a step that is not positive.
    """

    points: int
    step: float

    def __post_init__(self) -> None:
        if self.points < 2 or not 0.0 < self.step < np.inf:
            raise ValueError(f"a micro-scan of {self.points} x {self.points} probes {self.step * 1e12:g} pm apart cannot be: "
                             "it needs at least 2 x 2, some distance apart")

    @property
    def count(self) -> int:
        """Probes at a position."""
        return self.points ** 2

    @property
    def axes(self) -> list[Axis]:
        """Where the probes stand, less their position [m]."""
        first = -(self.points - 1) / 2 * self.step
        return [Axis(name, "m", self.step, first, self.points) for name in ("y", "x")]

    @property
    def offsets(self) -> np.ndarray:
        """Of the probes from their position, (points^2, 2), (y, x) [m]."""
        y, x = (axis.values() for axis in self.axes)
        return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)

    def probes(self, positions: np.ndarray) -> np.ndarray:
        """The probes (n * points^2, 2), (y, x) [m], of positions (n, 2)."""
        return (np.asarray(positions, float).reshape(-1, 1, 2) + self.offsets).reshape(-1, 2)


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
    dwell, period : time at a position, and from one to the next [s]. All probes of a micro-scan share the dwell.
    optics, stage : commanded values by the names of Optics and StagePose, SI units; what is missing is not known.
    holder : (steps, 3) float64: the holder's programme so far, one row a change: elapsed [s], temperature [K], bias [V].
    correction : (y, x) [m] that drift tracking adds to every position, valid at `elapsed`.
    correction_rate : (y, x) [m/s] by which the correction grows.
    survey_dose : areal dose that images of the whole field have given before [1/m^2].
    reference_images : images of parts of the field since the last acquisition that exposed anything, in order of time.
    micro_scan : what is scanned about each position; None: the probe stands there.
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
    micro_scan: MicroScan | None = None

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.positions)

    @property
    def probe_dwell(self) -> float:
        """Time [s] that each probe stands."""
        return self.dwell / (self.micro_scan.count if self.micro_scan else 1)

    def probes(self, count: int | None = None) -> np.ndarray:
        """Nominal places (n, 2), (y, x) [m], of the probes at the first `count` positions; at all of them by default."""
        positions = self.positions[:self.count if count is None else count]
        return self.micro_scan.probes(positions) if self.micro_scan else positions

    def at(self, index: int) -> Exposure:
        """The micro-scan about one position as an exposure of its own, whose positions are the probes.

        They follow each other at once; the time to settle has passed before the first.
        """
        elapsed = self.elapsed + self.period * (index + 1) - self.dwell
        moved = np.asarray(self.correction) + (elapsed - self.elapsed) * np.asarray(self.correction_rate)
        return replace(self, elapsed=elapsed, positions=self.micro_scan.probes(self.positions[index]), dwell=self.probe_dwell,
                       period=self.probe_dwell, correction=tuple(moved.tolist()), micro_scan=None)

    def times(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Acquisition time (n,) [s] since activation of `count` positions from `first` on; all of them by default."""
        last = self.count if count is None else first + count
        return self.elapsed + self.period * np.arange(first, last)

    def steered(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Where the scan generator sends the probe: nominal positions plus correction, (n, 2), (y, x) [m]."""
        last = self.count if count is None else first + count
        since = (self.times(first, last - first) - self.elapsed)[:, None]
        return self.positions[first:last] + np.asarray(self.correction) + since * np.asarray(self.correction_rate)
