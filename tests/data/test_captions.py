from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from ldm.data.folder import ImageFolder
from ldm.errors import DataError

NAMES = ("a.png", "sub/b.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def captions(root: Path, mode: str = "auto") -> dict[str, str]:
    data = ImageFolder(root, 8, split="all", captions=mode)
    return {file: data[i]["caption"] for i, file in enumerate(data.files)}


WANTED = {"a.png": "an a", "sub/b.png": "two words"}


@pytest.mark.parametrize(
    "tree",
    [
        {"a.png": "an  a", "sub/b.png": ["two\nwords"]},
        [{"file_name": "a.png", "text": "an a"}, {"file_name": "sub/b.png", "caption": WANTED}],
        [{"file_name": "./a.png", "text": "an a"}, {"file_name": "sub/b.png", "captions": ["x"]}],
    ],
)
def test_json(root: Path, tree: object) -> None:
    text = json.dumps(tree).replace(json.dumps(WANTED), '"two words"').replace('"x"', '"two words"')
    (root / "captions.json").write_text(text)
    assert captions(root) == captions(root, "json") == WANTED


def test_csv_in_each_folder(root: Path) -> None:
    (root / "captions.csv").write_text('file_name,width,text\na.png,8,"an\ta"\n')
    (root / "sub" / "captions.csv").write_text("file_name,caption\nb.png,two words\n")
    assert captions(root) == captions(root, "csv") == WANTED


@pytest.mark.parametrize("kind", ["json", "csv", "metadata"])
def test_several_captions_take_turns(root: Path, kind: str) -> None:
    texts = ["one", "two", "three"]
    if kind == "json":
        (root / "captions.json").write_text(json.dumps(dict.fromkeys(NAMES, texts)))
    elif kind == "csv":
        rows = [f"{name},{text}" for name in NAMES for text in texts]
        (root / "captions.csv").write_text("\n".join(["file_name,text", *rows]))
    else:
        rows = [json.dumps({"file_name": name, "text": texts}) for name in NAMES]
        (root / "metadata.jsonl").write_text("\n".join(rows))
    data = ImageFolder(root, 8, split="all")
    seen = []
    for epoch in range(30):
        data.set_epoch(epoch)
        seen.append(data[0]["caption"])
        assert data[0]["caption"] == seen[-1]
    assert set(seen) == set(texts)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.json", "{", "captions.json' is not JSON"),
        ("captions.json", "3", "must map file names to captions"),
        ("captions.json", "{}", "captions.json' holds no captions"),
        ("captions.json", '{"a.png": []}', "entry 0 has no caption for 'a.png'"),
        ("captions.json", '{"a.png": 3}', "entry 0 needs the texts"),
        ("captions.json", '{"a.png": "", "sub/b.png": [" "]}', "captions.json' holds no captions"),
        ("captions.json", '{"x.jpg": "y"}', "none of the 2 images, .* 'a.png'.* 'x.jpg'"),
        ("captions.csv", "", "captions.csv' holds no captions"),
        ("captions.csv", "file_name,text\n", "captions.csv' holds no captions"),
        (
            "captions.csv",
            "image,text\na.png,x",
            "no column file_name; .*'image', 'text'",
        ),
        ("captions.csv", "file_name,text\na.png", "row 2 needs the texts"),
        ("captions.csv", 'file_name,text\na.png,"x', "captions.csv' is no CSV table"),
    ],
)
def test_tables_that_hold_no_captions(root: Path, name: str, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        captions(root)


@pytest.mark.parametrize("mode", ["txt", "json", "csv", "metadata"])
def test_images_without_captions(root: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"2 of 2 images have no caption.*captions=auto"):
        captions(root, mode)
    (root / "captions.json").write_text('{"a.png": "an a", "elsewhere.png": "x"}')
    if mode == "json":
        with pytest.raises(DataError, match=r"1 of 2 .*sub/b.png': write them into captions.json"):
            captions(root, mode)
    with caplog.at_level(logging.WARNING):
        assert captions(root) == {"a.png": "an a", "sub/b.png": ""}
    assert "1 of 2 images have no caption" in caplog.text


def test_empty_captions_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "a.txt").write_text("an a")
    (root / "sub" / "b.txt").write_text(" \n")
    data = ImageFolder(root, 8, split="all")
    with caplog.at_level(logging.WARNING):
        assert [data[i]["caption"] for i in range(2)] == ["an a", ""]
    assert data.skips.counts() == {"empty caption": 1}
    assert "sub/b.png' is empty" in caplog.text


def test_a_caption_file_that_is_no_text_is_passed_over(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "a.txt").write_bytes(b"caf\xe9")
    (root / "sub" / "b.txt").write_text("two words")
    data = ImageFolder(root, 8, split="all")
    with caplog.at_level(logging.WARNING):
        assert [data[i]["caption"] for i in range(2)] == ["two words"] * 2
    assert data.skips.counts() == {"unreadable": 1}
    assert "a.txt" in caplog.text
    with pytest.raises(DataError, match=r"a.txt.*save it as UTF-8"):
        ImageFolder(root, 8, split="all", broken="error")[0]
