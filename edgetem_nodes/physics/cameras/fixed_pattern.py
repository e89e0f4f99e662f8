"""What is the same in every frame of a camera: gains and offsets of its pixels, dead and hot ones. From the seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics import counting

PATTERN = 1 << 63
"""Sequence number of the fixed pattern; acquisitions count from 0, images downwards from `counting.SURVEY`."""


@dataclass(frozen=True)
class Pattern:
    """Spread of a fixed pattern.

    Attributes
    ----------
    gain : standard deviation of the relative gain of the pixels.
    dark : standard deviation of the dark offset of the pixels, in the camera's counts.
    dead, hot : parts of the pixels that never answer, and that answer without electrons.
    """

    gain: float = 0.0
    dark: float = 0.0
    dead: float = 0.0
    hot: float = 0.0

    def __post_init__(self) -> None:
        for name, value, limit in (("gain", self.gain, 0.25), ("dark", self.dark, np.inf),
                                   ("dead", self.dead, 0.5), ("hot", self.hot, 0.5)):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} {value} of a fixed pattern is not between 0 and {limit}")


@dataclass(frozen=True)
class PixelMaps:
    """The fixed pattern of a camera of one shape, each array of that shape.

    Attributes
    ----------
    gain : relative gain, 1 on average, dead pixels apart.
    dark : dark offset relative to the camera's mean, in its counts.
    alive : part of the pixel that answers: 0 or 1, or in between for a channel that sums rows of pixels.
    heat : 0, or how hot a pixel is, from 0.01 to 10, in units that the camera explains.
    """

    gain: np.ndarray
    dark: np.ndarray
    alive: np.ndarray
    heat: np.ndarray


@lru_cache(maxsize=16)
def pixel_maps(pattern: Pattern, shape: tuple[int, ...], seed: int, line_rows: int = 1) -> PixelMaps:
    """The fixed pattern of `shape`: (rows, columns), or (channels,) of which each sums `line_rows` pixels."""
    rng = counting.generator(seed, PATTERN, 0)
    size = shape if len(shape) == 2 else (line_rows, *shape)
    gain = np.clip(1 + pattern.gain * rng.standard_normal(size), 0.05, None)
    dark = pattern.dark * rng.standard_normal(size)
    chance = rng.random(size)
    heat = 10 ** rng.uniform(-2, 1, size) * (chance > 1 - pattern.hot)
    alive = (chance >= pattern.dead).astype(float)
    maps = [gain, dark, alive, heat * alive]
    if len(shape) == 1:
        maps = [gain.mean(axis=0), dark.sum(axis=0), alive.mean(axis=0), maps[3].sum(axis=0)]
    for array in maps:
        array.setflags(write=False)
    return PixelMaps(*maps)
