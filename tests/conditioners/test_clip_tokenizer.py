from __future__ import annotations

import importlib.util
import json
import pickle

import pytest
import torch

from ldm.conditioners.tokenizers import END, START, VOCAB_SIZE, ClipTokenizer
from ldm.errors import ConfigError, DataError

TEXTS = [
    "a red circle",
    "",
    "A  photo\tof an ASTRONAUT riding\na horse; 4k, f/1.8, trending...",
    "dog " * 100,
    "it's you're we'll I'd 's''s",
    "naïve café über straße İstanbul ½ ² №5",
    "日本語のテキスト 😀 👩‍👩‍👧 зима",
    "<b>bold</b> a_b-c #tag @me &amp;amp; &lt;",
    "“curly” quotes and sÃ©rie, which ftfy mends",
]


def test_ids_are_those_of_open_clip() -> None:
    import open_clip

    assert torch.equal(ClipTokenizer(pad="zero")(TEXTS), open_clip.tokenize(TEXTS))
    short = open_clip.tokenize(TEXTS, context_length=5)
    assert torch.equal(ClipTokenizer(5, pad="zero")(TEXTS), short)


def test_ids_are_those_of_transformers() -> None:
    """But for the last two texts: transformers mends neither HTML nor broken characters."""
    from transformers import CLIPTokenizer

    ours = ClipTokenizer()
    ours("")
    assert ours._byte_pairs is not None
    model = json.loads(ours._byte_pairs.to_str())["model"]
    vocab = model["vocab"] | {"<|startoftext|>": START, "<|endoftext|>": END}
    theirs = CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]])
    texts = TEXTS[:-2]
    encoded = theirs(texts, padding="max_length", truncation=True, max_length=77)
    assert ours(texts).tolist() == encoded["input_ids"]


def test_known_ids() -> None:
    """ "a photo of an astronaut riding a horse", as everywhere in Stable Diffusion's examples."""
    ids = ClipTokenizer(12)("a photo of an astronaut riding a horse").tolist()
    assert ids == [[49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407, 49407, 49407]]


def test_padding_and_cutting() -> None:
    assert ClipTokenizer(4)("").tolist() == [[START, END, END, END]]
    assert ClipTokenizer(4, pad="zero")("").tolist() == [[START, END, 0, 0]]
    ids = ClipTokenizer(4)("a a a a a")
    assert ids.tolist() == [[START, 320, 320, END]]
    assert ids.dtype == torch.int64
    assert ClipTokenizer(4)([]).shape == (0, 4)
    assert ClipTokenizer(4).vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_cut_off(text: str) -> None:
    length = 12
    tokenizer = ClipTokenizer(length)
    cut, whole = tokenizer.cut_off(text), ClipTokenizer(500, pad="zero")(text)
    assert (cut == "") == (int((whole != 0).sum()) <= length)
    if cut:
        ids = ClipTokenizer(500, pad="zero")(cut)[0]
        tail = ids[1 : (ids != 0).sum()]  # without the start
        end = int((whole != 0).sum())
        assert torch.equal(whole[0, end - len(tail) : end], tail)
        assert 1 <= end - len(tail) <= length - 1  # what comes before it fits, between the ends


def test_the_words_that_are_cut_off() -> None:
    assert ClipTokenizer(7).cut_off("A photo of an  Astronaut RIDING a horse") == "riding a horse"


def test_a_text_cannot_write_special_tokens() -> None:
    ids = ClipTokenizer()("<end_of_text> <|endoftext|> <start_of_text>")[0].tolist()
    end = ids.index(END)
    assert START not in ids[1:]
    assert end > 10
    assert set(ids[end:]) == {END}


def test_remembered_ids_cannot_be_changed_from_outside() -> None:
    tokenizer = ClipTokenizer(4)
    first = tokenizer("a dog").clone()
    tokenizer("a dog").zero_()
    tokenizer(["a dog"]).zero_()
    assert torch.equal(tokenizer("a dog"), first)


def test_survives_pickling() -> None:
    """As workers of a data loader need it."""
    tokenizer = ClipTokenizer()
    expected = tokenizer(TEXTS)
    assert torch.equal(pickle.loads(pickle.dumps(tokenizer))(TEXTS), expected)


@pytest.mark.parametrize("texts", [3, ["a", None], [b"a"], {"a": 1}])
def test_what_is_no_text_is_refused(texts: object) -> None:
    with pytest.raises(DataError, match="a prompt must be a text"):
        ClipTokenizer()(texts)  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="pad must be one of end, zero, got 'left'"):
        ClipTokenizer(pad="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 1"):
        ClipTokenizer(1)


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tokenizer = ClipTokenizer()
    with pytest.raises(ConfigError, match="pip install open_clip_torch"):
        tokenizer("a dog")
