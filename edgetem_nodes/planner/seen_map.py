"""An averaged map of the specimen as it is: what of each disc was seen counts as it was seen, the rest as expected.

The scalar is that of a smooth part, which a Gaussian process maps from its readings, and of single defects, at places. Those in
what was seen count where they are, once, however many sites saw them; where nobody looked they are expected with the density
of a log-Gaussian Cox process (`intensity.py`) fitted to those that were seen, and scatter by chance besides: a compound Poisson
sum (Daley and Vere-Jones, An Introduction to the Theory of Point Processes, 2003, section 6.4). Knows no ROS, draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import intensity
from edgetem_nodes.planner.averaging import AveragedMap, averaged, disc_areas, disc_weights
from edgetem_nodes.planner.sights import Sight, costs_known
from edgetem_nodes.planner.surrogates.posterior import SMALLEST_VARIANCE, Posterior

FINE, ACROSS = 16, 16
"""Points along each axis by which the part of a cell of the grid that was seen is counted: at least so many, so that a narrow
gap between what two sites see does not fall between them, and so many across what a site sees."""
BLOCKS = 300
"""Most blocks of cells in which the density of defects is fitted."""


class SeenMap:
    """Disc means of the specimen, and what a further site would tell of them.

    Parameters
    ----------
    field : positions. radius : of the discs [m].
    sites : (rows, 2), (y, x) [m]. sights : what each saw.
    smooth : posterior of the smooth part over all positions [scalar].

    Attributes
    ----------
    seen : (positions,) part of each cell of the grid that some site saw.
    places, numbers, contents, variances : of the defects that were seen, see `_found`.
    mean, covariance : (blocks,) density of what single defects are expected to add where nobody looked [scalar].
    chance : (positions,) variance of their sum in an area, over that area [scalar^2 m^2].
    """

    def __init__(self, field: ScanField, radius: float, sites: np.ndarray, sights: Sequence[Sight], smooth: Posterior) -> None:
        self.field, self.radius, self.smooth = field, radius, smooth
        content, square = _usual(sights)
        sights = [one.completed(content, square) for one in sights]
        self.discs = disc_weights(field, radius)
        self.cell = float(np.prod(np.abs(field.step)))
        self.blocks = _blocks(tuple(field.shape))
        self._coverage = csr_array(self.blocks.T)
        self.seen = _seen_part(field, sites, sights)
        self.places, self.numbers, self.contents, self.variances = _found(field, sites, sights)
        self._cells = field.nearest(self.places)
        self.mean, self.covariance, self.chance = self._expected(sights, content, square)

    def _expected(self, sights: Sequence[Sight], content: float, square: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`mean`, `covariance` and `chance`, from the defects that were seen and where; all 0 where there are none."""
        blocks = self.blocks.shape[1]
        if not any(one.probabilities.sum() > 0 for one in sights):
            return np.zeros(blocks), np.zeros((blocks, blocks)), np.zeros(len(self.seen))
        # areas in units of what a site sees, so that the numbers are of order one
        unit = float(np.median([one.area for one in sights]))
        areas = self._coverage @ self.seen * self.cell / unit
        # a defect that comes out beyond what was seen, by an error of its place, tells nothing of where nobody looked
        counts = np.where(areas > 0, self._coverage @ self._on_grid(self.numbers), 0.0)
        middles = (self._coverage @ self.field.positions()) / self._coverage.sum(axis=1)[:, None]
        found = intensity.fitted(counts, areas, middles / float(np.max(np.abs(self.field.step) * self.field.shape)))
        return (found.mean * content / unit, found.covariance * (content / unit) ** 2,
                self.blocks @ found.mean * square / unit)

    def unseen(self, weights: csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Of means with weights (n, positions): the parts (n, blocks) that nobody saw, and their scatter (n, positions),
        whose inner product is the covariance of two of them by chance."""
        part = weights.multiply((1.0 - self.seen)[None]).tocsr()
        # which part of a cell is unseen is not the same for two means that both cover some of it: taken for the same
        left = self.cell * (1.0 - self.seen)
        spread = np.sqrt(np.divide(self.chance, left, out=np.zeros(len(left)), where=left > 0))
        return part @ self.blocks, part.multiply(spread[None]).tocsr()

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        """(positions,) sums over the defects in each cell of the grid of values (defects,)."""
        return np.bincount(self._cells, values, len(self.seen))

    def _within_discs(self) -> csr_array:
        """(positions, defects) one where a defect lies in the disc about a position."""
        shape = (len(self.seen), len(self.places))
        if not len(self.places):
            return csr_array(shape)
        near = cKDTree(self.places).query_ball_point(self.field.positions(), self.radius)
        ends = np.concatenate([[0], np.cumsum([len(one) for one in near])])
        return csr_array((np.ones(ends[-1]), np.concatenate(near).astype(np.int64), ends), shape=shape)

    def discs_averaged(self) -> AveragedMap:
        """Mean and variance of every disc's mean."""
        smooth = averaged(self.smooth, self.field, self.radius)
        blocks, scatter = self.unseen(self.discs)
        areas, within = disc_areas(self.field, self.radius), self._within_discs()
        mean = smooth.mean + within @ self.contents / areas + blocks @ self.mean
        variance = (smooth.variance + ((blocks @ self.covariance) * blocks).sum(axis=1)
                    + scatter.multiply(scatter).sum(axis=1) + within @ self.variances / areas**2)
        return AveragedMap(mean, variance)

    def next_readings(self, area: float, noise: float) -> NextReadings:
        """What readings still to come will be, and tell of discs.

        Parameters
        ----------
        area : that a site sees [m^2], taken for a disc. noise : variance of a reading's own error [scalar squared].
        """
        return NextReadings(self, disc_weights(self.field, float(np.sqrt(area / np.pi))), noise)


class NextReadings(Posterior):
    """Posterior of the scalar in what a site at each position would see, as the specimen is.

    Parameters
    ----------
    known : the map so far. sights : (positions, positions) weights of what a site at each position would see.
    noise : variance of a reading's own error [scalar squared].
    """

    def __init__(self, known: SeenMap, sights: csr_array, noise: float) -> None:
        self._known = known
        self._blocks, self._scatter = known.unseen(sights)
        self._disc_blocks, self._disc_scatter = known.unseen(known.discs)
        self.mean = known.smooth.mean + sights @ (known._on_grid(known.contents) / known.cell) + self._blocks @ known.mean
        own = ((self._blocks @ known.covariance) * self._blocks).sum(axis=1)
        self.variance = known.smooth.variance + own + self._scatter.multiply(self._scatter).sum(axis=1)
        self.prior_variance = np.maximum(known.smooth.prior_variance, self.variance)
        self.variance = np.maximum(self.variance, SMALLEST_VARIANCE * self.prior_variance)
        self.noise_variance = noise + SMALLEST_VARIANCE * float(self.prior_variance.max())

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        known = self._known
        defects = self._blocks[rows] @ known.covariance @ self._blocks[columns].T
        return known.smooth.covariance(rows, columns) + defects + (self._scatter[rows] @ self._scatter[columns].T).toarray()

    def with_discs(self, rows: np.ndarray, discs: np.ndarray) -> np.ndarray:
        """(rows, discs) covariance of readings at positions and of disc means about positions [scalar squared]."""
        known = self._known
        weights = known.discs[discs]
        near = np.unique(weights.indices)
        smooth = known.smooth.covariance(rows, near) @ weights[:, near].T
        defects = self._blocks[rows] @ known.covariance @ self._disc_blocks[discs].T
        return smooth + defects + (self._scatter[rows] @ self._disc_scatter[discs].T).toarray()


def _blocks(shape: tuple[int, int]) -> np.ndarray:
    """(positions, blocks) one where a cell of the grid belongs to a block of neighbouring cells."""
    edge = 1
    while -(-shape[0] // edge) * -(-shape[1] // edge) > BLOCKS:
        edge += 1
    across = -(-shape[1] // edge)
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    number = rows // edge * across + columns // edge
    return (number[:, None] == np.arange(number.max() + 1)).astype(float)


def _seen_part(field: ScanField, sites: np.ndarray, sights: Sequence[Sight]) -> np.ndarray:
    """(positions,) part of each cell of the grid that some site saw."""
    least = min(np.sqrt(one.area) for one in sights)
    inner = [(np.arange(count) + 0.5) / count - 0.5 for count in
             (max(FINE, int(np.ceil(ACROSS * abs(step) / least))) for step in field.step)]
    within = np.stack(np.meshgrid(*(one * step for one, step in zip(inner, field.step, strict=True)), indexing="ij"),
                      axis=-1).reshape(-1, 2)
    middles, half = field.positions(), float(np.hypot(*field.step)) / 2
    seen = np.zeros((len(middles), len(within)), bool)
    for site, sight in zip(sites, sights, strict=True):
        reach = half + np.linalg.norm(sight.cell, axis=1).sum() / 2
        near = np.flatnonzero(np.square(middles - site).sum(axis=1) <= reach**2)
        points = (middles[near][:, None] + within - site).reshape(-1, 2)
        seen[near] |= sight.sees(points).reshape(len(near), -1)
    return seen.mean(axis=1)


def _usual(sights: Sequence[Sight]) -> tuple[float, float]:
    """Mean of what a defect holds that is there, and of its square [scalar m^2, squared], over those of which it is known; 0
    where none was seen."""
    if not costs_known(sights):
        raise ValueError("defects were seen, but of none it is known what it costs")
    number = sum(float(one.probabilities[np.isfinite(one.contents)].sum()) for one in sights)
    if not number > 0:
        return 0.0, 0.0
    return (sum(float(np.nansum(one.contents)) for one in sights) / number,
            sum(float(np.nansum(np.square(one.contents) + one.variances)) for one in sights) / number)


def _found(field: ScanField, sites: np.ndarray, sights: Sequence[Sight]) -> tuple[np.ndarray, ...]:
    """Defects in the field as they are seen: places (n, 2) [m], numbers (n,), contents [scalar m^2] and variances.

    One that several sites should have seen is there once for each that did, with its part of them all. Whether a doubtful one
    is there is one question, however many sites ask it: variances are not less for that.
    """
    found = [(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0))]
    for site, sight in zip(sites, sights, strict=True):
        places = site + sight.places
        inside = field.contains(places)
        if inside.any():
            # a defect that is found at the very rim of what was seen may come out beyond it
            saw = np.maximum(sum(other.sees(places - there) for there, other in zip(sites, sights, strict=True)), 1)
            found.append((places[inside], *((part / saw)[inside] for part in (sight.probabilities, sight.contents,
                                                                              sight.variances))))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
