"""Token ids of texts: word pieces of BERT, and byte pairs of CLIP (Radford et al., 2021)."""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from ldm.conditioners.pretrained import hub_file
from ldm.errors import CheckpointError, ConfigError, DataError
from ldm.files import read_text, reason, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BytePairs
    from transformers import BertTokenizer as WordPieces

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LARGEST = 1 << 24
"""Bytes of a vocabulary; that of BERT in all languages has a million."""
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
            return _remembered(self._memory, texts, lambda text: self._encode([text])).clone()
        check_texts(texts)
        return self._encode(list(texts))

    def cut_off(self, text: str) -> str:
        """The words of a text that do not fit, from the first that is cut on; "" if all do."""
        pieces = self._pieces()
        return words_beyond(self.length - 2, text, lambda word: len(pieces.tokenize(word)))

    def _encode(self, texts: list[str]) -> Tensor:
        encoded = self._pieces()(
            texts, padding="max_length", truncation=True, max_length=self.length
        )
        return torch.tensor(encoded["input_ids"], dtype=torch.int64)

    def _pieces(self) -> WordPieces:
        if self._word_pieces is None:
            self._word_pieces = _word_pieces(_from_hub(self.vocab))
        return self._word_pieces


def vocabulary_of(texts: Iterable[str]) -> list[str]:
    """A vocabulary for ``BertTokenizer``, a piece per line: its special pieces, then all words.

    Words are divided and spelled as BERT reads them: small letters without accents.

    Args:
        texts: whose words it is to know.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, divide = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = {
        word
        for text in texts
        for word, _ in divide.pre_tokenize_str(normalizer.normalize_str(text))
    }
    return [*SPECIAL_PIECES, "[MASK]", *sorted(words)]


def _remembered(memory: dict[str, Tensor], text: str, encode: Callable[[str], Tensor]) -> Tensor:
    """Ids of a text; captions come back every epoch and tokenising them is slow."""
    ids = memory.get(text)
    if ids is None:
        ids = encode(text)
        if len(memory) < MEMORY:
            memory[text] = ids
    return ids


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

    try:
        pieces = set(read_text(file, _LARGEST).split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)} cannot be read: {reason(error)}; {ADVICE}") from error
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise DataError(f"{file} is not a vocabulary of BERT: it lacks {', '.join(missing)}")
    # By position: transformers 5 renamed the parameter and ignores the old name silently.
    return WordPieces(str(file))


def _from_hub(name: str) -> Path:
    try:
        return hub_file(name, ("vocab.txt",), ADVICE)
    except CheckpointError as error:
        raise DataError(f"no vocabulary {name!r} here or on the hub: {ADVICE}") from error


Pad = Literal["end", "zero"]

VOCAB_SIZE = 49408
START, END = VOCAB_SIZE - 2, VOCAB_SIZE - 1
_MERGES = VOCAB_SIZE - 2 - 2 * 256
_FILE = "bpe_simple_vocab_16e6.txt.gz"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Lower-cased byte pairs between a start and an end token, padded or cut to ``length``.

    The vocabulary ships with the package ``open_clip``; it is read at the first use and nothing is
    downloaded. Unlike the package's own tokenizer, this one takes ``<end_of_text>`` in a text for
    what it is: text.

    Args:
        length: Ids per text.
        pad: "end" repeats the end token (CLIP of transformers: Stable Diffusion v1), "zero" fills
            with 0 (OpenCLIP and the original CLIP: Stable Diffusion v2, retrieval).
    """

    def __init__(self, length: int = 77, pad: Pad = "end") -> None:
        if length < 2:
            raise ValueError(f"length must leave room for start and end, got {length}")
        if pad not in get_args(Pad):
            raise ConfigError(f"pad must be one of {', '.join(get_args(Pad))}, got {pad!r}")
        self.length = length
        self._padding = END if pad == "end" else 0
        self._byte_pairs: BytePairs | None = None
        self._memory: dict[str, Tensor] = {}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return VOCAB_SIZE

    def __call__(self, texts: str | list[str]) -> Tensor:
        """One text or B texts -> ids (B, length), int64.

        Raises:
            DataError: If one of them is no text.
            ConfigError: If ``open_clip`` is not installed.
        """
        texts = [texts] if isinstance(texts, str) else texts
        check_texts(texts)
        rows = [_remembered(self._memory, text, self._encode) for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, self.length, dtype=torch.int64)

    def cut_off(self, text: str) -> str:
        """The words of a text that do not fit, from the first that is cut on; "" if all do.

        They are cleaned as the encoder reads them: mended, in lower case.
        """
        pairs = self._pairs()
        return words_beyond(self.length - 2, _clean(text), lambda word: len(pairs.encode(word).ids))

    def _encode(self, text: str) -> Tensor:
        pieces = self._pairs().encode(_clean(text)).ids[: self.length - 2]
        ids = torch.full((self.length,), self._padding)
        ids[: len(pieces) + 2] = torch.tensor([START, *pieces, END])
        return ids

    def _pairs(self) -> BytePairs:
        if self._byte_pairs is None:
            self._byte_pairs = _byte_pairs(_vocabulary())
        return self._byte_pairs


def _clean(text: str) -> str:
    """Text as CLIP was trained on it: mended characters, no HTML, single spaces, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _vocabulary() -> Path:
    spec = importlib.util.find_spec("open_clip")  # importing it takes seconds
    if spec is None or spec.origin is None:
        raise ConfigError(
            "CLIP's vocabulary comes with the package open_clip: pip install open_clip_torch"
        )
    return Path(spec.origin).with_name(_FILE)


def _byte_pairs(file: Path) -> BytePairs:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [(line.split()[0], line.split()[1]) for line in lines[1 : _MERGES + 1]]
    symbols = _byte_symbols()
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    byte_pairs = Tokenizer(BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>"))
    byte_pairs.pre_tokenizer = Sequence(
        [
            Split(Regex(_WORDS), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return byte_pairs


def _byte_symbols() -> list[str]:
    """The printable characters that stand for the 256 bytes, in the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
