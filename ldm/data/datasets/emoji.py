"""Captioned pictures of the npm packages ``emoji-datasource-*`` (iamcal/emoji-data).

A package has a table, ``emoji.json``, and a picture for each emoji and each of its skin tones, in
``img/SET/64``. Its captions here are the short names as words ("horse racing"); of flags, and of
signs whose short name is but a number, the name that Unicode gives ("egypt flag"); a skin tone
follows after a comma ("horse racing, dark skin tone").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ldm.data.shards.packing import Picture
from ldm.data.shards.reader import read_shard
from ldm.errors import DataError
from ldm.files import read_bytes, shown, text_of

TABLE = "emoji.json"
STYLES = {"google": "noto", "twitter": "twemoji"}
"""What the pictures of a set are called."""
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
"""By the code of Fitzpatrick's modifier."""
_PICTURE = re.compile(r"(?:^|/)img/(?P<set>[\w-]+)/64/(?P<file>[0-9a-f-]+\.png)$")
_NUMBER = re.compile(r"u[0-9a-f]{4,5}")
_REMEDY = "give a package such as emoji-datasource-google-16.0.0.tgz (npm pack), or its folder"

Read = Callable[[], bytes]


def read_emoji(package: Path) -> list[Picture]:
    """The pictures of a package.

    Args:
        package: the .tgz that ``npm pack`` gives, or the folder that it unpacks to.

    Raises:
        DataError: it cannot be read, or is no such package.
    """
    table, files = _of_folder(package) if package.is_dir() else _of_archive(package)
    sets = sorted({name for name, _ in files})
    if len(sets) != 1:
        found = f"pictures of {', '.join(sets)}" if sets else "no pictures of 64 pixels"
        raise DataError(f"'{shown(package)}' has {found}, one set is needed: {_REMEDY}")
    style = STYLES.get(sets[0], sets[0])
    pictures = []
    try:
        for file, caption, tone, entry in _entries(json.loads(text_of(table))):
            read = files.get((sets[0], file))
            if read is not None:  # not every set has all of them
                name = caption.removesuffix(f", {tone}")
                about = {
                    "category": str(entry["category"]),
                    "subcategory": str(entry["subcategory"]),
                    "skin_tone": tone,
                    "style": style,
                }
                key, kind = PurePosixPath(file).stem, about["subcategory"]
                pictures.append(Picture(key, "png", read, (caption,), name, kind, about))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"'{shown(package)}': its {TABLE} is not that of emoji-datasource ({error!r}): "
            f"{_REMEDY}"
        ) from error
    return pictures


def _entries(table: Any) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """File, caption, skin tone and entry of all pictures that a table names."""
    for entry in table:
        caption = _caption(entry)
        yield entry["image"], caption, "", entry
        for codes, variation in entry.get("skin_variations", {}).items():
            tone = " and ".join(TONES[code] for code in codes.split("-"))
            yield variation["image"], f"{caption}, {tone}", tone, entry


def _caption(entry: Mapping[str, Any]) -> str:
    short: str = entry["short_name"]
    if short.startswith("flag-") or _NUMBER.fullmatch(short):
        return str(entry["name"]).lower()
    return short.replace("_", " ").replace("-", " ").strip()


def _of_folder(folder: Path) -> tuple[bytes, dict[tuple[str, str], Read]]:
    try:
        table = read_bytes(folder / TABLE)
    except OSError as error:
        raise DataError(f"cannot read '{shown(folder / TABLE)}' ({error}): {_REMEDY}") from error
    files: dict[tuple[str, str], Read] = {}
    for path in sorted(folder.glob("img/*/64/*.png")):
        match = _PICTURE.search(path.as_posix())
        if match:
            files[match["set"], match["file"]] = path.read_bytes
    return table, files


def _of_archive(archive: Path) -> tuple[bytes, dict[tuple[str, str], Read]]:
    table, files, told = None, dict[tuple[str, str], Read](), list[str]()
    for sample in read_shard(str(archive), told.append):
        key: str = sample["__key__"]
        match = _PICTURE.search(f"{key}.png")
        if match and isinstance(sample.get("png"), bytes):
            files[match["set"], match["file"]] = partial(bytes, sample["png"])
        elif PurePosixPath(key).name == PurePosixPath(TABLE).stem and "json" in sample:
            table = sample["json"]
    if told:
        raise DataError(f"'{shown(archive)}' is damaged ({told[0]}): fetch it again")
    if not isinstance(table, bytes):
        raise DataError(f"'{shown(archive)}' has no {TABLE}: {_REMEDY}")
    return table, files
