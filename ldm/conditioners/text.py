"""Text, through a transformer that is trained together with the diffusion model (LDM, E.2.1).

Below it, what all encoders of token ids check, and the ids of the empty text.
"""

from __future__ import annotations

from torch import Tensor

from ldm.conditioners.base import Conditioner, check_ids, check_tensor
from ldm.conditioners.tokenizers import Tokenizer
from ldm.errors import ConfigError, DataError
from ldm.layers.transformer import TokenTransformer


class TextTransformer(Conditioner):
    """Token ids (B, L) as a sequence of embeddings (B, L, dim) for cross-attention.

    Args:
        vocab_size: Number of token ids; 30522 for BERT's vocabulary.
        dim: Width of the embeddings.
        depth: Number of transformer layers.
        length: Longest sequence.
        tokenizer: Makes ids of texts; needed for ``drop_prob`` and guidance, where "no
            condition" is the empty text.
        key: Name of the batch entry.
        drop_prob: See :class:`~ldm.conditioners.Conditioner`.
        embedding_std: See :class:`~ldm.layers.transformer.TokenTransformer`.

    Raises:
        ConfigError: If the arguments do not fit together.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        depth: int,
        length: int,
        tokenizer: Tokenizer | None = None,
        key: str = "tokens",
        drop_prob: float = 0.0,
        embedding_std: float = 0.02,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        check_tokens(key, length, length, vocab_size, tokenizer, drop_prob)
        self.tokenizer = tokenizer
        self.dim = dim
        self.vocab_size = vocab_size
        self.transformer = TokenTransformer(vocab_size, dim, depth, length, embedding_std)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, dim)."""
        self.check(value)
        return self.transformer(value)

    def check(self, value: Tensor) -> None:
        """Refuse ids outside the vocabulary, where they can be read."""
        check_ids(value, self.vocab_size, self.key, "token")

    def null(self, n: int, like: Tensor) -> Tensor:
        """Ids of the empty text, n times."""
        return empty_text(self.key, self.tokenizer, n, like)


def check_tokens(
    key: str,
    length: int,
    longest: int,
    vocab_size: int,
    tokenizer: Tokenizer | None,
    drop_prob: float = 0.0,
) -> None:
    """Refuse texts longer than the encoder takes, and no tokenizer or that of another encoder.

    Args:
        key: name of the batch entry, for messages.
        length: ids per text.
        longest: most ids that the encoder takes.
        vocab_size: number of token ids of the encoder.
        tokenizer: makes the ids.
        drop_prob: share of the texts that become the empty one, which only a tokenizer knows.

    Raises:
        ConfigError: it says what does not fit.
    """
    if tokenizer is None and drop_prob > 0:
        raise ConfigError(f"drop_prob={drop_prob} of {key!r} needs a tokenizer")
    if not 1 <= length <= longest:
        raise ConfigError(f"length={length} of {key!r}: the encoder takes 1 to {longest} tokens")
    if tokenizer is not None and (
        tokenizer.length != length or (tokenizer.vocab_size or 0) > vocab_size
    ):
        raise ConfigError(
            f"the tokenizer of {key!r} makes {tokenizer.length} ids of {tokenizer.vocab_size}, but "
            f"the encoder takes length={length} ids of {vocab_size}"
        )


def check_value(key: str, value: Tensor, length: int, vocab_size: int) -> None:
    """Refuse what is no batch of token ids."""
    check_tensor(value, key, "ids", None)
    if value.shape[1] > length:
        raise DataError(f"{key!r} holds {value.shape[1]} tokens per text, more than {length}")
    check_ids(value, vocab_size, key, "token")


def empty_text(key: str, tokenizer: Tokenizer | None, n: int, like: Tensor) -> Tensor:
    """Ids (n, length) of the empty text."""
    if tokenizer is None:
        raise ConfigError(f"guidance needs a tokenizer in the conditioner of {key!r}")
    return tokenizer("").to(like.device).expand(n, -1)
