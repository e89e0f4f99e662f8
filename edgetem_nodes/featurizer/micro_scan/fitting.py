"""Fitting the network to a training set, and what its probabilities and covariances must be scaled by to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.amplitudes import in_context
from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, described_classes
from edgetem_nodes.featurizer.micro_scan.images import Plane
from edgetem_nodes.featurizer.micro_scan.model import AtPoints, ColumnNetwork, SiteNetwork, read
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages

_SITE_WIDTH = 0.35e-10
"""Standard deviation of the peak that a site makes in the map of sites [m]."""
_READING_ERROR = 0.18e-10
"""Standard deviation of where a site is read, off its column [m]."""

_COLUMNS = 512
"""Sites of a step."""
_TOGETHER = 6
"""Conditions whose micro-scans are mixed in a step."""


@dataclass(frozen=True)
class FittingSettings:
    """How the network is fitted.

    Attributes
    ----------
    epochs : passes over the set; rows : of a step; rate : highest learning rate; width : channels of the site network.
    column_epochs, column_rate, column_width : the same of the column network.
    """

    epochs: int = 16
    rows: int = 32
    rate: float = 3e-3
    width: int = 28
    column_epochs: int = 12
    column_rate: float = 4e-3
    column_width: int = 48


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
    features: torch.Tensor

    @classmethod
    def of(cls, one: LabelledImages, rows: np.ndarray, device: str = "cpu") -> Rows:
        """Rows of a batch."""
        return cls(*(torch.from_numpy(values[rows].astype(kind)).to(device) for values, kind in (
            (one.planes, np.float32), (one.sites, np.float32), (one.classes, np.int64), (one.points, np.float32),
            (one.features, np.float32))))

    def symmetric(self, number: int) -> Rows:
        """One of the eight symmetries of the square, applied to images, sites and points."""
        planes, places = self.planes, [self.sites, self.points]
        if number & 1:
            planes, places = planes.flip(-1), [one * torch.tensor([1.0, -1.0], device=one.device) for one in places]
        if number & 2:
            planes, places = planes.flip(-2), [one * torch.tensor([-1.0, 1.0], device=one.device) for one in places]
        if number & 4:
            planes, places = planes.transpose(-1, -2), [one.flip(-1) for one in places]
        return Rows(planes, places[0], self.classes, places[1], self.features)

    def jittered(self, generator: torch.Generator) -> Rows:
        """Read at points that are off by some more."""
        more = torch.randn(self.points.shape, generator=generator).to(self.points.device) * _READING_ERROR
        return Rows(self.planes, self.sites, self.classes, self.points + more, self.features)


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


def fit(training: Sequence[LabelledImages], validation: Sequence[LabelledImages], settings: FittingSettings, seed: int,
        device: str = "cpu", progress: Callable[[int, int, str], None] = lambda *_: None,
        stopped: Callable[[], bool] = lambda: False) -> tuple[SiteNetwork, Curves]:
    """One network, as good as it is where `stopped`. The same arguments on the same machine give the same weights."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SiteNetwork(settings.width).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=1e-3)
    pools = _pools(training)
    steps = settings.epochs * sum(math.ceil(len(pool.planes) / settings.rows) for pool in pools)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps, pct_start=0.15)
    curves = Curves()
    for epoch in range(settings.epochs):
        total, count = 0.0, 0
        for pool, rows in _steps(pools, settings.rows, rng):
            values = Rows.of(pool, rows, device).symmetric(int(rng.integers(8))).jittered(generator)
            loss = sum(losses(network, values))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            total, count = total + float(loss.detach()), count + 1
        curves.training.append(total / count)
        curves.validation.append(_mean_loss(network, validation, device))
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
    sites, points = (np.concatenate([(getattr(one, name) - by).astype(np.float32)
                                     for one, by in zip(batches, moved, strict=True)]) for name in ("sites", "points"))
    classes, hosts, features = (np.concatenate([getattr(one, name) for one in batches])
                                for name in ("classes", "hosts", "features"))
    return LabelledImages(np.concatenate(planes), sites, classes, hosts, points, features, 0.0, 0.0)


def _steps(pools: Sequence[LabelledImages], rows: int, rng: np.random.Generator) -> list[tuple[LabelledImages, np.ndarray]]:
    """Steps of an epoch in random order."""
    steps = []
    for pool in pools:
        order = rng.permutation(len(pool.planes))
        steps += [(pool, order[start:start + rows]) for start in range(0, len(order), rows)]
    return [steps[number] for number in rng.permutation(len(steps))]


def _mean_loss(network: SiteNetwork, batches: Sequence[LabelledImages], device: str) -> float:
    total = []
    with torch.no_grad():
        for one in batches:
            total.append(float(sum(losses(network, Rows.of(one, np.arange(len(one.planes)), device)))))
    return float(np.mean(total)) if total else math.nan


@dataclass(frozen=True)
class DescribedSites:
    """All sites of a set that have features.

    Attributes
    ----------
    inputs : (sites, CONTEXT + DESCRIBED); targets : (sites,) class, K for the perfect column.
    sheets : for each micro-scan of a sheet that tells its sublattices apart, or has equal ones: the classes on sublattice 0 and
        1, `amplitudes.InContext.sheet`, and the number of the batch.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    sheets: list[tuple[tuple[int, int], np.ndarray, int]]


def described_sites(batches: Sequence[LabelledImages]) -> DescribedSites:
    """Sites and micro-scans of a set as `ColumnNetwork` and `sheets` see them."""
    inputs, targets, sheets = [], [], []
    for number, one in enumerate(batches):
        for features, classes, hosts in zip(one.features, one.classes, one.hosts, strict=True):
            context = in_context(features.astype(np.float32))
            there = np.flatnonzero((classes >= 0) & (context.sites != 0).any(axis=1))
            if not len(there):
                continue
            own = hosts[there].astype(int)
            inputs.append(np.concatenate([context.sites[there], described_classes(own)], axis=1))
            targets.append(np.where(classes[there] == own, len(CLASSES), classes[there]))
            on = [np.unique(own[context.side[there] == side]) for side in (0, 1)]
            if len(on[0]) == 1 and len(on[1]) == 1:
                sheets.append(((int(on[0][0]), int(on[1][0])), context.sheet, number))
    return DescribedSites(torch.from_numpy(np.concatenate(inputs).astype(np.float32)),
                          torch.from_numpy(np.concatenate(targets).astype(np.int64)), sheets)


def fit_columns(training: Sequence[LabelledImages], validation: Sequence[LabelledImages], settings: FittingSettings, seed: int,
                stopped: Callable[[], bool] = lambda: False) -> tuple[ColumnNetwork, Curves]:
    """The network of what stands on sites. The same arguments on the same machine give the same weights."""
    data, held = described_sites(training), described_sites(validation)
    features, classes = data.inputs, data.targets
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ColumnNetwork(settings.column_width)
    network.middle.copy_(features.mean(dim=0))
    network.scale.copy_(features.std(dim=0) + 1e-3)
    optimiser = torch.optim.AdamW(network.parameters(), settings.column_rate, weight_decay=1e-2)
    steps = settings.column_epochs * math.ceil(len(features) / _COLUMNS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.column_rate, steps)
    curves = Curves()
    for _ in range(settings.column_epochs):
        total = []
        for rows in torch.randperm(len(features), generator=generator).split(_COLUMNS):
            loss = torch.nn.functional.cross_entropy(network(features[rows]), classes[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total.append(float(loss.detach()))
        curves.training.append(float(np.mean(total)))
        with torch.no_grad():
            curves.validation.append(float(torch.nn.functional.cross_entropy(network(held.inputs), held.targets)))
        if stopped():
            break
    return network.eval(), curves
