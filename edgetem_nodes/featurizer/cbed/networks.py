"""The two networks: what one disk says of its place, and what all disks of a pattern say of the specimen."""

from __future__ import annotations

import torch
from torch import nn

from edgetem_nodes.featurizer.cbed.sampling import CELLS, FINE_CELLS, GEOMETRY, INNER_CELLS, SCALARS

DISK_INPUTS = CELLS**2 + SCALARS
FINE_INPUTS = FINE_CELLS**2 + SCALARS + GEOMETRY
INSIDE_INPUTS = INNER_CELLS**2 + 10
CONTEXT = 14
COMPONENTS = 3
"""Normal distributions of which thickness and tilt are a mixture."""
_PLACES, _VECTORS = [4, 5], [7, 8, 9, 10]
"""Numbers after the cells that are a disk's place within a pixel, and a reciprocal vector's components."""
_FARTHEST = 0.9
"""Largest offset that the disk network states [radii of the disk]."""


class _Turned(nn.Linear):
    """A linear layer on disks as they are, and as they would be, were the pattern turned by half a turn.

    Cells then come in reverse; of the numbers after them some, components of vectors, change their sign. What is even and what
    is odd in that is multiplied apart, which is no more work than the layer alone.
    """

    def __init__(self, cells: int, odd: list[int], inputs: int, width: int) -> None:
        """Inputs after `cells` with the numbers `odd` change their sign."""
        super().__init__(inputs, width)
        self._half = cells // 2
        self._odd = [cells + number for number in odd]
        self._even = [self._half, *(number for number in range(cells, inputs) if number not in self._odd)]

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (..., width) of inputs (..., inputs), and of turned ones."""
        half = self._half
        first, last = rows[..., :half], rows[..., half + 1:2 * half + 1].flip(-1)
        ahead, behind = self.weight[:, :half], self.weight[:, half + 1:2 * half + 1].flip(-1)
        even = nn.functional.linear(torch.cat([first + last, _chosen(rows, self._even)], dim=-1),
                                    torch.cat([(ahead + behind) / 2, _chosen(self.weight, self._even)], dim=-1), self.bias)
        odd = nn.functional.linear(torch.cat([first - last, _chosen(rows, self._odd)], dim=-1),
                                   torch.cat([(ahead - behind) / 2, _chosen(self.weight, self._odd)], dim=-1))
        return even + odd, even - odd


def _chosen(values: torch.Tensor, numbers: list[int]) -> torch.Tensor:
    """Columns by number, run by run: indices would have to be sent to a GPU."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return torch.cat([values[..., first:end] for first, end in runs], dim=-1)


def _triangle(raw: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Lower triangles (..., 3) of a disk's information from what a network gives, in proportion to the root of its electrons,
    by the input that holds their logarithm."""
    diagonal = torch.exp(raw[..., ::2].clamp(-9.0, 3.0))
    return torch.exp(1.5 * (counts + 1.5)) * torch.cat([diagonal[..., :1], raw[..., 1:2], diagonal[..., 1:]], dim=-1)


def _with_large_errors(layer: nn.Linear) -> nn.Linear:
    """Small errors would make the first steps wild."""
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-2.5, 0.0, -2.5]))
    return layer


class DiskNetwork(nn.Module):
    """From the cells about a disk to its offset and what is known of it: a Gaussian likelihood of the disk's place.

    Offsets are (y, x) from the middle of the cells [radii]; the information matrix of a disk is its electrons times a matrix
    that depends on how the disk looks. Weak or absent disks get little information instead of being left out.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        first = _Turned(CELLS**2, _PLACES, DISK_INPUTS, width)
        self.body = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.offset = nn.Linear(width, 2)
        self.information = _with_large_errors(nn.Linear(width, 3))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (..., 2) [radii] and lower triangles (..., 3) (l00, l10, l11) of L, information being L @ L.T [1/radius^2].

        Parameters
        ----------
        rows : (..., DISK_INPUTS).
        """
        # a disk turned by half a turn lies where it did, mirrored: what the network says otherwise cancels
        hidden, turned = map(self.body[1:], self.body[0](rows))
        offset = _FARTHEST * torch.tanh((self.offset(hidden) - self.offset(turned)) / 2)
        raw = (self.information(hidden) + self.information(turned)) / 2
        return offset, _triangle(raw, rows[..., CELLS**2:CELLS**2 + 1])


class RefiningNetwork(nn.Module):
    """The same from all disks together, where the lattice is nearly known.

    Dynamical contrast moves the middle of what is bright in a disk by an amount that depends on tilt, thickness and the
    reflection. All disks of a pattern share tilt and thickness: what each shows is summed, and each is judged in that light.
    """

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.first = _Turned(FINE_CELLS**2, _PLACES + _VECTORS, FINE_INPUTS, width)
        self.second = nn.Linear(width, width)
        self.together = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.own = nn.Linear(width, width)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.offset = nn.Linear(width, 2)
        self.information = _with_large_errors(nn.Linear(width, 3))

    def _seen(self, first: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        each = nn.functional.silu(self.second(nn.functional.silu(first)))
        return self.last(self.own(each) + self.together(_pooled(each, present))[:, None, :])

    def forward(self, rows: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `DiskNetwork`, of rows (n, disks, FINE_INPUTS) of which those `present` (n, disks), 1 or 0, are disks."""
        hidden, turned = (self._seen(one, present) for one in self.first(rows))
        offset = _FARTHEST * torch.tanh((self.offset(hidden) - self.offset(turned)) / 2)
        raw = (self.information(hidden) + self.information(turned)) / 2
        return offset, _triangle(raw, rows[..., FINE_CELLS**2:FINE_CELLS**2 + 1])


def _pooled(each: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Sums and means (n, 2 width) over the disks that are there of (n, disks, width)."""
    total = (each * present[..., None]).sum(dim=1)
    return torch.cat([total / 8.0, total / present.sum(dim=1, keepdim=True).clamp(min=1.0)], dim=-1)


class PatternNetwork(nn.Module):
    """From the insides of all disks to phase, thickness and tilt.

    What each disk shows is summed, so that the order of disks does not matter; each is then seen in the light of the sum, and
    summed again.
    """

    def __init__(self, classes: int, width: int = 128, hidden: int = 192) -> None:
        super().__init__()
        self.classes = classes
        for name, size in (("disk", INSIDE_INPUTS), ("context", CONTEXT)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        self.first = nn.Sequential(nn.Linear(INSIDE_INPUTS + CONTEXT, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.together = nn.Sequential(nn.Linear(2 * width + CONTEXT, width), nn.SiLU(), nn.Linear(width, width))
        self.own = nn.Linear(width, width)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.pattern = nn.Sequential(nn.Linear(2 * width + CONTEXT, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.phase = nn.Linear(hidden, classes)
        self.mixture = nn.Linear(hidden, COMPONENTS * 7)

    def standardise(self, disks: torch.Tensor, present: torch.Tensor, context: torch.Tensor) -> None:
        """Learn by which mean and spread inputs are made comparable from some of them."""
        for name, seen in (("disk", disks[present > 0]), ("context", context)):
            getattr(self, f"{name}_mean").copy_(seen.float().mean(dim=0))
            getattr(self, f"{name}_spread").copy_(seen.float().std(dim=0) + 0.02)

    def forward(self, disks: torch.Tensor, present: torch.Tensor,
                context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (n, classes), mixture (n, COMPONENTS, 7) and the last hidden layer (n, hidden).

        A component is (log weight unnormalised, mean of log thickness, tilt y and tilt x, log standard deviations of these),
        standardised as the training's were.

        Parameters
        ----------
        disks : (n, most, INSIDE_INPUTS); present : (n, most) 1 or 0; context : (n, CONTEXT).
        """
        disks = (disks - self.disk_mean) / self.disk_spread
        context = (context - self.context_mean) / self.context_spread
        each = self.first(torch.cat([disks, context[:, None, :].expand(-1, disks.shape[1], -1)], dim=-1))
        shared = self.together(torch.cat([_pooled(each, present), context], dim=-1))
        again = self.last(self.own(each) + shared[:, None, :])
        hidden = self.pattern(torch.cat([_pooled(again, present), context], dim=-1))
        return self.phase(hidden), self.mixture(hidden).view(len(disks), COMPONENTS, 7), hidden


def mixture_log_likelihood(mixture: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Log density (n,) of truth (n, 3) under mixtures (n, COMPONENTS, 7), without the constant of normal distributions."""
    weight = torch.log_softmax(mixture[..., 0], dim=-1)
    spread = mixture[..., 4:].clamp(-5.0, 2.0)
    score = (truth[:, None, :] - mixture[..., 1:4]) * torch.exp(-spread)
    return torch.logsumexp(weight - (0.5 * score**2 + spread).sum(dim=-1), dim=-1)
