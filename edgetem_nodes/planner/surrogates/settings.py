"""What a surrogate is made of."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

SURROGATES = ("deep_kernel_learning", "gaussian_process")
KERNELS = ("matern", "rbf")


@dataclass(frozen=True)
class SurrogateSettings:
    """What a surrogate is made of; all of it is recorded with every decision."""

    surrogate: str = "gaussian_process"
    kernel: str = "matern"
    """"matern" (nu = 5/2) or "rbf"."""
    use_survey: bool = True
    use_position: bool = True
    embedding: int = 8
    """Dimensions that the network maps a patch to."""
    hidden: int = 16
    """Units of the network's one hidden layer."""
    amplitude: bool = True
    """Whether the prior standard deviation follows brightness and local contrast of the patch."""
    training_steps: int = 30
    """Evaluations of the objective at most."""
    members: int = 1
    """Models of an ensemble, which differ in their initial weights and in the rows that they weigh."""
    exact_points: int = 600
    """Measurements up to which the posterior is exact and the training sees all of them."""
    inducing_points: int = 512
    """Of the posterior where there are more measurements."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.surrogate not in SURROGATES:
            raise ValueError(f"unknown surrogate {self.surrogate!r}: take one of {', '.join(SURROGATES)}")
        if self.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {self.kernel!r}: take one of {', '.join(KERNELS)}")


def one_deterministic_thread() -> None:
    """Make torch in this process repeat itself bit for bit: one thread, deterministic algorithms."""
    # Read by CUDA's matrix library when it starts: without it the library refuses to be deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
