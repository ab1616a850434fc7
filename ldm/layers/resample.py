"""Halving and doubling the sides of a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

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
