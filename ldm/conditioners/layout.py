"""Layouts (boxes with classes), through a transformer trained together with the diffusion model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm.conditioners.base import Conditioner, check_ids, check_tensor
from ldm.errors import ConfigError
from ldm.layers.transformer import TokenTransformer


class LayoutTransformer(Conditioner):
    """Box tokens (B, L) as a sequence of embeddings (B, L, dim) for cross-attention.

    Loaders make the tokens with :class:`~ldm.data.BoxTokenizer`. Null is the layout of
    nothing, every token "none".

    Args:
        dim: width of the embeddings.
        depth: number of transformer layers.
        vocab_size: number of token ids.
        length: longest sequence: three tokens for each of 30 objects, two for the crop.
        none: token of "no object"; None: the last id.
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.
        embedding_std: see :class:`~ldm.layers.transformer.TokenTransformer`.
        first_place: from this id on the embeddings of places near each other begin alike, so that
            what is learned of one holds for its neighbours: for trainings too short to learn every
            place by itself. Smaller ids are also those of classes. None: all begin at random, as
            published.

    Raises:
        ConfigError: ``none`` or ``first_place`` is no token.
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
        embedding_std: float = 0.02,
        first_place: int | None = None,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        self.none = vocab_size - 1 if none is None else none
        if not 0 <= self.none < vocab_size:
            raise ConfigError(f"none={none} of {key!r} is outside 0 to {vocab_size - 1}")
        self.dim = dim
        self.vocab_size = vocab_size
        self.transformer = TokenTransformer(vocab_size, dim, depth, length, embedding_std)
        if first_place is not None:
            if not 0 <= first_place < vocab_size:
                raise ConfigError(f"first_place={first_place} of {key!r} is no token")
            self._start_with_places(first_place, embedding_std)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, dim)."""
        self.check(value)
        return self.transformer(value)

    def check(self, value: Tensor) -> None:
        """Refuse what is no batch of tokens; the tokens themselves where they can be read."""
        check_tensor(value, self.key, "ids", None)
        check_ids(value, self.vocab_size, self.key, "token")

    @torch.no_grad()
    def _start_with_places(self, first: int, std: float) -> None:
        tokens = self.transformer.token_emb.weight
        grid = math.isqrt(len(tokens))
        tokens[first : grid * grid] = std * place_embeddings(grid, self.dim)[first:]

    def null(self, n: int, like: Tensor) -> Tensor:
        """The layout of nothing, n times."""
        return like.new_full((n, *like.shape[1:]), self.none)


def place_embeddings(grid: int, dim: int) -> Tensor:
    """Vectors (grid * grid, dim) of places, row by row: waves of several lengths along x and y.

    The longest waves are twice as long as the image, the shortest take four places and are the
    weakest. The standard deviation is 1.
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
    return vectors / vectors.std().clamp_min(1e-12)
