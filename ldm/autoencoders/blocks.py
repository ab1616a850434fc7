"""Blocks of the convolutional encoder and decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers.convolution import Conv3x3
from ldm.layers.norm import GROUPS, group_norm
from ldm.layers.pointwise import PointwiseConv2d, project, to_map, to_tokens

EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with a residual.

    Args:
        channels: Width of the input, a multiple of ``norm_groups``.
        out_channels: Width of the output.
        dropout: Probability of dropping a feature before the second convolution.
        norm_groups: Groups of the normalisations.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        dropout: float = 0.0,
        norm_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, EPS, norm_groups)
        self.conv1 = Conv3x3(channels, out_channels)
        self.norm2 = group_norm(out_channels, EPS, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.nin_shortcut = (
            nn.Identity() if channels == out_channels else PointwiseConv2d(channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out_channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Self-attention over positions with one head as wide as the feature map, and a residual."""

    def __init__(self, channels: int, norm_groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(channels, EPS, norm_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        h = to_tokens(self.norm(x))
        q, k, v = (project(layer, h).unsqueeze(1) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + to_map(project(self.proj_out, out), like=x)
