"""Which files are a sample, under odd names: dots in keys, other endings, files apart."""

from __future__ import annotations

import itertools
import logging
import random
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from ldm.data.shards.dataset import Shards
from ldm.data.shards.decoding import read_captions
from ldm.data.shards.indexed import ShardItems
from ldm.data.shards.listing import list_shards
from ldm.data.shards.reader import count_samples, index_shard, read_shard
from ldm.data.shards.samples import Naming
from ldm.errors import DataError
from tests.data.shards.test_dataset import FRAME, add, encoded, numbers


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            add(tar, name, data)
    return path


def shard(folder: Path, names: list[str]) -> Path:
    """Pictures are numbered in their order; a text holds its own name."""
    count = itertools.count(10, 10)
    files = {
        name: name.encode()
        if name.lower().endswith("txt")
        else b"1"
        if name.endswith("cls")
        else encoded(next(count))
        for name in names
    }
    archive(folder / "0.tar", files)
    return folder


def shown(folder: Path, **options: Any) -> list[tuple[int, str]]:
    """Grey and caption of all items, checked against the same by number and the count."""
    data = Shards(folder, FRAME, shuffle=False, **options)
    stream, indexed = list(data), ShardItems(data)
    assert set(numbers(stream)) == set(numbers(indexed[i] for i in range(len(indexed))))
    (path,) = list_shards(folder)
    samples = list(read_shard(path, print, data.naming))
    assert count_samples(path, data.naming) == len(samples)
    assert len(index_shard(path, print, data.naming)) == len(samples)
    return list(zip(numbers(stream), [item.get("caption", "") for item in stream], strict=True))


KEYS = ["photo.2021.3", "v1.5", "john.smith", "a.b.c.d", "IMG.20210304", "x..y", "ä.ö", "sub.d/a.1"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("image", ["jpg", "PNG", "JPEG", "webp"])
def test_dots_in_keys(tmp_path: Path, key: str, image: str) -> None:
    names = [
        f"{key}.{image}",
        f"{key}.TXT",
        f"{key}1.{image}",
        f"{key}1.TXT",
        "plain.png",
        "plain.txt",
    ]
    assert shown(shard(tmp_path, names)) == [
        (10, f"{key}.TXT"),
        (20, f"{key}1.TXT"),
        (30, "plain.txt"),
    ]


def test_one_broken_sample_does_not_change_how_the_others_are_named(tmp_path: Path) -> None:
    names = [
        f"photo.{i}.{end}" for i in range(5) for end in ("jpg", "txt") if (i, end) != (2, "jpg")
    ]
    found = shown(shard(tmp_path, names))
    assert sorted(set(found)) == [
        (10 * (n + 1), f"photo.{i}.txt") for n, i in enumerate((0, 1, 3, 4))
    ]


def test_many_pictures_of_one_first_key(tmp_path: Path) -> None:
    names = [f"film.{i:03d}.png" for i in range(100)]
    data = Shards(shard(tmp_path, names), FRAME, caption=None, shuffle=False)
    assert len(data) == 100


@pytest.mark.parametrize("other", ["seg.png", "mask.PNG", "depth.jpg", "0.5.png"])
def test_endings_of_several_parts_stay_endings(tmp_path: Path, other: str) -> None:
    names = [f"{i}.{end}" for i in range(3) for end in (other, "jpg", "txt")]
    found = shown(shard(tmp_path, names))
    assert [number for number, _ in found] == [20, 40, 60]


@pytest.mark.parametrize(
    ("endings", "image", "expected"),
    [
        (["input.jpg", "target.jpg", "txt"], "input.jpg", [10, 30]),
        (["input.jpg", "target.jpg", "txt"], ["Target.JPG"], [20, 40]),
        (["tif", "txt"], "tif", [10, 20]),
        (["image", "txt"], ".image", [10, 20]),
    ],
)
def test_other_endings_are_named_in_the_message_and_by_an_option(
    tmp_path: Path, endings: list[str], image: Any, expected: list[int]
) -> None:
    folder = shard(tmp_path, [f"{i}.{end}" for i in range(2) for end in endings])
    with pytest.raises(DataError) as raised:
        list(Shards(folder, FRAME, shuffle=False))
    message = str(raised.value)
    for end in endings:
        assert f"{end} (2)" in message
    assert "sample '0' of" in message
    if "input.jpg" in endings:
        assert "image=input.jpg" in message
    assert [number for number, _ in shown(folder, image=image)] == expected


def test_the_dot_may_be_chosen(tmp_path: Path) -> None:
    folder = shard(tmp_path, ["a.1.png", "a.2.png", "b.1.png"])
    with pytest.raises(DataError, match=r"a\.1|1\.png"):
        list(ShardItems(Shards(folder, FRAME, caption=None, dot="first")))
    assert [n for n, _ in shown(folder, caption=None, dot="last")] == [10, 20, 30]
    with pytest.raises(DataError, match="dot 'middle' is not one of auto, first, last"):
        Shards(folder, FRAME, dot="middle")
    data = Shards(folder, FRAME, caption=None, shuffle=False)
    assert numbers(data) == [30, 30]  # what a is, the names do not say
    assert data.skips.counts() == {"no image": 1 + 1}


@pytest.mark.parametrize("order", ["jpg jpg txt txt", "txt txt jpg jpg"])
def test_files_that_are_no_neighbours(
    tmp_path: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{i % 2}.{end}" for i, end in enumerate(order.split())]
    folder = shard(tmp_path, names)
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="no image"):
        list(Shards(folder, FRAME))
    assert "the files of sample '0' are not neighbours" in caplog.text
    assert "--sort=name" in caplog.text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_written_in_two_ways(tmp_path: Path, forms: tuple[str, str]) -> None:
    image, text = (unicodedata.normalize(form, "café.é") for form in forms)
    (_, caption), (_, other) = shown(
        shard(tmp_path, [f"{image}.jpg", f"{text}.txt", "z.jpg", "z.txt"])
    )
    assert unicodedata.normalize("NFC", caption) == unicodedata.normalize("NFC", "café.é.txt")
    assert other == "z.txt"
    both = [f"{unicodedata.normalize(form, 'é')}.{end}" for form in forms for end in ("jpg", "txt")]
    assert len(shown(shard(tmp_path, both))) == 2


def test_names_that_belong_to_no_sample(tmp_path: Path) -> None:
    names = [
        "__meta__",
        "__x__/a.png",
        "._0.jpg",
        ".hidden.png",
        "noending",
        "0.jpg",
        "0.txt",
        "d/.jpg",
    ]
    assert shown(shard(tmp_path, names)) == [(60, "0.txt")]


def test_a_file_that_is_there_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, grey in (("0.jpg", 10), ("0.JPG", 20), ("1.jpg", 30)):
            add(tar, name, encoded(grey))
    assert numbers(Shards(tmp_path, FRAME, caption=None, shuffle=False)) == [10, 30]
    assert "'0.jpg' is there twice" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_every_way_of_naming_gives_each_picture_its_text(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    keys = list(
        dict.fromkeys(
            ".".join(
                "".join(draw.choices("ab1-é", k=draw.randint(1, 3)))
                for _ in range(draw.randint(1, 4))
            )
            for _ in range(30)
        )
    )
    keys = [key for key in keys if not key.startswith("-")]
    names = [f"{key}.{end}" for key in sorted(keys) for end in draw.sample(["jpg", "txt"], 2)]
    folder = shard(tmp_path, names)
    expected = [(10 * (i + 1) % 256, f"{key}.txt") for i, key in enumerate(sorted(keys))]
    data = Shards(folder, FRAME, shuffle=False, dot="last")
    assert [item["caption"] for item in data] == [text for _, text in expected]


# -- captions -------------------------------------------------------------------------------------

LINES = ("a red circle", "a blue square", "ein grüner Stern")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_captions_of_which_an_epoch_draws_one(
    tmp_path: Path, encoding: str, end: str
) -> None:
    text = (end + end.join(LINES) + end + end).encode(encoding)
    archive(tmp_path / "0.tar", {"0.png": encoded(10), "0.TXT": text})
    data = Shards(tmp_path, FRAME, shuffle=False)
    drawn = []
    for epoch in range(40):
        data.set_epoch(epoch)
        drawn.append(next(iter(data))["caption"])
    assert set(drawn) == set(LINES)
    data.set_epoch(3)
    assert next(iter(data))["caption"] == drawn[3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_of_json_members(encoding: str) -> None:
    import json

    content = json.dumps({"caption": [*LINES, " "], "one": " a\n b "}).encode(encoding)
    assert read_captions({"json": content}, "json.caption") == LINES
    assert read_captions({"json": content}, "JSON.one") == ("a b",)
    assert read_captions({"en.txt": b"x\ny"}, "en.txt") == ("x", "y")
    assert read_captions({"json": b"[" * 10**6}, "json.caption") == ()
    assert read_captions({"json": b'{"caption": 5}'}, "json.caption") == ()
    assert read_captions({"json": b'{"caption": ["a", 5]}'}, "json.caption") == ()


def test_crops_are_not_changed_by_captions(tmp_path: Path) -> None:
    one, many = (
        archive(tmp_path / name / "0.tar", {"0.png": encoded(10), "0.txt": text}).parent
        for name, text in (("one", b"a"), ("many", b"a\nb"))
    )
    greys = [numbers(Shards(folder, FRAME)) for folder in (one, many)]
    assert greys[0] == greys[1]


@pytest.mark.parametrize("label", [b"1", b" 1\n", b"\xef\xbb\xbf1"])
def test_class_ids(tmp_path: Path, label: bytes) -> None:
    archive(tmp_path / "0.tar", {"0.png": encoded(10), "0.CLS": label})
    assert next(iter(Shards(tmp_path, FRAME, caption=None, classes=2)))["class_label"] == 1


@pytest.mark.parametrize("label", [b"", b"9" * 5000, b"-1", b"1.0", b"x", b"\xff", "²".encode()])
def test_class_ids_that_are_none(tmp_path: Path, label: bytes) -> None:
    archive(tmp_path / "0.tar", {"0.png": encoded(10), "0.cls": label})
    with pytest.raises(DataError, match="no class"):
        list(Shards(tmp_path, FRAME, caption=None, classes=2))


def test_naming_is_the_same_for_streams_and_headers() -> None:
    files = [(f"{k}.{e}", None) for k in ("a.b", "c", "c.d") for e in ("jpg", "txt")]
    keys = [sample["__key__"] for sample in Naming().samples(files, "x", print)]
    assert keys == ["a.b", "c"]  # c.d.jpg is an ending of c
    keys = [sample["__key__"] for sample in Naming(rule="last").samples(files, "x", print)]
    assert keys == ["a.b", "c", "c.d"]
