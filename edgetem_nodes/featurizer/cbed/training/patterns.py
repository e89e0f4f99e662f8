"""Training of the pattern networks: on what is read from drawn patterns, lattices found by search as they will be in use.

Beside the phases there is a class for none of them. It is taught with patterns whose lattice was found wrongly, and with ones
that are made up: disks in the wrong places of the right lattice, and right disks on a lattice of the wrong size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.generator import NanobeamBatch, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.insides import allocated
from edgetem_nodes.featurizer.cbed.networks import DiskNetwork, PatternNetwork, mixture_log_likelihood
from edgetem_nodes.featurizer.cbed.posterior import standardised, to_lattice_axes
from edgetem_nodes.featurizer.cbed.reading import Exposures, read_patterns
from edgetem_nodes.featurizer.cbed.sampling import INNER_CELLS
from edgetem_nodes.featurizer.cbed.training.truth import nominal_centres, true_lattices

_DRAWN = 256
_MADE_UP = 0.15
"""Part of a batch that is turned into patterns of no phase."""
_WRONG_SIZE = (0.07, 0.3)


def exposures_of(batch: NanobeamBatch) -> Exposures:
    """What is known of drawn patterns beforehand."""
    return Exposures(batch.pixel_angle[:, None, None] * batch.distortion, nominal_centres(batch), batch.high_tension,
                     batch.semi_convergence_angle, np.eye(2))


def right_lattices(found: np.ndarray, truth: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Whether found lattices (n, 6) are the true ones, or every other or every fourth of their disks: (n,) bool."""
    def basis(lattice: np.ndarray) -> np.ndarray:
        return lattice[:, [1, 2, 4, 5]].reshape(-1, 2, 2)

    ok = np.isfinite(found).all(axis=1)
    found = np.where(ok[:, None], found, truth)
    multiples = np.linalg.inv(basis(truth)) @ basis(found)
    whole = np.rint(multiples)
    size = np.abs(np.rint(np.linalg.det(whole)))
    # relative to what was found, so that multiples are not judged more severely
    off = np.abs(multiples - whole).max(axis=(1, 2))
    centred = np.hypot(*(found[:, [0, 3]] - truth[:, [0, 3]]).T) < 0.7 * radii
    return ok & centred & (off < 0.15) & np.isin(size, (1, 2, 4))


@dataclass
class PatternData:
    """Inputs of the pattern network with the truth.

    Attributes
    ----------
    disks, present, context : as the network takes them, float16 but for the context.
    label : (n,) phase, or their number where the lattice was found wrongly.
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
    def joined(cls, parts: list[PatternData]) -> PatternData:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in ("disks", "present", "context", "label", "target")))


def draw_patterns(network: DiskNetwork, references: np.ndarray, generator: NanobeamGenerator, patterns: int,
                  rng: np.random.Generator, advance: Callable[[int], None] = lambda _: None) -> PatternData:
    """Read `patterns` drawn patterns; those without a lattice are left out."""
    parts, drawn = [], 0
    phases = len(generator.materials)
    while drawn < patterns:
        batch = generator.draw(min(_DRAWN, patterns - drawn), rng)
        exposures = exposures_of(batch)
        reading = read_patterns(network, references, batch.patterns, exposures)
        right = right_lattices(reading.lattices.lattice, true_lattices(batch), exposures.radii)
        kept = np.isfinite(reading.lattices.lattice[:, 0])
        target = standardised(batch.thickness, to_lattice_axes(batch.tilt, reading.axes))
        parts.append(PatternData(reading.disks[kept].astype(np.float16), reading.present[kept].astype(np.float16),
                                 reading.context[kept], np.where(right, batch.material, phases)[kept],
                                 target[kept].astype(np.float32)))
        drawn += len(right)
        advance(len(right))
    return PatternData.joined(parts) if parts else PatternData(*allocated(0)[:3], np.zeros(0, int), np.zeros((0, 3)))


def make_up(disks: torch.Tensor, present: torch.Tensor, context: torch.Tensor, label: torch.Tensor, none: int,
            generator: torch.Generator) -> torch.Tensor:
    """Turn the first part of a batch, in place, into patterns of no phase; new labels."""
    count, cells = int(_MADE_UP * len(label)), INNER_CELLS**2
    if count < 2:
        return label
    label = label.clone()
    half = count // 2
    # the right lattice, but the insides of the disks belong elsewhere
    order = torch.rand(half, disks.shape[1], generator=generator).to(present.device) - 2.0 * present[:half]
    order = torch.argsort(order, dim=1)
    shuffled = torch.gather(disks[:half], 1, order[..., None].expand(-1, -1, disks.shape[2]))
    disks[:half, :, :cells + 3] = shuffled[..., :cells + 3]
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


def epochs(network: PatternNetwork, data: PatternData, count: int, batch: int, rate: float, generator: torch.Generator,
           device: str = "cpu") -> Iterator[tuple[float, float]]:
    """Train for `count` epochs; cross entropy of the phase and negative log density of thickness and tilt of each step."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)
    steps = max(len(data) // batch, 1)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=count * steps + 1, pct_start=0.15)
    network.to(device).train()
    none = network.phases - 1
    for _ in range(count):
        order = torch.randperm(len(data), generator=generator).numpy()
        for step in range(steps):
            chosen = order[step * batch:(step + 1) * batch]
            disks, present, context, target = (torch.from_numpy(value[chosen]).float().to(device)
                                               for value in (data.disks, data.present, data.context, data.target))
            true = torch.from_numpy(data.label[chosen]).to(device)
            label = make_up(disks, present, context, true, none, generator)
            optimiser.zero_grad()
            logits, mixture, _ = network(disks, present, context)
            phase = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.01)
            real = label != none
            density = torch.clamp(-mixture_log_likelihood(mixture[real], target[real]), max=30.0).mean()
            (phase + density).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            plan.step()
            yield float(phase.detach()), float(density.detach())
