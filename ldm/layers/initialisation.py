"""Weights at the start of training."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def zeroed(module: ModuleT) -> ModuleT:
    """Set all parameters to zero, so that a residual branch that ends here starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
