"""What every camera offers: frames of a given dose, limits of its frame time, references, and the way back to electrons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras.fixed_pattern import PATTERN, Pattern, PixelMaps, pixel_maps

BLANK, FLAT = PATTERN + 1, PATTERN + 2
"""Sequence numbers of the frames of which references are made."""


class CameraModel(Protocol):
    """A detector of electrons, of any shape: (rows, columns) of a pattern or (channels,) of a spectrum.

    A frame is a pure function of its expected dose, the dwell time, the seed and the numbers of acquisition and frame.
    """

    name: str
    dtype: np.dtype
    shortest_frame: float
    """Least time from one frame to the next [s]."""
    readout_dead_time: float
    """Time at the end of every frame during which the camera is blind [s]."""

    @property
    def counts_per_electron(self) -> float:
        """Mean signal of an electron, summed over the pixels that it reaches, in the counts of the frames."""

    @property
    def saturation(self) -> float:
        """Greatest value of a pixel."""

    def check_dwell(self, dwell: float) -> None:
        """Refuse, with ValueError, a dwell time [s] that is shorter than the shortest frame."""

    def live_fraction(self, dwell: float) -> float:
        """Part of the dwell time [s] during which the camera sees electrons."""

    def frames(self, expected: np.ndarray, dwell: float, seed: int, sequence: int, first_index: int) -> np.ndarray:
        """Frames (n, ...) of `dtype`, of `expected` (n, ...) mean electrons that reach each pixel in `dwell`."""

    def dark_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Mean of blank frames, float32 of `shape`."""

    def gain_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Relative gain from evenly lit frames, float32 of `shape`; 0 where a pixel is dead."""

    def pixel_maps(self, shape: tuple[int, ...], seed: int) -> PixelMaps:
        """The true fixed pattern."""

    def electrons(self, frames: np.ndarray, dwell: float | None = None, dark: np.ndarray | None = None,
                  gain: np.ndarray | None = None) -> np.ndarray:
        """Electrons per pixel, float32, that frames amount to."""


@dataclass(frozen=True, kw_only=True)
class SiliconCamera(ABC):
    """A camera with a silicon sensor. Subclasses say how a frame comes about.

    Attributes
    ----------
    high_tension : [V], of the electrons that arrive.
    pattern : spread of gain and offset; dead and hot pixels.
    shortest_frame, readout_dead_time : [s].
    line_rows : pixels that a channel sums where the camera records spectra.
    flat_dose : mean electrons per pixel and frame of the flat frames for `gain_reference`.
    """

    high_tension: float
    pattern: Pattern = Pattern()
    shortest_frame: float = 0.0
    readout_dead_time: float = 0.0
    line_rows: int = 64
    flat_dose: float = 100.0

    def __post_init__(self) -> None:
        if not 20e3 <= self.high_tension <= 400e3:
            raise ValueError(f"high tension {self.high_tension:g} V is outside 20 to 400 kV, where the sensor is modelled: "
                             "take the ideal camera")
        if not 0 <= self.readout_dead_time <= self.shortest_frame:
            raise ValueError(f"readout dead time {self.readout_dead_time:g} s is not between 0 and the shortest frame, "
                             f"{self.shortest_frame:g} s")
        if self.line_rows < 1:
            raise ValueError(f"line_rows {self.line_rows} is not at least 1")

    @property
    @abstractmethod
    def counts_per_electron(self) -> float:
        """Mean signal of an electron, summed over pixels, in the counts of the frames."""

    @abstractmethod
    def _frame(self, expected: np.ndarray, live: float, maps: PixelMaps, rows: int, rng: np.random.Generator) -> np.ndarray:
        """One frame, float64 and not yet rounded to `dtype`, of the electrons that arrive while the camera sees.

        expected : mean electrons (rows, columns), or (channels,). live : time [s]. rows : pixels that a channel sums, or 1.
        """

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] that this camera cannot follow.

        Raises
        ------
        ValueError : it is shorter than the shortest frame, or leaves the camera no time to see.
        """
        if not dwell >= self.shortest_frame or dwell <= self.readout_dead_time:
            raise ValueError(f"dwell time {dwell * 1e3:.6g} ms is shorter than a frame of the {self.name} camera, "
                             f"{self.shortest_frame * 1e3:.6g} ms: raise instrument.dwell_ms, or choose a faster camera by "
                             "instrument.simulated.camera or, of a hybrid pixel camera, instrument.simulated.counter_bits")

    def live_fraction(self, dwell: float) -> float:
        """Part of the dwell time [s] during which the camera sees electrons."""
        self.check_dwell(dwell)
        return 1 - self.readout_dead_time / dwell

    def pixel_maps(self, shape: tuple[int, ...], seed: int) -> PixelMaps:
        """The true fixed pattern."""
        return pixel_maps(self.pattern, tuple(shape), seed, self.line_rows)

    def frames(self, expected: np.ndarray, dwell: float, seed: int, sequence: int, first_index: int) -> np.ndarray:
        """Frames as the camera gives them.

        Parameters
        ----------
        expected : (n, rows, columns) or (n, channels), mean electrons that reach each pixel during `dwell`.
        dwell : time at each position [s]; electrons that arrive during the readout dead time are lost.
        seed, sequence, first_index : what noise belongs to, see `counting.generator`.

        Returns
        -------
        (n, ...) of `dtype`.

        Raises
        ------
        ValueError : the dwell time is shorter than a frame, or expected electrons are negative or not finite.
        """
        expected = np.asarray(expected)
        if expected.ndim not in (2, 3):
            raise ValueError(f"expected electrons of shape {expected.shape} are not (n, rows, columns) or (n, channels)")
        live = self.live_fraction(dwell)
        maps = self.pixel_maps(expected.shape[1:], seed)
        rows = self.line_rows if expected.ndim == 2 else 1
        result = np.empty(expected.shape, self.dtype)
        for offset, mean in enumerate(expected):
            arriving = mean.astype(np.float64)
            if not (arriving.min() >= 0 and arriving.max() < np.inf):
                raise ValueError(f"expected electrons of frame {first_index + offset} reach from {arriving.min()} to "
                                 f"{arriving.max()}; they must be finite and not negative")
            rng = counting.generator(seed, sequence, first_index + offset)
            values = self._frame(arriving * live, live * dwell, maps, rows, rng)
            limited = np.clip(values, 0, self._limit(rows))
            result[offset] = limited if self.dtype.kind == "f" else np.rint(limited)
        return result

    def _limit(self, rows: int) -> float:
        """Greatest value of the sum of `rows` pixels."""
        largest = np.inf if self.dtype.kind == "f" else float(np.iinfo(self.dtype).max)
        return min(self.saturation * rows, largest)

    def dark_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Mean of `frames` blank frames, float32 of `shape`, as an operator measures it with the beam blanked."""
        return self._mean(0.0, shape, seed, dwell, BLANK, frames).astype(np.float32)

    def gain_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Relative gain from `frames` evenly lit frames less the dark reference, float32 of `shape`.

        1 is the median; 0 marks pixels that answer with less than a tenth or more than ten times the median.
        """
        signal = self._mean(self.flat_dose / self.live_fraction(dwell), shape, seed, dwell, FLAT, frames)
        signal -= self._mean(0.0, shape, seed, dwell, BLANK, frames)
        relative = signal / np.median(signal)
        return np.where((relative > 0.1) & (relative < 10), relative, 0).astype(np.float32)

    def _mean(self, dose: float, shape: tuple[int, ...], seed: int, dwell: float, sequence: int, count: int) -> np.ndarray:
        """Mean frame of `count` frames with `dose` electrons per pixel, float64 of `shape`."""
        total = np.zeros(shape)
        lit = np.full((1, *shape), dose, np.float32)
        for index in range(count):
            total += self.frames(lit, dwell, seed, sequence, index)[0]
        return total / count

    def electrons(self, frames: np.ndarray, dwell: float | None = None, dark: np.ndarray | None = None,
                  gain: np.ndarray | None = None) -> np.ndarray:
        """Electrons per pixel, float32, that arrived while the camera saw.

        Parameters
        ----------
        frames : (n, ...) as the camera gave them.
        dwell : time per frame [s]; a counting camera then corrects for its dead time.
        dark, gain : references; dead pixels (gain 0) become 0. None: the camera's mean offset, gain 1.
        """
        signal = self._linear(np.asarray(frames, np.float32), dwell)
        signal = signal - (self._offset(frames.ndim) if dark is None else dark)
        if gain is not None:
            signal = np.divide(signal, gain, out=np.zeros_like(signal), where=np.broadcast_to(gain > 0, signal.shape))
        return (signal / self.counts_per_electron).astype(np.float32)

    def _offset(self, axes: int) -> float:
        """Mean offset of a pixel (axes 3), or of a channel (axes 2)."""
        return 0.0

    def _linear(self, frames: np.ndarray, dwell: float | None) -> np.ndarray:
        """Signal that is proportional to the dose."""
        return frames
