"""The two networks: what one disk says of its place, and what all disks of a pattern say of the specimen."""

from __future__ import annotations

import torch
from torch import nn

from edgetem_nodes.featurizer.cbed.sampling import CELLS, INNER_CELLS, SCALARS

DISK_INPUTS = CELLS**2 + SCALARS
INSIDE_INPUTS = INNER_CELLS**2 + 7
CONTEXT = 9
COMPONENTS = 3
"""Normal distributions of which thickness and tilt are a mixture."""
_FARTHEST = 0.9
"""Largest offset that the disk network states [radii of the disk]."""


class DiskNetwork(nn.Module):
    """From the cells about a disk to its offset and what is known of it: a Gaussian likelihood of the disk's place.

    Offsets are (y, x) from the middle of the cells [radii]; the information matrix of a disk is its electrons times a matrix
    that depends on how the disk looks. Weak or absent disks get little information instead of being left out.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(DISK_INPUTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.offset = nn.Linear(width, 2)
        self.information = nn.Linear(width, 3)
        with torch.no_grad():  # begin with errors that are too large: small ones make the first steps wild
            self.information.bias.copy_(torch.tensor([-2.5, 0.0, -2.5]))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (..., 2) [radii] and lower triangles (..., 3) (l00, l10, l11) of L, information being L @ L.T [1/radius^2].

        Parameters
        ----------
        rows : (..., DISK_INPUTS).
        """
        # a disk turned by half a turn lies where it did, mirrored: what the network says otherwise cancels
        hidden, turned = self.body(rows), self.body(half_turn(rows))
        offset = _FARTHEST * torch.tanh((self.offset(hidden) - self.offset(turned)) / 2)
        raw = (self.information(hidden) + self.information(turned)) / 2
        # The root of the electrons about the disk, by the input that holds their logarithm.
        root = torch.exp(1.5 * (rows[..., CELLS**2:CELLS**2 + 1] + 1.5))
        diagonal = torch.exp(raw[..., ::2].clamp(-9.0, 3.0))
        lower = torch.cat([diagonal[..., :1], raw[..., 1:2], diagonal[..., 1:]], dim=-1)
        return offset, root * lower


def half_turn(rows: torch.Tensor) -> torch.Tensor:
    """Inputs (..., DISK_INPUTS) of disks turned by half a turn: cells in reverse, places within a pixel mirrored."""
    cells, rest = rows[..., :CELLS**2].flip(-1), rows[..., CELLS**2:]
    return torch.cat([cells, rest[..., :4], -rest[..., 4:6], rest[..., 6:]], dim=-1)


class PatternNetwork(nn.Module):
    """From the insides of all disks to phase, thickness and tilt: a sum over disks, so that their order does not matter."""

    def __init__(self, phases: int, width: int = 64, hidden: int = 96) -> None:
        super().__init__()
        self.phases = phases
        self.disk = nn.Sequential(nn.Linear(INSIDE_INPUTS + CONTEXT, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                  nn.Linear(width, width), nn.SiLU())
        self.pattern = nn.Sequential(nn.Linear(2 * width + CONTEXT, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.phase = nn.Linear(hidden, phases)
        self.mixture = nn.Linear(hidden, COMPONENTS * 7)

    def forward(self, disks: torch.Tensor, present: torch.Tensor,
                context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (n, phases), mixture (n, COMPONENTS, 7) and the last hidden layer (n, hidden).

        A component is (log weight unnormalised, mean of log thickness, tilt y and tilt x, log standard deviations of these),
        standardised as the training's were.

        Parameters
        ----------
        disks : (n, most, INSIDE_INPUTS); present : (n, most) 1 or 0; context : (n, CONTEXT).
        """
        wide = context[:, None, :].expand(-1, disks.shape[1], -1)
        each = self.disk(torch.cat([disks, wide], dim=-1)) * present[..., None]
        count = present.sum(dim=1, keepdim=True).clamp(min=1.0)
        total = each.sum(dim=1)
        hidden = self.pattern(torch.cat([total / 8.0, total / count, context], dim=-1))
        return self.phase(hidden), self.mixture(hidden).view(len(disks), COMPONENTS, 7), hidden


def mixture_log_likelihood(mixture: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Log density (n,) of truth (n, 3) under mixtures (n, COMPONENTS, 7), without the constant of normal distributions."""
    weight = torch.log_softmax(mixture[..., 0], dim=-1)
    spread = mixture[..., 4:].clamp(-5.0, 2.0)
    score = (truth[:, None, :] - mixture[..., 1:4]) * torch.exp(-spread)
    return torch.logsumexp(weight - (0.5 * score**2 + spread).sum(dim=-1), dim=-1)
