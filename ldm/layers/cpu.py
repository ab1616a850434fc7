"""What processors do differently from accelerators, and when: for the same results in less time.

All thresholds were found by measuring on one thread of a processor with AVX2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ldm.layers.winograd import TILE, are_constant

MOST_PAIRS = 512 * 512
"""Input times output channels: with more, the kernels at Winograd's points (four times the weight)
would need too much memory."""
MOST_COVERED = 1.2
"""Positions of all of Winograd's tiles over those of the map, whose sides tiles may not divide."""
CACHED = 2**17
"""Inner features of a position-wise network that stay in the cache."""
LEAST_PARTS = 8
"""With fewer, working on parts of that size costs as much as it saves."""

_direct: ContextVar[bool] = ContextVar("_direct", default=False)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Convolve by the definition inside a ``with`` block (of this thread), to count operations."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)


def prefers_winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether ``winograd.convolve`` is the faster 3x3 convolution of x (B, C, h, w).

    Maps have to be taken to the points, which pays with many channels; weights too, which pays with
    many positions (of all samples) unless they are kept. Gradients of weights gain the most.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or _direct.get():
        return False
    if type(x) is not Tensor or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False  # fake and distributed tensors, half precision
    if torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    out_channels, channels = weight.shape[:2]
    n, given, height, width = x.shape
    covered = -(-height // TILE) * -(-width // TILE) * TILE**2
    if given != channels or covered > MOST_COVERED * height * width:
        return False
    learns = torch.is_grad_enabled() and weight.requires_grad
    narrow, kept = min(channels, out_channels), are_constant()
    if narrow < (64 if learns else 128) or not 64 * 128 <= channels * out_channels <= MOST_PAIRS:
        return False
    positions = n * height * width
    least_values = 2**17 if learns or kept else 2**18
    return positions >= (512 if kept else 1024) and positions * narrow >= least_values


def by_positions(network: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """``network(x)`` of a position-wise network, some positions of x (..., C) after the other.

    On a processor without gradients it is then bound by arithmetic instead of memory.

    Args:
        network: (n, C) -> (n, C).
        x: its input.
        width: its inner features.
    """
    stores = torch.is_grad_enabled() or torch.compiler.is_compiling()
    size = max(256, CACHED // width)
    if stores or x.device.type != "cpu" or x.shape[:-1].numel() < LEAST_PARTS * size:
        return network(x)
    return torch.cat([network(part) for part in x.flatten(0, -2).split(size)]).view(x.shape)
