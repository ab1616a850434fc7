"""Packages of emoji-datasource, as an archive and as a folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.data.datasets.emoji import read_emoji
from ldm.errors import DataError


def entry(short: str, image: str, name: str = "X", **more: Any) -> dict[str, Any]:
    told = {"category": "Things", "subcategory": "tool"}
    return {"short_name": short, "name": name, "image": image} | told | more


TABLE = [
    entry("horse_racing", "1f3c7.png", skin_variations={"1F3FF": {"image": "1f3c7-1f3ff.png"}}),
    entry("flag-eg", "1f1ea-1f1ec.png", "Egypt Flag"),
    entry("u7121", "1f21a.png", "SQUARED CJK UNIFIED IDEOGRAPH-7121"),
    entry("-1", "1f44e.png"),
    entry(
        "handshake",
        "1f91d.png",
        skin_variations={"1F3FB-1F3FE": {"image": "1f91d-1f3fb-1f3fe.png"}},
    ),
    entry("of_another_set", "1f000.png"),
]
CAPTIONS = {
    "1f3c7": "horse racing",
    "1f3c7-1f3ff": "horse racing, dark skin tone",
    "1f1ea-1f1ec": "egypt flag",
    "1f21a": "squared cjk unified ideograph-7121",
    "1f44e": "1",
    "1f91d": "handshake",
    "1f91d-1f3fb-1f3fe": "handshake, light skin tone and medium-dark skin tone",
}


def files(table: Any = TABLE, sets: tuple[str, ...] = ("google",)) -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(buffer, "png")
    found = {"package/emoji.json": json.dumps(table).encode(), "package/README.md": b"x"}
    for name in sets:
        found |= {f"package/img/{name}/64/{key}.png": buffer.getvalue() for key in CAPTIONS}
        found[f"package/img/{name}/sheets/64.png"] = buffer.getvalue()
    return found


def archive(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def unpacked(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder / "package"


def test_captions_names_and_keys(tmp_path: Path) -> None:
    found = {p.key: p for p in read_emoji(archive(tmp_path / "a.tgz", files()))}
    assert {key: p.captions for key, p in found.items()} == {k: (c,) for k, c in CAPTIONS.items()}
    assert found["1f3c7-1f3ff"].name == found["1f3c7"].name == "horse racing"
    assert found["1f91d-1f3fb-1f3fe"].about == {
        "category": "Things",
        "subcategory": "tool",
        "skin_tone": "light skin tone and medium-dark skin tone",
        "style": "noto",
    }
    assert {p.kind for p in found.values()} == {"tool"}


def test_archive_and_folder_are_the_same(tmp_path: Path) -> None:
    content = files(sets=("twitter",))
    one, other = archive(tmp_path / "a.tgz", content), unpacked(tmp_path, content)
    hashes = [[p.fingerprint() for p in read_emoji(package)] for package in (one, other)]
    assert hashes[0] == hashes[1]
    assert read_emoji(other)[0].about["style"] == "twemoji"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (files(sets=()), "has no pictures of 64 pixels"),
        (files(sets=("google", "apple")), "pictures of apple, google, one set is needed"),
        (files({"a": 1}), "is not that of emoji-datasource"),
        ({"package/README.md": b"x"}, "has no emoji.json"),
    ],
)
def test_what_is_no_package(tmp_path: Path, content: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_emoji(archive(tmp_path / "a.tgz", content))


def test_an_archive_that_is_cut_short(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.tgz", files())
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(DataError, match="is damaged"):
        read_emoji(file)
