"""Fitting the site network to a training set, which is on the device once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.images import Plane
from edgetem_nodes.featurizer.micro_scan.model import AtPoints, SiteNetwork, read
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages

_SITE_WIDTH = 0.35e-10
"""Standard deviation of the peak that a site makes in the map of sites [m]."""
_READING_ERROR = 0.18e-10
"""Standard deviation of where a site is read, off its column [m]."""
_TOGETHER = 6
"""Conditions whose micro-scans are mixed in a step."""


@dataclass(frozen=True)
class FittingSettings:
    """How the network is fitted.

    Attributes
    ----------
    epochs : passes over the set; rows : of a step; rate : highest learning rate; width : channels of the site network.
    species_epochs, species_sites, species_rate, species_width : the same of the species network, a step in sites.
    """

    epochs: int = 16
    rows: int = 64
    rate: float = 3e-3
    width: int = 32
    species_epochs: int = 16
    species_sites: int = 4096
    species_rate: float = 3e-3
    species_width: int = 64


@dataclass
class Curves:
    """Losses an epoch."""

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Rows:
    """Some micro-scans of a set as tensors; see `training_set.LabelledImages`."""

    planes: torch.Tensor
    sites: torch.Tensor
    classes: torch.Tensor
    points: torch.Tensor

    @classmethod
    def of(cls, one: LabelledImages, device: str = "cpu") -> Rows:
        """All rows of a batch."""
        return cls(*(torch.from_numpy(values).to(device) for values in (one.planes, one.sites, one.classes, one.points)))

    def chosen(self, rows: torch.Tensor) -> Rows:
        """Rows by number, images in single precision."""
        return Rows(self.planes[rows].float(), self.sites[rows], self.classes[rows], self.points[rows])

    def symmetric(self, number: int) -> Rows:
        """One of the eight symmetries of the square, applied to images, sites and points."""
        planes, places = self.planes, [self.sites, self.points]
        if number & 1:
            planes, places = planes.flip(-1), [one * torch.tensor([1.0, -1.0], device=one.device) for one in places]
        if number & 2:
            planes, places = planes.flip(-2), [one * torch.tensor([-1.0, 1.0], device=one.device) for one in places]
        if number & 4:
            planes, places = planes.transpose(-1, -2), [one.flip(-1) for one in places]
        return Rows(planes, places[0], self.classes, places[1])

    def jittered(self, generator: torch.Generator) -> Rows:
        """Read at points that are off by some more."""
        more = torch.randn(self.points.shape, generator=generator).to(self.points.device) * _READING_ERROR
        return Rows(self.planes, self.sites, self.classes, self.points + more)


def losses(network: SiteNetwork, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean losses of the map of sites and of positions."""
    with torch.autocast(rows.planes.device.type, torch.bfloat16):
        output = network(rows.planes)
    there = rows.classes >= 0
    axis = (torch.arange(output.shape[-1], device=output.device) - (output.shape[-1] - 1) / 2) * PIXEL
    distance = (axis - torch.nan_to_num(rows.sites, nan=1.0)[..., None]) / _SITE_WIDTH
    falls = torch.exp(-0.5 * distance.clamp(-20, 20) ** 2) * there[..., None, None]
    wanted = torch.einsum("bsi,bsj->bij", falls[:, :, 0], falls[:, :, 1]).clamp(0, 1)
    inside = rows.planes[:, Plane.INSIDE]
    site = torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], wanted, inside) * (inside.numel() / inside.sum())
    points = torch.nan_to_num(rows.points)
    at = read(output, points)
    placed = _negative_log_density(at, rows.sites - points)[there & (rows.classes > 0)].mean()
    return site, placed


def _negative_log_density(at: AtPoints, offsets: torch.Tensor) -> torch.Tensor:
    """Of true offsets (..., 2), but for a constant, in units of a pixel."""
    missed = torch.nan_to_num(offsets) - at.offset
    a, b, c = at.factor[..., 0, 0], at.factor[..., 1, 0], at.factor[..., 1, 1]
    first = missed[..., 0] / a
    second = (missed[..., 1] - b * first) / c
    return 0.5 * (first ** 2 + second ** 2) + torch.log(a / PIXEL) + torch.log(c / PIXEL)


def pooled(batches: Sequence[LabelledImages], device: str = "cpu") -> list[Rows]:
    """A set on a device, as `fit` takes it."""
    return [Rows.of(one, device) for one in _pools(batches)]


def fit(pools: Sequence[Rows], held: Sequence[Rows], settings: FittingSettings, seed: int,
        progress: Callable[[int, int, str], None] = lambda *_: None,
        stopped: Callable[[], bool] = lambda: False) -> tuple[SiteNetwork, Curves]:
    """One network, as good as it is where `stopped`. The same arguments on the same machine give the same weights.

    Parameters
    ----------
    pools, held : training and validation set, by `pooled`.
    """
    device = pools[0].planes.device
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SiteNetwork(settings.width).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=1e-3)
    steps = settings.epochs * sum(math.ceil(len(pool.planes) / settings.rows) for pool in pools)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps, pct_start=0.15)
    curves = Curves()
    for epoch in range(settings.epochs):
        total, count = torch.zeros((), device=device), 0
        for pool, rows in _steps(pools, settings.rows, rng):
            values = pool.chosen(torch.from_numpy(rows).to(device)).symmetric(int(rng.integers(8))).jittered(generator)
            loss = sum(losses(network, values))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            total, count = total + loss.detach(), count + 1
        curves.training.append(float(total) / count)
        curves.validation.append(_mean_loss(network, held, settings.rows))
        progress(epoch + 1, settings.epochs, f"loss {curves.training[-1]:.4f}, validation {curves.validation[-1]:.4f}")
        if stopped():
            break
    return network.cpu().eval(), curves


def _pools(batches: Sequence[LabelledImages]) -> list[LabelledImages]:
    """Micro-scans of several batches of about the same size, filled up with zeros: a step then sees several conditions."""
    ordered = sorted(batches, key=lambda one: one.planes.shape[-1])
    return [_filled(ordered[start:start + _TOGETHER]) for start in range(0, len(ordered), _TOGETHER)]


def _filled(batches: Sequence[LabelledImages]) -> LabelledImages:
    size = max(one.planes.shape[-1] for one in batches)
    planes = []
    for one in batches:
        more = size - one.planes.shape[-1]
        planes.append(np.pad(one.planes, [(0, 0), (0, 0), (0, more), (0, more)]))
    moved = [(PIXEL * (size - one.planes.shape[-1]) / 2) for one in batches]
    values = {one.name: np.concatenate([getattr(batch, one.name) for batch in batches])
              for one in fields(LabelledImages) if one.name not in ("planes", "sites", "points")}
    for name in ("sites", "points"):
        values[name] = np.concatenate([(getattr(one, name) - by).astype(np.float32)
                                       for one, by in zip(batches, moved, strict=True)])
    return LabelledImages(np.concatenate(planes), **values)


def _steps(pools: Sequence[Rows], rows: int, rng: np.random.Generator) -> list[tuple[Rows, np.ndarray]]:
    """Steps of an epoch in random order."""
    steps = []
    for pool in pools:
        order = rng.permutation(len(pool.planes))
        steps += [(pool, order[start:start + rows]) for start in range(0, len(order), rows)]
    return [steps[number] for number in rng.permutation(len(steps))]


def _mean_loss(network: SiteNetwork, pools: Sequence[Rows], rows: int) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for pool in pools:
            for part in torch.arange(len(pool.planes), device=pool.planes.device).split(rows):
                total += float(sum(losses(network, pool.chosen(part)))) * len(part)
                count += len(part)
    return total / count if count else math.nan
