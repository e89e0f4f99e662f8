"""A map averaged over a disc: mean and uncertainty from the joint posterior, and what the real specimen scatters in the disc.

The latent map is of what is expected at each position. What a specimen really holds in a disc, of few defects, differs from
what is expected there by chance, the less the larger the disc. Knows no ROS, draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.surrogates.posterior import Posterior

TILE = 8
"""Edge of the squares of positions whose discs are worked out together [positions]."""


@dataclass(frozen=True)
class AveragedMap:
    """Mean and variance (candidates,) [scalar, scalar squared] of averages over discs about each position."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def standard_deviation(self) -> np.ndarray:
        """(candidates,) [scalar]."""
        return np.sqrt(self.variance)


def disc_area(field: ScanField, radius: float) -> np.ndarray:
    """Area (rows, columns) [m^2] of the part of each disc of `radius` [m] that lies in the field, in whole grid cells."""
    return _sums(np.ones(field.shape), _offsets(field, radius)) * abs(field.step[0] * field.step[1])


def averaged(posterior: Posterior, field: ScanField, radius: float) -> AveragedMap:
    """The latent scalar averaged over discs, with the covariance of the positions within each.

    Parameters
    ----------
    posterior : over all positions of the field. radius : of the discs [m]; the part of a disc outside the field is left out.
    """
    offsets, shape = _offsets(field, radius), tuple(field.shape)
    count = _sums(np.ones(shape), offsets)
    mean = _sums(posterior.mean.reshape(shape), offsets) / count
    variance = np.empty(shape)
    for top in range(0, shape[0], TILE):
        for left in range(0, shape[1], TILE):
            tile = np.stack(np.mgrid[top:min(top + TILE, shape[0]), left:min(left + TILE, shape[1])], axis=-1).reshape(-1, 2)
            members = tile[:, None] + offsets[None]
            inside = ((members >= 0) & (members < shape)).all(axis=2)
            flat = np.where(inside, members[..., 0] * shape[1] + members[..., 1], -1)
            known, where = np.unique(flat[inside], return_inverse=True)
            weights = np.zeros((len(tile), len(known)))
            weights[np.nonzero(inside)[0], where] = 1.0
            weights /= weights.sum(axis=1, keepdims=True)
            covariance = posterior.covariance(known, known)
            variance[tile[:, 0], tile[:, 1]] = np.einsum("ij,jk,ik->i", weights, covariance, weights, optimize=True)
    return AveragedMap(mean.ravel(), np.maximum(variance.ravel(), 0.0))


def _offsets(field: ScanField, radius: float) -> np.ndarray:
    """(members, 2) steps in rows and columns from a position to the positions of its disc, itself included."""
    reach = [int(radius / abs(step) + 1e-9) for step in field.step]
    rows, columns = np.mgrid[-reach[0]:reach[0] + 1, -reach[1]:reach[1] + 1]
    within = np.hypot(rows * field.step[0], columns * field.step[1]) <= radius * (1 + 1e-9)
    return np.stack([rows[within], columns[within]], axis=1)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums (rows, columns) of a map over the discs, what lies outside the map left out."""
    reach = np.abs(offsets).max(axis=0)
    padded = np.pad(values, [(int(reach[0]),) * 2, (int(reach[1]),) * 2])
    rows, columns = values.shape
    return sum(padded[reach[0] + y:reach[0] + y + rows, reach[1] + x:reach[1] + x + columns] for y, x in offsets)
