"""The lattice that makes a pattern's pixel counts likeliest: six lattice parameters fitted to all disks' pixels at once.

The expected counts of a pixel are background + sum over disks of amplitude * template, with the disks on a lattice
centre + basis @ (h, k). Amplitudes (and, if asked, their slope and curvature across the disk: dynamical contrast) and a local
background of every disk are fitted along with it. Maximum likelihood reaches the Cramer-Rao bound where many electrons are
few a disk, because no disk has to be located by itself.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.bragg.fitting import UNDETERMINED, coarse_lattice, likeliest_lattice
from edgetem_nodes.featurizer.bragg.template import Template
from edgetem_nodes.featurizer.features import CountingNoise

CONTRASTS = {"uniform": 1, "linear": 3, "quadratic": 6}
"""Amplitudes of a disk by how its inside is modelled."""
DETECTION = 3.0
"""A disk counts as found where its amplitude is this many standard errors above zero."""


@dataclass(frozen=True)
class Lattice:
    """Disks of a pattern: centre + basis @ (h, k), (y, x) [pixel]; basis (2, 2) holds the two vectors as columns."""

    centre: np.ndarray
    basis: np.ndarray

    def places(self, indices: np.ndarray) -> np.ndarray:
        """(disks, 2) of indices (disks, 2)."""
        return self.centre + np.asarray(indices) @ self.basis.T

    def vector(self) -> np.ndarray:
        """(6,): centre, then basis row by row."""
        return np.concatenate([self.centre, self.basis.ravel()]).astype(float)

    @classmethod
    def of(cls, vector: np.ndarray) -> Lattice:
        """From the six numbers of `vector`."""
        return cls(np.array(vector[:2], float), np.array(vector[2:], float).reshape(2, 2))


@dataclass(frozen=True)
class Fits:
    """Lattices fitted to patterns, one a row. Pixels and counts, (y, x).

    Attributes
    ----------
    lattice : (rows, 6): centre, then basis row by row; covariance : (rows, 6, 6).
    amplitudes, variances : (rows, disks, terms) electrons' counts of every disk and polynomial, and their variances.
    shift, information : (rows, disks, 2), (rows, disks, 3) by how much each disk by itself lies off the lattice, and its
        information yy, yx, xx.
    level : (rows,) background of the pattern, in units of the model's; strength : (rows,) counts in all disks.
    log_ratio : (rows,) log-likelihood ratio to background alone.
    chi_square : (rows,) reduced, of the disks' places about the lattice; NaN with fewer than 4 disks found.
    pixel_chi_square : (rows,) Pearson's, a pixel.
    found : (rows,) number of disks that stand out of their noise; on_line : (rows,) whether these, 3 or more, are on one line.
    outcome : (rows,) of `fitting`.
    infinite, saturated : (rows,) number of pixels in use that are not finite, or saturated; such rows are not fitted.
    counts : (rows,) in the pixels in use.
    """

    lattice: np.ndarray
    covariance: np.ndarray
    amplitudes: np.ndarray
    variances: np.ndarray
    shift: np.ndarray
    information: np.ndarray
    level: np.ndarray
    strength: np.ndarray
    log_ratio: np.ndarray
    chi_square: np.ndarray
    pixel_chi_square: np.ndarray
    found: np.ndarray
    on_line: np.ndarray
    outcome: np.ndarray
    infinite: np.ndarray
    saturated: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class LatticeLikelihood:
    """What a scan's patterns have in common.

    Attributes
    ----------
    template : of a disk.
    lattice : where fits begin; indices : (disks, 2) int of the disks that are fitted.
    background : (rows, columns) shape of the background, about 1; 0 where pixels are not used (dead, beam stop, central disk).
    gaps : (rows, columns) bool, pixels between disks, from which the background's level is taken.
    window : radius of the pixels that belong to a disk [pixel].
    search : how far disks may lie from the start [pixel].
    terms : amplitudes of a disk, a value of `CONTRASTS`.
    prior_mean, prior_weight : (disks, terms) of the amplitudes over the counts in all disks; weight is 1 / variance.
    local : standard deviation of a disk's background about the pattern's, relative.
    scatter : standard deviation of disks about the lattice that counting does not explain [pixel].
    usual_chi_square : Pearson's, a pixel, that 19 of 20 patterns of the sample stay below; 1 or more.
    """

    template: Template
    lattice: Lattice
    indices: np.ndarray
    background: np.ndarray
    gaps: np.ndarray
    window: float
    search: int = 3
    terms: int = 1
    prior_mean: np.ndarray | None = None
    prior_weight: np.ndarray | None = None
    local: float = 0.5
    scatter: float = 0.0
    usual_chi_square: float = 1.0
    noise: CountingNoise = field(default_factory=CountingNoise)
    threads: int = 1

    def fit(self, frames: np.ndarray, shifts: np.ndarray | None = None) -> Fits:
        """The likeliest lattice of every frame.

        Parameters
        ----------
        frames : (rows, *background.shape), any real type.
        shifts : (rows, 2) by which patterns are known to lie off the lattice's centre [pixel].
        """
        frames = np.asarray(frames)
        rows, level = len(frames), self.noise.saturation_level(frames.dtype)
        start = np.tile(self.lattice.vector(), (rows, 1))
        if shifts is not None:
            start[:, :2] += shifts
        count = len(self.indices)
        mean = np.zeros((count, self.terms)) if self.prior_mean is None else np.asarray(self.prior_mean, float)
        weight = np.zeros((count, self.terms)) if self.prior_weight is None else np.asarray(self.prior_weight, float)
        out = {"lattice": start, "covariance": np.full((rows, 6, 6), np.nan), "amplitudes": np.zeros((rows, count, self.terms)),
               "variances": np.full((rows, count, self.terms), np.inf), "shift": np.zeros((rows, count, 2)),
               "information": np.zeros((rows, count, 3)), "level": np.zeros(rows), "strength": np.zeros(rows),
               "sums": np.zeros((rows, 4)), "outcome": np.full(rows, UNDETERMINED), "infinite": np.zeros(rows, np.int64),
               "saturated": np.zeros(rows, np.int64), "counts": np.zeros(rows)}
        used = self._used()
        offsets = self.disk_pixels()

        def block(first: int, last: int) -> None:
            part = {name: value[first:last] for name, value in out.items()}
            images = np.ascontiguousarray(frames[first:last], np.float32)
            _fit_rows(images, self.background, used, np.argwhere(self.gaps & (self.background > 0)), level,
                      self.template.phases, self.template.reach, self.template.radius, self.window, offsets,
                      np.asarray(self.indices, float), self.search, self.lattice.vector(), mean, weight, self.local,
                      self.scatter**2, self.noise.counts_per_electron, self.noise.readout_noise**2, *part.values())

        edges = list(range(0, rows, _BLOCK)) + [rows]
        if self.threads == 1:
            list(map(block, edges[:-1], edges[1:]))
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(block, edges[:-1], edges[1:]))
        return self._judged(out)

    def _judged(self, out: dict[str, np.ndarray]) -> Fits:
        sums = out.pop("sums")
        amplitude, variance = self._without_prior(out)
        outstanding = amplitude > DETECTION * np.sqrt(variance)
        found = outstanding.sum(axis=1)
        a, b, d = np.moveaxis(out["information"], -1, 0)
        dy, dx = np.moveaxis(out["shift"], -1, 0)
        square = ((a * dy**2 + 2 * b * dy * dx + d * dx**2) * outstanding).sum(axis=1)
        freedom = 2.0 * found - 6.0
        h, k = outstanding * self.indices[:, 0], outstanding * self.indices[:, 1]
        spread = (h * h).sum(axis=1) * (k * k).sum(axis=1) - (h * k).sum(axis=1)**2
        return Fits(**out, log_ratio=sums[:, 0], found=found, on_line=(found > 2) & (spread == 0),
                    chi_square=np.where(freedom > 0, square / np.maximum(freedom, 1.0), np.nan),
                    pixel_chi_square=sums[:, 1] / np.maximum(sums[:, 2], 1.0))

    def _without_prior(self, out: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Amplitudes (rows, disks) and variances by the pattern's own counts: a disk is not found because it was expected."""
        amplitude, variance = out["amplitudes"][..., 0], out["variances"][..., 0]
        if self.prior_weight is None:
            return amplitude, variance
        strength = np.maximum(out["strength"], 1e-9)[:, None]
        weight = self.prior_weight[:, 0] / strength**2
        own = np.maximum(1.0 / np.maximum(variance, 1e-300) - weight, 1e-12)
        return (amplitude / np.maximum(variance, 1e-300) - weight * self.prior_mean[:, 0] * strength) / own, 1.0 / own

    def _used(self) -> np.ndarray:
        """Pixels (n, 2) that a fit may look at."""
        y, x = np.indices(self.background.shape)
        near = np.zeros(self.background.shape, bool)
        for row, column in self.lattice.places(self.indices):
            near |= np.hypot(y - row, x - column) <= self.window + self.search
        return np.argwhere((near | self.gaps) & (self.background > 0))

    def disk_pixels(self) -> np.ndarray:
        """Pixels (n, 2) int of a disk about its middle one."""
        patch = self.template.patch()
        return np.argwhere(patch > 0.3 * patch.max()) - self.template.reach


_BLOCK = 64
"""Frames at a time in the working type."""


@njit(cache=True, nogil=True)
def _inspect(frame, background, used, dy, dx, level):
    """Pixels in use that are not finite, or saturated, and the sum of the others; of a pattern moved by (dy, dx)."""
    infinite, saturated, total = 0, 0, 0.0
    for p in range(len(used)):
        i, j = used[p, 0] + dy, used[p, 1] + dx
        if 0 <= i < frame.shape[0] and 0 <= j < frame.shape[1] and background[i, j] > 0.0:
            value = frame[i, j]
            if not np.isfinite(value):
                infinite += 1
            else:
                total += value
                if value >= level:
                    saturated += 1
    return infinite, saturated, total


@njit(cache=True, nogil=True)
def _mean_level(frame, background, gaps, dy, dx, gain):
    """Background of a pattern moved by (dy, dx) in units of the model's; half an electron more than seen, because none is not
    known exactly."""
    counts, below = 0.5 * gain, 0.0
    for p in range(len(gaps)):
        i, j = gaps[p, 0] + dy, gaps[p, 1] + dx
        if 0 <= i < frame.shape[0] and 0 <= j < frame.shape[1] and background[i, j] > 0.0:
            counts += frame[i, j]
            below += background[i, j]
    return max(counts, 0.5 * gain) / max(below, 1.0)


@njit(cache=True, nogil=True)
def _fit_rows(frames, background, used, gaps, saturation, phases, reach, radius, window, offsets, indices, search, nominal,
              prior_mean, prior_weight, local, scatter, gain, readout, lattice, covariance, amplitudes, variances, shift,
              information, level, strength, sums, outcome, infinite, saturated, counts):
    count, terms = prior_mean.shape
    levels, found = np.zeros(count), np.zeros(6)
    for row in range(len(frames)):
        frame = frames[row]
        dy, dx = int(np.rint(lattice[row, 0] - nominal[0])), int(np.rint(lattice[row, 1] - nominal[1]))
        infinite[row], saturated[row], counts[row] = _inspect(frame, background, used, dy, dx, saturation)
        if infinite[row] > 0 or saturated[row] > 0 or not counts[row] > 0:
            lattice[row] = np.nan
            continue
        level[row] = _mean_level(frame, background, gaps, dy, dx, gain)
        if search > 0:
            coarse_lattice(frame, background, level[row], offsets, indices, lattice[row].copy(), search, found)
            lattice[row] = found
            dy, dx = int(np.rint(found[0] - nominal[0])), int(np.rint(found[1] - nominal[1]))
            level[row] = _mean_level(frame, background, gaps, dy, dx, gain)
        strength[row] = _first_amplitudes(frame, background, level[row], offsets, indices, lattice[row], prior_mean, gain,
                                          amplitudes[row])
        levels[:] = level[row]
        outcome[row] = likeliest_lattice(frame, background, level[row], phases, reach, radius, window, indices, prior_mean,
                                         prior_weight, strength[row], local, scatter, gain, readout, lattice[row],
                                         amplitudes[row], levels, covariance[row], variances[row], information[row], shift[row],
                                         sums[row])


@njit(cache=True, nogil=True)
def _first_amplitudes(frame, background, level, offsets, indices, lattice, prior_mean, gain, amplitudes):
    """Start values by the counts in each disk; the counts in all of them."""
    count, terms = amplitudes.shape
    total, expected = 0.0, 0.0
    for k in range(count):
        y = lattice[0] + lattice[2] * indices[k, 0] + lattice[3] * indices[k, 1]
        x = lattice[1] + lattice[4] * indices[k, 0] + lattice[5] * indices[k, 1]
        seen, below = 0.0, 0.0
        for o in range(len(offsets)):
            i, j = int(np.rint(y)) + offsets[o, 0], int(np.rint(x)) + offsets[o, 1]
            if 0 <= i < frame.shape[0] and 0 <= j < frame.shape[1] and background[i, j] > 0.0:
                seen += frame[i, j]
                below += background[i, j]
        amplitudes[k, 0] = seen - level * below
        total += amplitudes[k, 0]
        expected += prior_mean[k, 0]
    strength = max(total, gain)
    for k in range(count):
        amplitudes[k, 0] = max(amplitudes[k, 0], prior_mean[k, 0] * strength, gain)
        for t in range(1, terms):
            amplitudes[k, t] = prior_mean[k, t] * strength
    return strength
