"""Layouts (boxes with classes), through a transformer trained together with the diffusion model."""

from __future__ import annotations

from torch import Tensor

from ldm.conditioners.base import Conditioner
from ldm.conditioners.checks import check_ids, check_tensor
from ldm.errors import ConfigError
from ldm.layers.token_transformer import TokenTransformer


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

    Raises:
        ConfigError: ``none`` is no token.
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
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        self.none = vocab_size - 1 if none is None else none
        if not 0 <= self.none < vocab_size:
            raise ConfigError(f"none={none} of {key!r} is outside 0 to {vocab_size - 1}")
        self.dim = dim
        self.vocab_size = vocab_size
        self.transformer = TokenTransformer(vocab_size, dim, depth, length)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, dim)."""
        self.check(value)
        return self.transformer(value)

    def check(self, value: Tensor) -> None:
        """Refuse what is no batch of tokens; the tokens themselves where they can be read."""
        check_tensor(value, self.key, "ids", None)
        check_ids(value, self.vocab_size, self.key, "token")

    def null(self, n: int, like: Tensor) -> Tensor:
        """The layout of nothing, n times."""
        return like.new_full((n, *like.shape[1:]), self.none)
