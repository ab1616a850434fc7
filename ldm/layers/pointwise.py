"""Layers that look at one position at a time: 1x1 convolutions as matrix products."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def to_tokens(x: Tensor) -> Tensor:
    """Feature map (B, C, h, w) as a sequence (B, h*w, C), row by row.

    Contiguous, because the fast attention kernels refuse anything else (a channels_last map is
    so already and is not copied).
    """
    return x.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Sequence (B, h*w, C) as a feature map (B, C, h, w) with the sides of ``like``.

    A view, channels_last where ``tokens`` is contiguous.
    """
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


def project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C') by a linear layer or by a convolution of one position.

    On tokens the two are the same matrix product. Convolution kernels get there only after copies
    into another layout.
    """
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)  # type: ignore[arg-type, operator]


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution; on a channels_last map one matrix product without any copy."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        if x.stride(1) == 1 and x.device.type == "cpu":
            return to_map(project(self, to_tokens(x)), like=x)
        return super().forward(x)
