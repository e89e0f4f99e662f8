"""An ideal counting camera: every electron is counted once, where it arrives, at any rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras.fixed_pattern import Pattern, PixelMaps, pixel_maps


@dataclass(frozen=True)
class Ideal:
    """Poisson counts in counters of `dtype`, which saturate. Arguments and returns as for `CameraModel`."""

    dtype: np.dtype = np.dtype("<u2")
    name = "ideal"
    shortest_frame = 0.0
    readout_dead_time = 0.0
    counts_per_electron = 1.0

    @property
    def saturation(self) -> float:
        """Greatest count."""
        return float(np.iinfo(self.dtype).max)

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] that is not positive (ValueError)."""
        if not dwell > 0:
            raise ValueError(f"dwell time {dwell} s is not positive")

    def live_fraction(self, dwell: float) -> float:
        """1: it always sees."""
        self.check_dwell(dwell)
        return 1.0

    def frames(self, expected: np.ndarray, dwell: float, seed: int, sequence: int, first_index: int) -> np.ndarray:
        """Poisson counts (n, ...) of `dtype`: `counting.count`."""
        self.check_dwell(dwell)
        return counting.count(expected, seed, sequence, first_index, self.dtype)

    def dark_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Zeros, float32 of `shape`."""
        return np.zeros(shape, np.float32)

    def gain_reference(self, shape: tuple[int, ...], seed: int, dwell: float, frames: int = 64) -> np.ndarray:
        """Ones, float32 of `shape`."""
        return np.ones(shape, np.float32)

    def pixel_maps(self, shape: tuple[int, ...], seed: int) -> PixelMaps:
        """A pattern without any spread."""
        return pixel_maps(Pattern(), tuple(shape), seed)

    def electrons(self, frames: np.ndarray, dwell: float | None = None, dark: np.ndarray | None = None,
                  gain: np.ndarray | None = None) -> np.ndarray:
        """The counts, float32."""
        return np.asarray(frames, np.float32)
