"""Activation checkpointing: recompute in the backward pass instead of storing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Tensor], *args: Tensor | None, recompute: bool) -> Tensor:
    """Call ``function(*args)``; with ``recompute`` its inner activations are not kept.

    The result and all gradients (of tensors in ``args`` and of parameters) are the same either
    way; random numbers drawn inside (dropout) are repeated in the second pass.
    """
    if recompute and torch.is_grad_enabled():
        result: Tensor = checkpoint(function, *args, use_reentrant=False)
        return result
    return function(*args)
