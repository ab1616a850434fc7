"""Pack captioned pictures into shards to train on, and hold some of what they show out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ldm.cli.app import say
from ldm.cli.commands.data.pack_pictures import RECORD
from ldm.conditioners.tokenizers import vocabulary_of
from ldm.data.datasets.emoji import TABLE, read_emoji
from ldm.data.shards.listing import list_shards
from ldm.data.shards.packing import HELD_OUT, Picture, fingerprint, pack
from ldm.data.shards.sources import pictures_of_folder, pictures_of_shards
from ldm.errors import UserError
from ldm.files import read_json, shown, write_text
from ldm.locks import sole_writer

VOCABULARY = "vocab.txt"


def run(arguments: argparse.Namespace) -> None:
    """Read the pictures and write them, unless they are there."""
    out: Path = arguments.out
    pictures = _read(arguments.source)
    settings = {"sha256": fingerprint(pictures), "held_out": arguments.held_out}
    with sole_writer(out, first=True):
        if (out / RECORD).is_file():
            _compare(out, settings)
            say(f"the {len(pictures)} pictures are in {shown(out)} already")
            return
        packed = pack(pictures, out, arguments.held_out)
        words = vocabulary_of(packed.captions)
        write_text(out / VOCABULARY, "".join(f"{word}\n" for word in words))
        counts = {
            "pictures": len(pictures),
            "shards": dict(packed.shards),
            "names": packed.names[0],
            "held_out_names": packed.names[1],
            "classes": len(packed.classes),
            "words": len(words),
        }
        write_text(out / RECORD, json.dumps(settings | counts, indent=1) + "\n")
    say(
        f"{len(pictures)} pictures of {packed.names[0]} names in {shown(out)}; held out: "
        f"{packed.shards[HELD_OUT]} of {packed.names[1]} names; {len(packed.classes)} classes, "
        f"a vocabulary of {len(words)}"
    )


def _read(source: Path) -> list[Picture]:
    if source.is_file() and source.suffix == ".tgz":
        return read_emoji(source)
    if source.is_file():
        return pictures_of_shards([str(source)])
    package = next((p for p in (source, source / "package") if (p / TABLE).is_file()), None)
    if package is not None:
        return read_emoji(package)
    if any(source.glob("*.tar")):
        return pictures_of_shards(list_shards(source))
    return pictures_of_folder(source)


def _compare(out: Path, settings: dict[str, object]) -> None:
    """Refuse a folder of other pictures.

    Raises:
        UserError: what was packed there is something else.
    """
    remedy = f"delete {shown(out)} or name another --out"
    before = read_json(
        out / RECORD, where=f"{shown(out / RECORD)} is damaged", remedy=remedy, table=True
    )
    if any(before.get(key) != value for key, value in settings.items()):
        raise UserError(
            f"--out {shown(out)}: holds other pictures, or other names are held out: {remedy}"
        )
