"""The network: a fully convolutional one, from images on the fine grid to sites, what stands there and where exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES
from edgetem_nodes.featurizer.micro_scan.images import INPUTS

_DILATIONS = (1, 2, 1, 4, 1, 2, 1)
_OUTPUTS = 1 + len(CLASSES) + 2 + 3
_LEAST_DEVIATION = 0.015e-10
"""Of an atom's position [m]."""


class SiteNetwork(nn.Module):
    """Residual convolutions with a view of 4 Angstrom around every point, and one linear read-out.

    Output (rows, 1 + classes + 5, m, m): logit of a lattice site being here; logits of what stands there; its offset from
    here, (y, x) [pixel]; logarithms of the Cholesky factor's diagonal and its lower element [pixel].
    """

    def __init__(self, width: int = 36) -> None:
        super().__init__()
        self.width = width
        self.entry = nn.Conv2d(INPUTS, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in _DILATIONS)
        self.mixing = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in _DILATIONS)
        self.exit = nn.Conv2d(width, _OUTPUTS, 1)
        for layer in self.mixing:
            nn.init.normal_(layer.weight, std=0.3 / width ** 0.5)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.entry(planes))
        for block, mix in zip(self.blocks, self.mixing, strict=True):
            x = x + mix(torch.nn.functional.silu(block(x)))
        with torch.autocast(x.device.type, enabled=False):
            return self.exit(torch.nn.functional.silu(x).float())


@dataclass(frozen=True)
class AtPoints:
    """The output read at points (rows, points, ...).

    Attributes
    ----------
    site : logit of a site; classes : (..., K) logits.
    offset : (..., 2) from the point, (y, x) [m]; factor : (..., 2, 2) lower Cholesky factor of its covariance [m].
    """

    site: torch.Tensor
    classes: torch.Tensor
    offset: torch.Tensor
    factor: torch.Tensor


def read(output: torch.Tensor, points: torch.Tensor) -> AtPoints:
    """The output (rows, outputs, m, m) at points (rows, points, 2), (y, x) [m] from the middle, bilinearly."""
    half = output.shape[-1] * PIXEL / 2
    where = (points / half).flip(-1)[:, :, None]
    values = nn.functional.grid_sample(output, where.to(output.dtype), align_corners=False, padding_mode="border")[..., 0]
    values = values.permute(0, 2, 1)
    classes = len(CLASSES)
    diagonal = torch.exp(values[..., classes + 3:classes + 5].clamp(-5, 3)) * PIXEL + _LEAST_DEVIATION
    lower = values[..., classes + 5] * PIXEL
    zero = torch.zeros_like(lower)
    factor = torch.stack([diagonal[..., 0], zero, lower, diagonal[..., 1]], dim=-1).unflatten(-1, (2, 2))
    return AtPoints(values[..., 0], values[..., 1:1 + classes], values[..., 1 + classes:3 + classes] * PIXEL, factor)
