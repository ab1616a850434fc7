"""Layouts (boxes with classes), through a transformer trained together with the diffusion model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm.conditioners.base import Conditioner
from ldm.conditioners.checks import check_ids, check_tensor
from ldm.errors import ConfigError
from ldm.layers.token_transformer import TokenTransformer

STARTS = ("random", "places")
LARGER = 15.0
"""Embeddings of places are that much larger at the start: a step of Adam, whose size does not
depend on it, then leaves alike what was alike. Norms make the function the same."""


class LayoutTransformer(Conditioner):
    """Box tokens (B, L) as a sequence of embeddings (B, L, dim) for cross-attention.

    Loaders make the tokens with :class:`~ldm.data.box_tokens.BoxTokenizer`. Null is the layout of
    nothing, every token "none".

    Args:
        dim: width of the embeddings.
        depth: number of transformer layers.
        vocab_size: number of token ids.
        length: longest sequence: three tokens for each of 30 objects, two for the crop.
        none: token of "no object"; None: the last id.
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.base.Conditioner`.
        start: how the embeddings of the tokens begin: "random", as published; or "places", where
            those of places near each other are alike, so that what is learned of one place holds
            for its neighbours: for trainings that are too short to learn every place by itself.

    Raises:
        ConfigError: ``none`` is no token, or there is no such ``start``.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        vocab_size: int = 8192,
        length: int = 92,
        none: int | None = None,
        key: str = "box_tokens",
        drop_prob: float = 0.0,
        start: str = "random",
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        if start not in STARTS:
            raise ConfigError(f"start={start!r} of {key!r} is none of {', '.join(STARTS)}")
        self.none = vocab_size - 1 if none is None else none
        if not 0 <= self.none < vocab_size:
            raise ConfigError(f"none={none} of {key!r} is outside 0 to {vocab_size - 1}")
        self.dim = dim
        self.vocab_size = vocab_size
        self.transformer = TokenTransformer(vocab_size, dim, depth, length)
        if start == "places":
            self._start_with_places()

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, dim)."""
        self.check(value)
        return self.transformer(value)

    def check(self, value: Tensor) -> None:
        """Refuse what is no batch of tokens; the tokens themselves where they can be read."""
        check_tensor(value, self.key, "ids", None)
        check_ids(value, self.vocab_size, self.key, "token")

    @torch.no_grad()
    def _start_with_places(self) -> None:
        tokens = self.transformer.token_emb.weight
        grid = math.isqrt(len(tokens))
        tokens[: grid * grid] = place_embeddings(grid, self.dim)
        for embeddings in (tokens, self.transformer.pos_emb.emb.weight):
            embeddings.mul_(LARGER)

    def null(self, n: int, like: Tensor) -> Tensor:
        """The layout of nothing, n times."""
        return like.new_full((n, *like.shape[1:]), self.none)


def place_embeddings(grid: int, dim: int) -> Tensor:
    """Vectors (grid * grid, dim) of places, row by row: waves of several lengths along x and y.

    The longest waves are twice as long as the image, the shortest take four places and are the
    weakest. The standard deviation is that of token embeddings at random, 0.02.
    """
    quarter = dim // 4
    shortest = max(grid / 4, 1.0)
    frequencies = torch.logspace(math.log10(0.5), math.log10(shortest), max(quarter, 1))
    angles = 2 * math.pi * torch.linspace(0, 1, grid)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1) / frequencies.sqrt().repeat(2)
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    vectors = torch.zeros(grid * grid, dim)
    both = torch.cat([rows, columns], dim=2).flatten(0, 1)[:, :dim]
    vectors[:, : both.shape[1]] = both
    return 0.02 * vectors / vectors.std().clamp_min(1e-12)
