"""A monolithic active pixel sensor: an electron passes a thin layer and leaves a blot of very unequal charge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras import landau, silicon
from edgetem_nodes.physics.cameras.clusters import Response
from edgetem_nodes.physics.cameras.fixed_pattern import Pattern
from edgetem_nodes.physics.cameras.integrating import AnalogueCamera

_TRACKS, _RADIUS = 16384, 2


@lru_cache(maxsize=8)
def _response(high_tension: float, pitch: float, thickness: float, diffusion: float, pairs_per_count: float) -> Response:
    """Counts in each pixel about an electron that enters the central one anywhere."""
    from scipy.special import ndtr

    rng = counting.generator(0x51, 0x51C2, 0)
    pairs = landau.losses(high_tension, thickness, _TRACKS, rng) / silicon.PAIR_ENERGY
    entry = silicon.even_points(_TRACKS, rng)
    edges = np.arange(1 - _RADIUS, _RADIUS + 1)
    # the tails of the blot beyond the window stay in its outermost pixels
    shares = [np.diff(ndtr((edges - entry[:, axis, None]) * (pitch / diffusion)), axis=-1, prepend=0, append=1)
              for axis in (0, 1)]
    blots = shares[0][:, :, None] * shares[1][:, None, :] * (pairs / pairs_per_count)[:, None, None]
    return Response(blots.astype(np.float32), entry)


@dataclass(frozen=True, kw_only=True)
class ActivePixel(AnalogueCamera):
    """Frames of analogue events, which a counting algorithm can find where they are sparse.

    The energy that an electron leaves follows Landau's law; its charge diffuses to neighbouring pixels. Values chosen,
    typical of direct detectors (McMullan et al., Ultramicroscopy 109, 1126 and 1411 (2009); Milazzo et al., J. Struct.
    Biol. 176, 404 (2011); Li et al., Nature Methods 10, 584 (2013)). Electrons that the substrate scatters back are left
    out: the sensor is taken to be thinned.

    Attributes
    ----------
    pitch : of the pixels [m]. sensitive_thickness : of the epitaxial layer [m].
    diffusion : standard deviation of blots [m].
    pairs_per_count : electron-hole pairs per count of the converter. noise_pairs : read noise [pairs].
    converter_bits : of the analogue-to-digital converter.
    """

    pattern: Pattern = Pattern(gain=0.01, dark=4.0, dead=1e-5, hot=1e-4)
    shortest_frame: float = 1 / 2300
    offset: float = 100.0
    pitch: float = 6.5e-6
    sensitive_thickness: float = 10e-6
    diffusion: float = 3e-6
    pairs_per_count: float = 8.0
    noise_pairs: float = 20.0
    converter_bits: int = 12
    name = "active_pixel"
    dtype = np.dtype("<u2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 8 <= self.converter_bits <= 16:
            raise ValueError(f"converter_bits {self.converter_bits} is not between 8 and 16")
        landau.check_thin(self.high_tension, self.sensitive_thickness)

    @property
    def response(self) -> Response:
        """To one electron [counts]."""
        return _response(self.high_tension, self.pitch, self.sensitive_thickness, self.diffusion, self.pairs_per_count)

    @property
    def read_noise(self) -> float:
        """[counts]."""
        return self.noise_pairs / self.pairs_per_count

    @property
    def _largest(self) -> float:
        return float((1 << self.converter_bits) - 1)
