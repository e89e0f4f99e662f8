"""Training of the pattern networks: on what is read from drawn patterns, lattices found by search as they will be in use.

Beside the phases there are a class for none of them and one for several crystals, rings and films. The first is taught with
other materials, with patterns whose lattice was found wrongly, and with ones that are made up: disks in the wrong places of the
right lattice, and right disks on a lattice of the wrong size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.insides import MOST
from edgetem_nodes.featurizer.cbed.networks import CONTEXT, INSIDE_INPUTS, PatternNetwork, mixture_log_likelihood
from edgetem_nodes.featurizer.cbed.sampling import INNER_CELLS
from edgetem_nodes.featurizer.cbed.training.samples import Descent, Samples
from edgetem_nodes.featurizer.cbed.training.workers import shared_array

_MADE_UP = 0.1
"""Part of a batch that is turned into patterns of no phase."""
_WRONG_SIZE = (0.07, 0.3)
_PHASE, _FIRST = 40.0, 0.4
"""Weight of the phase's loss in this first part of the training; then it falls, evenly in its logarithm, to 1. With 1 from the
beginning the gradients of thickness and tilt, which grow with what is known, drown it, and MoS2 is not told from WS2 at all;
with 40 to the end little is learnt of tilt."""


@dataclass
class PatternData:
    """Inputs of the pattern network with the truth.

    Attributes
    ----------
    disks, present, context : as the network takes them, float16 but for the context.
    label : (n,) phase, or their number: none of them, or 1 more: several crystals.
    target : (n, 3) as `posterior.standardised`.
    """

    disks: np.ndarray
    present: np.ndarray
    context: np.ndarray
    label: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def allocated(cls, count: int) -> PatternData:
        """Room for so many, shared by processes."""
        return cls(shared_array((count, MOST, INSIDE_INPUTS), np.float16), shared_array((count, MOST), np.float16),
                   shared_array((count, CONTEXT), np.float32), shared_array((count,), np.int64),
                   shared_array((count, 3), np.float32))


def make_up(disks: torch.Tensor, present: torch.Tensor, context: torch.Tensor, label: torch.Tensor, none: int,
            generator: torch.Generator) -> torch.Tensor:
    """Turn the first tenth of a part of a batch, in place, into patterns of no phase, `none`; new labels. The part is in no
    order."""
    count, cells = int(_MADE_UP * len(label)), INNER_CELLS**2
    if count < 2:
        return label
    label = label.clone()
    half = count // 2
    # the right lattice, but the insides of the disks belong elsewhere
    order = torch.rand(half, disks.shape[1], generator=generator).to(present.device) - 2.0 * present[:half]
    order = torch.argsort(order, dim=1)
    shuffled = torch.gather(disks[:half], 1, order[..., None].expand(-1, -1, disks.shape[2]))
    disks[:half, :, :cells + 3], disks[:half, :, -3:] = shuffled[..., :cells + 3], shuffled[..., -3:]
    low, high = _WRONG_SIZE
    change = low + (high - low) * torch.rand(count - half, generator=generator)
    sign = torch.where(torch.rand(count - half, generator=generator) < 0.5, -1.0, 1.0)
    scale = torch.exp(sign * change).to(disks.device)
    disks[half:count, :, cells + 3:cells + 5] *= scale[:, None, None]
    disks[half:count, :, cells + 5] *= scale[:, None]**2
    context[half:count, 3:5] = (context[half:count, 3:5] * 1.5 + 4.5) * scale[:, None] / 1.5 - 3.0
    context[half:count, 7] /= scale
    label[:count] = none
    return label


def epochs(network: PatternNetwork, data: PatternData, found: np.ndarray, phases: int, count: int, batch: int, rate: float,
           generator: torch.Generator, device: str = "cpu") -> Iterator[torch.Tensor]:
    """Train on those with a lattice, `found` (n,), for `count` epochs; cross entropy of the phase and negative log density of
    thickness and tilt (2,) of each step, on the device."""
    samples = Samples(vars(data), ("disks", "present"), data.present.sum(axis=1), device, np.flatnonzero(found))
    steps = samples.steps(batch)
    descent = Descent(network, device, rate, count * steps, 1e-3)

    def losses(parts: Iterator[dict[str, torch.Tensor]], weight: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for one in parts:
            label = make_up(one["disks"], one["present"], one["context"], one["label"], phases, generator)
            logits, mixture, _ = network(one["disks"], one["present"], one["context"])
            phase = torch.nn.functional.cross_entropy(logits, label)
            real = (label < phases).float()
            each = torch.clamp(-mixture_log_likelihood(mixture, one["target"]), max=30.0)
            density = (each * real).sum() / real.sum().clamp(min=1.0)
            share = len(label) / batch
            yield share * (weight * phase + density), share * torch.stack([phase, density])

    for epoch in range(count):
        for number, parts in enumerate(samples.batches(batch, generator)):
            yield descent.step(losses(parts, phase_weight((epoch + number / steps) / count)))


def phase_weight(gone: float) -> float:
    """Weight of the phase's loss when this part of the training is done."""
    return float(_PHASE ** min((1.0 - gone) / (1.0 - _FIRST), 1.0))
