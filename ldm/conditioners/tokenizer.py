"""Word pieces of BERT, as token ids for the text transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ldm.errors import DataError

if TYPE_CHECKING:
    from transformers import BertTokenizer as WordPieces

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MEMORY = 100_000
"""Texts whose ids a tokenizer remembers."""

ADVICE = "give the path of BERT's vocab.txt (it is at hf.co/bert-base-uncased) or its folder"


class Tokenizer(Protocol):
    """Makes token ids of texts."""

    length: int
    """Ids per text."""

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids; None while the vocabulary is not loaded."""
        ...

    def __call__(self, texts: str | list[str]) -> Tensor:
        """One text or B texts -> ids (B, length), int64."""
        ...


class BertTokenizer:
    """Lower-cased word pieces between [CLS] and [SEP], padded with [PAD] or cut to ``length``.

    Args:
        vocab: A ``vocab.txt`` (one piece per line), a folder with one, or a name on the Hugging
            Face hub such as ``bert-base-uncased``, which is looked up at the first use.
        length: Ids per text.

    Raises:
        DataError: If there is no usable vocabulary.
    """

    def __init__(self, vocab: str, length: int = 77) -> None:
        if length < 2:
            raise ValueError(f"length must leave room for [CLS] and [SEP], got {length}")
        self.vocab = vocab
        self.length = length
        self._word_pieces: WordPieces | None = None
        self._memory: dict[str, Tensor] = {}
        path = Path(vocab).expanduser()
        file = path / "vocab.txt" if path.is_dir() else path
        if file.is_file():
            self._word_pieces = _word_pieces(file)
        elif path.is_dir() or path.is_absolute() or path.suffix == ".txt":
            raise DataError(f"no vocabulary at {file}: {ADVICE}")

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids; None while the vocabulary is not loaded."""
        return None if self._word_pieces is None else len(self._word_pieces)

    def __call__(self, texts: str | list[str]) -> Tensor:
        """One text or B texts -> ids (B, length), int64."""
        if isinstance(texts, str):
            return self._remembered(texts)
        check_texts(texts)
        return self._encode(list(texts))

    def cut_off(self, text: str) -> str:
        """The words of a text that do not fit, from the first that is cut on; "" if all do."""
        pieces = self._pieces()
        return words_beyond(self.length - 2, text, lambda word: len(pieces.tokenize(word)))

    def _remembered(self, text: str) -> Tensor:
        """Ids (1, length) of a text; captions come back every epoch and tokenising them is slow."""
        ids = self._memory.get(text)
        if ids is None:
            ids = self._encode([text])
            if len(self._memory) < MEMORY:
                self._memory[text] = ids
        return ids.clone()

    def _encode(self, texts: list[str]) -> Tensor:
        encoded = self._pieces()(
            texts, padding="max_length", truncation=True, max_length=self.length
        )
        return torch.tensor(encoded["input_ids"], dtype=torch.int64)

    def _pieces(self) -> WordPieces:
        if self._word_pieces is None:
            self._word_pieces = _word_pieces(_from_hub(self.vocab))
        return self._word_pieces


def check_texts(texts: object) -> None:
    """Refuse what is no list of texts.

    Raises:
        DataError: it says what came instead.
    """
    if not isinstance(texts, (list, tuple)):
        raise DataError(f"a prompt must be a text or a list of texts, got {texts!r}")
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"a prompt must be a text, got {type(text).__name__} {text!r}")


def words_beyond(room: int, text: str, count: Callable[[str], int]) -> str:
    """The words of a text that do not fit into ``room`` pieces, from the first that is cut; or "".

    Args:
        room: number of pieces that there is room for.
        text: the text; no piece reaches over its spaces.
        count: gives the number of pieces of a word.
    """
    words = text.split()
    for index, word in enumerate(words):
        room -= count(word)
        if room < 0:
            return " ".join(words[index:])
    return ""


def _word_pieces(file: Path) -> WordPieces:
    # Here and not above: importing transformers takes seconds.
    from transformers import BertTokenizer as WordPieces

    pieces = set(file.read_text(encoding="utf-8").split("\n"))
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise DataError(f"{file} is not a vocabulary of BERT: it lacks {', '.join(missing)}")
    # By position: transformers 5 renamed the parameter and ignores the old name silently.
    return WordPieces(str(file))


def _from_hub(name: str) -> Path:
    import huggingface_hub

    try:
        try:
            return Path(huggingface_hub.hf_hub_download(name, "vocab.txt", local_files_only=True))
        except OSError:
            return Path(huggingface_hub.hf_hub_download(name, "vocab.txt"))
    except (OSError, ValueError) as error:
        raise DataError(f"no vocabulary {name!r} here or on the hub: {ADVICE}") from error
