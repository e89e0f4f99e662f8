"""The fused pass: any number of virtual detectors, the sum, the centre of mass and the second moments of every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, mark
from edgetem_nodes.featurizer.patterns.below_zero import BelowZero
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Events, Frames, plain
from edgetem_nodes.featurizer.patterns.linear_sums import MOMENTS, LinearSums
from edgetem_nodes.featurizer.patterns.moments import Moments
from edgetem_nodes.featurizer.patterns.pattern_sum import PatternSum

__all__ = ["PatternSum", "Reduced", "Reduction"]


@dataclass
class Reduced:
    """What frames became, one row a frame; NaN where not defined, and then `failures` says why.

    Attributes
    ----------
    names : of the detectors.
    counts : (frames, detectors) float64, weighted sums of corrected counts.
    standard_errors : (frames, detectors), from counting statistics.
    total : (frames,), counts on the moments' mask; by default on the whole frame.
    center_of_mass : (frames, 2), (y, x) [pixel] from the centre of pixel (0, 0), less the frame's shift.
    center_of_mass_errors : (frames, 2), standard errors; NaN for one electron or none, which have no spread.
    center_of_mass_covariance : (frames, 2, 2) [pixel^2], by first-order propagation; its diagonal is that of the errors.
    variance : (frames, 2, 2), second central moments [[yy, yx], [yx, xx]] [pixel^2]; below zero only within readout noise.
    failures : (frames,) why something is NaN; empty where everything is defined.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    standard_errors: np.ndarray
    total: np.ndarray
    center_of_mass: np.ndarray
    center_of_mass_errors: np.ndarray
    center_of_mass_covariance: np.ndarray
    variance: np.ndarray
    failures: list[str]

    def __getitem__(self, name: str) -> np.ndarray:
        """Counts of one detector (frames,)."""
        return self.counts[:, self.names.index(name)]

    @classmethod
    def joined(cls, parts: list[Reduced]) -> Reduced:
        """The rows of several, one after the other; all of one reduction."""
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in (
            "counts", "standard_errors", "total", "center_of_mass", "center_of_mass_errors", "center_of_mass_covariance",
            "variance"))
        return cls(parts[0].names, *arrays, [failure for part in parts for failure in part.failures])


class Reduction:
    """Everything a frame is reduced to in one pass over it.

    Every result is a linear sum over raw pixel values, or made of such sums. Corrections are linear too, so they go into the
    weights: a dark signal costs nothing, neither do dead pixels that are left out; a gain or interpolation makes weighted sums
    of all.

    Parameters
    ----------
    shape : (rows, columns) of the frames.
    detectors : masks by name, (rows, columns): bool, or weights of any sign.
    moments_mask : bool, pixels of the total and the moments; None: all.
    moments : False: only detectors; total, centre of mass and variance are NaN and no failure.
    corrections : dark, gain, dead pixels.
    noise : of raw values less dark; None: Poisson, a count an electron.
    threads : that frames are shared out among.

    Attributes
    ----------
    names : of the detectors.
    dead_fraction : by detector, the fraction of its weight (absolute) on dead pixels that are not interpolated.
    """

    def __init__(self, shape: tuple[int, int], detectors: Mapping[str, np.ndarray], *, moments_mask: np.ndarray | None = None,
                 moments: bool = True, corrections: Corrections | None = None, noise: CountingNoise | None = None,
                 threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads: 1 or more")
        self.shape, self.names, self.threads = tuple(shape), tuple(detectors), threads
        self.noise = noise or CountingNoise()
        corrections = corrections or Corrections()
        corrections.check(self.shape)
        known = corrections.known(self.shape)
        weights = {name: self._weights(name, mask) for name, mask in detectors.items()}
        self.dead_fraction = {name: self._dead(name, weight, known) for name, weight in weights.items()}
        inside = None
        if moments:
            inside = np.ones(self.shape) if moments_mask is None else self._weights("moments", plain(moments_mask).astype(bool))
            self._dead("moments", inside, known)
        self._plan(weights, inside, corrections)

    def _weights(self, name: str, mask: np.ndarray) -> np.ndarray:
        try:
            mask = plain(mask)
        except ValueError as error:
            raise ValueError(f"the mask of {name!r}: {error}") from None
        if mask.shape != self.shape:
            raise ValueError(f"the mask of {name!r} has shape {mask.shape}, frames have {self.shape}")
        weights = mask.astype(float)
        if not np.isfinite(weights).all():
            raise ValueError(f"the mask of {name!r} holds {np.count_nonzero(~np.isfinite(weights))} weights that are not "
                             "finite: set them to 0 or to a number")
        if not weights.any():
            raise ValueError(f"the mask of {name!r} holds no pixel of the frame: a disk off the detector has no counts")
        return weights

    @staticmethod
    def _dead(name: str, weights: np.ndarray, known: np.ndarray) -> float:
        weight = np.abs(weights)
        fraction = 1.0 - float(weight[known].sum() / weight.sum())
        if not weight[known].any():
            raise ValueError(f"every pixel of {name!r} is dead or behind the beam stop: it has no counts; choose another mask")
        return fraction

    def _plan(self, detectors: dict[str, np.ndarray], inside: np.ndarray | None, corrections: Corrections) -> None:
        """Sort the sums that are needed into masks, where pixels count once or not at all, and weight maps."""
        maps = {name: corrections.weights(weight) for name, weight in detectors.items()}
        binary = [name for name, weight in maps.items() if np.isin(weight, (0.0, 1.0)).all()]
        self._floors = {name: float((weight**4).sum() / (weight**2).sum()) for name, weight in maps.items()}
        extra = {("sum", name): maps[name] for name in maps if name not in binary}
        extra |= {("square", name): maps[name]**2 for name in maps if name not in binary}
        fused, counted = [], inside
        if inside is not None and not corrections.weighs:
            inside = corrections.weights(inside) != 0
            fused = [("moment", powers) for powers in MOMENTS]
        elif inside is not None:
            y, x = np.mgrid[:self.shape[0], :self.shape[1]].astype(float)
            extra |= {("moment", (a, b)): corrections.weights(inside * y**a * x**b) for a, b in MOMENTS}
            one, y, x = (extra["moment", powers] for powers in MOMENTS[:3])
            extra |= {("spread", powers): weight for powers, weight in zip(MOMENTS, (
                one * one, one * y, one * x, y * y, y * x, x * x), strict=True)}
            inside = None
        self._column = {key: k for k, key in enumerate([*(("sum", name) for name in binary), *fused, *extra])}
        self._sums = LinearSums(self.shape, np.reshape([maps[name] for name in binary], (-1, *self.shape)) != 0, inside,
                                np.reshape(list(extra.values()), (-1, *self.shape)), self.threads)
        self._offsets = corrections.offsets(self._sums.maps)
        self._areas = self._sums.maps.sum(axis=(1, 2))
        self._below = None
        if counted is not None:
            self._kind = "spread" if corrections.weighs else "moment"
            columns = self._columns(self._kind)
            self._center = Moments(counted != 0, self._areas[columns], self.noise)
            self._below = BelowZero(self._sums.maps[columns[0]], corrections.dark_signal(self.shape), self._sums)

    def __call__(self, frames: Frames, shifts: np.ndarray | None = None) -> Reduced:
        """Reduce frames (frames, rows, columns) of any real type, or events; each row depends on its frame alone, bit for bit.

        shifts (frames, 2), (y, x) [pixel]: by how much each pattern is shifted on the detector (descan); the centre of mass is
        given less that. Masks stay where they are.

        Raises
        ------
        ValueError : frames of another shape, of complex numbers, or masked; shifts of another length.
        """
        if shifts is not None:
            shifts = np.asarray(shifts, float)
            if shifts.shape != (len(frames), 2):
                raise ValueError(f"shifts of shape {shifts.shape} do not fit {len(frames)} frames: (frames, 2)")
        if isinstance(frames, Events):
            if tuple(frames.shape) != self.shape:
                raise ValueError(f"events on frames of {tuple(frames.shape)} do not fit the masks' {self.shape}")
            sums, failures = self._sums.of_events(frames), [""] * len(frames)
        else:
            frames = plain(frames)
            if frames.shape[1:] != self.shape or frames.ndim != 3:
                raise ValueError(f"frames of shape {frames.shape} do not fit the masks': (frames, {self.shape[0]}, "
                                 f"{self.shape[1]})")
            sums, top = self._sums.of_frames(frames)
            failures = self._failures(frames, sums, top)
        below = self._below(frames) if self._below else None
        return self._reduced(sums - self._offsets, below, failures, shifts)

    def _failures(self, frames: np.ndarray, sums: np.ndarray, top: np.ndarray) -> list[str]:
        """Why frames cannot be used; their pixels are looked at again only where sums or the largest value tell of it."""
        failures = [""] * len(frames)
        suspect = ~np.isfinite(sums).all(axis=1) | (top >= self.noise.saturation_level(frames.dtype))
        for row in np.flatnonzero(suspect):
            failures[row] = self.noise.failures(frames[row][self._sums.used][None])[0] or "a sum of the frame is not finite"
        return failures

    def _reduced(self, sums: np.ndarray, below: np.ndarray | None, failures: list[str], shifts: np.ndarray | None) -> Reduced:
        """Results from sums of raw values less dark (frames, columns), and the moments of what is below zero (frames, 6)."""
        unusable = np.array([bool(failure) for failure in failures], bool)
        sums[unusable] = np.nan
        counts, variances = np.zeros((len(sums), len(self.names))), np.zeros((len(sums), len(self.names)))
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        for k, name in enumerate(self.names):
            column = self._column["sum", name]
            square = self._column.get(("square", name), column)
            counts[:, k] = sums[:, column]
            variances[:, k] = gain * np.maximum(sums[:, square], gain * self._floors[name]) + self._areas[square] * readout**2
        total, center, covariance, variance = self._moments(sums, below, failures)
        if shifts is not None:
            lost = ~np.isfinite(shifts).all(axis=1) & (self._below is not None)
            center, covariance[lost] = np.where(lost[:, None], np.nan, center - shifts), np.nan
            mark(failures, lost, "the frame's shift is not a finite number: its centre of mass on "
                 "the undeflected pattern is not known; give a shift for every frame")
        errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        return Reduced(self.names, counts, np.sqrt(variances), total, center, errors, covariance, variance,
                       failures)

    def _moments(self, sums: np.ndarray, below: np.ndarray | None, failures: list[str]) -> tuple[np.ndarray, ...]:
        """Total, centre of mass, its covariance, and second central moments; marks frames that have none."""
        if below is None:
            return tuple(np.full((len(sums), *shape), np.nan) for shape in ((), (2,), (2, 2), (2, 2)))
        return self._center(sums[:, self._columns("moment")], sums[:, self._columns(self._kind)], below, failures)

    def _columns(self, kind: str) -> list[int]:
        return [self._column[kind, powers] for powers in MOMENTS]
