"""Supports: what a reading is the mean over, what a value of an averaged map is the mean over, and what they have in common.

A reading is the mean over its footprint, a square about its site; a value of the map the mean over a disc. White scatter of the
specimen, single defects, is the same in both as far as they overlap: change of support, Journel and Huijbregts, Mining
Geostatistics (1978), sections II.D and V.A. Knows no ROS, draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.averaging import disc_weights


@dataclass(frozen=True)
class Footprints:
    """Squares: `centres` (n, 2), (y, x) [m], and `areas` (n,) [m^2]."""

    centres: np.ndarray
    areas: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """(n,) [m]."""
        return np.sqrt(self.areas)


class Support:
    """Footprints and discs of a field.

    Parameters
    ----------
    field : of the map; its cells are squares of one step about each position. radius : of the discs [m].
    footprint : area of a typical footprint [m^2], that of readings still to come; variances of scatter refer to it.
    """

    def __init__(self, field: ScanField, radius: float, footprint: float) -> None:
        self.field, self.radius, self.footprint = field, radius, footprint
        self._cell = abs(field.step[0] * field.step[1])

    def typical(self, at: np.ndarray) -> Footprints:
        """Footprints of readings still to come at positions, by index."""
        return Footprints(self.field.positions(np.asarray(at, np.int64)), np.full(len(at), self.footprint))

    @cached_property
    def discs(self) -> csr_array:
        """(positions, positions) weight of each cell in the mean over each position's disc."""
        return disc_weights(self.field, self.radius)

    def nearest(self, footprints: Footprints) -> np.ndarray:
        """(n,) index of the position nearest to each footprint's centre."""
        places = np.rint((footprints.centres - np.asarray(self.field.origin)) / np.asarray(self.field.step)).astype(np.int64)
        rows, columns = (np.clip(places[:, axis], 0, self.field.shape[axis] - 1) for axis in (0, 1))
        return rows * self.field.shape[1] + columns

    def in_common(self, left: Footprints, right: Footprints) -> np.ndarray:
        """(left, right) covariance of footprint means of white scatter, whose variance over a typical footprint is 1."""
        shared = self.footprint / np.outer(left.areas, right.areas)
        for axis in (0, 1):
            here, there = left.centres[:, axis][:, None], right.centres[:, axis][None]
            low = np.maximum(here - left.edges[:, None] / 2, there - right.edges[None] / 2)
            high = np.minimum(here + left.edges[:, None] / 2, there + right.edges[None] / 2)
            shared *= np.maximum(high - low, 0.0)
        return shared

    def in_discs(self, footprints: Footprints, deviation: np.ndarray) -> csr_array:
        """(n, positions) the same between footprints and discs, times the scatter's standard deviation in the disc's cells.

        Parameters
        ----------
        deviation : (positions,) of the mean over a typical footprint there [scalar].
        """
        return (self._shares(footprints).multiply(deviation[None] * self.footprint / self._cell)).tocsr() @ self.discs.T

    def disc_variance(self, variance: np.ndarray) -> np.ndarray:
        """(positions,) of the disc means of scatter whose variance over a typical footprint is `variance` (positions,)."""
        squared = self.discs.copy()
        squared.data = squared.data**2
        return self.footprint / self._cell * (squared @ variance)

    def _shares(self, footprints: Footprints) -> csr_array:
        """(n, positions) share of each footprint that lies in each cell; less than 1 in all at the border."""
        shape, edges, steps = tuple(self.field.shape), footprints.edges, np.abs(self.field.step)
        parts, places = [], []
        for axis in (0, 1):
            centre = (footprints.centres[:, axis] - self.field.origin[axis]) / self.field.step[axis]
            half, nearest = edges / steps[axis] / 2, np.rint(centre).astype(np.int64)
            reach = int(np.ceil(half.max(initial=0.0) + 1.0))
            place = nearest[:, None] + np.arange(-reach, reach + 1)
            low = np.maximum(place - 0.5, (centre - half)[:, None])
            high = np.minimum(place + 0.5, (centre + half)[:, None])
            inside = (place >= 0) & (place < shape[axis])
            parts.append(np.where(inside, np.maximum(high - low, 0.0) / (2 * half)[:, None], 0.0))
            places.append(np.clip(place, 0, shape[axis] - 1))
        share = parts[0][:, :, None] * parts[1][:, None, :]
        cells = places[0][:, :, None] * shape[1] + places[1][:, None, :]
        rows = np.broadcast_to(np.arange(len(edges))[:, None, None], share.shape)
        seen = share > 0
        return csr_array((share[seen], (rows[seen], cells[seen])), shape=(len(edges), shape[0] * shape[1]))
