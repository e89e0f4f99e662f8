"""Training samples where they are used: all on the device, if it has room for them, and drawn from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

_ROOM = 0.7
"""Part of a GPU's free memory that samples may fill."""
_PART = {"cpu": 128, "cuda": 512}
"""Samples that are worked on together: what a cache holds, and what keeps a GPU at work."""


class Samples:
    """Arrays of which the first axis counts patterns, and for some the second one disks."""

    def __init__(self, arrays: dict[str, np.ndarray], by_disk: tuple[str, ...], count: np.ndarray, device: str,
                 kept: np.ndarray | None = None) -> None:
        """Those of `arrays`, or the ones `kept` (m,) of them by number.

        Parameters
        ----------
        by_disk : names of the arrays with an axis of disks, of which the first `count` (n,) are there.
        """
        self._kept = torch.from_numpy(np.arange(len(count)) if kept is None else kept)
        self.count = len(self._kept)
        self._by_disk, self._disks = by_disk, torch.from_numpy(count.astype(np.int64))
        self._device, size = torch.device(device), sum(array.nbytes for array in arrays.values())
        self._part = _PART.get(self._device.type, _PART["cuda"])
        here = self._device.type == "cpu"
        if self._device.type == "cuda":
            here = size < _ROOM * torch.cuda.mem_get_info(self._device)[0]
        self._tensors = {name: torch.from_numpy(array).to(self._device if here else "cpu") for name, array in arrays.items()}

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
        """Once all of them in random order, the last few left out; floating point in single precision, on the device.

        A batch comes in parts of patterns with nearly as many disks, without those that none of a part has: in a batch as a
        whole two of five would be empty. Within a part the order is random.
        """
        order = self._kept[torch.randperm(self.count, generator=generator)]
        for first in range(0, self.steps(size) * size, size):
            yield self._parts(order[first:first + size])

    def _parts(self, chosen: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        places = torch.argsort(self._disks[chosen], stable=True)
        for part in places.split(self._part):
            rows = chosen[part.sort().values]
            most = max(int(self._disks[rows].max()), 1)
            there = rows.to(next(iter(self._tensors.values())).device)
            taken = {name: (tensor[:, :most] if name in self._by_disk else tensor).index_select(0, there).to(self._device)
                     for name, tensor in self._tensors.items()}
            yield {name: one.float() if one.is_floating_point() else one for name, one in taken.items()}

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

    def step(self, losses: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Go down by one step, along the sum of the first of each pair; the sum of the second ones."""
        self._optimiser.zero_grad(set_to_none=True)
        said: torch.Tensor | float = 0.0
        for value, shown in losses:
            value.backward()
            said = said + shown.detach()
        for one in self._network.parameters():
            if one.grad is not None:  # a number that is none would spread over everything
                one.grad.nan_to_num_(0.0, 0.0, 0.0)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self._optimiser.step()
        self._plan.step()
        return said
