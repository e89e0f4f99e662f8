"""The deep kernel: a network that maps patches to a plane of few dimensions, and a covariance on that plane.

Deep kernel learning: Wilson, Hu, Salakhutdinov and Xing, AISTATS 2016. With few hundred points the marginal likelihood
alone overfits a network (Ober, Rasmussen and van der Wilk, UAI 2021), so every parameter has a prior, and training
maximises the posterior. The priors are centred on a kernel of the first principal components, with no network at all.

The prior standard deviation may follow traits of the patch, a = exp(w . t), because what is bright or an edge varies more:
k(x, x') = a(x) B a(x') c(|z - z'|), a covariance again (Gibbs 1997, Bayesian Gaussian Processes, section 3.10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

DOUBLE = torch.float64
WEIGHT_SPREAD = 0.1
"""Prior standard deviation of the network's weights, at unit input."""
LENGTH_GROWTH = 0.5
"""Rise, from one patch component to the next, of the prior's median length scale: the first ones matter most."""
AMPLITUDE_SPREAD = 0.5
"""Prior standard deviation of the amplitude's weights."""
NOISE_LEVEL, NOISE_SPREAD = -3.0, 1.5
"""Prior of the logarithm of the learned noise variance, in units of the values' variance."""
SMALLEST_NOISE = 1e-5
"""Floor of the learned noise variance, as a fraction of the measured values' variance."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of everything in a deep kernel.

    Attributes
    ----------
    components : patch components that the network sees. others : further inputs, taken as they are.
    embedded : dimensions that patches are mapped to. hidden : units of the network; 0: no network.
    amplitude : traits that the prior standard deviation follows, the last columns of the inputs; 0: none.
    outputs : scalars modelled together.
    """

    components: int
    others: int
    embedded: int
    hidden: int
    amplitude: int
    outputs: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each group of parameters, in the order of the flat vector."""
        deep = {"linear": (self.embedded, self.components), "first": (self.hidden, self.components),
                "bias": (self.hidden,), "second": (self.embedded, self.hidden)} if self.hidden else {}
        return {"lengths": (self.embedded + self.others,), "coregionalisation": (self.outputs, self.outputs),
                "noise": (self.outputs,), "mean": (self.outputs,), "amplitude": (self.amplitude,), **deep}

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a flat vector by group."""
        result, start = {}, 0
        for name, shape in self.shapes().items():
            size = math.prod(shape)
            result[name] = flat[start:start + size].view(shape)
            start += size
        return result

    @property
    def size(self) -> int:
        """Parameters in all."""
        return sum(math.prod(shape) for shape in self.shapes().values())


@dataclass(frozen=True)
class Prior:
    """Gaussian prior of every parameter, independent: centre and standard deviation, flat (parameters,)."""

    centre: torch.Tensor
    spread: torch.Tensor

    def penalty(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative logarithm, but for a constant, and its gradient."""
        off = (flat - self.centre) / self.spread
        return 0.5 * off.square().sum(), off / self.spread


def prior_of(architecture: Architecture, other_length: torch.Tensor, generator: torch.Generator) -> Prior:
    """Prior whose network's first layer is drawn from `generator`; its centre is where training begins.

    Parameters
    ----------
    other_length : (others,) median of the prior of the length scales of the inputs beside the patch.
    """
    centre, spread = torch.zeros(architecture.size, dtype=DOUBLE), torch.ones(architecture.size, dtype=DOUBLE)
    mid, wide = architecture.split(centre), architecture.split(spread)
    mid["lengths"][:architecture.embedded] = torch.log(1.0 + LENGTH_GROWTH * torch.arange(architecture.embedded, dtype=DOUBLE))
    mid["lengths"][architecture.embedded:] = torch.log(other_length)
    # Lower triangle, logarithms on its diagonal: B = L L', outputs independent in the prior.
    wide["coregionalisation"].fill_(0.5).fill_diagonal_(1.0)
    mid["noise"].fill_(NOISE_LEVEL)
    wide["noise"].fill_(NOISE_SPREAD)
    wide["amplitude"].fill_(AMPLITUDE_SPREAD)
    if architecture.hidden:
        components, hidden = architecture.components, architecture.hidden
        mid["linear"].copy_(torch.eye(architecture.embedded, components, dtype=DOUBLE))
        wide["linear"].fill_(WEIGHT_SPREAD)
        mid["first"].normal_(0.0, 1.0 / math.sqrt(components), generator=generator)
        wide["first"].fill_(1.0 / math.sqrt(components))
        wide["second"].fill_(WEIGHT_SPREAD / math.sqrt(hidden))
    return Prior(centre, spread)


def first_guess(architecture: Architecture, prior: Prior, generator: torch.Generator) -> torch.Tensor:
    """Where training begins: the prior's centre, and a network that does a little, so that it can learn."""
    flat = prior.centre.clone()
    if architecture.hidden:
        architecture.split(flat)["second"].normal_(0.0, 0.1 / math.sqrt(architecture.hidden), generator=generator)
    return flat


class DeepKernel:
    """A deep kernel with given parameters, on inputs that are the patch components first, then the others, then traits.

    Parameters
    ----------
    architecture : its sizes.
    flat : (parameters,) float64.
    form : "matern" (nu = 5/2) or "rbf".
    """

    def __init__(self, architecture: Architecture, flat: torch.Tensor, form: str) -> None:
        self.architecture, self.form = architecture, form
        self.parameters = architecture.split(flat)
        self._lower = lower_triangle(self.parameters["coregionalisation"])
        self.between_outputs = self._lower @ self._lower.T
        """(outputs, outputs) B."""
        self.noise = torch.exp(self.parameters["noise"]) + SMALLEST_NOISE
        """(outputs,) learned noise variances."""
        self.mean = self.parameters["mean"]

    def place(self, inputs: torch.Tensor) -> torch.Tensor:
        """Where inputs (n, inputs) lie, in units of the length scales: (n, embedded + others)."""
        return self.embed(inputs) / torch.exp(self.parameters["lengths"])

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The same in the network's own units."""
        a, p = self.architecture, self.parameters
        patch = inputs[:, :a.components]
        if a.hidden:
            patch = patch @ p["linear"].T + torch.tanh(patch @ p["first"].T + p["bias"]) @ p["second"].T
        return torch.cat([patch, inputs[:, a.components:a.components + a.others]], dim=1)

    def amplitude(self, inputs: torch.Tensor) -> torch.Tensor:
        """(n,) prior standard deviation over that of an average patch."""
        # An exponent beyond 3 would be a factor of 20: patches unlike any that was measured are not believed that far.
        count = self.architecture.amplitude
        if not count:
            return torch.ones(len(inputs), dtype=inputs.dtype, device=inputs.device)
        return torch.exp((inputs[:, -count:] @ self.parameters["amplitude"]).clamp(-3.0, 3.0))

    def correlation(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Correlation (left, right) of places."""
        return correlation(squared_distances(left, right), self.form)[0]


def lower_triangle(raw: torch.Tensor) -> torch.Tensor:
    """Lower-triangular factor with a positive diagonal from an unconstrained square matrix."""
    return torch.tril(raw, -1) + torch.diag(torch.exp(0.5 * raw.diagonal()))


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(left, right) squared Euclidean distances."""
    # Rounding of this expansion reaches 1e-16 of the squared norms; centring keeps those small.
    centre = right.mean(dim=0)
    left, right = left - centre, right - centre
    result = torch.addmm(left.square().sum(1)[:, None] + right.square().sum(1)[None, :], left, right.T, alpha=-2.0)
    return result.clamp_(min=0.0)


def correlation(squared: torch.Tensor, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlation and its derivative by the squared distance; Matern 5/2 (Rasmussen and Williams 2006, 4.17) or 4.9."""
    if form == "rbf":
        value = torch.exp(-0.5 * squared)
        return value, -0.5 * value
    scaled = torch.sqrt(5.0 * squared)
    decay = torch.exp(-scaled)
    slope = (1.0 + scaled) * decay
    return slope + scaled.square() * decay / 3.0, slope * (-5.0 / 6.0)


def outputs_of(tasks: np.ndarray) -> torch.Tensor:
    """Output number of each row as an index."""
    return torch.as_tensor(np.ascontiguousarray(tasks), dtype=torch.int64)
