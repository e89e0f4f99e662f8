"""Drift tracking: low-dose images of one small region, registered to the survey, correct the positions that follow.

A sub-scan of the region is taken every so many points or seconds. A Kalman filter holds position and velocity of the drift,
so a correction reaches beyond the last image and a noisy image counts for less. Knows no ROS, no driver, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.graph.configuration import parameter
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.registration import Shift, register, taper
from edgetem_nodes.physics.scan import ScanField

_NM_PER_MIN = 1e-9 / 60
_GATE = 18.4
"""Squared distance in standard deviations that one measurement in ten thousand exceeds (chi square, two axes)."""
SOONEST = 0.125
"""Part of the usual interval after which a sub-scan may be taken because the correction has become uncertain."""
_REGIONS = 32
"""Regions of the survey that are compared with their surroundings."""
_RELOCK = 3
"""So many outliers in a row that agree with each other are a jump of the stage, not outliers."""


@dataclass(frozen=True)
class DriftTracking:
    """How drift is tracked: when a reference sub-scan is taken, of what, and what drift is to be expected."""

    every_points: int = parameter(0, "Take a reference sub-scan after so many points; 0: never", minimum=0)
    every_s: float = parameter(0.0, "Take a reference sub-scan after so many seconds of acquisition time; 0: never",
                               unit="s", minimum=0.0)
    region_px: int = parameter(32, "Side of the reference region in pixels of the survey", minimum=8, maximum=1024)
    search_px: int = parameter(8, "Largest difference from the predicted drift that is looked for, in pixels of the survey",
                               minimum=2, maximum=256)
    dwell_us: float = parameter(20.0, "Dwell time at each pixel of the sub-scan", unit="us", minimum=0.01, maximum=1e6)
    drift_nm_per_min: float = parameter(1.0, "Usual speed of the stage's drift, which the filter expects before it has seen "
                                             "any", unit="nm/min", minimum=0.0, maximum=1000.0)
    drift_change_min: float = parameter(10.0, "Time in which the drift's speed changes by as much as its usual value",
                                        unit="min", minimum=0.1, maximum=1e5)

    largest_error_px: float = parameter(0.4, "Take a sub-scan sooner, down to an eighth of the time or the points, where "
                                             "the correction may be off by more, in pixels of the survey; 0: never sooner",
                                        minimum=0.0, maximum=100.0)

    @property
    def enabled(self) -> bool:
        """Whether there is any tracking."""
        return self.every_points > 0 or self.every_s > 0


@dataclass(frozen=True)
class Estimate:
    """The drift at a time: `position` (y, x) [m], `velocity` (y, x) [m/s], and the standard error of each."""

    elapsed: float
    position: tuple[float, float]
    velocity: tuple[float, float]
    standard_error: tuple[float, float]
    velocity_error: tuple[float, float]


def coarsest_step(high_tension: float, semi_convergence_angle: float) -> float:
    """Longest step [m] of a survey that shows no aliased lattice: half the finest period that the probe transfers.

    An incoherent image holds frequencies up to 2 semi_convergence_angle / wavelength (Kirkland, Advanced Computing in EM,
    3.5). What aliases moves wrongly: registration of such a survey can be misled.
    """
    if not semi_convergence_angle > 0:
        raise ValueError(f"semi-convergence angle {semi_convergence_angle} rad is not positive")
    return wavelength(high_tension) / (4 * semi_convergence_angle)


class DriftFilter:
    """Kalman filter of a drift (y, x, vy, vx) whose velocity is a random walk (Bar-Shalom et al., Estimation, 2001, 6.2).

    Parameters
    ----------
    speed : usual speed [m/s]. change : time [s] in which the velocity changes by as much.
    jitter : random walk of the position besides, [m] in 1 s.
    """

    def __init__(self, speed: float, change: float, jitter: float = 0.0) -> None:
        if speed < 0 or not change > 0:
            raise ValueError(f"drift speed {speed} m/s must not be negative, time of change {change} s must be positive")
        self.elapsed = 0.0
        self.state = np.zeros(4)
        self.covariance = np.diag([0.0, 0.0, speed ** 2, speed ** 2])
        self._acceleration, self._jitter = speed ** 2 / change, jitter ** 2

    def predicted(self, elapsed: float) -> tuple[np.ndarray, np.ndarray]:
        """State (4,) and covariance (4, 4) at a time [s] not before the last measurement."""
        time = max(elapsed - self.elapsed, 0.0)
        transition = np.eye(4)
        transition[0, 2] = transition[1, 3] = time
        noise = np.kron([[time ** 3 / 3, time ** 2 / 2], [time ** 2 / 2, time]], np.eye(2)) * self._acceleration
        noise[:2, :2] += self._jitter * time * np.eye(2)
        return transition @ self.state, transition @ self.covariance @ transition.T + noise

    def measure(self, elapsed: float, position: np.ndarray, covariance: np.ndarray) -> None:
        """Take in a measured position (2,) [m] with its covariance (2, 2) [m^2]."""
        state, prior = self.predicted(elapsed)
        gain = np.linalg.solve(prior[:2, :2] + covariance, prior[:2, :]).T
        keep = np.eye(4)
        keep[:, :2] -= gain
        self.state = state + gain @ (position - state[:2])
        self.covariance = keep @ prior @ keep.T + gain @ covariance @ gain.T
        self.elapsed = elapsed

    def distance(self, elapsed: float, position: np.ndarray, covariance: np.ndarray) -> float:
        """Squared distance of a measured position from the predicted one, in standard deviations."""
        state, prior = self.predicted(elapsed)
        away = position - state[:2]
        return float(away @ np.linalg.solve(prior[:2, :2] + covariance, away))

    def loosen(self, elapsed: float, position: float) -> None:
        """Forget where the drift is, to a standard error `position` [m]; its velocity is kept."""
        self.state, self.covariance = self.predicted(elapsed)
        self.covariance[:2, :2] += position ** 2 * np.eye(2)
        self.elapsed = elapsed


class DriftTracker:
    """Decides when and where to look, and what to add to later positions.

    Parameters
    ----------
    parameters : see DriftTracking.
    field : the survey's grid.
    steered : whether images show what lies under corrected positions. A replayed scan does not: it was measured as it was.
    """

    def __init__(self, parameters: DriftTracking, field: ScanField, steered: bool = True) -> None:
        self.parameters, self.field, self._steered = parameters, field, steered
        self._step = np.asarray(field.step, float)
        self._speed = parameters.drift_nm_per_min * _NM_PER_MIN
        self._filter = DriftFilter(self._speed, parameters.drift_change_min * 60)
        self._survey: np.ndarray | None = None
        self._anchor = np.zeros((2, 2))
        self._corner, self._last, self._misses = (0, 0), 0.0, 0
        self._outliers: list[np.ndarray] = []
        self.problem = ""
        """Why the last sub-scan was not used; empty where it was."""
        self.used, self.refused = 0, 0

    @property
    def side(self) -> tuple[int, int]:
        """Rows and columns of the reference region: as configured, but no larger than three quarters of the survey."""
        return tuple(max(8, min(self.parameters.region_px, size * 3 // 4)) for size in self.field.shape)

    @property
    def search(self) -> int:
        """Search radius [pixels]: as configured, but no larger than half the region."""
        return min(self.parameters.search_px, min(self.side) // 2)

    @property
    def dwell(self) -> float:
        """Dwell time at each pixel of the sub-scan [s]."""
        return self.parameters.dwell_us * 1e-6

    @property
    def unfit(self) -> str:
        """Why drift cannot be tracked in this field at all; empty where it can."""
        rows, columns = self.field.shape
        return "" if min(rows, columns) >= 16 else f"field {rows} x {columns} is too small to track drift: 16 x 16 at least"

    @property
    def surveyed(self) -> bool:
        """Whether there is a survey to compare with."""
        return self._survey is not None

    @property
    def lost(self) -> bool:
        """Whether three sub-scans in a row could not be used: a new survey is needed, or more dose."""
        return self._misses >= _RELOCK

    @property
    def drift(self) -> Estimate:
        """The drift at the last sub-scan that was used."""
        return self.estimate(self._filter.elapsed)

    def estimate(self, elapsed: float) -> Estimate:
        """The drift as it is taken to be at a time [s]."""
        state, covariance = self._filter.predicted(elapsed)
        covariance[:2, :2] += self._anchor
        error = np.sqrt(np.diag(covariance))
        return Estimate(elapsed, tuple(state[:2].tolist()), tuple(state[2:].tolist()), tuple(error[:2].tolist()),
                        tuple(error[2:].tolist()))

    def set_survey(self, image: np.ndarray, elapsed: float) -> None:
        """Take a survey as the reference, and choose the region in it that registers best.

        The drift counts from the first survey. A later one is to be taken with the correction of its time; then the drift
        goes on from what was known.

        Parameters
        ----------
        image : (rows, columns) of the field. elapsed : acquisition time [s] of its first position.

        Raises
        ------
        ValueError : another shape than the field's, or a field smaller than 16 x 16.
        """
        image = np.asarray(image, float)
        if image.shape != tuple(self.field.shape):
            raise ValueError(f"survey {image.shape} is not of the field's shape, {tuple(self.field.shape)}")
        if self.unfit:
            raise ValueError(self.unfit)
        if self._survey is None:
            self._filter.elapsed = elapsed
        self._survey, self._last, self._outliers, self._misses = image, elapsed, [], 0
        self._corner = best_region(image, self.side, self.search)

    def resume(self, elapsed: float, position: tuple[float, float], velocity: tuple[float, float], pixels: float) -> None:
        """Go on from a correction (y, x) [m] and its growth [m/s] that held at a time [s], of the survey that was set.

        It is taken to be good to so many pixels of the survey, and an image is due at once.
        """
        self._filter.elapsed = elapsed
        self._filter.state = np.array([*position, *velocity], float)
        self._filter.covariance = np.diag([*(pixels * self._step) ** 2, self._speed ** 2, self._speed ** 2])
        self._last = -math.inf

    def due(self, points_since: int, elapsed: float) -> bool:
        """Whether a sub-scan is to be taken now, `points_since` points after the last one.

        It is when the time or the points are over; after an eighth of either where the correction has become uncertain or
        the last image could not be used.
        """
        if self._survey is None or not self.parameters.enabled:
            return False
        if self._last == -math.inf:
            return True
        wanted = self.parameters
        parts = [points_since / wanted.every_points if wanted.every_points else 0.0,
                 (elapsed - self._last) / wanted.every_s if wanted.every_s else 0.0]
        if max(parts) >= 1 - 1e-9:
            return True
        _, covariance = self._filter.predicted(elapsed)
        error = np.sqrt(np.diag(covariance)[:2]) / np.abs(self._step)
        unsure = 0 < self._misses < _RELOCK or 0 < wanted.largest_error_px < error.max()
        return bool(max(parts) >= SOONEST and unsure)

    def region(self) -> tuple[int, int, int, int]:
        """First row, first column, rows, columns of the reference region in the survey.

        Raises
        ------
        ValueError : there is no survey yet.
        """
        if self._survey is None:
            raise ValueError("there is no survey to track drift against: take an overview first")
        return (*self._corner, *self.side)

    def candidates(self) -> np.ndarray:
        """Flat grid indices (rows * columns,) of the region's pixels, row by row."""
        row, column, rows, columns = self.region()
        return ((row + np.arange(rows))[:, None] * self.field.shape[1] + column + np.arange(columns)).ravel()

    def positions(self) -> np.ndarray:
        """Nominal positions (rows * columns, 2), (y, x) [m], of the region's pixels, row by row."""
        return self.field.positions(self.candidates())

    def correction(self, elapsed: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """What to add to every position at a time [s]: (y, x) [m], and its growth (y, x) [m/s]."""
        state, _ = self._filter.predicted(elapsed)
        return tuple(state[:2].tolist()), tuple(state[2:].tolist())

    def uncertainty(self, elapsed: float) -> float:
        """Standard error of the correction at a time, the worse direction [m], the survey's own noise included."""
        _, covariance = self._filter.predicted(elapsed)
        return math.sqrt(float(np.linalg.eigvalsh(covariance[:2, :2] + self._anchor)[-1]))

    def update(self, image: np.ndarray, elapsed: float) -> Shift | None:
        """Learn from a sub-scan of `region()` that was taken with `correction(elapsed)`.

        Parameters
        ----------
        image : (rows, columns) of the region, any unit.
        elapsed : acquisition time [s] of its first position, the one that `correction` was asked for.

        Returns
        -------
        The shift that was used [pixels of the survey], left over after the correction; None where it was not used, and
        `problem` says why.

        Raises
        ------
        ValueError : no survey, another shape, or a time before the last sub-scan's.
        """
        row, column, rows, columns = self.region()
        if np.shape(image) != (rows, columns):
            raise ValueError(f"sub-scan {np.shape(image)} is not of the region's shape, {(rows, columns)}")
        if elapsed < self._last:
            raise ValueError(f"sub-scan at {elapsed:.3f} s is older than what was taken in, at {self._last:.3f} s")
        self._last = elapsed
        state, prior = self._filter.predicted(elapsed)
        applied = state[:2] if self._steered else np.zeros(2)
        scale = np.outer(self._step, self._step)
        shift = register(image, self._survey, (row, column), self.search, (state[:2] - applied) / self._step,
                         prior[:2, :2] / scale + 0.01 * np.eye(2))
        if not shift.reliable:
            return self._refuse(shift.problem)
        position = applied + np.array([shift.y, shift.x]) * self._step
        covariance = shift.covariance * scale
        distance = self._filter.distance(elapsed, position, covariance)
        if distance > _GATE and not self._jumped(position, covariance):
            return self._refuse(f"the shift ({shift.y:.2f}, {shift.x:.2f}) pixels is {math.sqrt(distance):.1f} standard "
                                "deviations off what was predicted: taken for an outlier unless the next ones agree with it")
        if distance > _GATE:
            self._filter.loosen(elapsed, float(np.linalg.norm(position - state[:2])))
        self._filter.measure(elapsed, position, covariance)
        self._anchor = covariance * shift.survey_share
        self._outliers, self._misses, self.problem = [], 0, ""
        self.used += 1
        return shift

    def _jumped(self, position: np.ndarray, covariance: np.ndarray) -> bool:
        """Whether this and the last outliers lie together: the stage has jumped."""
        self._outliers.append(position)
        recent = np.array(self._outliers[-_RELOCK:])
        reach = 3 * math.sqrt(float(np.trace(covariance))) + float(np.abs(self._step).max())
        return len(recent) == _RELOCK and bool((np.linalg.norm(recent - position, axis=1) < reach).all())

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        self.refused += 1
        self._misses += 1


def best_region(survey: np.ndarray, shape: tuple[int, int], search: int) -> tuple[int, int]:
    """Corner (row, column) of the region that registers best.

    Every position is scored with the smaller eigenvalue of its Fisher information about a shift, the window-weighted sum
    of grad I grad I^T / I of the smoothed survey (the direction it knows least; Shi & Tomasi 1994, CVPR). The best
    that lie apart are then compared with their surroundings: one that looks like itself a few pixels further (correlation
    r), as a lattice or a line does, counts (1 - r^2)^3 of its score. Regions keep `search` pixels from the survey's
    edge where they can.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.signal import fftconvolve

    smooth = gaussian_filter(np.asarray(survey, float), 1.0, mode="mirror")
    local = gaussian_filter(smooth, 4.0, mode="mirror")
    counts = local.min() >= 0 and local.mean() > 0.1 * survey.std()
    weight = 1 / np.maximum(local, 0.1 * local.mean()) if counts else np.ones_like(local)
    slopes = np.gradient(smooth)
    window = taper(shape)
    yy, xx, yx = (fftconvolve(a * b * weight, window, mode="valid") for a, b in
                  ((slopes[0], slopes[0]), (slopes[1], slopes[1]), (slopes[0], slopes[1])))
    score = (yy + xx) / 2 - np.hypot((yy - xx) / 2, yx)
    margins = [min(search, (size - n) // 2) for size, n in zip(survey.shape, shape, strict=True)]
    inside = np.zeros(score.shape, bool)
    inside[margins[0]:score.shape[0] - margins[0], margins[1]:score.shape[1] - margins[1]] = True
    score = np.where(inside, np.maximum(score, 0.0), -1.0)
    best, corner = -math.inf, (margins[0], margins[1])
    for row, column in _apart(score, min(shape) // 2, _REGIONS):
        worth = score[row, column] * (1 - _likeness(smooth, (row, column), shape, search) ** 2) ** 3
        if worth > best:
            best, corner = worth, (row, column)
    return corner


def _apart(score: np.ndarray, distance: int, count: int) -> list[tuple[int, int]]:
    """The `count` highest places that lie at least `distance` from each other; scores below 0 do not count."""
    left, places = score.copy(), []
    while len(places) < count and left.max() >= 0:
        row, column = (int(i) for i in np.unravel_index(left.argmax(), left.shape))
        places.append((row, column))
        left[max(row - distance, 0):row + distance + 1, max(column - distance, 0):column + distance + 1] = -1.0
    return places


def _likeness(image: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], search: int) -> float:
    """Highest other maximum, up to `search` pixels beside it, of a region's correlation with its surroundings, 0 to 1."""
    from scipy.ndimage import maximum_filter
    from skimage.feature import match_template

    (row, column), (rows, columns) = corner, shape
    top, left = max(row - search, 0), max(column - search, 0)
    around = image[top:row + rows + search, left:column + columns + search]
    template = image[row:row + rows, column:column + columns]
    if template.std() == 0:
        return 1.0
    likeness = match_template(around, template)
    y, x = np.ogrid[:likeness.shape[0], :likeness.shape[1]]
    beside = np.maximum(abs(y - (row - top)), abs(x - (column - left))) > 1
    others = beside & (maximum_filter(likeness, 3) == likeness)
    return float(np.clip(likeness[others].max(), 0.0, 1.0)) if others.any() else 0.0
