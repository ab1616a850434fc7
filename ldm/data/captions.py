"""Captions of the images of a folder: text files beside them, or tables."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ldm.data.items import Uniform
from ldm.data.listing import METADATA, Listing
from ldm.errors import DataError

MODES = ("auto", "txt", "metadata", "json", "csv", "none")
_TEXT_KEYS = ("text", "caption", "captions")

Tokenizer = Callable[[str], Tensor]
"""Maps a caption to a long tensor (L,) or (1, L)."""
Captions = dict[str, "Path | tuple[str, ...]"]
"""By relative path of an image: the text file, or the captions to choose from."""

_log = logging.getLogger(__name__)


def find_captions(root: Path, listing: Listing, mode: str) -> Captions | None:
    """Captions, or the text file that holds one, of each image; None if there are no captions.

    Args:
        root: the folder.
        listing: what it holds.
        mode: txt (a file beside each image), metadata (metadata.jsonl, an object with file_name
            and text or caption on each line), json (captions.json, the captions by file name or a
            list of such objects), csv (captions.csv with the columns file_name and text or
            caption), none, or auto = the first of metadata, json, csv and txt that is there. An
            image may have several captions: a list, or several lines. In auto mode an image
            without any gets "".

    Raises:
        DataError: a table cannot be read or holds no captions, or images have none.
    """
    tables = {
        "metadata": listing.metadata,
        "json": [file for file in listing.tables if file.endswith(".json")],
        "csv": [file for file in listing.tables if file.endswith(".csv")],
    }
    if mode == "auto":
        mode, strict = next((kind for kind, files in tables.items() if files), "txt"), False
    else:
        strict = mode != "none"
    if mode in tables:
        captions: Captions = dict(_read_tables(root, tables[mode], _READERS[mode]))
    else:
        texts = set(listing.texts) if mode == "txt" else set()
        beside = ((file, str(PurePosixPath(file).with_suffix(".txt"))) for file in listing.images)
        captions = {image: root / text for image, text in beside if text in texts}
    if not captions and not strict:
        return None
    missing = [image for image in listing.images if image not in captions]
    if captions and len(missing) == len(listing.images):
        raise DataError(
            f"the captions in '{root}' name none of the {len(missing)} images, of which the first "
            f"is '{missing[0]}'; they begin with '{next(iter(captions))}': give paths from the "
            "table to the images"
        )
    if missing:
        message = f"{len(missing)} of {len(listing.images)} images have no caption"
        where = f"the first is '{root / missing[0]}'"
        if strict:
            remedy = "a .txt file beside each" if mode == "txt" else f"them into {_NAMES[mode]}"
            raise DataError(f"{message}, {where}: write {remedy}, or set captions=auto")
        _log.warning("%s and get an empty one; %s", message, where)
    return captions


def choose_caption(captions: Sequence[str], uniform: Uniform) -> str:
    """One caption of an image; a draw decides where there are several."""
    return captions[int(uniform() * len(captions))] if len(captions) > 1 else captions[0]


def captions_of(text: str) -> tuple[str, ...]:
    """The captions in a text: one a line, of which each epoch draws one.

    Blanks at the ends and runs of them count as one blank or none, empty lines not at all; every
    way to end a line is one (LF, CR LF, CR, U+2028, ...). A text without any word has no caption.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return tuple(line for line in lines if line)


def captions_in(value: object) -> tuple[str, ...] | None:
    """The captions in an entry of a table or a JSON file: a text is one, a list of texts several.

    Line breaks within such a text are blanks.

    Returns:
        The captions, of which some may be ""; None: the value is neither.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return tuple(" ".join(text.split()) for text in texts)


def read_text(path: Path) -> str:
    """A caption file as one line.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    return " ".join(_decode(path, "caption").split())


def _decode(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {what} '{path}' ({error}): save it as UTF-8 text") from error


Row = tuple[str, list[str], str]
"""File name, captions, and where they stand."""


def _read_tables(
    root: Path, files: Iterable[str], read: Callable[[str, str], Iterable[Row]]
) -> Iterable[tuple[str, tuple[str, ...]]]:
    found: dict[str, list[str]] = {}
    for file in files:
        folder = PurePosixPath(file).parent
        where = f"'{root / file}'"
        blank = True
        for name, captions, place in read(_decode(root / file, "captions"), where):
            if not captions:
                raise DataError(f"{place} has no caption for '{name}'")
            path = os.path.normpath(folder / name).replace(os.sep, "/")
            found.setdefault(path, []).extend(" ".join(text.split()) for text in captions)
            blank = blank and not any(text.strip() for text in captions)
        if blank:
            raise DataError(f"{where} holds no captions: fill it or remove it")
    return ((name, tuple(captions)) for name, captions in found.items())


def _rows_of_lines(text: str, where: str) -> Iterable[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{where} line {number}"
        if line.strip():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place} is not JSON ({error}): write one object per line"
                ) from error
            yield _row(entry, place)


def _rows_of_json(text: str, where: str) -> Iterable[Row]:
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error})") from error
    if isinstance(tree, dict):
        tree = [{"file_name": name, "text": captions} for name, captions in tree.items()]
    if not isinstance(tree, list):
        raise DataError(f"{where} must map file names to captions, or be a list of objects")
    for number, entry in enumerate(tree):
        yield _row(entry, f"{where} entry {number}")


def _rows_of_csv(text: str, where: str) -> Iterable[Row]:
    try:
        for number, entry in enumerate(csv.DictReader(text.splitlines(), strict=True), start=2):
            yield _row(entry, f"{where} row {number}")
    except csv.Error as error:
        raise DataError(f"{where} is no CSV table ({error})") from error


def _row(entry: Any, place: str) -> Row:
    name = entry.get("file_name") if isinstance(entry, Mapping) else None
    if isinstance(name, str):
        value = next((entry[key] for key in _TEXT_KEYS if key in entry), None)
        captions = [value] if isinstance(value, str) else value
        if isinstance(captions, list) and all(isinstance(text, str) for text in captions):
            return name, captions, place
    raise DataError(f"{place} needs the texts 'file_name' and 'text' (or 'caption')")


_READERS = {"metadata": _rows_of_lines, "json": _rows_of_json, "csv": _rows_of_csv}
_NAMES = {"metadata": METADATA, "json": "captions.json", "csv": "captions.csv"}
