"""Training of the refining network, on lattices that a search and the disk network found: the loss is that of the disk network,
with what is known before any disk is seen as prior, so that it is the posterior of the lattice that is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.networks import RefiningNetwork
from edgetem_nodes.featurizer.cbed.sampling import FINE_CELLS
from edgetem_nodes.featurizer.cbed.training.disks import DiskData, loss, robust
from edgetem_nodes.featurizer.cbed.training.samples import Descent

_Y, _X = (FINE_CELLS**2 + 4, FINE_CELLS**2 + 7, FINE_CELLS**2 + 9), (FINE_CELLS**2 + 5, FINE_CELLS**2 + 8, FINE_CELLS**2 + 10)
"""Inputs that are components of vectors along y, and the same along x."""


def mirrored(rows: torch.Tensor, change: torch.Tensor, flipped: bool, swapped: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (n, disks, FINE_INPUTS) and changes (n, 6) of patterns with y reversed, then y and x exchanged."""
    cells = rows[..., :FINE_CELLS**2].unflatten(-1, (FINE_CELLS, FINE_CELLS))
    rest = rows[..., FINE_CELLS**2:].clone()
    y, x = [n - FINE_CELLS**2 for n in _Y], [n - FINE_CELLS**2 for n in _X]
    if flipped:
        cells, change = cells.flip(-2), torch.cat([-change[:, :3], change[:, 3:]], dim=1)
        rest[..., y] = -rest[..., y]
    if swapped:
        cells, change = cells.mT, torch.cat([change[:, 3:], change[:, :3]], dim=1)
        rest[..., y + x] = rest[..., x + y]
    return torch.cat([cells.flatten(-2), rest], dim=-1), change


def epochs(network: RefiningNetwork, data: DiskData, right: np.ndarray, count: int, batch: int, rate: float,
           generator: torch.Generator, device: str = "cpu") -> Iterator[torch.Tensor]:
    """Train on the `right` (n,) ones for `count` epochs; the mean loss of each step, as it goes, on the device."""
    samples = data.samples(device, np.flatnonzero(right))
    descent = Descent(network, device, rate, count * samples.steps(batch), 1e-4)
    number = torch.arange(data.rows.shape[1], device=device)
    for _ in range(count):
        for one in samples.batches(batch, generator):
            flipped, swapped = torch.randint(2, (2,), generator=generator).tolist()
            rows, change = mirrored(one["rows"], one["change"], bool(flipped), bool(swapped))
            present = (number < one["count"][:, None]).float()
            value = robust(loss(network(rows, present), one["index"], present, change, data.prior))
            descent.step(value)
            yield value.detach()
