"""A feature map as one vector, by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.layers.attention import to_tokens


class AttentionPool(nn.Module):
    """Pooling by the attention of the mean to all positions, as in CLIP (Radford et al., 2021).

    The mean is put in front of the positions as one more token, a learned embedding is added to
    all of them, and what that first token has attended to is the result. Parameter names and shapes
    are those of the ``AttentionPool2d`` of ADM.

    Args:
        size: Side of the (square) feature maps; the learned embedding has one column per position.
        channels: Width of the feature map.
        num_heads: Number of heads; divides ``channels``.
        out_channels: Width of the result; None: ``channels``.

    Raises:
        ValueError: If the channels cannot be split over the heads, or there is no position.
    """

    def __init__(
        self, size: int, channels: int, num_heads: int, out_channels: int | None = None
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"nothing to pool in feature maps of side {size}")
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split evenly over {num_heads} heads")
        self.size = size
        self.num_heads = num_heads
        start = torch.randn(channels, size**2 + 1) / channels**0.5
        self.positional_embedding = nn.Parameter(start)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels or channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, size, size) -> (B, out_channels).

        Raises:
            ValueError: If the map has another size than the embedding was made for.
        """
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"attention pooling was built for feature maps of {self.size}x{self.size}, got "
                f"{x.shape[2]}x{x.shape[3]}: choose the image_size of the network accordingly, or "
                "a pool without positions, such as 'adaptive'"
            )
        tokens = to_tokens(x)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.T.to(x.dtype)
        # Only the first token is asked for, so only it needs a query. A convolution of width 1 is
        # a linear layer.
        weight, bias = self.qkv_proj.weight[:, :, 0], self.qkv_proj.bias
        assert bias is not None
        width = tokens.shape[2]
        q = F.linear(tokens[:, :1], weight[:width], bias[:width])
        k, v = F.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=2)
        q, k, v = (
            rearrange(part, "b n (heads d) -> b heads n d", heads=self.num_heads)
            for part in (q, k, v)
        )
        pooled = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads 1 d -> b (heads d)")
        return F.linear(pooled, self.c_proj.weight[:, :, 0], self.c_proj.bias)
