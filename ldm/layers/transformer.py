"""Transformer encoder over token ids, trained together with the diffusion model."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.errors import MOST_LAYERS, check_count

NUM_HEADS = 8
HEAD_DIM = 64


class SelfAttention(nn.Module):
    """Eight heads of width 64, whatever the width of the sequence; nothing is masked."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner_dim = NUM_HEADS * HEAD_DIM
        self.to_q = nn.Linear(dim, inner_dim, bias=False)
        self.to_k = nn.Linear(dim, inner_dim, bias=False)
        self.to_v = nn.Linear(dim, inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        q, k, v = (
            rearrange(layer(x), "b n (heads d) -> b heads n d", heads=NUM_HEADS)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b heads n d -> b n (heads d)"))


class FeedForward(nn.Module):
    """Position-wise network of four times the width with an exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        expand = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU())
        self.net = nn.Sequential(expand, nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        return self.net(x)


class PositionEmbedding(nn.Module):
    """One learned vector per position."""

    def __init__(self, length: int, dim: int, std: float) -> None:
        super().__init__()
        self.emb = nn.Embedding(length, dim)
        nn.init.normal_(self.emb.weight, std=std)

    def forward(self, length: int) -> Tensor:
        """Vectors of the first ``length`` positions, (length, dim)."""
        return self.emb.weight[:length]


class Encoder(nn.Module):
    """``depth`` pairs of self-attention and feed-forward, each pre-norm with a residual."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        check_count("depth", depth, 0, MOST_LAYERS)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            self.layers.append(nn.ModuleList([nn.LayerNorm(dim), SelfAttention(dim)]))
            self.layers.append(nn.ModuleList([nn.LayerNorm(dim), FeedForward(dim)]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        for layer in self.layers:
            norm, branch = cast(nn.ModuleList, layer)
            x = x + branch(norm(x))
        return x


class TokenTransformer(nn.Module):
    """Embeds token ids in the context of their whole sequence (LDM, appendix E.2.1).

    Padding tokens are attended to like any other. ``to_logits`` belongs to the published weights
    although nothing uses it; it does not learn.

    Args:
        vocab_size: Number of token ids.
        dim: Width of the embeddings.
        depth: Number of transformer layers.
        length: Longest sequence.
        embedding_std: Standard deviation of the embeddings at the start. A step of Adam moves them
            by about the learning rate, however small they are: with 0.02, as published, a learning
            rate of 1e-3 is 5 % of them, and rare tokens are mostly noise for a long time.
    """

    def __init__(
        self, vocab_size: int, dim: int, depth: int, length: int, embedding_std: float = 0.02
    ) -> None:
        super().__init__()
        self.length = length
        self.token_emb = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.token_emb.weight, std=embedding_std)
        self.pos_emb = PositionEmbedding(length, dim, embedding_std)
        self.attn_layers = Encoder(dim, depth)
        self.norm = nn.LayerNorm(dim)
        # Without gradients, or distributed training would wait for them.
        self.to_logits = nn.Linear(dim, vocab_size).requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> embeddings (B, L, dim)."""
        if tokens.ndim != 2 or tokens.shape[1] > self.length or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens must be int64 of shape (B, L <= {self.length}), "
                f"got {tokens.dtype} {tuple(tokens.shape)}"
            )
        x = self.token_emb(tokens) + self.pos_emb(tokens.shape[1])
        return self.norm(self.attn_layers(x))
