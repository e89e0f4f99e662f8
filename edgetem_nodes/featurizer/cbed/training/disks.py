"""Training of the disk network: the likelihood of the whole lattice, of which each disk's is a factor.

A lattice is displaced by a known normal distribution, its disks are sampled where they then seem to lie, and the network's
factors, multiplied by that distribution, must give the displacement back: the loss is the negative log density of the true
one. So errors that are stated are learnt along with the places, and weak disks count by what they tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.generator import NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattice_solution import INDEX_SCALE, posterior
from edgetem_nodes.featurizer.cbed.lattices import sample_rows
from edgetem_nodes.featurizer.cbed.networks import DISK_INPUTS, DiskNetwork
from edgetem_nodes.featurizer.cbed.sampling import DISKS
from edgetem_nodes.featurizer.cbed.training.truth import radii, true_lattices

DISPLACEMENT = 0.16
"""Standard deviation of the lattice's numbers when it is displaced [radii]. One number for all: were it drawn anew for each
pattern, disks that look centred would speak for a small one, and the network would count the prior again as evidence."""
_BAD = 20.0
"""Loss above which it counts by its logarithm."""
_DRAWN = 256
_SCALE = np.array([1.0, 1 / INDEX_SCALE, 1 / INDEX_SCALE] * 2)


@dataclass
class DiskData:
    """Disks of displaced lattices.

    Attributes
    ----------
    rows : (n, DISKS, DISK_INPUTS) float16. index : (n, DISKS, 2) int8. count : (n,) disks in use.
    change : (n, 6) float32, from the displaced to the true lattice. spread : (n,) of its distribution.
    """

    rows: np.ndarray
    index: np.ndarray
    count: np.ndarray
    change: np.ndarray
    spread: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def batch(self, chosen: np.ndarray, device: str) -> tuple[torch.Tensor, ...]:
        """Rows, design, presence, change and prior information of chosen samples."""
        rows = torch.from_numpy(self.rows[chosen]).to(device).float()
        index = self.index[chosen].astype(np.float32) / INDEX_SCALE
        design = torch.from_numpy(np.concatenate([np.ones((*index.shape[:2], 1), np.float32), index], axis=-1)).to(device)
        present = torch.from_numpy((np.arange(DISKS) < self.count[chosen, None]).astype(np.float32)).to(device)
        return (rows, design, present, torch.from_numpy(self.change[chosen]).to(device),
                torch.from_numpy(1 / self.spread[chosen]**2).to(device))


def draw_disks(generator: NanobeamGenerator, patterns: int, displacements: int, rng: np.random.Generator,
               advance: Callable[[int], None] = lambda _: None) -> DiskData:
    """Disks of `patterns` patterns, each lattice displaced `displacements` times."""
    total = patterns * displacements
    data = DiskData(np.zeros((total, DISKS, DISK_INPUTS), np.float16), np.zeros((total, DISKS, 2), np.int8),
                    np.zeros(total, np.int64), np.zeros((total, 6), np.float32), np.zeros(total, np.float32))
    filled = 0
    while filled < total:
        batch = generator.draw(min(_DRAWN, patterns - filled // displacements), rng)
        truth, radius = true_lattices(batch), radii(batch)
        count = len(radius)
        counts = batch.patterns.sum(axis=(1, 2), dtype=float)
        for _ in range(displacements):
            part = slice(filled, filled + count)
            spread = np.full(count, DISPLACEMENT)
            change = spread[:, None] * rng.standard_normal((count, 6))
            index, number = np.zeros((count, DISKS, 2), np.int64), np.zeros(count, np.int64)
            rows = np.zeros((count, DISKS, DISK_INPUTS), np.float32)
            sample_rows(batch.patterns, truth - change * _SCALE * radius[:, None], radius, counts, index, number, rows)
            data.rows[part], data.index[part], data.count[part] = rows, index, number
            data.change[part], data.spread[part] = change, spread
            filled += count
        advance(count)
    return data


def loss(network: DiskNetwork, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Negative log density (n,) of the true change of the lattice, without a constant, relative to the prior's."""
    rows, design, present, change, prior = batch
    offset, lower = network(rows)
    mean, information = posterior(design.double(), offset.double(), lower.double(), present.double(), prior.double())
    rest = change.double() - mean
    square = torch.einsum("ni,nij,nj->n", rest, information, rest)
    return 0.5 * square - 0.5 * torch.linalg.slogdet(information)[1] + 3.0 * torch.log(prior.double())


def epochs(network: DiskNetwork, data: DiskData, count: int, batch: int, rate: float, generator: torch.Generator,
           device: str = "cpu") -> Iterator[float]:
    """Train for `count` epochs with a rate that rises and falls; the mean loss of each step, as it goes."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    steps = max(len(data) // batch, 1)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=count * steps + 1, pct_start=0.15)
    network.to(device).train()
    for _ in range(count):
        order = torch.randperm(len(data), generator=generator).numpy()
        for step in range(steps):
            optimiser.zero_grad()
            each = loss(network, data.batch(np.sort(order[step * batch:(step + 1) * batch]), device))
            # one badly wrong pattern must not undo what the others teach, but must still be learnt from
            value = torch.where(each < _BAD, each, _BAD * (1 + torch.log(each.clamp(min=_BAD) / _BAD))).mean()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            plan.step()
            yield float(value.detach())
