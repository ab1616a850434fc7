"""Captions of every format, encoding, line end and spelling of names; and tables that are wrong."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ldm.cli.options.common import new_parser
from ldm.cli.options.sampling import add_prompt_options, read_prompts
from ldm.data.captions import captions_in, captions_of, find_captions, read_captions
from ldm.data.datasets.coco import CocoBoxes, CocoCaptions
from ldm.data.folder import ImageFolder
from ldm.data.layouts.reading import JsonBoxes, read_class_names
from ldm.data.listing import list_folder
from ldm.errors import DataError, UserError

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
BYTES = os.fsdecode(b"caf\xe9")
TEXTS = {"one": 'a  red, "round"; circle', "two": "deux\ttasses de café", "three": "三つの円"}
TIDY = ['a red, "round"; circle', "deux tasses de café", "三つの円"]
ENDS = {"LF": "\n", "CR LF": "\r\n", "CR": "\r"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be")
NAMES = [("a", "a"), (NFC, NFD), (NFD, NFC), (BYTES, BYTES), ("0", "0"), ("photo.2021.3",) * 2]


def table(kind: str, name: str, end: str) -> tuple[str, str]:
    """A file with three captions of an image, its name and content."""
    texts = list(TEXTS.values())
    delimiters = {"comma": ",", "semicolon": ";", "tab": "\t"}
    kind, _, detail = kind.partition(" ")
    if kind == "txt":
        return f"{Path(name).with_suffix('')}.TXT", end.join(["", *texts, "  ", ""])
    if kind == "metadata.jsonl":
        rows = [{"file_name": name, "text": texts[0]}, {"file_name": name, "caption": texts[1:]}]
        return kind, end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    if kind == "captions.json":
        tree: object = {name: texts}
        if detail == "list":
            tree = [{"file_name": name, "text": text} for text in texts]
        return kind, json.dumps(tree, ensure_ascii=detail != "mapping", indent=1).replace("\n", end)
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if name.endswith(".PNG") else csv.QUOTE_MINIMAL
    options = {"delimiter": delimiters[detail], "lineterminator": end}
    writer = csv.writer(file, quoting=quoting, **options)
    writer.writerow(["File_name", "width", " text"])
    for text in texts:
        writer.writerow([name, 8, text.replace("  ", end)])  # a quoted line break is a blank
    return kind, file.getvalue()


KINDS = [
    *("txt", "metadata.jsonl", "captions.json mapping", "captions.json list"),
    *(f"{n}.csv {d}" for n in ("metadata", "captions") for d in ("comma", "semicolon", "tab")),
]


def find(root: Path) -> dict[str, list[str]]:
    found = find_captions(root, list_folder(root), "auto")
    assert found is not None
    return {image: list(read_captions(texts)) for image, texts in found.items()}


def ends_in_one_line(make: Callable[[], object]) -> None:
    """It works, or one line says why not."""
    said = ""
    try:
        make()
    except DataError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_format_in_every_spelling(tmp_path: Path, kind: str, encoding: str) -> None:
    cases = itertools.product(ENDS.values(), NAMES, (".png", ".PNG"))
    for i, (end, (there, named), ending) in enumerate(cases):
        if encoding.startswith("utf-16") and there == BYTES and kind != "txt":
            continue  # which has no such bytes
        root = tmp_path / str(i)
        root.mkdir()
        (root / f"{there}.png").touch()
        name, text = table(kind, named + ending, end)
        mark = "\ufeff" * (encoding == "utf-16-be")
        (root / name).write_bytes((mark + text).encode(encoding, "surrogateescape"))
        assert find(root) == {f"{there}.png": TIDY}, (end, there, named, ending)


@pytest.mark.parametrize("kind", KINDS)
def test_latin_1_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").touch()
    name, text = table(kind, "a.png", "\n")
    content = text.replace("三つの円", "x").encode("latin-1")
    (tmp_path / name).write_bytes(content if b"\xe9" in content else b"\xe9")
    with pytest.raises(DataError, match=rf"{name}'.*(save .* as UTF-8|not JSON)"):
        find(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf", b" \r\n\r\n", b"a\0b", b"\xff\xfe\0", b"\0"]
)
def test_files_that_hold_nothing(tmp_path: Path, kind: str, content: bytes) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    name, _ = table(kind, "a.png", "\n")
    (tmp_path / name).write_bytes(content)
    if kind == "txt" and not content.strip(b"\xef\xbb\xbf \r\n"):
        data = ImageFolder(tmp_path, 8, split="all")
        assert data[0]["caption"] == ""
        assert data.skips.counts() == {"empty caption": 1}
        return
    if kind.startswith("metadata.csv") and not content.strip(b"\xef\xbb\xbf \r\n"):
        assert find_captions(tmp_path, list_folder(tmp_path), "auto") is None
        return
    with pytest.raises(DataError, match=rf"{name}'") as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\n\n \n"])
def test_lines_of_a_text_are_captions(tmp_path: Path, end: str) -> None:
    text = f"{end}\ufeffone{end}  two\twords {end}\ufeffthree"
    assert captions_of(text) == ("one", "two words", "three")
    assert captions_in(f"one{end}two") == ("one two",)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_bytes(text.encode())
    data = ImageFolder(tmp_path, 8, split="all")
    seen = []
    for epoch in range(30):
        data.set_epoch(epoch)
        seen.append(data[0]["caption"])
    assert set(seen) == {"one", "two words", "three"}
    again = ImageFolder(tmp_path, 8, split="all")
    again.set_epoch(7)
    assert again[0]["caption"] == seen[7]


@pytest.mark.parametrize("value", [3, None, {}, ["a", 3], [["a"]], True])
def test_what_is_no_caption(value: object) -> None:
    assert captions_in(value) is None


def test_a_quoted_line_break_stays_within_its_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "captions.csv").write_bytes(b'file_name,text\r\na.png,"a red\ncircle"\r\n')
    assert find(tmp_path) == {"a.png": ["a red circle"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name|text\na.png|x", r"no column file_name; .*'file_name\|text'.*comma, semicolon"),
        ("filename,text\na.png,x", r"no column file_name; did you mean 'filename'\?.*'filename'"),
        ("file_name,prompt\na.png,x", r"no column text; its columns are 'file_name', 'prompt'"),
        ("a.png,x\n", r"no column file_name; .*'a.png', 'x'"),
        ("file_name,text,text\na.png,x,y", "column 'text' twice"),
        ("file_name,text\na.png,a red, round circle", "row 2 has 3 values for 2 columns.*quotes"),
        ('file_name,text\na.png,x\n\na.png,"y', "no CSV table"),
        (f"file_name,text\na.png,{'x' * 200_000}", "no CSV table .*limit"),
        ("file_name,text\n,x", "name none of the 1 images"),
        ('"file_name" "text"\n', "no CSV table"),
        ("sep=\r\r\nfile_name,text\na.png,x", "no column file_name"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        find(tmp_path)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=|", "\ufeffsep=:", ""])
def test_the_separator_may_be_named(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.png").touch()
    text = f"{first}\r\nfile_name;text\r\na.png;a, b, c\r\n"
    (tmp_path / "captions.csv").write_text(text.replace(";", first.strip('"')[-1:] or ";"))
    assert find(tmp_path) == {"a.png": ["a, b, c"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.json", '{"a.png": "x", "a.png": "y"}', "has 'a.png' twice: make a list"),
        ("captions.json", "[" * 100_000, "captions.json' is not JSON"),
        ("captions.json", "[" + "9" * 5000 + "]", "captions.json' (is not JSON|entry 0)"),
        ("captions.json", r'{"a.png": "\ud800"}', "entry 0: its caption is no text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "line 1 needs the texts"),
        ("metadata.jsonl", '[{"file_name": "a.png",\n"text": "x"}]', "line 1 is not JSON"),
    ],
)
def test_json_that_is_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        find(tmp_path)


def test_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    for name in (f"{NFC}.png", f"{NFD}.png"):
        (tmp_path / name).touch()
    for name in (NFC, NFD):
        (tmp_path / "captions.json").write_text(json.dumps({f"{name}.PNG": "x"}))
        with pytest.raises(DataError, match="two spellings"):
            find(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps({f"{NFC}.png": "x", f"{NFD}.png": "y"}))
    assert find(tmp_path) == {f"{NFC}.png": ["x"], f"{NFD}.png": ["y"]}


def test_metadata_without_captions_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n")
    with caplog.at_level(logging.WARNING):
        assert find(tmp_path) == {"a.png": ["x"]}
    assert "metadata.csv' has no column of captions and is passed over" in caplog.text
    with pytest.raises(DataError, match="no column text; its columns are 'file_name', 'label'"):
        find_captions(tmp_path, list_folder(tmp_path), "metadata")


def test_names_of_no_image_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "captions.json").write_text('{"a.png": "x", "b.png": "y", "c.png": "z"}')
    with caplog.at_level(logging.WARNING):
        find(tmp_path)
    assert "2 of 3 names with captions" in caplog.text
    assert "are those of no image; the first is 'b.png'" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_mutated_tables_end_in_one_line(tmp_path: Path, seed: int) -> None:
    """Bytes that are changed, left out and doubled: captions, or one line, never a traceback."""
    drawn = random.Random(seed)
    for i in range(200):
        root = tmp_path / str(i)
        root.mkdir()
        (root / "a.png").touch()
        name, text = table(drawn.choice(KINDS), "a.png", drawn.choice(list(ENDS.values())))
        content = bytearray(text.encode(drawn.choice(ENCODINGS)))
        for _ in range(drawn.randint(1, 6)):
            place = drawn.randrange(len(content))
            byte = bytes([drawn.randrange(256)])
            new = drawn.choice([b"", byte, b'"', b"\0", b"[{", b"\\u", b"\r"])
            content[place : place + drawn.randint(0, 3)] = new
        (root / name).write_bytes(content)
        ends_in_one_line(lambda: find_captions(root, list_folder(root), "auto"))  # noqa: B023


# prompts, layouts, COCO


def prompts(path: Path) -> list[str]:
    parser = new_parser("x", "")
    add_prompt_options(parser)
    return read_prompts(parser.parse_args(["--prompt", "first", "--prompts", str(path)]))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", [*ENDS.values(), "\u2028"])
def test_prompts(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "prompts.txt"
    mark = "\ufeff" * (encoding == "utf-16-be")
    file.write_bytes((mark + end.join(["", *TIDY, " "])).encode(encoding))
    assert prompts(file) == ["first", *TIDY]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf\n", b"caf\xe9", b"a\0b", b"\xff\xfea"])
def test_bad_prompts_are_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"--prompts .*prompts.txt: (not a text file|it holds no)"):
        prompts(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=r"--prompts .*prompts.txt"):
        prompts(file)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("there", "named"), NAMES)
def test_layouts_and_coco(tmp_path: Path, encoding: str, there: str, named: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"{there}.png")
    objects = [{"class": NFD, "box": [0, 0, 1, 1]}]
    layouts = {"classes": [NFC], "layouts": [{"name": f"{named}.PNG", "objects": objects}]}
    images = [{"id": 1, "file_name": f"{named}.PNG", "width": 8, "height": 8}]
    box = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 8, 8], "caption": " a\nb"}
    coco = {
        "images": images,
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [box],
    }
    mark = "\ufeff" * (encoding == "utf-16-be")
    for name, tree in (("layouts.json", layouts), ("coco.json", coco)):
        (tmp_path / name).write_bytes((mark + json.dumps(tree)).encode(encoding))
    boxes = JsonBoxes(tmp_path, tmp_path / "layouts.json")
    assert boxes.path(0) == tmp_path / f"{there}.png"
    assert boxes.boxes(0)[0].class_id == 0
    source = CocoCaptions(tmp_path, tmp_path / "coco.json")
    assert source.read(0, None)[1] == (8, 8)
    assert source.entries(0, lambda: 0.0) == {"caption": "a b"}


@pytest.mark.parametrize("name", [r"\ud800.png", r"a\u0000.png", "", " "])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    items = ", ".join(f'{{"name": "{text}", "objects": []}}' for text in ("a.png", name))
    (tmp_path / "layouts.json").write_text(f'{{"classes": ["x"], "layouts": [{items}]}}')
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="layout 1: name must be text that may name a file"):
        JsonBoxes(tmp_path, tmp_path / "layouts.json", split="train")


ODD = (None, [], {}, "x", 1e400, "\ud800.png", "9" * 5000, -1, True, 10**400, "\0")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("part", "key"),
    [
        *(("images", key) for key in ("id", "file_name", "width")),
        *(("annotations", key) for key in ("image_id", "category_id", "bbox", "caption")),
        *(("categories", key) for key in ("id", "name")),
    ],
)
def test_odd_values_in_coco(tmp_path: Path, part: str, key: str, value: object) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    box = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 8, 8], "caption": "x"}
    coco: dict[str, list[dict[str, object]]] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [box, dict(box)],
    }
    coco[part][0][key] = [value] * 4 if key == "bbox" else value
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    ends_in_one_line(lambda: CocoCaptions(tmp_path, tmp_path / "coco.json"))
    ends_in_one_line(lambda: CocoBoxes(tmp_path, [tmp_path / "coco.json"]))


@pytest.mark.parametrize("content", [b"", b"caf\xe9", b"a\0b"])
def test_class_names(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_class_names(file) == ("cat", "dog")
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"class names .*classes.txt"):
        read_class_names(file)
    file.write_text(f"{NFC}\n{NFD}\n")
    with pytest.raises(DataError, match="twice"):
        read_class_names(file)
