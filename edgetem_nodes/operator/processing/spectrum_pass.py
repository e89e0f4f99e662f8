"""What features of spectra share: total counts, the summed spectrum, and which spectra cannot be used."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.archive.pattern_file import PatternFile
from edgetem_nodes.featurizer.features import CountingNoise, mark
from edgetem_nodes.operator.processing.results import Failures

_ROWS = 4 << 20
"""[values] converted at once."""


class SpectrumPass:
    """Counterpart of `FusedPass` for spectra.

    Attributes
    ----------
    total : (places,) counts, NaN where there is no value.
    spectrum : (channels,) sum of all sound spectra; `count` of them.
    """

    def __init__(self, source: PatternFile, noise: CountingNoise) -> None:
        self._noise = noise
        self.failures = Failures.none_measured(source.places)
        self.total = np.full(source.places, np.nan)
        self.spectrum, self.count = np.zeros(source.frame_shape), 0

    def prepare(self) -> None:
        """Nothing to do before the first spectrum."""

    def add(self, places: np.ndarray, spectra: np.ndarray, failures: list[str] | None = None) -> np.ndarray:
        """Take in spectra (n, channels) at places (n,); returns which of them are sound, (n,) bool."""
        failures = [before or after for before, after in zip(failures or [""] * len(spectra), self._noise.failures(spectra),
                                                             strict=True)]
        total = spectra.sum(axis=1, dtype=float)
        usable = np.array([not failure for failure in failures], bool)
        mark(failures, usable & ~(total > 0), "the spectrum is empty: it holds no counts")
        sound = np.array([not failure for failure in failures], bool)
        self.total[places] = np.where(usable, total, np.nan)
        step = max(1, _ROWS // max(1, spectra.shape[1]))
        for start in range(0, len(spectra), step):
            part = spectra[start:start + step][sound[start:start + step]]
            self.spectrum += part.sum(axis=0, dtype=float)
        self.count += int(np.count_nonzero(sound))
        self.failures.enter(places, failures)
        return sound
