"""The 3x3 convolution of all networks.

Layers that look at one position at a time: 1x1 convolutions as matrix products.

Halving and doubling the sides of a feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import winograd
from ldm.layers.winograd import are_constant

LEAST_PAIRS, MOST_PAIRS = 128 * 64, 512 * 512
"""Input times output channels: with fewer, taking maps to the points costs what the products save;
with more, the kernels there would need too much memory (four times that of the weight)."""
LEAST_POSITIONS, LEAST_POSITIONS_KEPT = 1024, 256
"""Positions (of all samples): with fewer, taking the weight there costs too much, for each call, or
once for all (``constant_weights``)."""

MOST_COVERED = 1.2
"""Positions of all tiles over those of the map, whose sides tiles may not divide."""

_direct: ContextVar[bool] = ContextVar("_direct", default=False)


class Conv3x3(nn.Conv2d):
    """Convolution of 3x3 values that keeps the sides of the map; a ``nn.Conv2d`` to checkpoints.

    On a processor wide layers on large channels_last maps are computed by ``winograd.convolve``.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        if _pays(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias)
        return super().forward(x)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Convolve by the definition inside a ``with`` block (of this thread), to count operations."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)


def _pays(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or _direct.get():
        return False
    if type(x) is not Tensor or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False  # fake and distributed tensors, half precision
    if torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if not LEAST_PAIRS <= weight.shape[0] * weight.shape[1] <= MOST_PAIRS:
        return False
    rows, columns = -(-x.shape[2] // winograd.TILE), -(-x.shape[3] // winograd.TILE)
    covered = len(x) * rows * columns * winograd.TILE**2
    positions = len(x) * x.shape[2] * x.shape[3]
    if x.shape[1] != weight.shape[1] or covered > MOST_COVERED * positions:
        return False
    return positions >= (LEAST_POSITIONS_KEPT if are_constant() else LEAST_POSITIONS)


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
        if isinstance(self.conv, nn.Conv2d) and _takes_four_products(x):
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


def _takes_four_products(x: Tensor) -> bool:
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
