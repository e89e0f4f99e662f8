"""The network that tells what stands on a site: one function of what was seen and of what each class would show.

The same weights judge every class, by the amplitudes that theory gives it on this camera and beam, so a dopant that is rare in
training, or a sheet that was never in it, is judged by what is known of others. Output is a log likelihood but for a constant:
the prior is added apart, and may be another one than in training (logit adjustment, Menon et al., ICLR 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgetem_nodes.featurizer.micro_scan.amplitudes import CONTEXT
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, NAMES

_COMPARED = 14
INPUTS = CONTEXT + _COMPARED
_ATOMS = tuple(len(numbers) for _, numbers in CLASSES)
_FAINTEST = 0.05


def compared(context: torch.Tensor, perfect: torch.Tensor, amplitudes: torch.Tensor) -> torch.Tensor:
    """Inputs (n, K, INPUTS) of sites against every class.

    Parameters
    ----------
    context : (n, CONTEXT), `amplitudes.InContext.sites`.
    perfect : (n,) class of the perfect sheet on the site.
    amplitudes : (n, K, 2) of columns of every class, `sheets.column_amplitudes`.
    """
    rows = torch.arange(len(perfect), device=context.device)
    own = amplitudes[rows, perfect]
    theory = (amplitudes / own[:, None]).clamp(max=30.0)
    ratio, log_dark, errors, scatter = context[:, None, :2], context[:, None, 2], context[:, None, 5:7], context[:, None, 7:9]
    log_theory = torch.log(theory[..., 1].clamp(min=_FAINTEST))
    width = torch.hypot(scatter, 0.7 * errors).clamp(min=0.02)
    off = ratio - theory
    # a strong column varies by as large a part of itself
    relative = off / (width * (0.3 + theory))
    atoms = torch.tensor(_ATOMS, dtype=context.dtype, device=context.device)
    kinds = torch.nn.functional.one_hot(perfect, len(CLASSES)).to(context.dtype)
    other = torch.zeros_like(kinds)
    other[:, NAMES.index("other")] = 1.0
    host = [torch.log(own[:, None, axis]).expand(-1, len(CLASSES)) for axis in (0, 1)]
    columns = [off[..., 0], off[..., 1].clamp(-12, 12), log_dark - log_theory, (off / width).clamp(-15, 15)[..., 0],
               (off / width).clamp(-15, 15)[..., 1], relative.clamp(-15, 15)[..., 0], relative.clamp(-15, 15)[..., 1],
               theory[..., 0], log_theory, kinds, other, atoms.expand(len(context), -1) - atoms[perfect][:, None], *host]
    seen = context[:, None].expand(-1, len(CLASSES), -1)
    return torch.cat([seen, torch.stack(columns, dim=-1)], dim=-1)


def apart(context: np.ndarray, perfect: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """By how many standard errors (n, K) columns of every class differ from the perfect one, phase and dark field together.

    Parameters
    ----------
    context : (n, CONTEXT), of which errors and scatter count; perfect : (n,) classes; amplitudes : (K, 2). 0 where nothing is
        known.
    """
    theory = amplitudes[None] / amplitudes[perfect][:, None]
    width = np.maximum(np.hypot(context[:, 7:9], 0.7 * context[:, 5:7]), 0.02)
    distance = np.sqrt((((theory - 1) / width[:, None]) ** 2).sum(axis=2))
    return np.where((context != 0).any(axis=1)[:, None], distance, 0.0)


class SpeciesNetwork(nn.Module):
    """Log likelihoods (n, K), but for a constant of the site, of the classes; arguments are those of `compared`."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("middle", torch.zeros(INPUTS))
        self.register_buffer("scale", torch.ones(INPUTS))
        self.layers = nn.Sequential(nn.Linear(INPUTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, context: torch.Tensor, perfect: torch.Tensor, amplitudes: torch.Tensor) -> torch.Tensor:
        return self.layers((compared(context, perfect, amplitudes) - self.middle) / self.scale)[..., 0]

    @torch.no_grad()
    def standardise(self, context: torch.Tensor, perfect: torch.Tensor, amplitudes: torch.Tensor) -> None:
        """Take mean and deviation of inputs from these sites."""
        values = compared(context, perfect, amplitudes).flatten(0, 1)
        self.middle.copy_(values.mean(dim=0))
        self.scale.copy_(values.std(dim=0).clamp(min=1e-2))


def posterior(networks: list[SpeciesNetwork], context: np.ndarray, perfect: np.ndarray, amplitudes: np.ndarray,
              prior: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities (n, K) of an ensemble's mixture.

    Parameters
    ----------
    context : (n, CONTEXT); perfect : (n,); amplitudes : (K, 2), of one beam.
    prior : (n, K) logarithms; temperature : log likelihoods are divided by it.
    """
    inputs = (torch.from_numpy(np.asarray(context, np.float32)), torch.from_numpy(np.asarray(perfect, np.int64)),
              torch.from_numpy(np.asarray(amplitudes, np.float32)).expand(len(perfect), -1, -1))
    with torch.no_grad():
        logits = [one(*inputs).double() / temperature + torch.from_numpy(prior).double() for one in networks]
    return torch.stack([torch.softmax(one, dim=-1) for one in logits]).mean(dim=0).numpy()
