from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from ldm.conditioners.tokenizers import BertTokenizer
from ldm.errors import DataError
from tests.conditioners.vocabulary import write
from tests.parity import SHARED


def test_real_vocabulary() -> None:
    folder = SHARED / "data" / "bert-base-uncased"
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    ids = tokenizer(["a red circle", "A RED   circle", "", "circle " * 100])
    assert tokenizer.vocab_size == 30522
    assert ids.shape == (4, 77)
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == [101, 1037, 2417, 4418, 102] + [0] * 72
    assert torch.equal(ids[1], ids[0])
    assert ids[2].tolist() == [101, 102] + [0] * 75
    assert ids[3].tolist() == [101] + [4418] * 75 + [102]


def test_small_vocabulary(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(write(tmp_path), length=8)
    assert tokenizer.vocab_size == 11
    assert tokenizer("A red circle.").tolist() == [[2, 5, 6, 7, 10, 3, 0, 0]]
    assert tokenizer(["blue circles", "a green é"]).tolist() == [
        [2, 9, 7, 8, 3, 0, 0, 0],
        [2, 5, 1, 1, 3, 0, 0, 0],
    ]
    assert tokenizer("red " * 20).tolist() == [[2, 6, 6, 6, 6, 6, 6, 3]]


def test_a_folder_with_a_vocabulary(tmp_path: Path) -> None:
    write(tmp_path)
    assert BertTokenizer(str(tmp_path), length=4)("red").tolist() == [[2, 6, 3, 0]]


def test_survives_pickling(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(write(tmp_path), length=8)
    (tmp_path / "vocab.txt").unlink()
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again("a red circle"), tokenizer("a red circle"))
    assert again.vocab_size == 11


@pytest.mark.parametrize("name", ["absent.txt", ""])
def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"(absent|vocab)\.txt: give the path of BERT's vocab\.txt"):
        BertTokenizer(str(tmp_path / name))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nred\n")
    with pytest.raises(DataError, match=r"vocab.txt is not .* lacks \[CLS\], \[SEP\]"):
        BertTokenizer(str(path))


def test_a_name_is_looked_up_at_the_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def download(name: str, file: str, local_files_only: bool = False) -> str:
        requests.append((name, file, local_files_only))
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        return write(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    tokenizer = BertTokenizer("some/name", length=4)
    assert tokenizer.vocab_size is None
    assert requests == []
    assert tokenizer("red").tolist() == [[2, 6, 3, 0]]
    assert requests == [("some/name", "vocab.txt", True), ("some/name", "vocab.txt", False)]
    tokenizer("red")
    assert len(requests) == 2


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(DataError, match="no vocabulary 'some/name' here or on the hub: give"):
        BertTokenizer("some/name")("red")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", ""),
        ("a red circle.", ""),
        ("a red circle. a  Blue\ncircle", "circle"),
        ("red red red red red red", ""),
        ("red red red red red circles red", "circles red"),  # "circle" would fit, "##s" does not
    ],
)
def test_what_is_cut_off(text: str, cut: str, tmp_path: Path) -> None:
    short, long = (BertTokenizer(write(tmp_path), length=length) for length in (8, 50))
    assert short.cut_off(text) == cut
    assert (cut == "") == (int((long(text) != 0).sum()) <= 8)
    kept = " ".join(text.split()[: len(text.split()) - len(cut.split())])
    assert short.cut_off(kept) == ""


def test_length_leaves_room_for_the_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1"):
        BertTokenizer(write(tmp_path), length=1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (5, "a prompt must be a text or a list of texts, got 5"),
        (None, "got None"),
        ({"a": 1}, "got {'a': 1}"),
        (["red", 5], "a prompt must be a text, got int 5"),
        ([None], "got NoneType None"),
    ],
)
def test_prompts_of_another_type_are_refused(texts: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{message}$"):
        BertTokenizer(write(tmp_path), length=4)(texts)
