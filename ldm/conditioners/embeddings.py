"""Embeddings that were computed beforehand, e.g. of the neighbours that were retrieved."""

from __future__ import annotations

from torch import Tensor

from ldm.conditioners.base import Conditioner, check_tensor
from ldm.errors import DataError


class Embeddings(Conditioner):
    """Vectors (B, k, dim) as they are, for cross-attention; null is zero.

    Retrieval-augmented diffusion conditions on the CLIP embeddings of up to 20 neighbours of the
    text or image (RDM; dim = 768).

    Args:
        dim: width of an embedding.
        max_tokens: most embeddings per sample; None: any number.
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.
    """

    def __init__(
        self,
        dim: int,
        max_tokens: int | None = None,
        key: str = "neighbours",
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        self.dim = dim
        self.max_tokens = max_tokens

    def forward(self, value: Tensor) -> Tensor:
        """(B, k, dim), or one each, (B, dim) -> (B, k, dim)."""
        if value.ndim == 2:
            value = value[:, None]
        check_tensor(value, self.key, "float", None, self.dim)
        if self.max_tokens is not None and value.shape[1] > self.max_tokens:
            raise DataError(
                f"{self.key!r} holds {value.shape[1]} embeddings per sample, more than "
                f"max_tokens={self.max_tokens}"
            )
        return value

    def null(self, n: int, like: Tensor) -> Tensor:
        """Zeros."""
        return like.new_zeros(n, *like.shape[1:])
