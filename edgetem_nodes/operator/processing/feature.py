"""A feature: what it needs, what it does with each block of frames, and what it makes of them; and the pass they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.archive.pattern_file import BLOCK, PatternFile
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Events, Frames, dense
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.patterns.reduction import PatternSum, Reduction
from edgetem_nodes.operator.processing.calibration import Calibration, usable
from edgetem_nodes.operator.processing.counting import Counting
from edgetem_nodes.operator.processing.request import Request
from edgetem_nodes.operator.processing.results import Failures, FeatureRefused, Result
from edgetem_nodes.physics.scan import ScanField


class FusedPass:
    """Sums over detectors, moments and failures of every frame: computed once, for all features that want them.

    Attributes
    ----------
    counts, errors : by detector, (places,); NaN where there is no value.
    total : (places,); center_of_mass, center_of_mass_errors : (places, 2) [pixel]; variance : (places, 2, 2) [pixel^2].
    patterns : sum of all frames, if it was asked for.
    """

    def __init__(self, source: PatternFile, corrections: Corrections, noise: CountingNoise, threads: int) -> None:
        self._source, self._corrections, self._noise, self._threads = source, corrections, noise, threads
        self._masks: dict[str, np.ndarray] = {}
        self._reduction: Reduction | None = None
        self.patterns: PatternSum | None = None
        self.failures = Failures.none_measured(source.places)
        places = source.places
        self.counts: dict[str, np.ndarray] = {}
        self.errors: dict[str, np.ndarray] = {}
        self.total = np.full(places, np.nan)
        self.center_of_mass, self.center_of_mass_errors = np.full((places, 2), np.nan), np.full((places, 2), np.nan)
        self.variance = np.full((places, 2, 2), np.nan)

    def detector(self, name: str, mask: np.ndarray) -> None:
        """Ask for the counts on a mask."""
        self._masks[name] = mask

    def want_patterns(self) -> None:
        """Ask for the sum of all patterns."""
        self.patterns = self.patterns or PatternSum(self._source.frame_shape)

    def dead_fraction(self, name: str) -> float:
        """Part of a detector that is dead."""
        return self._reduction.dead_fraction[name] if self._reduction else 0.0

    def prepare(self) -> None:
        """Make the reduction; raises ValueError where a mask cannot be used."""
        self._reduction = Reduction(self._source.frame_shape, self._masks, corrections=self._corrections, noise=self._noise,
                                    threads=self._threads)
        for name in self._masks:
            self.counts[name], self.errors[name] = np.full((2, self._source.places), np.nan)

    def add(self, places: np.ndarray, frames: Frames, failures: list[str] | None = None) -> np.ndarray:
        """Take in frames at places (n,), some of which have failed before; returns which are sound, (n,) bool."""
        reduced = self._reduction(frames)
        if failures is not None:
            reduced.failures = [before or after for before, after in zip(failures, reduced.failures, strict=True)]
        for column, name in enumerate(reduced.names):
            self.counts[name][places] = reduced.counts[:, column]
            self.errors[name][places] = reduced.standard_errors[:, column]
        self.total[places] = reduced.total
        self.center_of_mass[places], self.center_of_mass_errors[places] = reduced.center_of_mass, reduced.center_of_mass_errors
        self.variance[places] = reduced.variance
        self.failures.enter(places, reduced.failures)
        sound = self.failures.codes[places] == 0
        if self.patterns is not None:
            # Events of a frame that is not sound are none, but it is no pattern of the mean.
            part = frames if sound.all() or isinstance(frames, Events) else frames[sound]
            self.patterns.add(part)
            self.patterns.count -= len(part) - int(np.count_nonzero(sound))
        return sound


@dataclass
class Context:
    """What features share: the file, what is known, the shared pass (`SpectrumPass` for spectra), the request."""

    source: PatternFile
    calibration: Calibration
    request: Request
    corrections: Corrections
    noise: CountingNoise
    fused: FusedPass
    counting: Counting | None = None

    @property
    def geometry(self) -> DetectorGeometry:
        """Of the detector."""
        return self.calibration.geometry()

    def raster(self, feature: str) -> ScanField:
        """The scan's raster of two rows and columns or more.

        Raises
        ------
        FeatureRefused : the positions are sparse, or a line.
        """
        scan = self.source.field
        if scan is None:
            raise FeatureRefused(f"{feature} needs a raster; {self.source.path.name} holds {self.source.places} sparse "
                                 "positions")
        if min(scan.shape) < 2:
            raise FeatureRefused(f"{feature} needs a raster of two rows and columns or more; the scan is {scan.shape[0]} x "
                                 f"{scan.shape[1]}: state --scan-shape ROWS,COLUMNS if it is one")
        return scan

    @property
    def pixel(self) -> tuple[float, str]:
        """A detector pixel as an angle [rad], or 1 pixel where that is not known."""
        known = "pixel_angle" in self.calibration
        return (self.calibration["pixel_angle"], "rad") if known else (1.0, "pixel")

    def sample(self, most: int) -> np.ndarray:
        """Sound, corrected frames (frames, *signal), at most so many, from places spread over the file.

        Raises
        ------
        ValueError : no frame of the sample is sound.
        """
        size = min(BLOCK, most * self.source.store.frame_bytes)
        _, frames = self.source.sample(size)
        if self.counting is not None:
            frames = self.counting.sample(frames)
        sound = usable(frames, self.noise)
        if not sound.any():
            raise ValueError(f"none of {len(frames)} frames of the sample can be used")
        return self.sound_frames(frames, sound)

    def sound_frames(self, frames: Frames, sound: np.ndarray) -> np.ndarray:
        """Corrected frames without failures; dead pixels are 0."""
        values = dense(frames)[sound] if not sound.all() else dense(frames)
        if self.corrections == Corrections():
            return values
        return np.nan_to_num(self.corrections.applied(values)).astype(np.float32)


class Feature(ABC):
    """One feature of the registry. Subclasses say what they need and do.

    Attributes
    ----------
    signals : dimensions of a frame that it works on: 2 patterns, 1 spectra.
    reads : whether it looks at frames itself; else it lives on the shared pass.
    turns : whether it uses the rotation of the detector against the scan.
    needs_rotation : whether that must be known before the first frame.
    settings : keys it knows and their defaults.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    signals: ClassVar[tuple[int, ...]] = (2,)
    reads: ClassVar[bool] = False
    turns: ClassVar[bool] = False
    needs_rotation: ClassVar[bool] = False
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, context: Context) -> None:
        self.context = context
        given = context.request.of(self.name)
        unknown = set(given) - set(self.settings)
        if unknown:
            raise FeatureRefused(f"{self.name} has no setting {sorted(unknown)[0]!r}; it has "
                                 f"{', '.join(self.settings) or 'none'}")
        self.values = {**self.settings, **given}
        self.failures: Failures | None = None

    def note_failures(self, places: np.ndarray, failures: list[str]) -> None:
        """Keep why sound frames at places (n,) gave no value of this feature; an empty text: they did."""
        self.failures = Failures.none_measured(self.context.source.places)
        self.failures.enter(places, failures)

    def prepare(self) -> None:
        """Before the first frame. Raises FeatureRefused or ValueError where it cannot be computed."""

    def start(self) -> None:
        """Just before its pass over the file, when the rotation is known. Raises as `prepare`."""

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        """Take in sound, corrected frames (n, *signal) at places (n,)."""

    @abstractmethod
    def finish(self) -> list[Result]:
        """The results; raises FeatureRefused or ValueError where there are none."""
