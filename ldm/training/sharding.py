"""Strategies that spread the weights of one model over several devices, and what they cannot do."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor

from ldm.errors import ConfigError

_OTHERS = ("deepspeed", "model_parallel")


def check_sharding(strategy: str, task: Any, ema_decay: float | None, every_images: int) -> None:
    """Refuse a strategy under which parts of a run would fail, or be wrong in silence.

    Under FSDP no process holds whole weights outside of the training step: neither an average of
    them nor pictures nor the first measurement of latents is possible.

    Args:
        strategy: ``trainer.strategy``.
        task: what is trained.
        ema_decay: that of the config.
        every_images: steps between pictures; 0: none.

    Raises:
        ConfigError: it names everything that has to change.
    """
    if strategy.startswith(_OTHERS):
        raise ConfigError(f"trainer.strategy: {strategy} is not supported; use ddp or fsdp")
    if not strategy.startswith("fsdp"):
        return
    if not task.automatic_optimization:
        raise ConfigError("trainer.strategy: a first stage has two optimisers; use ddp, not fsdp")
    changes = []
    if ema_decay:
        changes.append("ema_decay=null")
    if every_images and hasattr(task, "preview"):
        changes.append("every.images=0")
    if not getattr(task.model, "has_scale_factor", True):
        changes.append("a number for scale_factor (a run with ddp measures it)")
    if changes:
        raise ConfigError(
            f"trainer.strategy: {strategy} keeps a part of the weights in each process; it needs "
            + ", ".join(changes)
            + ", or use ddp"
        )


def whole_norm(strategy: Any, norms: Tensor) -> Tensor:
    """The norm of all gradients, of which a process may hold a part.

    Args:
        strategy: that of the trainer.
        norms: norms (P,) of the gradients that this process holds.
    """
    norm = torch.linalg.vector_norm(norms)
    if isinstance(strategy, FSDPStrategy):
        return strategy.reduce(norm**2, reduce_op="sum").sqrt()
    return norm
