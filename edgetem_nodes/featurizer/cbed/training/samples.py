"""Training samples where they are used: all on the device, if it has room for them, and drawn from there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

_ROOM = 0.7
"""Part of a GPU's free memory that samples may fill."""


class Samples:
    """Arrays of which the first axis counts samples."""

    def __init__(self, arrays: dict[str, np.ndarray], device: str, kept: np.ndarray | None = None) -> None:
        """Those of `arrays`, or the ones `kept` (n,) of them by number."""
        self.count = len(next(iter(arrays.values()))) if kept is None else len(kept)
        self._device, size = torch.device(device), sum(array.nbytes for array in arrays.values())
        self._here = self._device.type == "cpu"
        if self._device.type == "cuda":
            self._here = size < _ROOM * torch.cuda.mem_get_info(self._device)[0]
        place = self._device if self._here else "cpu"
        self._tensors = {name: torch.from_numpy(array).to(place) for name, array in arrays.items()}
        self._kept = None if kept is None else torch.from_numpy(kept).to(place)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
        """Once all of them in random order, the last few left out; floating point in single precision, on the device."""
        order = torch.randperm(self.count, generator=generator).to(next(iter(self._tensors.values())).device)
        for first in range(0, max(self.count // size, 1) * size, size):
            chosen = order[first:first + size]
            chosen = chosen if self._kept is None else self._kept[chosen]
            batch = {name: tensor.index_select(0, chosen).to(self._device) for name, tensor in self._tensors.items()}
            yield {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}

    def steps(self, size: int) -> int:
        """Of one pass."""
        return max(self.count // size, 1)


class Descent:
    """A network's descent: a rate that rises and falls, gradients that are not too long."""

    def __init__(self, network: torch.nn.Module, device: str, rate: float, steps: int, decay: float) -> None:
        """For `steps` steps with a largest `rate`."""
        network.to(device).train()
        self._network = network
        self._optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay,
                                            fused=torch.device(device).type == "cuda")
        self._plan = torch.optim.lr_scheduler.OneCycleLR(self._optimiser, rate, total_steps=steps + 1, pct_start=0.15)

    def step(self, loss: torch.Tensor) -> None:
        """Go down by one step."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for one in self._network.parameters():
            if one.grad is not None:  # a number that is none would spread over everything
                one.grad.nan_to_num_(0.0, 0.0, 0.0)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self._optimiser.step()
        self._plan.step()
