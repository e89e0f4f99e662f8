"""A counting hybrid pixel camera (Medipix3, EIGER): thick silicon, a threshold and counters under every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras import silicon
from edgetem_nodes.physics.cameras.clusters import Response
from edgetem_nodes.physics.cameras.dead_time import corrected, surviving
from edgetem_nodes.physics.cameras.fixed_pattern import Pattern, PixelMaps
from edgetem_nodes.physics.cameras.model import SiliconCamera

MODES = {6: (1 / 2400, 0.0), 12: (1 / 1200, 0.0), 24: (1 / 400, 1.64e-3)}
"""Counter depth [bit]: shortest frame and readout dead time [s]. Medipix3 reads one counter of a pixel while the other
counts; at 24 bit both serve one frame, so that it is blind while they are read (Ballabriga et al., JINST 6, C01052 (2011)).
The times depend on the readout electronics: these are typical ones, not of a particular camera."""


@lru_cache(maxsize=8)
def _response(high_tension: float, pitch: float, thickness: float, bias: float, threshold: float, noise: float,
              charge_summing: bool) -> Response:
    """Which pixels count an electron: those whose charge and electronic noise pass the threshold."""
    energy, entry = silicon.deposits(high_tension, pitch, thickness, bias)
    energy = energy + noise * counting.generator(0x51, 0x51C1, 0).standard_normal(energy.shape)
    counted = energy > threshold
    if charge_summing:
        flat = energy.reshape(len(energy), -1)
        squares = energy[:, 1:] + energy[:, :-1]
        total = (squares[..., 1:] + squares[..., :-1]).max(axis=(1, 2))
        winner = np.arange(flat.shape[1]) == flat.argmax(axis=1)[:, None]
        counted = (winner & (total > threshold)[:, None]).reshape(energy.shape)
    return Response(counted.astype(np.int32), entry)


@dataclass(frozen=True, kw_only=True)
class HybridPixel(SiliconCamera):
    """Counts of pixels whose charge passes a threshold.

    Attributes
    ----------
    pattern : `gain` is the spread of the pixels' effective areas. A hot pixel counts its heat times 10 kHz.
    depth : of the counters [bit]: 6, 12 or 24.
    pitch, thickness : of pixels and sensor [m]. bias : across the sensor [V].
    threshold : [eV]; None is half the energy of the electrons, where at most one pixel counts an electron, but no more than
        40 keV: above 80 kV the charge lies in so many pixels that half the energy seldom meets in one.
    electronic_noise : standard deviation, with the spread of thresholds [eV]; the noise alone is 80 electrons in a
        pixel of Medipix3.
    charge_summing : the charge of 2 x 2 pixels meets the threshold and is counted in the pixel with the most (Medipix3).
    pulse_dead_time : during which a pixel does not see another electron [s].
    paralysable : whether an electron that comes during the dead time makes it longer.
    shortest_frame, readout_dead_time : [s]; None takes the counter depth's, `MODES`.
    """

    pattern: Pattern = Pattern(gain=0.015, dead=1e-4, hot=1e-4)
    shortest_frame: float | None = None
    readout_dead_time: float | None = None
    depth: int = 12
    pitch: float = 55e-6
    thickness: float = 300e-6
    bias: float = 100.0
    threshold: float | None = None
    electronic_noise: float = 360.0
    charge_summing: bool = False
    pulse_dead_time: float = 0.5e-6
    paralysable: bool = True
    name = "hybrid_pixel"

    def __post_init__(self) -> None:
        if self.depth not in MODES:
            raise ValueError(f"counter depth {self.depth} bit is not one of {sorted(MODES)}")
        shortest, blind = MODES[self.depth]
        if self.shortest_frame is None:
            object.__setattr__(self, "shortest_frame", shortest)
        if self.readout_dead_time is None:
            object.__setattr__(self, "readout_dead_time", min(blind, self.shortest_frame))
        super().__post_init__()
        least, most = 6 * self.electronic_noise, self.high_tension
        if not least <= self.threshold_energy <= most:
            raise ValueError(f"threshold {self.threshold_energy:g} eV is not between six times the electronic noise, "
                             f"{least:g} eV, and the energy of the electrons, {most:g} eV")
        if not self.pulse_dead_time >= 0:
            raise ValueError(f"pulse dead time {self.pulse_dead_time} s is negative")

    @property
    def dtype(self) -> np.dtype:
        """uint16, or uint32 for 24-bit counters."""
        return np.dtype("<u4" if self.depth > 16 else "<u2")

    @property
    def saturation(self) -> float:
        """Greatest count."""
        return float((1 << self.depth) - 1)

    @property
    def threshold_energy(self) -> float:
        """[eV]."""
        return min(self.high_tension / 2, 40e3) if self.threshold is None else self.threshold

    @property
    def response(self) -> Response:
        """To one electron: point spread, MTF, DQE(0)."""
        return _response(self.high_tension, self.pitch, self.thickness, self.bias, self.threshold_energy,
                         self.electronic_noise, self.charge_summing)

    @property
    def counts_per_electron(self) -> float:
        """Mean counts of an electron at low rate."""
        return self.response.gain

    def _frame(self, expected: np.ndarray, live: float, maps: PixelMaps, rows: int, rng: np.random.Generator) -> np.ndarray:
        line = expected.ndim == 1
        response = self.response.line if line else self.response
        efficiency = maps.gain * maps.alive if line else maps.gain
        counts = response.sample(np.atleast_2d(expected * efficiency), rng).reshape(expected.shape)
        counts = surviving(counts, self.pulse_dead_time / (live * rows), self.paralysable, rng)
        hot = np.nonzero(maps.heat)
        counts[hot] += rng.poisson(maps.heat[hot] * 1e4 * live)
        return counts if line else counts * maps.alive

    def _linear(self, frames: np.ndarray, dwell: float | None) -> np.ndarray:
        if dwell is None:
            return frames
        rows = self.line_rows if frames.ndim == 2 else 1
        live = dwell * self.live_fraction(dwell)
        return corrected(frames, self.pulse_dead_time / (live * rows), self.paralysable).astype(np.float32)
