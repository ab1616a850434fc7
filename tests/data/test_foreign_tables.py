"""Tables that Windows and spreadsheets wrote, and files that are no image under the name of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ldm.data import ImageFolder
from ldm.data.datasets.lists import FileList
from ldm.data.image_io import Reading, read_image
from ldm.data.listing import image_endings
from ldm.data.names import Folder
from ldm.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train/0.jpg", "1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(path)
    return tmp_path


def _captions(root: Path) -> dict[str, str]:
    images = ImageFolder(root, 16, split="all")
    return {file: images[i].get("caption") for i, file in enumerate(images.files)}


@pytest.mark.parametrize(
    "table", ["metadata.csv", "captions.csv", "metadata.jsonl", "captions.json"]
)
@pytest.mark.parametrize("names", [("train\\0.jpg", ".\\1.JPG"), ("x\\..\\train\\0.jpg", "1.jpg")])
def test_paths_of_windows_are_those_with_slashes(
    root: Path, table: str, names: tuple[str, str]
) -> None:
    pairs = dict(zip(names, ("a", "b"), strict=True))
    if table.endswith("csv"):
        text = "file_name,text\n" + "\n".join(f"{name},{words}" for name, words in pairs.items())
    elif table.endswith("jsonl"):
        text = "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in pairs.items())
    else:
        text = json.dumps(pairs)
    (root / table).write_text(text)
    assert _captions(root) == {"1.jpg": "b", "train/0.jpg": "a"}


def test_lists_of_windows_are_read_and_lead_nowhere_else(root: Path) -> None:
    (root / "list.txt").write_bytes(b"train\\0.jpg\r\n.\\1.jpg\r\n\\1.jpg\r\n")
    images = FileList(root, root / "list.txt")
    assert [images.read(i, None)[1] for i in range(3)] == [(16, 16)] * 3
    assert Folder(root).path("\\etc\\x.jpg") == root / "etc/x.jpg"


def test_a_file_that_is_called_with_a_backslash_comes_first(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "train\\0.jpg", "JPEG")
    assert Folder(root).path("train\\0.jpg") == root / "train\\0.jpg"


@pytest.mark.parametrize("sign", [",", ";"])
def test_a_blank_behind_each_separator_is_no_part_of_the_values(root: Path, sign: str) -> None:
    rows = (f"file_name{sign} text", f'1.jpg{sign} "b{sign} c"', f'train/0.jpg{sign} "a"')
    (root / "captions.csv").write_text("\n".join(rows))
    assert _captions(root) == {"1.jpg": f"b{sign} c", "train/0.jpg": "a"}


def test_metadata_without_captions_is_passed_over_in_either_form(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "1.txt").write_text("b")
    (root / "train/0.txt").write_text("a")
    (root / "lone.txt").write_text("c")
    (root / "metadata.jsonl").write_text('{"file_name": "1.jpg", "label": 3}\n')
    assert _captions(root) == {"1.jpg": "b", "train/0.jpg": "a"}
    assert "metadata.jsonl' has no column of captions and is passed over" in caplog.text
    assert "1 of 3 text files" in caplog.text


def test_a_caption_that_is_no_text_is_told_with_its_file(root: Path) -> None:
    (root / "captions.json").write_text('{"1.jpg": null, "train/0.jpg": "a"}')
    with pytest.raises(DataError, match=r"'1\.jpg' has no text"):
        _captions(root)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (bytes(99), "zeros only"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), "film"),
        (b"\0\0\0\x18ftypavif", "no known format"),
        (b"\n<!DOCTYPE html>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\5\x16\7" + bytes(99), "macOS"),
        (b"anything", "no known format"),
    ],
)
def test_what_is_no_image_is_told_as_what_it_is(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "0.jpg").write_bytes(data)
    with pytest.raises(DataError, match=f"0.jpg': .*{told}"):
        read_image(tmp_path / "0.jpg")


@pytest.mark.parametrize("wrong", [5, True, 1.5])
def test_options_of_another_type_are_refused(wrong: object) -> None:
    with pytest.raises(DataError, match="Pillow reads no"):
        image_endings(wrong)  # type: ignore[arg-type]
    if wrong != 5:
        with pytest.raises(DataError, match="no number of pixels"):
            Reading(most_pixels=wrong)  # type: ignore[arg-type]
