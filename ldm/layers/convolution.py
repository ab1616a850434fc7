"""Convolutions of all networks: 3x3, of one position, and those that halve or double the sides."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import cpu, winograd


class Conv3x3(nn.Conv2d):
    """Convolution of 3x3 values that keeps the sides of the map; a ``nn.Conv2d`` to checkpoints.

    On processors wide layers on large maps take fewer products, see ``ldm.layers.cpu``.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        faster = cpu.prefers_winograd(x, self.weight)
        return winograd.convolve(x, self.weight, self.bias) if faster else super().forward(x)


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


def halve(x: Tensor) -> Tensor:
    """Mean over 2x2 squares; odd sides are rounded down."""
    return F.avg_pool2d(x, kernel_size=2, stride=2)


def double(x: Tensor) -> Tensor:
    """Repeat every value in a 2x2 square."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Upsample(nn.Module):
    """Doubling of the sides, then a 3x3 convolution if ``use_conv``."""

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return self.conv(double(x))


class Downsample(nn.Module):
    """Halving of the sides in the UNet: 3x3 convolution of stride 2, or 2x2 means.

    Padding is symmetric, so the convolution rounds odd sides up.
    """

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.op = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2)."""
        return self.op(x)


class DownsampleRightBottom(nn.Module):
    """Halving of the sides in the autoencoders: padding at the right and the bottom only.

    Odd sides are rounded down.
    """

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if use_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h//2, w//2)."""
        return halve(x) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))
