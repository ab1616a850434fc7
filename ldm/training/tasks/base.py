"""What an optimiser step logs: means over all processes and all parts of its batch.

How the tasks log their numbers.

Gradients of float16 training in their true size, also before a fused optimiser's step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from ldm.distributed import mean_over_processes


def over_processes(task: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes, in one exchange; the same names in all of them.

    Args:
        task: a Lightning module in a running trainer.
        values: scalars by name.
    """
    if task.trainer.world_size == 1 or not values:
        return dict(values)
    stacked = torch.stack([value.detach().float().to(task.device) for value in values.values()])
    means = mean_over_processes(stacked)  # Lightning's reduce has the hosts wait for each other
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


def log_values(
    task: pl.LightningModule,
    split: str,
    values: Mapping[str, Tensor | float],
    step: int,
    batch_size: int | None = None,
) -> None:
    """Log ``split/name`` for every value at the given optimiser step.

    Lightning's own count of logged steps is not that of the optimiser after a resume; the key
    ``step`` replaces it.

    Args:
        task: who logs.
        split: ``train`` or ``val``; the latter is averaged over batches and processes.
        values: scalars by name.
        step: optimiser steps taken, that of training values included.
        batch_size: weight in the average over batches.
    """
    task.log_dict(
        # Made on the device: Lightning would copy a number there, and a GPU is waited for.
        {f"{split}/{name}": value for name, value in values.items()}
        | {"step": torch.full((), float(step), device=task.device)},
        # A float: Lightning averages whole numbers of several processes to whole numbers.
        batch_size=None if batch_size is None else float(batch_size),  # type: ignore[arg-type]
        sync_dist=split == "val",
    )


def unscale(trainer: Any, optimizer: Optimizer) -> None:
    """Divide gradients by the factor against float16's underflow, where nothing has yet.

    Lightning leaves that to the step of a fused optimiser, which is too late for clipping. The step
    then takes the gradients as they are.

    Args:
        trainer: Lightning's.
        optimizer: whose gradients.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
