"""Fitting the species network to all sites of a training set, which are on the device once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.fitting import Curves, FittingSettings
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, log_prior
from edgetem_nodes.featurizer.micro_scan.species import SpeciesNetwork
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages

_STANDARDISED = 20000


@dataclass(frozen=True)
class SiteTable:
    """All sites of a set of which something is known.

    Attributes
    ----------
    context : (sites, CONTEXT); perfect, classes : (sites,) class of the perfect sheet, and what stands there.
    batch : (sites,) number of the batch; amplitudes : (batches, K, 2) of `sheets.column_amplitudes`.
    """

    context: torch.Tensor
    perfect: torch.Tensor
    classes: torch.Tensor
    batch: torch.Tensor
    amplitudes: torch.Tensor

    @classmethod
    def of(cls, batches: Sequence[LabelledImages], device: str = "cpu") -> SiteTable:
        """Of a set's sites, on a device."""
        there = [(one.classes >= 0) & (one.context != 0).any(axis=2) for one in batches]
        together = lambda name: np.concatenate([getattr(one, name)[kept]  # noqa: E731
                                                for one, kept in zip(batches, there, strict=True)])
        number = np.concatenate([np.full(kept.sum(), place) for place, kept in enumerate(there)])
        return cls(torch.from_numpy(together("context").astype(np.float32)).to(device),
                   torch.from_numpy(together("hosts").astype(np.int64)).to(device),
                   torch.from_numpy(together("classes").astype(np.int64)).to(device), torch.from_numpy(number).to(device),
                   torch.from_numpy(np.stack([one.amplitudes[0] for one in batches])).to(device))

    def chosen(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the network takes."""
        return self.context[rows], self.perfect[rows], self.amplitudes[self.batch[rows]]

    def defective(self) -> float:
        """Part of the sites that are not perfect."""
        return float((self.classes != self.perfect).float().mean().clamp(1e-3, 0.5))


def fit_species(training: SiteTable, validation: SiteTable, settings: FittingSettings, seed: int,
                progress: Callable[[int, int, str], None] = lambda *_: None,
                stopped: Callable[[], bool] = lambda: False) -> tuple[SpeciesNetwork, Curves]:
    """One network, as good as it is where `stopped`. The same arguments on the same machine give the same weights.

    The loss is the cross entropy of the posterior under the prior of the training set, so that the network itself learns
    likelihoods.
    """
    device, count = training.context.device, len(training.classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpeciesNetwork(settings.species_width).to(device)
    prior = torch.from_numpy(log_prior(np.arange(len(CLASSES)), training.defective())).to(device)
    network.standardise(*training.chosen(torch.randperm(count, generator=generator)[:_STANDARDISED].to(device)))
    optimiser = torch.optim.AdamW(network.parameters(), settings.species_rate, weight_decay=1e-2)
    steps = settings.species_epochs * math.ceil(count / settings.species_sites)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.species_rate, steps, pct_start=0.15)
    curves = Curves()
    for epoch in range(settings.species_epochs):
        total = torch.zeros((), device=device)
        order = torch.randperm(count, generator=generator).to(device)
        for rows in order.split(settings.species_sites):
            loss = _loss(network, training, rows, prior)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(rows)
        curves.training.append(float(total) / count)
        with torch.no_grad():
            curves.validation.append(float(sum(_loss(network, validation, rows, prior) * len(rows) for rows in
                                               torch.arange(len(validation.classes), device=device).split(32768)))
                                     / max(len(validation.classes), 1))
        progress(epoch + 1, settings.species_epochs, f"loss {curves.training[-1]:.4f}, validation {curves.validation[-1]:.4f}")
        if stopped():
            break
    return network.cpu().eval(), curves


def _loss(network: SpeciesNetwork, table: SiteTable, rows: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    logits = network(*table.chosen(rows)) + prior[table.perfect[rows]]
    return torch.nn.functional.cross_entropy(logits, table.classes[rows])
