"""pack_pictures.py: what goes in, what is refused, and that nothing is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ldm.conditioners.tokenizers import BertTokenizer
from tests.scripts.conftest import Outcome

Script = Callable[..., Outcome]
WORDS = ("red", "blue", "green", "big", "small")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """25 pictures, each of a name of its own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(25):
        Image.new("RGB", (8, 8), (k, k, k)).save(folder / f"{k:02d}.png")
        words = f"A {WORDS[k % 5]} Thing, {WORDS[k // 5]}"
        (folder / f"{k:02d}.txt").write_text(words)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_pictures_are_packed_once(script: Script, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "new"
    call = ("pack_pictures.py", photos, "--out", out, "--held-out", "0.2")
    outcome = script(*call)
    assert outcome.code == 0, outcome.err
    record = json.loads((out / "pictures.json").read_text())
    assert record["pictures"] == record["names"] == sum(record["shards"].values()) == 25
    assert record["shards"]["held-out/all.tar"] == record["held_out_names"] > 0
    before = everything(out)
    assert "the 25 pictures are in" in script(*call).out
    assert everything(out) == before


def test_the_vocabulary_knows_the_words_of_training(
    script: Script, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert script("pack_pictures.py", photos, "--out", out).code == 0
    tokenizer = BertTokenizer(str(out / "vocab.txt"), length=8)
    pieces = (out / "vocab.txt").read_text().split("\n")
    ids = tokenizer("a Red thing, small")[0].tolist()
    spelled = [pieces[k] for k in ids]
    assert spelled == ["[CLS]", "a", "red", "thing", ",", "small", "[SEP]", "[PAD]"]
    assert tokenizer("zebra")[0, 1] == pieces.index("[UNK]")


def test_other_pictures_are_never_overwritten(script: Script, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert script("pack_pictures.py", photos, "--out", out).code == 0
    before = everything(out)
    (photos / "03.txt").write_text("something else")
    outcome = script("pack_pictures.py", photos, "--out", out)
    assert outcome.code == 2
    assert "holds other pictures, or other names are held out: delete" in outcome.err
    assert everything(out) == before


def test_a_call_that_was_stopped_is_repeated(script: Script, photos: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    for out in (whole, half):
        assert script("pack_pictures.py", photos, "--out", out).code == 0
    (half / "pictures.json").unlink()
    (half / "held-out" / "all.tar").unlink()
    assert script("pack_pictures.py", photos, "--out", half).code == 0
    assert everything(half) == everything(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "--out", "new"], "none: no such file or folder"),
        (["photos", "--out", "photos"], "--out photos: holds other files (00.png)"),
        (["photos", "--out", "new", "--held-out", "1"], "--held-out 1.0: is a share"),
        (["empty", "--out", "new"], "'empty'"),
        (["photos/00.txt", "--out", "new"], "00.txt"),
        (["broken.tgz", "--out", "new"], "broken.tgz"),
    ],
)
def test_what_is_refused(  # type: ignore[no-untyped-def]
    script: Script, photos: Path, monkeypatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    Path("broken.tgz").write_bytes(b"no archive")
    outcome = script("pack_pictures.py", *arguments)
    assert outcome.code == 2
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not Path("new").exists()
