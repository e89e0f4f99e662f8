"""Cameras that integrate charge: a dark offset, read noise and a gain; and the EMPAD, a high-dynamic-range one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics.cameras import silicon
from edgetem_nodes.physics.cameras.clusters import Response
from edgetem_nodes.physics.cameras.fixed_pattern import Pattern, PixelMaps
from edgetem_nodes.physics.cameras.model import SiliconCamera


@dataclass(frozen=True, kw_only=True)
class AnalogueCamera(SiliconCamera):
    """Charge of many electrons, read out at the end of the frame. A hot pixel's offset is its heat times 100 read noises.

    Attributes
    ----------
    offset : mean dark signal of a pixel [counts].
    full_well : electrons of the beam at which a pixel saturates.
    """

    offset: float = 0.0
    full_well: float = np.inf

    @property
    @abstractmethod
    def response(self) -> Response:
        """To one electron, in counts."""

    @property
    @abstractmethod
    def read_noise(self) -> float:
        """Standard deviation of a pixel of a blank frame [counts]."""

    @property
    def counts_per_electron(self) -> float:
        """Mean signal of an electron, summed over pixels [counts]."""
        return self.response.gain

    @property
    def saturation(self) -> float:
        """Greatest value of a pixel [counts]."""
        return float(min(self.offset + self.full_well * self.counts_per_electron, self._largest))

    @property
    @abstractmethod
    def _largest(self) -> float:
        """Greatest number that the converter writes."""

    @property
    def dynamic_range(self) -> float:
        """Greatest signal over read noise."""
        return (self.saturation - self.offset) / self.read_noise

    def _frame(self, expected: np.ndarray, live: float, maps: PixelMaps, rows: int, rng: np.random.Generator) -> np.ndarray:
        line = expected.ndim == 1
        response = self.response.line if line else self.response
        signal = response.sample(np.atleast_2d(expected), rng).reshape(expected.shape)
        noise = self.read_noise * np.sqrt(rows) * rng.standard_normal(expected.shape, np.float32)
        dark = self.offset * rows + maps.dark + maps.heat * 100 * self.read_noise
        return signal * maps.gain * maps.alive + noise + dark

    def _offset(self, axes: int) -> float:
        return self.offset * (self.line_rows if axes == 2 else 1)


@lru_cache(maxsize=8)
def _response(high_tension: float, pitch: float, thickness: float, bias: float, gain: float) -> Response:
    """Counts that the charge of an electron amounts to in each pixel."""
    energy, entry = silicon.deposits(high_tension, pitch, thickness, bias)
    return Response(energy * np.float32(gain), entry)


@dataclass(frozen=True, kw_only=True)
class Integrating(AnalogueCamera):
    """The electron microscope pixel array detector (Tate et al., Microscopy and Microanalysis 22, 237 (2016)).

    128 x 128 pixels on 500 um of silicon, dynamic range 1,000,000 : 1, 1100 frames a second. Pitch 150 um, a million
    electrons a pixel and frame and a signal to noise of one electron of 140, both at 200 keV, and 0.86 ms of a frame for
    readout are the figures in use for this detector.

    Attributes
    ----------
    gain : counts per energy [1/eV]: an electron of 80 keV gives 151, as users of the detector calibrate it.
    noise_energy : read noise [eV].
    well_energy : charge at which a pixel saturates [eV]; gives `full_well` where that is not set.
    dtype : uint32, or float32 for signals that are not rounded.
    """

    pattern: Pattern = Pattern(gain=0.02, dark=30.0, dead=2e-4, hot=1e-4)
    shortest_frame: float = 1 / 1100
    readout_dead_time: float = 0.86e-3
    offset: float = 1000.0
    pitch: float = 150e-6
    thickness: float = 500e-6
    bias: float = 150.0
    gain: float = 151 / 80e3
    noise_energy: float = 200e3 / 140
    well_energy: float = 200e3 * 1e6
    dtype: np.dtype = np.dtype("<u4")
    name = "integrating"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in (np.dtype("<u4"), np.dtype("<f4")):
            raise ValueError(f"dtype {self.dtype} of the integrating camera is neither uint32 nor float32")
        if np.isinf(self.full_well):
            object.__setattr__(self, "full_well", self.well_energy / self.high_tension)

    @property
    def response(self) -> Response:
        """To one electron [counts]."""
        return _response(self.high_tension, self.pitch, self.thickness, self.bias, self.gain)

    @property
    def read_noise(self) -> float:
        """[counts]."""
        return self.noise_energy * self.gain

    @property
    def _largest(self) -> float:
        return float(np.iinfo(np.uint32).max)
