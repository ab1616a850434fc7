"""Attention over the positions of a feature map, and from them to a conditioning sequence.

The two layers with attention of the published UNets, ``SpatialTransformer`` (LDM, appendix E.2.1)
and ``AttentionBlock`` (ADM), what they are made of, and pooling by attention (CLIP).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.layers import cpu
from ldm.layers.basics import GROUPS, group_norm, run, zeroed
from ldm.layers.convolution import project, to_map, to_tokens


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of a second one (Shazeer, 2020)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim_out); the first half of the projection is the value."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated position-wise network of four times the width."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner_dim = inner_dim = 4 * dim
        self.net = nn.Sequential(
            GEGLU(dim, inner_dim), nn.Dropout(dropout), nn.Linear(inner_dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return cpu.by_positions(self.net, x, width=self.inner_dim)


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context, softmax(QK^T / sqrt(d)) V (LDM, Eq. 3).

    Args:
        query_dim: Width of the attending sequence, also of the result.
        context_dim: Width of the context; None: the sequence attends to itself.
        num_heads: Number of heads.
        head_dim: Width of a head, d.
        dropout: Probability of dropping an output feature.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        num_heads: int = 8,
        head_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner_dim = num_heads * head_dim
        context_dim = query_dim if context_dim is None else context_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_dim, inner_dim, bias=False)
        self.to_k = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_v = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, query_dim), nn.Dropout(dropout))

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from ``x`` (B, N, query_dim) to ``context`` (B, L, context_dim).

        Args:
            x: The attending sequence.
            context: What to attend to; None: ``x`` itself.
            mask: (B, L) bool, False where a context entry is hidden; each sample needs one True.

        Returns:
            Tensor of the shape of ``x``.
        """
        context = x if context is None else context
        q, k, v = (
            rearrange(tokens, "b n (heads d) -> b heads n d", heads=self.num_heads)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        mask = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(rearrange(out, "b heads n d -> b n (heads d)"))


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; each pre-norm with a residual.

    Args:
        dim: Width of the sequence.
        num_heads: Heads of both attentions.
        head_dim: Width of a head.
        context_dim: Width of the context; None: the second attention is self-attention too.
        dropout: Probability of dropping a feature.
        use_checkpoint: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        context_dim: int | None = None,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.attn1 = CrossAttention(dim, None, num_heads, head_dim, dropout)
        self.ff = FeedForward(dim, dropout)
        self.attn2 = CrossAttention(dim, context_dim, num_heads, head_dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, N, dim), (B, L, context_dim) -> (B, N, dim)."""
        return run(self._forward, x, context, recompute=self.use_checkpoint)

    def _forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer over the positions of a feature map, conditioned by cross-attention.

    LDM, appendix E.2.1: norm, 1x1 convolution, ``depth`` transformer blocks, 1x1 convolution,
    residual. The last convolution starts at zero. (Stable Diffusion 2 has linear layers in place
    of the convolutions: the same function, stored without the two trailing axes.)

    Args:
        channels: Width of the feature map, a multiple of ``norm_groups``.
        num_heads: Heads of every attention.
        head_dim: Width of a head; the blocks are ``num_heads * head_dim`` wide.
        depth: Number of transformer blocks.
        context_dim: Width of the context; None: self-attention in its place.
        dropout: Probability of dropping a feature inside the blocks.
        use_checkpoint: Recompute activations of the blocks in the backward pass.
        norm_groups: Groups of the normalisation.
        linear: Linear layers before and after the blocks.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        head_dim: int,
        depth: int = 1,
        context_dim: int | None = None,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
        norm_groups: int = GROUPS,
        linear: bool = False,
    ) -> None:
        super().__init__()
        inner_dim = num_heads * head_dim
        self.norm = group_norm(channels, eps=1e-6, groups=norm_groups)
        self.proj_in = _projection(channels, inner_dim, linear)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner_dim, num_heads, head_dim, context_dim, dropout, use_checkpoint
            )
            for _ in range(depth)
        )
        self.proj_out = zeroed(_projection(inner_dim, channels, linear))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, h, w), (B, L, context_dim) -> (B, C, h, w)."""
        tokens = project(self.proj_in, to_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + to_map(project(self.proj_out, tokens), like=x)


def _projection(channels: int, out_channels: int, linear: bool) -> nn.Module:
    return nn.Linear(channels, out_channels) if linear else nn.Conv2d(channels, out_channels, 1)


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the positions of a feature map, with a residual.

    From ADM (Dhariwal & Nichol, 2021). The last projection starts at zero.

    Args:
        channels: Width of the feature map, a multiple of ``norm_groups``.
        num_heads: Number of heads; divides ``channels``.
        use_new_attention_order: How q, k, v and the heads lie in the fused projection: (q,k,v)
            outermost if True, heads outermost if False. Matters only for published weights.
        use_checkpoint: Recompute activations in the backward pass.
        norm_groups: Groups of the normalisation.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        use_new_attention_order: bool = False,
        use_checkpoint: bool = False,
        norm_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split evenly over {num_heads} heads")
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.use_checkpoint = use_checkpoint
        self.norm = group_norm(channels, groups=norm_groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return run(self._forward, x, recompute=self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        qkv = project(self.qkv, to_tokens(self.norm(x)))
        order = "(three heads d)" if self.use_new_attention_order else "(heads three d)"
        q, k, v = rearrange(
            qkv, f"b n {order} -> three b heads n d", three=3, heads=self.num_heads
        ).unbind(0)
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)")
        return x + to_map(project(self.proj_out, out), like=x)


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
