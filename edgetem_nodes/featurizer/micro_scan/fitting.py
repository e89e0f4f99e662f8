"""Fitting the network to a training set, and what its probabilities and covariances must be scaled by to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.model import AtPoints, SiteNetwork, read
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages

_SITE_WIDTH = 0.35e-10
"""Standard deviation of the peak that a site makes in the map of sites [m]."""
_READING_ERROR = 0.18e-10
"""Standard deviation of where a site is read, off its column [m]."""


@dataclass(frozen=True)
class FittingSettings:
    """How the network is fitted.

    Attributes
    ----------
    epochs : passes over the set; rows : of a step; rate : highest learning rate; width : channels of the network.
    """

    epochs: int = 16
    rows: int = 32
    rate: float = 3e-3
    width: int = 36


@dataclass
class Curves:
    """Losses an epoch."""

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)


def losses(network: SiteNetwork, planes: torch.Tensor, sites: torch.Tensor, classes: torch.Tensor,
           points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean losses of the map of sites, of classes and of positions, read at points (rows, sites, 2) [m]."""
    with torch.autocast(planes.device.type, torch.bfloat16):
        output = network(planes.contiguous(memory_format=torch.channels_last))
    there = classes >= 0
    axis = (torch.arange(planes.shape[-1], device=planes.device) - (planes.shape[-1] - 1) / 2) * PIXEL
    distance = (axis - torch.nan_to_num(sites, nan=1.0)[..., None]) / _SITE_WIDTH
    falls = torch.exp(-0.5 * distance.clamp(-20, 20) ** 2) * there[..., None, None]
    wanted = torch.einsum("bsi,bsj->bij", falls[:, :, 0], falls[:, :, 1]).clamp(0, 1)
    site = torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], wanted)
    at = read(output, points)
    kind = torch.nn.functional.cross_entropy(at.classes[there], classes[there])
    return site, kind, _negative_log_density(at, sites - points)[there & (classes > 0)].mean()


def _negative_log_density(at: AtPoints, offsets: torch.Tensor) -> torch.Tensor:
    """Of true offsets (..., 2), but for a constant, in units of a pixel."""
    missed = torch.nan_to_num(offsets) - at.offset
    a, b, c = at.factor[..., 0, 0], at.factor[..., 1, 0], at.factor[..., 1, 1]
    first = missed[..., 0] / a
    second = (missed[..., 1] - b * first) / c
    return 0.5 * (first ** 2 + second ** 2) + torch.log(a / PIXEL) + torch.log(c / PIXEL)


def _symmetric(number: int, planes: torch.Tensor, sites: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One of the eight symmetries of the square, applied to images and sites."""
    if number & 1:
        planes, sites = planes.flip(-1), sites * torch.tensor([1.0, -1.0], device=sites.device)
    if number & 2:
        planes, sites = planes.flip(-2), sites * torch.tensor([-1.0, 1.0], device=sites.device)
    if number & 4:
        planes, sites = planes.transpose(-1, -2), sites.flip(-1)
    return planes, sites


def fit(training: Sequence[LabelledImages], validation: Sequence[LabelledImages], settings: FittingSettings, seed: int,
        device: str = "cpu", progress: Callable[[str], None] = lambda _: None) -> tuple[SiteNetwork, Curves]:
    """One network. The same arguments on the same machine give the same weights."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SiteNetwork(settings.width).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=1e-3)
    steps = settings.epochs * sum(math.ceil(len(one.planes) / settings.rows) for one in training)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps, pct_start=0.1)
    curves = Curves()
    for epoch in range(settings.epochs):
        total, count = 0.0, 0
        for number in rng.permutation(len(training)):
            one = training[number]
            order = rng.permutation(len(one.planes))
            for start in range(0, len(order), settings.rows):
                rows = order[start:start + settings.rows]
                planes, sites, classes = tensors(one, rows, device)
                planes, sites = _symmetric(int(rng.integers(8)), planes, sites)
                points = torch.nan_to_num(sites) + torch.randn(sites.shape, generator=generator).to(device) * _READING_ERROR
                loss = sum(losses(network, planes, sites, classes, points))
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
                optimiser.step()
                schedule.step()
                total, count = total + float(loss.detach()), count + 1
        curves.training.append(total / count)
        curves.validation.append(_mean_loss(network, validation, device))
        progress(f"epoch {epoch + 1} of {settings.epochs}: loss {curves.training[-1]:.4f}, "
                 f"validation {curves.validation[-1]:.4f}")
    return network.cpu().eval(), curves


def _mean_loss(network: SiteNetwork, batches: Sequence[LabelledImages], device: str) -> float:
    total = []
    with torch.no_grad():
        for one in batches:
            planes, sites, classes = tensors(one, np.arange(len(one.planes)), device)
            total.append(float(sum(losses(network, planes, sites, classes, torch.nan_to_num(sites)))))
    return float(np.mean(total)) if total else math.nan


def tensors(one: LabelledImages, rows: np.ndarray, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Planes, sites and classes of some rows."""
    return (torch.from_numpy(one.planes[rows].astype(np.float32)).to(device), torch.from_numpy(one.sites[rows]).to(device),
            torch.from_numpy(one.classes[rows].astype(np.int64)).to(device))
