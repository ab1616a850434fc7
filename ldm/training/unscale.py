"""Gradients of float16 training in their true size, also before a fused optimiser's step."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


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
