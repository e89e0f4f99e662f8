"""What is corrected in the fused pass: dark signal, gain, and dead pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.patterns.events import plain

FEWEST_NEIGHBOURS = 3
"""Live pixels around a dead one that its interpolation needs; a beam stop stays dead but for its rim."""


@dataclass(frozen=True)
class Corrections:
    """A pixel's counts are gain * (value - dark); a dead pixel's are not known.

    A dead pixel (one that never answers, a hot one, one behind the beam stop) is left out: its weight is 0 in every detector
    and moment, and detectors tell which fraction of their area is dead. With `interpolate` it gets the mean of its live
    neighbours among the eight instead, if there are three or more; standard errors know that these counts are shared.

    Attributes
    ----------
    dark : (rows, columns), signal without beam [counts]; None: 0.
    gain : (rows, columns), what counts are multiplied by after the dark signal is gone, about 1; None: 1.
    dead : (rows, columns) bool; None: none.
    interpolate : give isolated dead pixels the mean of their neighbours.
    """

    dark: np.ndarray | None = None
    gain: np.ndarray | None = None
    dead: np.ndarray | None = None
    interpolate: bool = False

    def check(self, shape: tuple[int, int]) -> None:
        """Raise ValueError where a map does not fit frames of this shape, is masked, not real or not finite on
        live pixels."""
        for name in ("dark", "gain", "dead"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                plain(value)
            except ValueError as error:
                raise ValueError(f"the {name} map: {error}") from None
            if np.shape(value) != tuple(shape):
                raise ValueError(f"the {name} map has shape {np.shape(value)}, frames have {tuple(shape)}")
            if name != "dead" and (bad := np.count_nonzero(~np.isfinite(value) & self.live(shape))):
                raise ValueError(f"the {name} map is not finite on {bad} live pixels: mark them as dead")
        if self.gain is not None and (bad := np.count_nonzero((np.asarray(self.gain) <= 0) & self.live(shape))):
            raise ValueError(f"the gain map is not positive on {bad} live pixels: mark them as dead")

    def live(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels that answer, (rows, columns) bool."""
        return np.ones(shape, bool) if self.dead is None else ~np.asarray(self.dead, bool)

    @property
    def weighs(self) -> bool:
        """Whether live pixels count otherwise than by 1."""
        return self.gain is not None or (self.interpolate and self.dead is not None and bool(np.any(self.dead)))

    def known(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels whose counts are measured or interpolated, (rows, columns) bool."""
        live = self.live(shape)
        return live | (self._neighbours(live) >= FEWEST_NEIGHBOURS) if self.interpolate else live

    def applied(self, frames: np.ndarray) -> np.ndarray:
        """Corrected frames (frames, rows, columns) float64; NaN where a pixel's counts are not known."""
        shape = frames.shape[1:]
        live = self.live(shape)
        counts = np.where(live, (frames - self.dark_signal(shape)) * self._gain(shape), 0.0)
        if self.interpolate and self.dead is not None:
            around = self._neighbours(live)
            fill = ~live & (around >= FEWEST_NEIGHBOURS)
            counts = np.where(fill, _eight(counts) / np.maximum(around, 1), counts)
        return np.where(self.known(shape), counts, np.nan)

    def weights(self, weights: np.ndarray) -> np.ndarray:
        """Weights of raw values minus dark (..., rows, columns) that do what `weights` do on corrected counts.

        Corrections are linear: a gain multiplies a pixel's weight; a dead pixel's weight goes in equal parts to the
        neighbours whose mean stands for it.
        """
        shape = weights.shape[-2:]
        live = self.live(shape)
        weights = np.asarray(weights, float)
        result = np.where(live, weights, 0.0)
        if self.interpolate and self.dead is not None:
            around = self._neighbours(live)
            fill = ~live & (around >= FEWEST_NEIGHBOURS)
            result += live * _eight(np.where(fill, weights / np.maximum(around, 1), 0.0))
        return result * np.where(live, self._gain(shape), 0.0)

    def offsets(self, weights: np.ndarray) -> np.ndarray:
        """What the dark signal adds to sums of raw values with weights (..., rows, columns): (...)."""
        shape = weights.shape[-2:]
        return np.sum(weights * np.where(self.live(shape), self.dark_signal(shape), 0.0), axis=(-2, -1))

    def dark_signal(self, shape: tuple[int, int]) -> np.ndarray:
        """(rows, columns) float64 [counts]."""
        return np.zeros(shape) if self.dark is None else np.asarray(self.dark, float)

    def _gain(self, shape: tuple[int, int]) -> np.ndarray:
        return np.ones(shape) if self.gain is None else np.asarray(self.gain, float)

    @staticmethod
    def _neighbours(live: np.ndarray) -> np.ndarray:
        return _eight(live.astype(float))


def _eight(maps: np.ndarray) -> np.ndarray:
    """Sum of the eight neighbours of every pixel of (..., rows, columns); beyond the edge: 0."""
    padded = np.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)])
    rows, columns = maps.shape[-2:]
    return sum(padded[..., a:a + rows, b:b + columns] for a in range(3) for b in range(3)) - maps
