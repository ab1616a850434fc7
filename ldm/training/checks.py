"""What is asked of seeds, limits, data and batches before a run writes anything."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import IterableDataset

from ldm.errors import ConfigError
from ldm.training.latent_cache import check_takes_latents


def check_seed(seed: Any) -> None:
    """Refuse what no generator can begin with; without a seed no run could be repeated.

    Raises:
        ConfigError: it is no whole number that NumPy takes.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: expected a whole number from 0 to {2**32 - 1}, got {seed!r}")


def check_clip(limit: Any) -> float | None:
    """A limit of the norm of gradients; None: there is none.

    Raises:
        ConfigError: it is no number above 0.
    """
    if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
        raise ConfigError(f"gradient_clip: expected a number above 0 or null, got {limit!r}")
    return limit


def check_data(task: Any, data: Any) -> None:
    """Read one training item and let the task look at it.

    Raises:
        UserError: the item cannot be read, or the task cannot take it.
    """
    check_takes_latents(task, data)
    stream = isinstance(data.train, IterableDataset)
    if stream or hasattr(data.train, "__getitem__"):
        item = next(iter(data.train)) if stream else data.train[0]
        if hasattr(task, "check_item"):
            task.check_item(item)


def check_split(trainer: pl.Trainer, task: Any, data: Any) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        ConfigError: it cannot.
    """
    accumulated = trainer.accumulate_grad_batches * getattr(task, "micro_batches", 1)
    if hasattr(data, "batch_size"):
        size_of_part(data.batch_size, trainer.world_size * accumulated)


def size_of_part(batch_size: int, parts: int) -> int:
    """Samples of a batch that a device works on at a time.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """
    if parts < 1:
        raise ConfigError("trainer.accumulate_grad_batches: expected 1 or more parts of a batch")
    if batch_size % parts:
        raise ConfigError(
            f"data.params.batch_size {batch_size} is the batch of one optimiser step; it must be "
            f"divisible by trainer.devices x num_nodes x accumulate_grad_batches = {parts}"
        )
    return batch_size // parts
