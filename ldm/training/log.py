"""How the tasks log their numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor


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
