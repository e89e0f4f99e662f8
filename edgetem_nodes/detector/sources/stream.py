"""Frames of the virtual microscope as fast as a fast camera delivers them: drawn from patterns that were computed before.

Every position of the other simulated source has a pattern of its own, which takes milliseconds. Here patterns are computed at
a grid of places over the scan field, before the first frame, and a frame is drawn from that of the place nearest to its
position. What is measured on such a stream is true to counting statistics and to the specimen at that resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.detector.sources.simulated import SimulatedSource
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.graph.simulated_instrument import DamageGroup, InstabilitiesGroup
from edgetem_nodes.physics.counting import generator
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import Axis

KEY = (1 << 64) - 1
"""Index of the random numbers of a whole exposure: none of its frames has it."""


@dataclass
class _Tables:
    """What frames of one state of the instrument are drawn from: alias tables, and the fraction of the beam on the camera."""

    state: tuple
    tables: np.ndarray
    fractions: np.ndarray


@dataclass
class _Plan:
    """One exposure: the place nearest to each position, expected electrons of each frame, random key."""

    exposure: Exposure
    places: np.ndarray
    means: np.ndarray
    key: np.uint64


class StreamSource:
    """See `DetectorSource`. A frame depends on settings, seed, exposure and index, not on how it is read.

    Parameters
    ----------
    instrument : simulated, with an ideal pixelated camera, and neither instabilities nor damage nor a transition.
    seed : of everything random.
    places : along each axis of the scan field at which patterns are computed.

    Raises
    ------
    ValueError : the instrument is another one; the message says what cannot be streamed.
    """

    pausable = True
    real_time = False

    def __init__(self, instrument: Instrument, seed: int, places: int) -> None:
        _check(instrument)
        self._inner = SimulatedSource(instrument, seed)
        self._seed, self._places = seed, places
        self.name, self.frame_shape, self.dtype = self._inner.name, self._inner.frame_shape, self._inner.dtype
        self._tables: _Tables | None = None
        self._plan: _Plan | None = None

    @property
    def axes(self) -> list[Axis]:
        """Of a frame, at the camera length that was commanded last."""
        return self._inner.axes

    def prepare(self) -> None:
        """Compute the patterns of the configured column."""
        field = self._inner.simulation.settings.field
        self.read(Exposure(0, 0.0, field.positions(np.array([0])), 1e-3, 1e-3, self._inner.simulation.settings.optics), 0, 1)

    def check_dwell(self, dwell: float) -> None:
        """Refuse a dwell time [s] that the camera cannot follow (ValueError)."""
        self._inner.check_dwell(dwell)

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """The camera length stays as it was."""
        self._inner.resume(history)

    def read(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Frames (count, *frame_shape); raises ValueError for a position outside the field.

        The first frames after a change of optics or stage wait for the patterns to be computed anew.
        """
        frames = np.empty((count, *self.frame_shape), self.dtype)
        self.read_into(exposure, first, frames)
        return frames

    def read_into(self, exposure: Exposure, first: int, frames: np.ndarray) -> None:
        """As `read`, into frames (count, *frame_shape), C-contiguous, that are there."""
        from edgetem_nodes.detector.sources.drawing import draw

        plan = self._planned(exposure)
        chosen = slice(first, first + len(frames))
        draw(self._tables.tables, plan.places[chosen], plan.means[chosen], plan.key, first, frames.reshape(len(frames), -1))

    def close(self) -> None:
        """Nothing is held."""

    def _planned(self, exposure: Exposure) -> _Plan:
        if self._plan is None or self._plan.exposure is not exposure:
            simulation = self._inner.simulation
            field = simulation.field(exposure.optics)
            field.candidates(exposure.positions)
            self._inner.point(exposure)
            tables = self._computed(exposure)
            places = np.clip(np.rint((exposure.positions - field.origin) / self._spacing(field)), 0, self._places - 1)
            places = (places[:, 0] * self._places + places[:, 1]).astype(np.int64)
            means = simulation.illumination.electrons(exposure, 0, exposure.count) * tables.fractions[places]
            key = generator(self._seed, exposure.sequence, KEY).integers(0, 1 << 64, dtype=np.uint64)
            self._plan = _Plan(exposure, places, means, key)
        return self._plan

    def _spacing(self, field: object) -> np.ndarray:
        """Distance of neighbouring places, (y, x) [m]."""
        return np.asarray(field.step) * (np.array(field.shape) - 1) / max(1, self._places - 1)

    def _computed(self, exposure: Exposure) -> _Tables:
        """Tables for what was commanded, kept until something else is."""
        from edgetem_nodes.detector.sources.drawing import alias_table

        state = (tuple(sorted(exposure.optics.items())), tuple(sorted(exposure.stage.items())), exposure.holder.tobytes(),
                 exposure.elapsed if len(exposure.holder) else 0.0)
        if self._tables is None or self._tables.state != state:
            field = self._inner.simulation.field(exposure.optics)
            rows, columns = np.divmod(np.arange(self._places**2), self._places)
            positions = np.asarray(field.origin) + np.stack([rows, columns], axis=1) * self._spacing(field)
            there = replace(exposure, positions=positions, correction=(0.0, 0.0), correction_rate=(0.0, 0.0))
            patterns = self._inner.simulation.expected(there, 0, len(positions)).reshape(len(positions), -1)
            self._tables = _Tables(state, np.stack([alias_table(pattern) for pattern in patterns]),
                                   patterns.sum(axis=1, dtype=float))
        return self._tables


def _check(instrument: Instrument) -> None:
    """Refuse an instrument whose frames cannot be drawn from patterns that were computed before (ValueError)."""
    chosen, why = instrument.simulated, ""
    if instrument.driver != "simulated":
        why = f"instrument.driver is {instrument.driver!r}, not 'simulated'"
    elif (chosen.detector, chosen.camera) != ("pixelated", "ideal"):
        why = f"the detector is {chosen.detector!r} with the camera {chosen.camera!r}, not 'pixelated' and 'ideal'"
    elif chosen.instabilities != InstabilitiesGroup():
        why = "instrument.simulated.instabilities are not their defaults: patterns would change with time"
    elif chosen.damage != DamageGroup() or chosen.structure.transition:
        why = "the specimen changes under the beam (instrument.simulated.damage or structure.transition)"
    if why:
        raise ValueError(f"{why}: set stream.places to 0, which computes a pattern for every frame")
