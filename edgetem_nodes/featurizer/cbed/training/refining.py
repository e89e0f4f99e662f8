"""Training of the refining network, on lattices that a search and the disk network found: the loss is that of the disk network,
with what is known before any disk is seen as prior, so that it is the posterior of the lattice that is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.networks import FINE_INPUTS, RefiningNetwork
from edgetem_nodes.featurizer.cbed.sampling import FINE_CELLS
from edgetem_nodes.featurizer.cbed.training.disks import DiskData, loss, robust, there
from edgetem_nodes.featurizer.cbed.training.samples import Descent

_ALONG_Y = (4, 7, 9)
"""Numbers after the cells that are components along y; that along x comes next."""


class Mirror:
    """Patterns with y reversed, y and x exchanged, both or neither: as likely as they are."""

    def __init__(self, flipped: bool, swapped: bool, device: str = "cpu") -> None:
        """First y is reversed, then the axes are exchanged."""
        cells = torch.arange(FINE_CELLS**2).reshape(FINE_CELLS, FINE_CELLS)
        cells = cells.flip(0) if flipped else cells
        n = FINE_CELLS**2
        order, signs = torch.arange(FINE_INPUTS), torch.ones(FINE_INPUTS)
        order[:n] = (cells.T if swapped else cells).flatten()
        change, change_signs = torch.arange(6), torch.ones(6)
        if flipped:
            signs[[n + place for place in _ALONG_Y]] = -1.0
            change_signs[:3] = -1.0
        if swapped:
            for place in _ALONG_Y:
                order[n + place], order[n + place + 1] = n + place + 1, n + place
            signs, change, change_signs = signs[order], change.roll(3), change_signs.roll(3)
        self._order, self._signs, self._change, self._change_signs = (
            one.to(device) for one in (order, signs, change, change_signs))

    def __call__(self, rows: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (n, disks, FINE_INPUTS) and changes (n, 6) of such patterns."""
        return rows[..., self._order] * self._signs, change[:, self._change] * self._change_signs


def epochs(network: RefiningNetwork, data: DiskData, right: np.ndarray, count: int, batch: int, rate: float,
           generator: torch.Generator, device: str = "cpu") -> Iterator[torch.Tensor]:
    """Train on the `right` (n,) ones for `count` epochs; the mean loss of each step, as it goes, on the device."""
    samples = data.samples(device, np.flatnonzero(right))
    descent = Descent(network, device, rate, count * samples.steps(batch), 1e-4)
    mirrors = [Mirror(flipped, swapped, device) for flipped in (False, True) for swapped in (False, True)]

    def losses(parts: Iterator[dict[str, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for one in parts:
            rows, change = mirrors[int(torch.randint(4, (1,), generator=generator))](one["rows"], one["change"])
            present = there(one)
            value = robust(loss(network(rows, present), one["index"], present, change, data.prior)) / batch
            yield value, value

    for _ in range(count):
        for parts in samples.batches(batch, generator):
            yield descent.step(losses(parts))
