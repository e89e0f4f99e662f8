"""The likeliest lattice of a pattern: the product of its disks' Gaussian likelihoods, with the covariance that follows.

Disk (h, k) lies at d @ theta, d = (1, h, k), in y and x apart. If it says of its place "offset m with information J" about
where it was looked for, then theta changes by the solution of (sum J x d d^T + prior) change = sum (J m) x d. Lengths are in
radii of the disk, indices divided by `INDEX_SCALE`, so that the six numbers are alike in size.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

INDEX_SCALE = 3.0


def posterior(design: torch.Tensor, offset: torch.Tensor, lower: torch.Tensor, present: torch.Tensor,
              prior: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Information (n, 6, 6) on the lattice and its product with the likeliest change (n, 6), for training.

    Parameters
    ----------
    design : (n, disks, 3); offset : (n, disks, 2); lower : (n, disks, 3); present : (n, disks).
    prior : information on each of the six numbers [1/radius^2].
    """
    a, b, c = lower.unbind(-1)
    yy, yx, xx = a * a * present, a * b * present, (b * b + c * c) * present
    blocks = [[(design * j[..., None]).mT @ design for j in row] for row in ((yy, yx), (yx, xx))]
    information = torch.cat([torch.cat(row, dim=-1) for row in blocks], dim=-2)
    information = information + prior * torch.eye(6, dtype=information.dtype, device=information.device)
    dy, dx = offset.unbind(-1)
    right = torch.cat([(design * (yy * dy + yx * dx)[..., None]).sum(dim=1),
                       (design * (yx * dy + xx * dx)[..., None]).sum(dim=1)], dim=-1)
    return information, right


@njit(cache=True, nogil=True)
def solve(index, count, offset, lower, prior, change, covariance):
    """The same for one pattern, in place: change (6,) and covariance (6, 6) [radii]; returns chi-square, degrees of freedom,
    and by how much the disk that fits worst is off [standard errors]."""
    information, right = np.zeros((6, 6)), np.zeros(6)
    for n in range(6):
        information[n, n] = prior
    design = np.ones(3)
    for n in range(count):
        design[1], design[2] = index[n, 0] / INDEX_SCALE, index[n, 1] / INDEX_SCALE
        a, b, c = lower[n, 0], lower[n, 1], lower[n, 2]
        yy, yx, xx = a * a, a * b, b * b + c * c
        vy, vx = yy * offset[n, 0] + yx * offset[n, 1], yx * offset[n, 0] + xx * offset[n, 1]
        for i in range(3):
            right[i] += vy * design[i]
            right[3 + i] += vx * design[i]
            for j in range(3):
                information[i, j] += yy * design[i] * design[j]
                information[i, 3 + j] += yx * design[i] * design[j]
                information[3 + i, j] += yx * design[i] * design[j]
                information[3 + i, 3 + j] += xx * design[i] * design[j]
    covariance[:] = np.linalg.inv(information)
    change[:] = covariance @ right
    square, used, worst = 0.0, 0, 0.0
    for n in range(count):
        design[1], design[2] = index[n, 0] / INDEX_SCALE, index[n, 1] / INDEX_SCALE
        a, b, c = lower[n, 0], lower[n, 1], lower[n, 2]
        if a * a + c * c < 2 * 25.0:
            continue  # a disk whose place is not known to a fifth of its radius says nothing of the model
        dy = offset[n, 0] - (design * change[:3]).sum()
        dx = offset[n, 1] - (design * change[3:]).sum()
        one = (a * dy + b * dx)**2 + (c * dx)**2
        square += one
        worst = max(worst, one)
        used += 1
    return square, 2 * used - 6, np.sqrt(worst)


@njit(cache=True, nogil=True)
def moved(lattice, change, radius):
    """Add a change [radii] to a lattice (6,) [pixel], in place."""
    for n in range(6):
        lattice[n] += change[n] * radius * (1.0 if n % 3 == 0 else 1.0 / INDEX_SCALE)
