"""The site network: convolutions from images to lattice sites and places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL
from edgetem_nodes.featurizer.micro_scan.images import INPUTS, Plane

_DILATIONS = (1, 2, 1, 4, 1, 2, 1)
_OUTPUTS = 1 + 2 + 3
_LEAST_DEVIATION = 0.015e-10
"""Of an atom's position [m]."""
_SMOOTHINGS = (1.0, 1.6)
"""Standard deviations [pixel] of the means over an atom that the network is shown."""
_DERIVED = 2 * len(_SMOOTHINGS)


def _kernel(sigma: float) -> torch.Tensor:
    axis = torch.arange(-5, 6, dtype=torch.float32)
    line = torch.exp(-0.5 * (axis / sigma) ** 2)
    return (line[:, None] * line / line.sum() ** 2)[None, None]


def derived(planes: torch.Tensor) -> torch.Tensor:
    """Means (rows, planes, m, m) of phase and dark field over an atom, each over what is known there.

    Normalised convolution (Knutsson & Westin, CVPR 1993): an image that fades where nothing is known becomes an estimate.
    """
    phase, phase_known = planes[:, Plane.PHASE, None], planes[:, Plane.PHASE_KNOWN, None]
    dark = torch.sinh(2 * planes[:, Plane.DARK, None]) / 20 / 10 ** planes[:, Plane.LEVEL, None]
    dark_known = planes[:, Plane.DARK_KNOWN, None]
    result = []
    for sigma in _SMOOTHINGS:
        kernel = _kernel(sigma).to(planes.device)
        for values, known in ((phase, phase_known), (dark, dark_known)):
            smooth, weight = (nn.functional.conv2d(one, kernel, padding=5) for one in (values, known))
            result.append(torch.tanh(0.4 * smooth / (weight + 0.01)) * 2)
    return torch.cat(result, dim=1)


class SiteNetwork(nn.Module):
    """Residual convolutions with a view of 4 Angstrom around every point, the mean over all that is known, and a read-out.

    Output (rows, 6, m, m): logit of a lattice site being here, occupied or not; offset of its column from here, (y, x) [pixel];
    logarithms of the Cholesky factor's diagonal and its lower element [pixel].
    """

    def __init__(self, width: int = 28) -> None:
        super().__init__()
        self.width = width
        self.entry = nn.Conv2d(INPUTS + _DERIVED, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in _DILATIONS)
        self.mixing = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in _DILATIONS)
        self.everywhere = nn.ModuleList(nn.Linear(width, width) for _ in _DILATIONS)
        self.exit = nn.Conv2d(width, _OUTPUTS, 1)
        for layer in (*self.mixing, *self.everywhere):
            nn.init.normal_(layer.weight, std=0.4 / width ** 0.5)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        with torch.autocast(planes.device.type, enabled=False):
            known = planes[:, Plane.PHASE_KNOWN, None] + 0.01 * planes[:, Plane.INSIDE, None]
            known = known / known.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
            seen = torch.cat([planes, derived(planes)], dim=1).contiguous(memory_format=torch.channels_last)
        x = nn.functional.silu(self.entry(seen))
        for block, mix, everywhere in zip(self.blocks, self.mixing, self.everywhere, strict=True):
            mean = (x * known).sum(dim=(2, 3))
            x = x + mix(nn.functional.silu(block(x) + everywhere(mean)[:, :, None, None]))
        with torch.autocast(x.device.type, enabled=False):
            return self.exit(nn.functional.silu(x).float())


@dataclass(frozen=True)
class AtPoints:
    """The output read at points (rows, points, ...).

    Attributes
    ----------
    site : logit of a site.
    offset : (..., 2) from the point, (y, x) [m]; factor : (..., 2, 2) lower Cholesky factor of its covariance [m].
    """

    site: torch.Tensor
    offset: torch.Tensor
    factor: torch.Tensor


def read(output: torch.Tensor, points: torch.Tensor) -> AtPoints:
    """The output (rows, outputs, m, m) at points (rows, points, 2), (y, x) [m] from the middle, bilinearly."""
    half = output.shape[-1] * PIXEL / 2
    where = (points / half).flip(-1)[:, :, None]
    values = nn.functional.grid_sample(output, where.to(output.dtype), align_corners=False, padding_mode="border")[..., 0]
    values = values.permute(0, 2, 1)
    diagonal = torch.exp(values[..., 3:5].clamp(-5, 3)) * PIXEL + _LEAST_DEVIATION
    lower = values[..., 5] * PIXEL
    zero = torch.zeros_like(lower)
    factor = torch.stack([diagonal[..., 0], zero, lower, diagonal[..., 1]], dim=-1).unflatten(-1, (2, 2))
    return AtPoints(values[..., 0], values[..., 1:3] * PIXEL, factor)
