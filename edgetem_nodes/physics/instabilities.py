"""How a real instrument misbehaves: drift, scan errors, unsteady lenses and gun, sensors that are noisy or wrong.

Everything is a pure function of a seed and acquisition time `elapsed` [s], so microscope and detector agree without a word
and any moment can be had alone. Nothing misbehaves by default. SI units; lateral vectors are (y, x).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.faults import Fault, sensed_values, true_values
from edgetem_nodes.physics.specimens import ROOM_TEMPERATURE

_WAVES = 32
"""Cosines of a smooth random function."""
_FORGOTTEN = 1e-4
"""Part of a jump of the probe that no longer matters."""
_LONGEST_MEMORY = 4096

SENSOR_NOISE = {"high_tension": 0.1, "probe_current": 5e-14, "semi_convergence_angle": 5e-6, "camera_length": 2e-4,
                "defocus": 2e-10, "astigmatism": 2e-10, "astigmatism_angle": 1e-3, "coma": 2e-9, "coma_angle": 1e-3,
                "spherical_aberration": 1e-7, "beam_shift_y": 1e-11, "beam_shift_x": 1e-11, "magnification": 1e-4,
                "x": 2e-10, "y": 2e-10, "z": 5e-9, "alpha": 2e-5, "beta": 2e-5, "temperature": 0.05, "bias": 1e-3}
"""Standard deviation of each sensor in its SI unit, for `sensor_noise` 1: chosen, as of a good column and holder."""


@dataclass(frozen=True)
class Instabilities:
    """What misbehaves, and how much. All zero: a perfect instrument.

    Attributes
    ----------
    drift_speed [m/s], drift_direction [rad, atan2(y, x)] : steady drift of the stage.
    drift_wander [m], drift_wander_time [s] : standard deviation and correlation time of a slow random wander about it.
    drift_relaxation [m], drift_relaxation_time [s] : way and time constant of a stage that creeps to rest, same direction.
    scan_scale_y, scan_scale_x : relative error of the scan's calibration. scan_shear [rad] of x by y. scan_rotation [rad].
    line_noise [m], line_noise_frequency [Hz] : amplitude of the mains hum on the scan.
    flyback, flyback_time [s] : part of a jump of the probe that is still to go when it has been commanded, and the time
        constant with which it goes.
    defocus_drift [m/s], defocus_wander [m], defocus_wander_time [s] : as for the stage.
    current_rate [1/s] : relative change of the probe current. current_decay, current_decay_time [s] : part that a cold tip
        loses after its flash, and time constant. current_noise, current_noise_time [s] : relative standard deviation and
        correlation time of the tip's flicker.
    holder_time [s] : time constant with which the specimen follows the commanded temperature.
    sensor_noise : multiple of SENSOR_NOISE.
    faults : wrong metadata, see `faults.Fault`.

    Raises
    ------
    ValueError : a value that is not finite or beyond its limit; the message names both.
    """

    drift_speed: float = 0.0
    drift_direction: float = 0.0
    drift_wander: float = 0.0
    drift_wander_time: float = 300.0
    drift_relaxation: float = 0.0
    drift_relaxation_time: float = 600.0
    scan_scale_y: float = 0.0
    scan_scale_x: float = 0.0
    scan_shear: float = 0.0
    scan_rotation: float = 0.0
    line_noise: float = 0.0
    line_noise_frequency: float = 50.0
    flyback: float = 0.0
    flyback_time: float = 20e-6
    defocus_drift: float = 0.0
    defocus_wander: float = 0.0
    defocus_wander_time: float = 300.0
    current_rate: float = 0.0
    current_decay: float = 0.0
    current_decay_time: float = 3600.0
    current_noise: float = 0.0
    current_noise_time: float = 1.0
    holder_time: float = 0.0
    sensor_noise: float = 0.0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "faults":
                _check(field.name, getattr(self, field.name))
        for fault in self.faults:
            if not isinstance(fault, Fault):
                raise ValueError(f"fault {fault!r} is a {type(fault).__name__}: make it with Fault(...) or Fault.parse(...)")


_ANY = ("drift_direction", "scan_rotation", "defocus_drift", "current_rate", "drift_relaxation")
_POSITIVE = ("drift_wander_time", "drift_relaxation_time", "line_noise_frequency", "flyback_time", "defocus_wander_time",
             "current_decay_time", "current_noise_time")
_BETWEEN = {"scan_scale_y": (-0.5, 0.5), "scan_scale_x": (-0.5, 0.5), "scan_shear": (-0.5, 0.5), "flyback": (0.0, 1.0),
            "current_decay": (0.0, 1.0), "current_noise": (0.0, 0.3)}


def _check(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} {value} is not finite")
    low, high = _BETWEEN.get(name, (-math.inf if name in _ANY else 0.0, math.inf))
    if name in _POSITIVE and not value > 0:
        raise ValueError(f"{name} {value:g} must be positive: it is a time or a frequency; to switch an effect off, set its "
                         "size to 0")
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g} is outside the range, {low:g} to {high:g} (SI units)")


class SmoothNoise:
    """A stationary Gaussian process (n,) -> (n, dimensions) of unit variance and correlation exp(-t^2 / (2 time^2)).

    Sum of cosines of random frequency and phase (Shinozuka & Jan 1972, J. Sound Vib. 25, 111): any moment can be had alone.
    """

    def __init__(self, generator: np.random.Generator, time: float, dimensions: int = 1) -> None:
        self._omega = generator.normal(size=(dimensions, _WAVES)) / time
        self._phase = generator.uniform(0, 2 * np.pi, size=(dimensions, _WAVES))

    def __call__(self, elapsed: np.ndarray) -> np.ndarray:
        angles = np.asarray(elapsed, float)[:, None, None] * self._omega + self._phase
        return np.cos(angles).sum(axis=-1) * math.sqrt(2 / _WAVES)


class InstrumentState:
    """What a misbehaving instrument does at any time.

    Parameters
    ----------
    instabilities : what misbehaves.
    seed : unsigned 64-bit number; fixes everything random.
    scan_center : (y, x) [m] where the scan's deflection is zero, so that scale, shear and rotation move nothing there.

    Raises
    ------
    ValueError : the seed does not fit.
    """

    def __init__(self, instabilities: Instabilities, seed: int, scan_center: tuple[float, float] = (0.0, 0.0)) -> None:
        self.instabilities, self.seed = instabilities, seed
        self._center = np.asarray(scan_center, float)
        wrong = instabilities
        self._wander = SmoothNoise(self._generator("stage drift"), wrong.drift_wander_time, 2)
        self._focus = SmoothNoise(self._generator("defocus"), wrong.defocus_wander_time)
        self._flicker = SmoothNoise(self._generator("tip"), wrong.current_noise_time)
        hum = self._generator("line noise")
        self._hum_phase, self._hum_direction = hum.uniform(0, 2 * np.pi, 2)

    def _generator(self, what: str, index: int = 0) -> np.random.Generator:
        return counting.generator(self.seed, zlib.crc32(b"instability " + what.encode()), index)

    def stage_drift(self, elapsed: np.ndarray) -> np.ndarray:
        """How far the specimen has moved since elapsed 0, (n, 2), (y, x) [m]: what was at p is found at p + drift."""
        elapsed, wrong = _times(elapsed), self.instabilities
        along = wrong.drift_speed * elapsed
        along = along - wrong.drift_relaxation * np.expm1(-elapsed / wrong.drift_relaxation_time)
        direction = np.array([math.sin(wrong.drift_direction), math.cos(wrong.drift_direction)])
        drift = along[:, None] * direction
        if wrong.drift_wander:
            drift += wrong.drift_wander * (self._wander(elapsed) - self._wander(np.zeros(1)))
        return drift

    def defocus(self, elapsed: np.ndarray, commanded: float) -> np.ndarray:
        """True defocus (n,) [m] for a commanded one, faults of its metadata apart."""
        elapsed, wrong = _times(elapsed), self.instabilities
        defocus = commanded + wrong.defocus_drift * elapsed
        if wrong.defocus_wander:
            defocus += wrong.defocus_wander * (self._focus(elapsed) - self._focus(np.zeros(1)))[:, 0]
        return defocus

    def current_factor(self, elapsed: np.ndarray) -> np.ndarray:
        """True probe current over the commanded one, (n,), never negative."""
        elapsed, wrong = _times(elapsed), self.instabilities
        factor = 1 + wrong.current_rate * elapsed
        factor += wrong.current_decay * np.expm1(-elapsed / wrong.current_decay_time)
        if wrong.current_noise:
            factor *= 1 + wrong.current_noise * self._flicker(elapsed)[:, 0]
        return np.maximum(factor, 0.0)

    def memory(self, period: float) -> int:
        """How many positions before the first one still matter to `probe_positions`."""
        if not self.instabilities.flyback or period <= 0:
            return 0
        return min(math.ceil(self.instabilities.flyback_time / period * -math.log(_FORGOTTEN)), _LONGEST_MEMORY)

    def probe_positions(self, steered: np.ndarray, times: np.ndarray, period: float, previous: np.ndarray | None = None,
                        dwell: float | None = None) -> np.ndarray:
        """Where the probe stands, on average over its dwell, for where the scan generator sends it.

        Parameters
        ----------
        steered : (n, 2), (y, x) [m], equally spaced in time. times : (n,) acquisition time of each [s].
        period : from one position to the next [s]. dwell : the last part of the period, in which signal is taken; None: all.
        previous : (k, 2) positions right before, or (2,); `memory(period)` of them matter. None: the probe rested at the
            first.

        Returns
        -------
        (n, 2) float64 [m]. The same bits however a path is cut, given `memory(period)` previous positions.

        Raises
        ------
        ValueError : shapes that differ, or a dwell longer than the period.
        """
        steered, times = np.asarray(steered, float).reshape(-1, 2), _times(times)
        dwell = period if dwell is None else dwell
        if len(times) != len(steered):
            raise ValueError(f"{len(times)} times do not belong to {len(steered)} positions")
        if not 0 <= dwell <= period * (1 + 1e-9):
            raise ValueError(f"dwell time {dwell:g} s is outside the range, 0 to the period, {period:g} s")
        return self.distorted(self._lagging(steered, period, dwell, previous)) + self._hum(times, period, dwell)

    def _lagging(self, steered: np.ndarray, period: float, dwell: float, previous: np.ndarray | None) -> np.ndarray:
        wrong, memory = self.instabilities, self.memory(period)
        if not memory or not len(steered):
            return steered
        before = np.zeros((0, 2)) if previous is None else np.asarray(previous, float).reshape(-1, 2)[-memory - 1:]
        path = np.concatenate([before, steered])
        jumps = np.diff(path, axis=0, prepend=path[:1])
        decay, settled = math.exp(-period / wrong.flyback_time), math.exp(-max(period - dwell, 0.0) / wrong.flyback_time)
        mean = -math.expm1(-dwell / wrong.flyback_time) * wrong.flyback_time / dwell if dwell > 0 else 1.0
        lag = np.zeros_like(path)
        for age in range(min(memory, len(path))):
            lag[age:] += decay ** age * jumps[:len(path) - age]
        return steered - wrong.flyback * settled * mean * lag[len(before):]

    def distorted(self, positions: np.ndarray) -> np.ndarray:
        """Where scale, shear and rotation of the scan put positions (n, 2), (y, x) [m]: what of the errors stays."""
        wrong = self.instabilities
        if not (wrong.scan_scale_y or wrong.scan_scale_x or wrong.scan_shear or wrong.scan_rotation):
            return positions
        cosine, sine = math.cos(wrong.scan_rotation), math.sin(wrong.scan_rotation)
        y, x = (positions - self._center).T
        x = (x + math.tan(wrong.scan_shear) * y) * (1 + wrong.scan_scale_x)
        y = y * (1 + wrong.scan_scale_y)
        return self._center + np.stack([cosine * y + sine * x, cosine * x - sine * y], axis=-1)

    def _hum(self, times: np.ndarray, period: float, dwell: float) -> np.ndarray:
        wrong = self.instabilities
        if not wrong.line_noise:
            return np.zeros((1, 2))
        middle = times + period - dwell / 2
        amplitude = wrong.line_noise * np.sinc(wrong.line_noise_frequency * dwell)
        wave = amplitude * np.sin(2 * np.pi * wrong.line_noise_frequency * middle + self._hum_phase)
        return wave[:, None] * np.array([math.sin(self._hum_direction), math.cos(self._hum_direction)])

    def true_optics(self, optics: Mapping[str, float], elapsed: float) -> dict[str, float]:
        """What the column really does at a time for commanded `optics` (names of Optics, SI)."""
        true = true_values(optics, self.instabilities.faults, elapsed)
        if "defocus" in true:
            true["defocus"] = float(self.defocus(np.array([elapsed]), true["defocus"])[0])
        if "probe_current" in true:
            true["probe_current"] *= float(self.current_factor(np.array([elapsed]))[0])
        return true

    def true_stage(self, stage: Mapping[str, float], elapsed: float) -> dict[str, float]:
        """Where the stage really stands for a commanded pose (names of StagePose), drift apart: see `stage_drift`."""
        return true_values(stage, self.instabilities.faults, elapsed)

    def temperature(self, elapsed: np.ndarray, programme: np.ndarray) -> np.ndarray:
        """Real temperature (n,) [K] of the specimen: first-order lag behind the programme, see `Exposure.holder`."""
        elapsed, wrong = _times(elapsed), self.instabilities
        programme = np.asarray(programme, float).reshape(-1, 3)
        start = np.full(elapsed.shape, ROOM_TEMPERATURE)
        for row, (begin, target, _) in enumerate(programme):
            end = programme[row + 1, 0] if row + 1 < len(programme) else math.inf
            passed = np.clip(np.minimum(elapsed, end) - begin, 0.0, None)
            left = np.exp(-passed / wrong.holder_time) if wrong.holder_time else np.where(elapsed >= begin, 0.0, 1.0)
            start = target + (start - target) * left
        return start

    def real_programme(self, programme: np.ndarray, parts: int = 16) -> np.ndarray:
        """The holder's programme (steps, 3) as the specimen feels it: each step of temperature in `parts` equal small ones.

        Before elapsed t it depends on what was commanded before t alone; error at most half a part of each step.
        """
        programme = np.asarray(programme, float).reshape(-1, 3)
        if not self.instabilities.holder_time or not len(programme):
            return programme
        rows = []
        for row, (begin, target, bias) in enumerate(programme):
            end = programme[row + 1, 0] if row + 1 < len(programme) else math.inf
            start = float(self.temperature(np.array([begin]), programme[:row])[0])
            fractions = (np.arange(parts) + 0.5) / parts
            times = begin - self.instabilities.holder_time * np.log1p(-fractions)
            rows.append((begin, start, bias))
            rows += [(time, start + (target - start) * (part + 1) / parts, bias)
                     for part, time in enumerate(times) if time < end]
        return np.array(rows)

    def sensed(self, elapsed: float, optics: Mapping[str, float], stage: Mapping[str, float],
               holder: Mapping[str, float] | np.ndarray) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """What the sensors say at a time, of commanded optics, stage and holder; reproducible noise included.

        `holder` is the programme (steps, 3), whose temperature the sensor sees with its lag, or commanded values by name.
        Sensors know a lens by its current and the stage by its encoders: they see no drift of focus or stage, but they do
        see the probe current.
        """
        faults = self.instabilities.faults
        true_optics = true_values(optics, faults, elapsed)
        if "probe_current" in true_optics:
            true_optics["probe_current"] *= float(self.current_factor(np.array([elapsed]))[0])
        if not isinstance(holder, Mapping):
            programme = np.asarray(holder, float).reshape(-1, 3)
            past = programme[programme[:, 0] <= elapsed]
            holder = {"temperature": float(self.temperature(np.array([elapsed]), programme)[0]),
                      "bias": float(past[-1, 2]) if len(past) else 0.0}
        pairs = ((optics, true_optics), (stage, self.true_stage(stage, elapsed)),
                 (holder, true_values(holder, faults, elapsed)))
        return tuple(self._with_noise(sensed_values(*pair, faults, elapsed), elapsed) for pair in pairs)

    def _with_noise(self, values: dict[str, float], elapsed: float) -> dict[str, float]:
        if not self.instabilities.sensor_noise:
            return values
        index = round(max(elapsed, 0.0) * 1e6)
        return {name: value + self.instabilities.sensor_noise * SENSOR_NOISE.get(name, 0.0)
                * float(self._generator("sensor " + name, index).normal()) for name, value in values.items()}


def _times(elapsed: np.ndarray) -> np.ndarray:
    return np.atleast_1d(np.asarray(elapsed, float))
