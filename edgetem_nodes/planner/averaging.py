"""A map averaged over a disc: mean and uncertainty from the joint posterior of what is expected at each position.

What a specimen really holds in a disc, of few defects, differs from that by chance: see `seen_map`. Knows no ROS, draws
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.surrogates.posterior import Posterior

TILE = 8
"""Edge of the squares of positions whose discs are worked out together [positions]."""
FINE = 16
"""Points along each axis of a cell by which the part of it in a disc is counted."""


@dataclass(frozen=True)
class AveragedMap:
    """Mean and variance (candidates,) [scalar, scalar squared] of averages over discs about each position."""

    mean: np.ndarray
    variance: np.ndarray
    noise_variance = learned_noise_variance = jitter = 0.0
    """Nothing is read over a disc."""

    @property
    def prior_variance(self) -> np.ndarray:
        """(candidates,) at most what it is now; for a correction between levels, which scales it with the variance."""
        return self.variance

    @property
    def standard_deviation(self) -> np.ndarray:
        """(candidates,) [scalar]."""
        return np.sqrt(self.variance)


def disc_weights(field: ScanField, radius: float) -> csr_array:
    """(positions, positions) weight of each cell, a step about its position, in the mean over the disc about each position.

    A cell counts by the part of it that lies in the disc; the part of a disc outside the field is left out.

    Parameters
    ----------
    radius : of the discs [m].
    """
    weights = _cells_of_discs(field, radius)
    weights.data /= np.repeat(weights.sum(axis=1), np.diff(weights.indptr))
    return weights


def disc_areas(field: ScanField, radius: float) -> np.ndarray:
    """(positions,) of the part of each disc that lies in the field [m^2]."""
    return _cells_of_discs(field, radius).sum(axis=1) * float(np.prod(np.abs(field.step)))


def _cells_of_discs(field: ScanField, radius: float) -> csr_array:
    """(positions, positions) the part of each cell that lies in the disc about each position."""
    shape, (offsets, covered) = tuple(field.shape), _covered(field, radius)
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    down, right = rows[:, None] + offsets[:, 0], columns[:, None] + offsets[:, 1]
    inside = (down >= 0) & (down < shape[0]) & (right >= 0) & (right < shape[1])
    weights = np.where(inside, covered, 0.0)
    return csr_array((weights[inside], (down * shape[1] + right)[inside], np.concatenate([[0], np.cumsum(inside.sum(axis=1))])),
                     shape=(len(rows), len(rows)))


def averaged(posterior: Posterior, field: ScanField, radius: float) -> AveragedMap:
    """The latent scalar averaged over discs of `radius` [m], with the covariance of the positions within each.

    Parameters
    ----------
    posterior : over all positions of the field.
    """
    discs, shape = disc_weights(field, radius), tuple(field.shape)
    variance = np.empty(shape[0] * shape[1])
    for top in range(0, shape[0], TILE):
        for left in range(0, shape[1], TILE):
            rows, columns = np.mgrid[top:min(top + TILE, shape[0]), left:min(left + TILE, shape[1])]
            tile = (rows * shape[1] + columns).ravel()
            known = np.unique(discs[tile].indices)
            weights = discs[tile][:, known].toarray()
            variance[tile] = np.einsum("ij,ij->i", weights @ posterior.covariance(known, known), weights)
    return AveragedMap(discs @ posterior.mean, np.maximum(variance, 0.0))


def _covered(field: ScanField, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(members, 2) steps in rows and columns from a position to the cells of its disc, and the part (members,) covered."""
    reach = [int(radius / abs(step) + 0.5) for step in field.step]
    inner = (np.arange(FINE) + 0.5) / FINE - 0.5
    y, x = (np.add.outer(np.arange(-far, far + 1), inner) * step for far, step in zip(reach, field.step, strict=True))
    covered = (np.hypot(y[:, None, :, None], x[None, :, None, :]) <= radius).mean(axis=(2, 3))
    if not covered.any():
        covered[reach[0], reach[1]] = 1.0  # smaller than a cell's own grid
    kept = np.nonzero(covered)
    return np.stack(kept, axis=1) - reach, covered[kept]
