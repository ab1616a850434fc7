"""The gated position-wise network of a transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CACHED = 2**17
"""Inner features that a processor works on at a time: they stay in its cache."""


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of a second one (Shazeer, 2020)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim_out); the first half of the projection is the value."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            value, gate = self.proj(x).chunk(2, dim=-1)
            return value * F.gelu(gate)
        # Two products instead of one: halves of one result would not be contiguous.
        (value, gate), (value_bias, gate_bias) = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        return F.linear(x, value, value_bias) * F.gelu(F.linear(x, gate, gate_bias))


class FeedForward(nn.Module):
    """Gated position-wise network of four times the width."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Dropout(dropout), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        stores = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if stores or x.device.type != "cpu":
            return self.net(x)
        # Some positions after the other: bound by arithmetic instead of memory.
        rows = x.flatten(0, -2)
        size = max(256, CACHED // self.net[2].in_features)  # type: ignore[operator]
        return torch.cat([self.net(part) for part in rows.split(size)]).view(x.shape)
