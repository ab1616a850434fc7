"""Halving and doubling the sides of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers.convolution import Conv3x3

SMALLEST_MAP = 512
"""Positions (of all samples) below which adding up kernels costs more than it saves."""


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
        if isinstance(self.conv, nn.Conv2d) and _pays(x):
            return double_and_convolve(x, self.conv.weight, self.conv.bias)
        return self.conv(double(x))


def double_and_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(double(x), weight, bias, padding=1)`` with 4/9 of the arithmetic.

    Among the 3x3 values that a pixel of the large map sees, only 2x2 differ, and which they are
    depends on whether its row and column are even or odd. So each of the four kinds of pixels has a
    2x2 kernel of its own on the small map, whose entries are sums of the 3x3 kernel's.

    Args:
        x: (B, C, h, w).
        weight: (C', C, 3, 3).
        bias: (C',).

    Returns:
        (B, C', 2h, 2w), channels_last.
    """
    rows = _pair_sums(weight, dim=2)
    kernels = torch.cat([kernel for row in rows for kernel in _pair_sums(row, dim=3)])
    bias = None if bias is None else bias.repeat(4)
    layout = torch.channels_last
    maps = F.conv2d(x, kernels.contiguous(memory_format=layout), bias, padding=1).chunk(4, dim=1)
    n, channels, height, width = len(x), len(weight), x.shape[2], x.shape[3]
    size = (n, channels, 2 * height, 2 * width)
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
    for i, values in enumerate(maps):
        row, column = divmod(i, 2)
        out[:, :, row::2, column::2] = values[:, :, row : row + height, column : column + width]
    return out


def _pair_sums(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The kernels of even and of odd positions along one dimension, 3 wide before, 2 after."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([first, middle + last], dim), torch.cat([first + middle, last], dim)


def _pays(x: Tensor) -> bool:
    """Whether four small kernels are faster: on processors, for large maps."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    positions = len(x) * x.shape[2] * x.shape[3]
    if torch.is_grad_enabled():  # the sums of the kernel have a backward pass, too
        return positions >= 2 * SMALLEST_MAP and x.shape[1] >= 128
    return positions >= SMALLEST_MAP


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
