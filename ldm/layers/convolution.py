"""The 3x3 convolution of all networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from ldm.layers import winograd
from ldm.layers.constant_weights import are_constant

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
