"""Captioned pictures that are to be packed: of a folder, or of shards that somebody else packed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ldm.data.captions import captions_in, captions_of, find_captions, read_captions
from ldm.data.listing import find_classes, image_endings, list_folder
from ldm.data.shards.decoding import image_ending, sample_name
from ldm.data.shards.packing import Picture, safe_key
from ldm.data.shards.reader import read_shard
from ldm.errors import DataError
from ldm.files import read_bytes, shown

_KIND, _TONE = "subcategory", "skin_tone"
_MOST_IMAGE = 1 << 28


def pictures_of_folder(folder: Path) -> list[Picture]:
    """The images of a folder with captions, as ``ldm.data.ImageFolder`` finds them.

    A picture is called what its first caption says, and its class is its sub-folder.

    Raises:
        DataError: there are no images, or one has no caption.
    """
    listing = list_folder(folder, image_endings())
    captions = find_captions(folder, listing, "auto")
    if captions is None:
        raise DataError(
            f"'{shown(folder)}' has no captions: write NAME.txt beside each NAME.png, or a "
            "metadata.jsonl"
        )
    classes = find_classes(folder, listing.images, "auto")
    pictures = []
    for file in listing.images:
        texts = read_captions(captions[file]) if file in captions else ("",)
        if not texts[0]:
            raise DataError(f"'{shown(folder / file)}' has no caption: write one, or remove it")
        path = PurePosixPath(file)
        pictures.append(
            Picture(
                safe_key(str(path.with_suffix(""))),
                path.suffix.removeprefix(".").lower(),
                partial(read_bytes, folder / file, _MOST_IMAGE),
                texts,
                texts[0],
                path.parts[0] if classes else "",
            )
        )
    return pictures


def pictures_of_shards(shards: list[str]) -> list[Picture]:
    """The samples of shards of a WebDataset.

    Captions are those of the ending txt, else of json. With a ``skin_tone`` in json the caption
    without it is the name, and a ``subcategory`` is the class.

    Raises:
        DataError: a shard is damaged, or a sample has no image or no caption.
    """
    told, pictures = list[str](), list[Picture]()
    for shard in shards:
        pictures += [_of_sample(sample) for sample in read_shard(shard, told.append)]
        if told:
            raise DataError(f"{told[0]}: pack or fetch it again")
    if not pictures:
        raise DataError(f"shard '{shown(shards[0])}' holds no pictures")
    return pictures


def _of_sample(sample: dict[str, Any]) -> Picture:
    where = sample_name(sample)
    ending = image_ending(sample)
    if ending is None or not isinstance(sample[ending], bytes):
        raise DataError(f"{where} has no image that can be read")
    try:
        told = json.loads(sample.get("json", b"{}"))
        about = {key: text for key, text in dict(told).items() if isinstance(text, str)}
        if "txt" in sample:
            captions = captions_of(sample["txt"].decode())
        else:
            captions = captions_in(about.get("caption")) or ()
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: its txt or json cannot be read ({error})") from error
    if not captions:
        raise DataError(f"{where} has no caption, in txt or json")
    tone = about.get(_TONE, "")
    name = captions[0].removesuffix(f", {tone}") if tone else captions[0]
    about.pop("caption", None)
    read = partial(bytes, sample[ending])
    key = safe_key(sample["__key__"])
    return Picture(key, ending, read, captions, name, about.get(_KIND, ""), about)
