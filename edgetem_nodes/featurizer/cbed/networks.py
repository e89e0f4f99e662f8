"""The two networks: what one disk says of its place, and what all disks of a pattern say of the specimen."""

from __future__ import annotations

import torch
from torch import nn

from edgetem_nodes.featurizer.cbed.sampling import CELLS, FINE_CELLS, GEOMETRY, INNER_CELLS, SCALARS

DISK_INPUTS = CELLS**2 + SCALARS
FINE_INPUTS = FINE_CELLS**2 + SCALARS + GEOMETRY
INSIDE_INPUTS = INNER_CELLS**2 + 7
CONTEXT = 14
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
        return offset, _triangle(raw, rows[..., CELLS**2:CELLS**2 + 1])


def _triangle(raw: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Lower triangles (..., 3) of a disk's information from what a network gives, in proportion to the root of its electrons,
    by the input that holds their logarithm."""
    diagonal = torch.exp(raw[..., ::2].clamp(-9.0, 3.0))
    return torch.exp(1.5 * (counts + 1.5)) * torch.cat([diagonal[..., :1], raw[..., 1:2], diagonal[..., 1:]], dim=-1)


class RefiningNetwork(nn.Module):
    """The same from all disks together, where the lattice is nearly known.

    Dynamical contrast moves the middle of what is bright in a disk by an amount that depends on tilt, thickness and the
    reflection. All disks of a pattern share tilt and thickness: what each shows is summed, and each is judged in that light.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FINE_INPUTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.together = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.own = nn.Linear(width, width)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.offset = nn.Linear(width, 2)
        self.information = nn.Linear(width, 3)
        with torch.no_grad():
            self.information.bias.copy_(torch.tensor([-2.5, 0.0, -2.5]))

    def _seen(self, rows: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        each = self.body(rows)
        total = (each * present[..., None]).sum(dim=1)
        count = present.sum(dim=1, keepdim=True).clamp(min=1.0)
        shared = self.together(torch.cat([total / 8.0, total / count], dim=-1))
        return self.last(self.own(each) + shared[:, None, :])

    def forward(self, rows: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `DiskNetwork`, of rows (n, disks, FINE_INPUTS) of which those `present` (n, disks), 1 or 0, are disks."""
        hidden, turned = self._seen(rows, present), self._seen(turned_pattern(rows), present)
        offset = _FARTHEST * torch.tanh((self.offset(hidden) - self.offset(turned)) / 2)
        raw = (self.information(hidden) + self.information(turned)) / 2
        return offset, _triangle(raw, rows[..., FINE_CELLS**2:FINE_CELLS**2 + 1])


def turned_pattern(rows: torch.Tensor) -> torch.Tensor:
    """Inputs (..., FINE_INPUTS) of a pattern turned by half a turn: cells in reverse, places and reflections negated."""
    n = FINE_CELLS**2
    return torch.cat([rows[..., :n].flip(-1), rows[..., n:n + 4], -rows[..., n + 4:n + 6], rows[..., n + 6:n + 7],
                      -rows[..., n + 7:n + 11], rows[..., n + 11:]], dim=-1)


def half_turn(rows: torch.Tensor) -> torch.Tensor:
    """Inputs (..., DISK_INPUTS) of disks turned by half a turn: cells in reverse, places within a pixel mirrored."""
    cells, rest = rows[..., :CELLS**2].flip(-1), rows[..., CELLS**2:]
    return torch.cat([cells, rest[..., :4], -rest[..., 4:6], rest[..., 6:]], dim=-1)


class PatternNetwork(nn.Module):
    """From the insides of all disks to phase, thickness and tilt: a sum over disks, so that their order does not matter."""

    def __init__(self, classes: int, width: int = 64, hidden: int = 96, context: int = CONTEXT) -> None:
        """For so many classes; of the context the first numbers are looked at."""
        super().__init__()
        self.classes, self._context = classes, context
        self.disk = nn.Sequential(nn.Linear(INSIDE_INPUTS + context, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                  nn.Linear(width, width), nn.SiLU())
        self.pattern = nn.Sequential(nn.Linear(2 * width + context, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.phase = nn.Linear(hidden, classes)
        self.mixture = nn.Linear(hidden, COMPONENTS * 7)

    def forward(self, disks: torch.Tensor, present: torch.Tensor,
                context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (n, classes), mixture (n, COMPONENTS, 7) and the last hidden layer (n, hidden).

        A component is (log weight unnormalised, mean of log thickness, tilt y and tilt x, log standard deviations of these),
        standardised as the training's were.

        Parameters
        ----------
        disks : (n, most, INSIDE_INPUTS); present : (n, most) 1 or 0; context : (n, CONTEXT).
        """
        context = context[:, :self._context]
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
