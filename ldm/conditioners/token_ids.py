"""What all encoders of token ids check, and the ids of the empty text."""

from __future__ import annotations

from torch import Tensor

from ldm.conditioners.checks import check_ids, check_tensor
from ldm.conditioners.tokenizer import Tokenizer
from ldm.errors import ConfigError, DataError


def check_tokens(
    key: str, length: int, longest: int, vocab_size: int, tokenizer: Tokenizer | None
) -> None:
    """Refuse texts longer than the encoder takes, and the tokenizer of another encoder."""
    if not 1 <= length <= longest:
        raise ConfigError(f"length={length} of {key!r}: the encoder takes 1 to {longest} tokens")
    if tokenizer is not None and (
        tokenizer.length != length or (tokenizer.vocab_size or 0) > vocab_size
    ):
        raise ConfigError(
            f"the tokenizer of {key!r} makes {tokenizer.length} ids of {tokenizer.vocab_size}, but "
            f"the encoder takes length={length} ids of {vocab_size}"
        )


def check_droppable(key: str, drop_prob: float, tokenizer: Tokenizer | None) -> None:
    """Refuse dropout of texts without a way to make the empty one."""
    if tokenizer is None and drop_prob > 0:
        raise ConfigError(f"drop_prob={drop_prob} of {key!r} needs a tokenizer")


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
