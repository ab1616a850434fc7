"""What an optimiser step logs: means over all processes and all parts of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def over_processes(task: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes, in one exchange; the same names in all of them.

    Args:
        task: a Lightning module in a running trainer.
        values: scalars by name.
    """
    if task.trainer.world_size == 1 or not values:
        return dict(values)
    stacked = torch.stack([value.detach().float().to(task.device) for value in values.values()])
    dist.all_reduce(stacked)  # Lightning's reduce has the hosts wait for each other before
    means = stacked / task.trainer.world_size
    return dict(zip(values, means.unbind(), strict=True))


class StepMeans:
    """Collects the scalars of the parts of a batch between which gradients are accumulated."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []

    def add(self, task: Any, values: Mapping[str, Tensor], index: int) -> dict[str, Tensor] | None:
        """Take in a part.

        Args:
            task: a Lightning module in a running trainer.
            values: scalars by name, the same names for all parts.
            index: number of the part in the epoch.

        Returns:
            The means, with the last part of a batch; None before.
        """
        parts = task.trainer.accumulate_grad_batches
        if index % parts == 0:
            self._parts = []  # of a step that was broken off
        self._parts.append({name: value.detach() for name, value in values.items()})
        if (index + 1) % parts and not task.trainer.is_last_batch:
            return None
        stacked = {
            name: torch.stack([part[name] for part in self._parts]).mean() for name in values
        }
        return over_processes(task, stacked)
