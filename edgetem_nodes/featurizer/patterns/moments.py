"""The centre of mass of frames from sums over them: its error, second moments, and whether there is a centre at all."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise

SIGNIFICANT = 3.0
"""Standard errors by which a total must be above zero, and a second moment below, to be taken for what they are."""
ROUNDING = 1e-12
"""Of a second moment, part of the square of the frame's size."""


class Moments:
    """Centres of mass on a mask, and what is known of them.

    Parameters
    ----------
    inside : (rows, columns) bool, the pixels that count.
    areas : (6,), sums of the squared effective weights, times 1, y, x, yy, yx, xx: what even noise makes of the moments.
    noise : of the counts.
    """

    def __init__(self, inside: np.ndarray, areas: np.ndarray, noise: CountingNoise) -> None:
        self._areas, self._noise = areas, noise
        places = np.argwhere(inside).astype(float)
        self._low, self._high = places.min(axis=0), places.max(axis=0)
        self._powers = np.stack([(places**k).sum(axis=0) for k in range(5)])
        self._rounding = ROUNDING * float(np.sum(np.square(inside.shape)))

    def __call__(self, sums: np.ndarray, spread: np.ndarray, below: np.ndarray, failures: list[str]) -> tuple[np.ndarray, ...]:
        """Total, centre of mass, its covariance, and second central moments; marks (in place) frames that have none.

        Parameters
        ----------
        sums, spread : (frames, 6), of counts times 1, y, x, yy, yx, xx, with the effective weights and with their squares.
        below : (frames, 6), the same with the squared weights of the readout variance that values below zero tell.

        Returns
        -------
        (frames,) [counts], (frames, 2) [pixel], (frames, 2, 2) [pixel^2], (frames, 2, 2) [pixel^2]; NaN where not defined.
        """
        total, y, x, yy, yx, xx = sums.T
        for row in np.flatnonzero(~(total > 0)):
            failures[row] = failures[row] or f"the frame is empty: {total[row]:g} counts have no centre of mass"
        reading = np.maximum(self._noise.readout_noise**2 * self._areas[0], below[:, 0])
        some = np.where(total > 0, total, np.nan)
        y, x = y / some, x / some
        center = np.stack([y, x], axis=1)
        lost = self._insignificant(total, np.sqrt(reading), failures) | self._outside(center, failures)
        some, center = np.where(lost, np.nan, some), np.where(lost[:, None], np.nan, center)
        variance = np.stack([yy / some - y * y, yx / some - y * x, yx / some - y * x, xx / some - x * x], axis=1)
        variance = self._possible(variance.reshape(-1, 2, 2), some, center, reading / self._areas[0], failures)
        return total, center, self._covariance(spread, below, some, center), variance

    def _insignificant(self, total: np.ndarray, error: np.ndarray, failures: list[str]) -> np.ndarray:
        """Frames (frames,) bool whose total readout noise could have made: a ratio to it has no error of first order."""
        bad = (total > 0) & (total <= SIGNIFICANT * error)
        for row in np.flatnonzero(bad):
            failures[row] = failures[row] or (
                f"a total of {total[row]:.4g} counts is not above {SIGNIFICANT:g} times its readout noise, {error[row]:.3g} "
                "counts: it has no centre of mass; count the electrons, or choose a smaller mask")
        return bad

    def _outside(self, center: np.ndarray, failures: list[str]) -> np.ndarray:
        """Frames (frames,) bool whose centre lies off the pixels it is the mean of: values below zero made it."""
        bad = ((center < self._low - 0.5) | (center > self._high + 0.5)).any(axis=1)
        for row in np.flatnonzero(bad):
            (first, left), (last, right) = self._low, self._high
            failures[row] = failures[row] or (
                f"the centre of mass ({center[row, 0]:.4g}, {center[row, 1]:.4g}) lies off its pixels, rows {first:g} to "
                f"{last:g} and columns {left:g} to {right:g}: values below zero outweigh; correct the dark signal")
        return bad

    def _possible(self, variance: np.ndarray, total: np.ndarray, center: np.ndarray, reading: np.ndarray,
                  failures: list[str]) -> np.ndarray:
        """Second moments (frames, 2, 2), NaN where one is below zero by more than readout noise (frames,) a pixel makes it."""
        p0, p1, p2, p3, p4 = self._powers
        c = center
        fourth = p4 - 4 * c * p3 + 6 * c**2 * p2 - 4 * c**3 * p1 + c**4 * p0
        errors = np.sqrt(np.maximum(fourth, 0.0) * reading[:, None]) / total[:, None]
        diagonal = np.diagonal(variance, axis1=1, axis2=2)
        bad = diagonal < -SIGNIFICANT * errors - self._rounding
        for row in np.flatnonzero(bad.any(axis=1)):
            k = int(bad[row].argmax())
            failures[row] = failures[row] or (
                f"a second moment of {diagonal[row, k]:.4g} pixel^2 is below zero by more than {SIGNIFICANT:g} times its "
                f"readout noise, {errors[row, k]:.3g} pixel^2: values below zero outweigh; correct the dark signal")
        return np.where(bad.any(axis=1)[:, None, None], np.nan, variance)

    def _covariance(self, spread: np.ndarray, below: np.ndarray, total: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Covariance (frames, 2, 2) [pixel^2] of the centre of mass to first order; NaN for one electron or less.

        A component is sum(I y) / sum(I), so its variance is sum((y - mean)^2 var(I)) / sum(I)^2, with y and 1 replaced by the
        effective weights where corrections weigh. N electrons scatter about their own mean: the part that they make has the
        factor N / (N - 1).
        """
        gain = self._noise.counts_per_electron
        electrons = np.where(total > gain, total / gain, np.nan)
        scatter = central(spread, center)
        counting = _positive(gain * scatter / total[:, None, None]**2) * (electrons / (electrons - 1))[:, None, None]
        self._lone(counting, scatter, total, center, electrons, below[:, 0] > 0)
        declared, told = central(self._noise.readout_noise**2 * self._areas, center), central(below, center)
        larger = np.trace(told, axis1=1, axis2=2) > np.trace(declared, axis1=1, axis2=2)
        return counting + np.where(larger[:, None, None], told, declared) / total[:, None, None]**2

    def _lone(self, counting: np.ndarray, scatter: np.ndarray, total: np.ndarray, center: np.ndarray, electrons: np.ndarray,
              noisy: np.ndarray) -> None:
        """Enter (in place) what N electrons that all lie on one row, or column, tell of their spread.

        By Laplace's rule of succession another one lies elsewhere with probability 1 / (N + 2), anywhere on the mask for all
        that is known; within its pixel an electron lies evenly, with variance 1/12.
        """
        p0, p1, p2 = self._powers[:3]
        elsewhere = p2 / p0 - 2 * center * p1 / p0 + center**2
        for k in range(2):
            alone = ~noisy & (np.abs(scatter[:, k, k]) <= self._rounding * total)
            known = (1 / 12 + elsewhere[:, k] / (electrons + 2)) / electrons
            counting[:, k, k] = np.where(alone, known, counting[:, k, k])


def central(moments: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Second moments (frames, 2, 2) about centres (frames, 2), from those about pixel (0, 0), (frames, 6) or (6,)."""
    zeroth, y, x, yy, yx, xx = np.moveaxis(moments, -1, 0)
    b, a = center.T
    off = yx - b * x - a * y + b * a * zeroth
    return np.stack([yy - 2 * b * y + b * b * zeroth, off, off, xx - 2 * a * x + a * a * zeroth], axis=1).reshape(-1, 2, 2)


def _positive(matrices: np.ndarray) -> np.ndarray:
    """Matrices (frames, 2, 2) with a diagonal of 0 at least, and no correlation above 1: what values below zero take away is
    no certainty."""
    yy, xx = np.maximum(matrices[:, 0, 0], 0.0), np.maximum(matrices[:, 1, 1], 0.0)
    most = np.sqrt(yy * xx)
    yx = np.clip(matrices[:, 0, 1], -most, most)
    return np.stack([yy, yx, yx, xx], axis=1).reshape(-1, 2, 2)
