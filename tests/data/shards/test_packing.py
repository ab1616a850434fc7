"""Captioned pictures as shards: what is held out, what is written, and what reads it."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from ldm.data.framing import make_framing
from ldm.data.shards.dataset import Shards
from ldm.data.shards.indexed import ShardItems
from ldm.data.shards.packing import HELD_OUT, ONE, SEVERAL, Picture, fingerprint, pack, safe_key
from ldm.data.shards.sources import pictures_of_folder, pictures_of_shards
from ldm.errors import DataError


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(buffer, "png")
    return buffer.getvalue()


def picture(key: str, name: str, tone: str = "", kind: str = "") -> Picture:
    caption = f"{name}, {tone}" if tone else name
    about = {"skin_tone": tone, "subcategory": kind}
    return Picture(key, "png", partial(bytes, png(len(key))), (caption,), name, kind, about)


def sixty() -> list[Picture]:
    """40 names that one picture has and 10 that have two."""
    single = [picture(f"one{k:02d}", f"thing {k}", "", "things") for k in range(40)]
    double = [
        picture(f"two{k:02d}{tone}", f"person {k}", f"{tone} skin tone", "people")
        for k in range(10)
        for tone in ("dark", "light")
    ]
    return single + double


def names_in(shard: Path) -> set[str]:
    return {sample.name for sample in pictures_of_shards([str(shard)])}


def test_a_name_is_held_out_with_all_its_pictures(tmp_path: Path) -> None:
    packed = pack(sixty(), tmp_path, 0.2)
    held, one, several = (names_in(tmp_path / shard) for shard in (HELD_OUT, ONE, SEVERAL))
    assert not held & (one | several)
    assert len(held) == packed.names[1]
    assert 4 <= len(held) <= 16
    assert all(name.startswith("thing") for name in one)
    assert all(name.startswith("person") for name in several)
    assert packed.shards[SEVERAL] == 2 * len(several)
    assert sum(packed.shards.values()) == 60


def test_what_is_held_out_does_not_depend_on_the_other_pictures(tmp_path: Path) -> None:
    pack(sixty(), tmp_path / "all", 0.2)
    pack(sixty()[20:], tmp_path / "part", 0.2)
    kept = {entry.name for entry in sixty()[20:]}
    assert names_in(tmp_path / "part" / HELD_OUT) == names_in(tmp_path / "all" / HELD_OUT) & kept


def test_data_sets_read_what_was_packed(tmp_path: Path) -> None:
    packed = pack(sixty(), tmp_path, 0.2)
    assert packed.classes == ["people", "things"]
    assert (tmp_path / "classes.txt").read_text() == "people\nthings\n"
    shards = Shards(
        [str(tmp_path / shard) for shard in (ONE, ONE, SEVERAL)], make_framing(8), classes=2
    )
    items = ShardItems(shards)
    assert len(items) == len(shards) == 2 * packed.shards[ONE] + packed.shards[SEVERAL]
    first, again, last = items[0], items[packed.shards[ONE]], items[len(items) - 1]
    assert first["caption"] == again["caption"]
    assert first["class_label"] == 1
    assert last["class_label"] == 0
    assert last["caption"].endswith("light skin tone")
    assert {item["caption"] for item in shards} <= {p.captions[0] for p in sixty()}


def test_packing_twice_gives_the_same_files(tmp_path: Path) -> None:
    for name, pictures in (("a", sixty()), ("b", sixty()[::-1])):
        pack(pictures, tmp_path / name, 0.2)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert fingerprint(sixty()) == fingerprint(sixty()[::-1])
    assert fingerprint(sixty()) != fingerprint(sixty()[1:])


def test_a_set_without_names_of_several_pictures(tmp_path: Path) -> None:
    packed = pack(sixty()[:40], tmp_path, 0.2)
    assert packed.shards[SEVERAL] == 0
    shards = Shards([str(tmp_path / ONE), str(tmp_path / SEVERAL)], make_framing(8))
    assert len(list(shards)) == packed.shards[ONE]


def test_shards_packed_again_are_the_same_pictures(tmp_path: Path) -> None:
    pack(sixty(), tmp_path, 0.2)
    again = pictures_of_shards([str(tmp_path / shard) for shard in (ONE, SEVERAL, HELD_OUT)])
    assert fingerprint(again) == fingerprint(sixty())


def test_two_pictures_of_one_key_and_too_few_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two pictures are called 'one00'"):
        pack([*sixty(), sixty()[0]], tmp_path, 0.2)
    with pytest.raises(DataError, match="1 pictures have 1 names: two are needed"):
        pack(sixty()[:1], tmp_path, 0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_captions(tmp_path: Path) -> None:
    for name, caption in (("cats/a.b", "a cat\na grey cat"), ("dogs/c", "a dog")):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir()
        file.write_bytes(png(5))
        file.with_name(f"{file.stem}.txt").write_text(caption)
    found = pictures_of_folder(tmp_path)
    assert [(p.key, p.kind, p.captions) for p in found] == [
        ("cats/a-b", "cats", ("a cat", "a grey cat")),
        ("dogs/c", "dogs", ("a dog",)),
    ]
    assert found[0].read() == png(5)
    (tmp_path / "dogs" / "c.txt").write_text("")
    with pytest.raises(DataError, match=r"dogs/c\.png' has no caption"):
        pictures_of_folder(tmp_path)


def test_a_folder_without_captions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    with pytest.raises(DataError, match=r"has no captions: write NAME\.txt beside each"):
        pictures_of_folder(tmp_path)


def test_samples_that_cannot_be_packed(tmp_path: Path) -> None:
    def shard(files: dict[str, bytes]) -> list[str]:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return [str(tmp_path / "x.tar")]

    with pytest.raises(DataError, match="has no image"):
        pictures_of_shards(shard({"a.txt": b"a"}))
    with pytest.raises(DataError, match="has no caption"):
        pictures_of_shards(shard({"a.png": png(1), "a.json": b"{}"}))
    with pytest.raises(DataError, match="its txt or json cannot be read"):
        pictures_of_shards(shard({"a.png": png(1), "a.json": b"{"}))
    about = json.dumps({"caption": "cook, dark skin tone", "skin_tone": "dark skin tone"}).encode()
    (one,) = pictures_of_shards(shard({"a.png": png(1), "a.json": about}))
    assert one.name == "cook"
    assert one.captions == ("cook, dark skin tone",)


def test_keys_have_no_dots() -> None:
    assert safe_key("a/b.c.d") == "a/b-c-d"
