"""Captioned pictures written as shards of a WebDataset, some names of them held out."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from ldm.data.listing import choose_split
from ldm.data.shards.reader import SIZES
from ldm.errors import DataError
from ldm.files import shown, write_atomically, write_text

ONE, SEVERAL, HELD_OUT = "train/one.tar", "train/several.tar", "held-out/all.tar"
"""Shards of names that one picture has, of names that several have, and of those held out."""
CLASSES = "classes.txt"
_NOT_IN_KEYS = str.maketrans({".": "-", "\\": "-"})


@dataclass(frozen=True)
class Picture:
    """A captioned picture.

    Attributes:
        key: its name in a shard, without dots.
        ending: that of its file, such as png.
        read: gives the bytes of its file.
        captions: one or more.
        name: what it shows; all pictures of a name are trained on, or none is.
        kind: its class, "" if it has none.
        about: what else is known, for the file of the ending json.
    """

    key: str
    ending: str
    read: Callable[[], bytes]
    captions: tuple[str, ...]
    name: str
    kind: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> bytes:
        """Hash of all that is written of it."""
        about = json.dumps([self.key, self.ending, self.captions, self.name, self.kind])
        told = json.dumps(dict(self.about), sort_keys=True)
        return hashlib.sha256(f"{about}{told}".encode() + self.read()).digest()


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        shards: pictures of each, by the file's name below the folder.
        names: how many there are, and how many of them are held out.
        classes: in the order of their ids.
        captions: of the training pictures.
    """

    shards: Mapping[str, int]
    names: tuple[int, int]
    classes: Sequence[str]
    captions: Sequence[str]


def safe_key(text: str) -> str:
    """A key of a sample: dots divide keys from endings."""
    return text.translate(_NOT_IN_KEYS)


def fingerprint(pictures: Iterable[Picture]) -> str:
    """Hash of pictures, in whatever order they are given, hexadecimal."""
    total = hashlib.sha256()
    for picture in sorted(pictures, key=lambda picture: picture.key):
        total.update(picture.fingerprint())
    return total.hexdigest()


def pack(pictures: Sequence[Picture], out: Path, held_out: float, seed: int = 0) -> Packed:
    """Write pictures as shards, in the order of their keys.

    A name is held out by its hash, see ``ldm.data.listing.choose_split``: more pictures move none.

    Args:
        pictures: all of them.
        out: folder of the shards, of their sizes and of the names of the classes.
        held_out: share of the names that is held out.
        seed: of the choice.

    Raises:
        DataError: there are fewer than two names, two pictures of a key, or one cannot be read.
    """
    count = Counter(picture.name for picture in pictures)
    names = sorted(count)
    if len(names) < 2:
        raise DataError(f"{len(pictures)} pictures have {len(names)} names: two are needed")
    ordered = sorted(pictures, key=lambda picture: picture.key)
    for one, other in pairwise(ordered):
        if one.key == other.key:
            raise DataError(f"two pictures are called '{shown(one.key)}': rename one")
    held = {names[i] for i in choose_split(names, "validation", held_out, seed)}
    classes = sorted({picture.kind for picture in pictures} - {""})

    def shard_of(picture: Picture) -> str:
        if picture.name in held:
            return HELD_OUT
        return ONE if count[picture.name] == 1 else SEVERAL

    parts: dict[str, list[Picture]] = {ONE: [], SEVERAL: [], HELD_OUT: []}
    for picture in ordered:
        parts[shard_of(picture)].append(picture)
    sizes: dict[Path, dict[str, int]] = {}
    for shard, part in parts.items():
        _write_shard(out / shard, part, classes)
        sizes.setdefault((out / shard).parent, {})[Path(shard).name] = len(part)
    for folder, table in sizes.items():
        write_text(folder / SIZES, json.dumps(table) + "\n")
    write_text(out / CLASSES, "".join(f"{name}\n" for name in classes))
    seen = [text for part in (parts[ONE], parts[SEVERAL]) for p in part for text in p.captions]
    lengths = {shard: len(part) for shard, part in parts.items()}
    return Packed(lengths, (len(names), len(held)), classes, seen)


def _write_shard(path: Path, pictures: Sequence[Picture], classes: Sequence[str]) -> None:
    ids = {name: str(k) for k, name in enumerate(classes)}

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for picture in pictures:
                about = {"caption": picture.captions[0], **picture.about}
                files = {
                    picture.ending: picture.read(),
                    "txt": "\n".join(picture.captions).encode(),
                    "json": json.dumps(about, sort_keys=True, ensure_ascii=False).encode(),
                }
                if picture.kind:
                    files["cls"] = ids[picture.kind].encode()
                for ending, content in sorted(files.items()):
                    entry = tarfile.TarInfo(f"{picture.key}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))

    write_atomically(path, write)
