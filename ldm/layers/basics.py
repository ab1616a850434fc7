"""What all networks share.

Group normalisation, layers that start at zero, the sinusoidal embedding of the diffusion step, and
activation checkpointing (recomputing in the backward pass instead of storing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.errors import MOST_LAYERS, check_count

GROUPS = 32
"""Groups of every published network."""


def check_levels(channel_mult: Sequence[int], num_res_blocks: int, **counts: int) -> None:
    """Refuse sizes with which a network of several resolutions cannot be made.

    Args:
        channel_mult: factor of the width at each resolution.
        num_res_blocks: residual blocks at each.
        **counts: other sizes by name, each at least 1.

    Raises:
        ConfigError: it names the size.
    """
    factors = {f"channel_mult[{k}]": factor for k, factor in enumerate(channel_mult)}
    for name, count in {**counts, **factors}.items():
        check_count(name, count)
    check_count("num_res_blocks", num_res_blocks, 0, MOST_LAYERS)


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose result has the dtype of its input.

    Autocast computes in float32 and would keep that for the activation that follows, at twice
    the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        return super().forward(x).to(x.dtype)


def group_norm(channels: int, eps: float = 1e-5, groups: int = GROUPS) -> GroupNorm:
    """Affine group normalisation (Wu & He, 2018).

    Args:
        channels: Width of the feature map, a multiple of ``groups``.
        eps: 1e-5 in the UNet; 1e-6 in the autoencoders and the spatial transformer.
        groups: Number of groups. A group of one channel loses its mean, and with it whatever is
            constant over an image.

    Raises:
        ValueError: If ``channels`` is not a multiple of ``groups``.
    """
    if groups < 1 or channels <= 0 or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in {groups} groups: choose a base width "
            "(model_channels of a UNet, channels of an autoencoder) that is a multiple of "
            f"{groups}, or another norm_groups"
        )
    return GroupNorm(groups, channels, eps=eps)


def run(function: Callable[..., Tensor], *args: Tensor | None, recompute: bool) -> Tensor:
    """Call ``function(*args)``; with ``recompute`` its inner activations are not kept.

    The result and all gradients (of tensors in ``args`` and of parameters) are the same either
    way; random numbers drawn inside (dropout) are repeated in the second pass.
    """
    if recompute and torch.is_grad_enabled():
        result: Tensor = checkpoint(function, *args, use_reentrant=False)
        return result
    return function(*args)


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def zeroed(module: ModuleT) -> ModuleT:
    """Set all parameters to zero, so that a residual branch that ends here starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of ``t`` at geometrically spaced frequencies (Ho et al., 2020).

    The i-th of ``dim // 2`` frequencies is ``max_period ** (-i / (dim // 2))``.

    Args:
        t: Steps of shape (B,), integer or fractional.
        dim: Width of the embedding; an odd width ends with a column of zeros.
        max_period: Controls the lowest frequency.

    Returns:
        Embedding of shape (B, dim) in float32, whatever the precision around it.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


T = TypeVar("T")


def of_arguments(cls: type[T], arguments: Mapping[str, Any]) -> T:
    """A dataclass made of those arguments of a function (its ``locals()``) that are its fields.

    So a list of options that a constructor shares with a dataclass is not written out once more.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: arguments[name] for name in names if name in arguments})
