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
from edgetem_nodes.featurizer.cbed.lattices import FIRST_DISKS, sample_rows
from edgetem_nodes.featurizer.cbed.networks import DISK_INPUTS, DiskNetwork
from edgetem_nodes.featurizer.cbed.training.samples import Descent, Samples
from edgetem_nodes.featurizer.cbed.training.truth import radii, true_lattices
from edgetem_nodes.featurizer.cbed.training.workers import in_shards, shared_array

DISPLACEMENT = 0.16
"""Standard deviation of the lattice's numbers when it is displaced [radii]. One number for all: were it drawn anew for each
pattern, disks that look centred would speak for a small one, and the network would count the prior again as evidence."""
_BAD = 20.0
"""Loss above which it counts by its logarithm."""
SHARD = 256
"""Patterns that are drawn together, from a seed of their own."""
SCALE = np.array([1.0, 1 / INDEX_SCALE, 1 / INDEX_SCALE] * 2)
"""Of the lattice's numbers, in radii of the disk, to those of the solution."""


@dataclass
class DiskData:
    """Disks of displaced lattices.

    Attributes
    ----------
    rows : (n, disks, inputs) float16. index : (n, disks, 2) int8. count : (n,) disks in use.
    change : (n, 6) float32, from the displaced to the true lattice [radii], indices divided by `INDEX_SCALE`.
    prior : information on each number of the change that is not in the disks [1/radius^2].
    """

    rows: np.ndarray
    index: np.ndarray
    count: np.ndarray
    change: np.ndarray
    prior: float

    def __len__(self) -> int:
        return len(self.count)

    def samples(self, device: str, kept: np.ndarray | None = None) -> Samples:
        """On a device; those `kept` only."""
        return Samples({name: getattr(self, name) for name in ("rows", "index", "count", "change")}, ("rows", "index"),
                       self.count, device, kept)

    @classmethod
    def allocated(cls, count: int, disks: int, inputs: int, prior: float) -> DiskData:
        """Room for so many, shared by processes."""
        return cls(shared_array((count, disks, inputs), np.float16), shared_array((count, disks, 2), np.int8),
                   shared_array((count,), np.int64), shared_array((count, 6), np.float32), prior)


def draw_disks(generator: NanobeamGenerator, patterns: int, displacements: int, seed: int,
               advance: Callable[[int], None] = lambda _: None, workers: int = 1,
               stopped: Callable[[], bool] = lambda: False) -> DiskData:
    """Disks of `patterns` patterns, each lattice displaced `displacements` times; the same however many `workers` there are."""
    data = DiskData.allocated(patterns * displacements, FIRST_DISKS, DISK_INPUTS, 1 / DISPLACEMENT**2)

    def shard(number: int) -> int:
        first = number * SHARD
        count = min(SHARD, patterns - first)
        _fill(data, generator, first * displacements, count, displacements, np.random.default_rng([seed, 1, number]))
        return count

    for _, count in in_shards(shard, -(-patterns // SHARD), workers, stopped):
        advance(count)
    return data


def _fill(data: DiskData, generator: NanobeamGenerator, filled: int, count: int, displacements: int,
          rng: np.random.Generator) -> None:
    batch = generator.draw(count, rng)
    truth, radius = true_lattices(batch), radii(batch)
    counts = batch.patterns.sum(axis=(1, 2), dtype=float)
    for number in range(displacements):
        part = slice(filled + number * count, filled + (number + 1) * count)
        change = DISPLACEMENT * rng.standard_normal((count, 6))
        index, disks = np.zeros((count, FIRST_DISKS, 2), np.int64), np.zeros(count, np.int64)
        rows = np.zeros((count, FIRST_DISKS, DISK_INPUTS), np.float32)
        sample_rows(batch.patterns, truth - change * SCALE * radius[:, None], radius, counts, index, disks, rows)
        data.rows[part], data.index[part], data.count[part], data.change[part] = rows, index, disks, change


def loss(said: tuple[torch.Tensor, torch.Tensor], index: torch.Tensor, present: torch.Tensor, change: torch.Tensor,
         prior: float) -> torch.Tensor:
    """Negative log density (n,) of the true change of the lattice, without a constant, relative to the prior's.

    Parameters
    ----------
    said : offsets and triangles of `DiskNetwork`. index : (n, disks, 2). present : (n, disks). change : (n, 6).
    """
    offset, lower = (one.double() for one in said)
    design = torch.cat([torch.ones_like(index[..., :1], dtype=torch.double), index.double() / INDEX_SCALE], dim=-1)
    information, right = posterior(design, offset, lower, present.double(), prior)
    change = change.double()
    # with J m = b and J = L L^T: (c - m)^T J (c - m) = c^T J c - 2 c^T b + |L^-1 b|^2
    root = torch.linalg.cholesky_ex(information).L  # does not wait for a GPU to say that all went well
    half = torch.linalg.solve_triangular(root, right[..., None], upper=False)[..., 0]
    square = torch.einsum("ni,nij,nj->n", change, information, change) - 2 * (change * right).sum(-1) + (half**2).sum(-1)
    return 0.5 * square - torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1) + 3.0 * float(np.log(prior))


def robust(each: torch.Tensor) -> torch.Tensor:
    """Sum of losses in which one badly wrong pattern cannot undo what the others teach, but is still learnt from."""
    return torch.where(each < _BAD, each, _BAD * (1 + torch.log(each.clamp(min=_BAD) / _BAD))).sum()


def epochs(network: DiskNetwork, data: DiskData, count: int, batch: int, rate: float, generator: torch.Generator,
           device: str = "cpu") -> Iterator[torch.Tensor]:
    """Train for `count` epochs with a rate that rises and falls; the mean loss of each step, as it goes, on the device."""
    samples = data.samples(device)
    descent = Descent(network, device, rate, count * samples.steps(batch), 1e-4)

    def losses(parts: Iterator[dict[str, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for one in parts:
            present = there(one)
            value = robust(loss(network(one["rows"]), one["index"], present, one["change"], data.prior)) / batch
            yield value, value

    for _ in range(count):
        for parts in samples.batches(batch, generator):
            yield descent.step(losses(parts))


def there(one: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which disks (n, disks) of samples are there: 1 or 0."""
    return (torch.arange(one["rows"].shape[1], device=one["rows"].device) < one["count"][:, None]).float()
