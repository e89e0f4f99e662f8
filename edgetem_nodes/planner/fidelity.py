"""Two levels of one energy: a better engine at a few sites corrects the one that computes all of them.

E_high(x) = E_low(x) + D, D = s E_low(x) + b + g(x) + e: the autoregressive model of Kennedy and O'Hagan, Biometrika 87, 1
(2000), equation 1, with scale 1 + s, offset b, a smooth part g of its own and an independent part e for each site. Both levels
compute the same structures: the real scatter of defects from footprint to footprint and the error of a structure are in both
readings alike, and cancel in their difference. So D is learned from readings (the recursive form of Le Gratiet and Garnier,
Int. J. Uncertainty Quantif. 4, 365, 2014), and applied to the low level's posterior, which has them taken out already.

With three to six sites variances of g and e cannot be learned: they are integrated over. Knows no ROS, draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from edgetem_nodes.planner.acquisition.batch import REFERENCES, spread_evenly
from edgetem_nodes.planner.surrogates.deep_kernel import DOUBLE, correlation, squared_distances
from edgetem_nodes.planner.surrogates.posterior import Posterior

SLOPE = 0.3
"""Prior standard deviation of s: engines worth a correction differ by less than a third mostly."""
OFFSET = 1.0
"""Prior standard deviation of b, in units of the low level's root mean square."""
PARTS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Standard deviations of g and of e that are integrated over, in the same units; their logarithms are equally likely."""
LENGTH = 0.4
"""Length scale of g, in units of the field's longer side."""
TYPICAL = (0.1, 0.05)
"""Standard deviations of g and e by which sites are chosen, before anything is known of them."""


def _alike(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matern 5/2 correlation (left, right) of g between positions (n, 2) in units of the field's longer side."""
    left, right = (torch.as_tensor(places / LENGTH, dtype=DOUBLE) for places in (left, right))
    return correlation(squared_distances(left, right), "matern")[0].numpy()


@dataclass(frozen=True)
class _Part:
    """D for one pair of standard deviations: weight, variance of g, factor of the data's matrix, what it makes of the data."""

    weight: float
    smooth: float
    factor: tuple
    explained: np.ndarray
    slope: float
    slope_variance: float


class Correction:
    """What the better engine says more than the cheap one, from the sites that both have computed.

    Parameters
    ----------
    low, high : (sites,) readings of both levels [energy].
    places : (sites, 2) positions in units of the field's longer side.
    scale : root mean square of the low level's readings at all sites [energy].
    errors : (sites,) standard errors of the difference that are not in both readings alike [energy]; none by default.

    Raises
    ------
    ValueError : no site, or a reading that is not finite.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, places: np.ndarray, scale: float,
                 errors: np.ndarray | float = 0.0) -> None:
        low, high = np.asarray(low, float), np.asarray(high, float)
        if not len(low) or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"a correction needs sites with finite energies of both levels, not {low.tolist()} and "
                             f"{high.tolist()}")
        self.scale = float(scale) if scale > 0 else 1.0
        self._low, self._places = low / self.scale, np.asarray(places, float)
        own = np.broadcast_to(np.square(np.asarray(errors, float) / self.scale), low.shape)
        self._parts = self._integrate((high - low) / self.scale, np.nan_to_num(own))

    def _integrate(self, difference: np.ndarray, own: np.ndarray) -> tuple[_Part, ...]:
        common = SLOPE**2 * np.outer(self._low, self._low) + OFFSET**2
        alike, found = _alike(self._places, self._places), []
        for smooth in np.square(PARTS):
            for single in np.square(PARTS):
                matrix = common + smooth * alike + np.diag(single + own)
                factor = cho_factor(matrix, lower=True)
                explained = cho_solve(factor, difference)
                evidence = -0.5 * difference @ explained - np.log(np.diag(factor[0])).sum()
                seen = SLOPE**2 * self._low
                variance = SLOPE**2 - seen @ cho_solve(factor, seen)
                found.append((evidence, smooth, factor, explained, float(seen @ explained), float(max(variance, 0.0))))
        evidence = np.array([part[0] for part in found])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        return tuple(_Part(float(weight), *part[1:]) for weight, part in zip(weights, found, strict=True))

    @property
    def sites(self) -> int:
        """Sites that it was learned from."""
        return len(self._low)

    @cached_property
    def factor(self) -> tuple[float, float]:
        """1 + s and its standard deviation."""
        mean = sum(part.weight * part.slope for part in self._parts)
        square = sum(part.weight * (part.slope_variance + part.slope**2) for part in self._parts)
        return 1.0 + mean, float(np.sqrt(max(square - mean**2, 0.0)))

    @cached_property
    def offset(self) -> tuple[float, float]:
        """b and its standard deviation [energy]."""
        mean = square = 0.0
        for part in self._parts:
            seen = np.full(self.sites, OFFSET**2)
            value = float(seen @ part.explained)
            mean += part.weight * value
            square += part.weight * (OFFSET**2 - seen @ cho_solve(part.factor, seen) + value**2)
        return self.scale * mean, self.scale * float(np.sqrt(max(square - mean**2, 0.0)))

    def description(self) -> dict[str, object]:
        """For a decision's record: sites, factor and offset with their standard deviations."""
        return {"sites": self.sites, "factor": list(self.factor), "offset": list(self.offset)}

    def applied(self, posterior: Posterior, places: np.ndarray) -> CorrectedPosterior:
        """The high level's posterior, from the low level's and the positions (candidates, 2) of all candidates."""
        return CorrectedPosterior(self, posterior, places)


class CorrectedPosterior(Posterior):
    """Posterior of the high level's latent energy: a mixture over what is not known of the correction's variances.

    `correction_variance` (candidates,) is the part of the variance that further sites of the low level leave as it is.
    """

    def __init__(self, correction: Correction, posterior: Posterior, places: np.ndarray) -> None:
        self._inner, self._correction, self._places = posterior, correction, np.asarray(places, float)
        scale, parts = correction.scale, correction._parts
        low, alike = posterior.mean / scale, _alike(self._places, correction._places)
        means, own, factors = [], [], []
        for part in parts:
            seen = SLOPE**2 * np.outer(low, correction._low) + OFFSET**2 + part.smooth * alike
            means.append(posterior.mean + scale * (seen @ part.explained))
            known = np.einsum("ij,ji->i", seen, cho_solve(part.factor, seen.T))
            own.append(scale**2 * np.maximum(SLOPE**2 * low**2 + OFFSET**2 + part.smooth - known, 0.0))
            factors.append((1.0 + part.slope) ** 2 + part.slope_variance)
        weights = np.array([part.weight for part in parts])
        self._means, self._factor = np.stack(means), float(weights @ factors)
        self._alike, self._low, self._weights = alike, low, weights
        self.mean = weights @ self._means
        self.correction_variance = weights @ (np.stack(own) + np.square(self._means - self.mean))
        self.variance = self._factor * posterior.variance + self.correction_variance
        self.prior_variance = self._factor * posterior.prior_variance + self.correction_variance
        self.noise_variance = self._factor * posterior.noise_variance
        self.learned_noise_variance = self._factor * posterior.learned_noise_variance
        self.jitter = posterior.jitter

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        rows, columns = (np.asarray(indices, np.int64) for indices in (rows, columns))
        correction, result = self._correction, np.zeros((len(rows), len(columns)))
        between = _alike(self._places[rows], self._places[columns])
        common = SLOPE**2 * np.outer(self._low[rows], self._low[columns]) + OFFSET**2
        for part, mean in zip(correction._parts, self._means, strict=True):
            left, right = (SLOPE**2 * np.outer(self._low[at], correction._low) + OFFSET**2 + part.smooth * self._alike[at]
                           for at in (rows, columns))
            own = common + part.smooth * between - left @ cho_solve(part.factor, right.T)
            off = np.outer(mean[rows] - self.mean[rows], mean[columns] - self.mean[columns])
            result += part.weight * (correction.scale**2 * own + off)
        return result + self._factor * self._inner.covariance(rows, columns)


def telling_sites(low: np.ndarray, places: np.ndarray, asked: np.ndarray, count: int, field: tuple[np.ndarray, np.ndarray],
                  scale: float) -> np.ndarray:
    """Sites where the better engine tells most of the correction over the whole field: greedily, one by one.

    Each one lowers the mean variance of D over the field most (Cohn, Ghahramani and Jordan, J. Artif. Intell. Res. 4, 129,
    1996), which spreads them over the range of energies and over the field.

    Parameters
    ----------
    low : (sites,) readings of the low level [energy]. places : (sites, 2) in units of the field's longer side.
    asked : (sites,) bool, of which the better engine was asked already. count : how many more.
    field : the low level's mean map (candidates,) [energy] and positions (candidates, 2).
    scale : root mean square of the readings [energy].

    Returns
    -------
    (chosen,) int64 indices of sites, at most `count`.
    """
    scale = scale if scale > 0 else 1.0
    kept = spread_evenly(len(field[0]), REFERENCES)
    energies = np.concatenate([np.asarray(low, float), field[0][kept]]) / scale
    where = np.concatenate([np.asarray(places, float), field[1][kept]])
    covariance = SLOPE**2 * np.outer(energies, energies) + OFFSET**2 + TYPICAL[0]**2 * _alike(where, where)
    sites, chosen = len(low), []

    def believe(site: int) -> None:
        column = covariance[:, site] / np.sqrt(covariance[site, site] + TYPICAL[1]**2)
        np.subtract(covariance, np.outer(column, column), out=covariance)

    free = ~np.asarray(asked, bool)
    for site in np.flatnonzero(~free):
        believe(int(site))
    for _ in range(min(count, int(free.sum()))):
        gain = np.square(covariance[:sites, sites:]).mean(axis=1) / (np.diag(covariance)[:sites] + TYPICAL[1]**2)
        chosen.append(int(np.argmax(np.where(free, gain, -1.0))))
        free[chosen[-1]] = False
        believe(chosen[-1])
    return np.array(chosen, np.int64)


def due(points: int, computed: int, asked: int, share: float, ends: bool) -> int:
    """How many sites are to be computed with the better engine now.

    Half of them once the initial scan is in; the rest once what is not known of the correction is most of what is not known
    of the map, or when the experiment ends without having reached its target. A site whose computation failed is made good by
    another one, `points` of them at most.

    Parameters
    ----------
    points : asked for in all. computed, asked : energies that came, and sites that were asked for, so far.
    share : of the map's mean variance that is the correction's; NaN: not known. ends : whether the experiment ends.
    """
    left = min(points - computed, 2 * points - asked)
    if ends or share > 0.5:
        return max(left, 0)
    return max(min(left, max(min(3, points), -(-points // 2)) - computed), 0)


def root_mean_square(values: Sequence[float] | np.ndarray) -> float:
    """Of finite values; 0 without any."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
