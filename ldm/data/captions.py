"""Captions of the images of a folder: text files beside them, or tables.

A caption is a line of a text, or an entry of a table: a text file with three lines holds three
captions, a cell of a table holds one, whatever line breaks are in it, and a list of a JSON file as
many as it has entries. Of several captions of an image each epoch draws one.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ldm import files
from ldm.data.items import Uniform
from ldm.data.listing import Listing
from ldm.data.names import Names, stem
from ldm.errors import DataError, suggest
from ldm.files import reason, shown

MODES = ("auto", "txt", "metadata", "json", "csv", "none")
_NAME = "file_name"
_TEXT_KEYS = ("text", "caption", "captions")
_MOST_TEXT = 1 << 24
"""Most bytes of the text file of an image."""
_DELIMITERS = (",", ";", "\t")

Tokenizer = Callable[[str], Tensor]
"""Maps a caption to a long tensor (L,) or (1, L)."""
Captions = dict[str, "Path | tuple[str, ...]"]
"""By relative path of an image: the text file, or the captions to choose from."""

_log = logging.getLogger(__name__)


def find_captions(root: Path, listing: Listing, mode: str) -> Captions | None:
    """Captions, or the text file that holds them, of each image; None if there are no captions.

    Args:
        root: the folder.
        listing: what it holds.
        mode: txt (a file beside each image, with a caption on each line), metadata (metadata.jsonl,
            an object with file_name and text or caption on each line, or metadata.csv with such
            columns), json (captions.json, the captions by file name or a list of such objects), csv
            (captions.csv with the columns file_name and text or caption), none, or auto = the first
            of metadata, json, csv and txt that is there. An image may have several captions: a
            list, several rows, or several lines of its text file. In auto mode an image without any
            gets "". Names are matched by ``ldm.data.names``.

    Raises:
        DataError: a table cannot be read or holds no captions, or images have none.
    """
    tables = _tables(root, listing, mode == "auto")
    if mode == "auto":
        mode, strict = next((kind for kind, files in tables.items() if files), "txt"), False
    else:
        strict = mode != "none"
    captions: Captions = {}
    entries: Iterable[str] = ()
    if mode in tables:
        found = _read_tables(root, tables[mode])
        entries = found
        captions = dict(_by_image(root, listing.images, found))
    elif mode == "txt":
        captions = _beside(root, listing)
    if not captions and not entries and not strict:
        return None
    missing = [image for image in listing.images if image not in captions]
    if entries and not captions:
        raise DataError(
            f"the captions in '{shown(root)}' name none of the {len(missing)} images, of which the "
            f"first is '{shown(missing[0])}'; they begin with '{shown(next(iter(entries)))}': give "
            "paths from the table to the images"
        )
    if missing:
        message = f"{len(missing)} of {len(listing.images)} images have no caption"
        where = f"the first is '{shown(root / missing[0])}'"
        if strict:
            remedy = "a .txt file beside each" if mode == "txt" else f"them into {_FILES[mode]}"
            raise DataError(f"{message}, {where}: write {remedy}, or set captions=auto")
        _log.warning("%s and get an empty one; %s", message, where)
    return captions


def _tables(root: Path, listing: Listing, auto: bool) -> dict[str, list[str]]:
    """The tables of each kind; in auto mode without a table of metadata that has no captions."""
    metadata = list(listing.metadata)
    if auto:
        silent = [file for file in metadata if not _has_captions(root / file)]
        metadata = [file for file in metadata if file not in silent]
        if silent:
            first = shown(root / silent[0])
            _log.warning("'%s' has no column of captions and is passed over", first)
    return {
        "metadata": metadata,
        "json": [file for file in listing.tables if not _is_csv(file)],
        "csv": [file for file in listing.tables if _is_csv(file)],
    }


def _beside(root: Path, listing: Listing) -> Captions:
    """The text files beside images."""
    wanted = {image: stem(image) for image in listing.images}
    names = Names(listing.texts, f"folder '{shown(root)}'")
    texts = names.match((begin, ".txt") for begin in wanted.values())
    found = ((image, texts.get(f"{begin}.txt")) for image, begin in wanted.items())
    beside: Captions = {image: root / text for image, text in found if text is not None}
    lone = set(listing.texts).difference(texts.values())
    if lone and beside:
        _log.warning(
            "%d of %d text files in '%s' are beside no image that is read; the first is '%s'",
            *(len(lone), len(listing.texts), shown(root), shown(min(lone))),
        )
    return beside


def _by_image(
    root: Path, images: Sequence[str], found: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Captions by image, of those by the names that a table has for them."""
    names = Names(images, f"folder '{shown(root)}'")
    endings = ((name, PurePosixPath(name).suffix) for name in found)
    meant = names.match((name.removesuffix(end), end) for name, end in endings)
    absent = [name for name in found if name not in meant]
    if absent and meant:
        _log.warning(
            "%d of %d names with captions in '%s' are those of no image; the first is '%s'",
            *(len(absent), len(found), shown(root), shown(absent[0])),
        )
    return ((image, found[name]) for name, image in meant.items())


def choose_caption(captions: Sequence[str], uniform: Uniform) -> str:
    """One caption of an image; a draw decides where there are several."""
    return captions[int(uniform() * len(captions))] if len(captions) > 1 else captions[0]


def captions_of(text: str) -> tuple[str, ...]:
    """The captions in a text: one a line, of which each epoch draws one.

    Blanks at the ends and runs of them count as one blank or none, empty lines not at all; every
    way to end a line is one (LF, CR LF, CR, U+2028, ...). A text without any word has no caption.
    """
    lines = (_tidy(line) for line in text.splitlines())
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
    return tuple(_tidy(text) for text in texts)


def read_captions(found: Path | tuple[str, ...]) -> tuple[str, ...]:
    """The captions of an image, at least one; that of an empty text file is "".

    Args:
        found: an entry of ``Captions``.

    Raises:
        DataError: the text file cannot be read, or is no text.
    """
    if not isinstance(found, Path):
        return found
    return captions_of(_decode(found, "caption", _MOST_TEXT)) or ("",)


def _read_table(path: Path) -> str:
    """The text of a table, in which names of files need not be UTF-8; see ``_check_text``."""
    return _decode(path, "captions", files.MOST_TEXT, "surrogateescape")


def _tidy(text: str) -> str:
    """A caption in one line; zeros and marks of byte order, as joined files have, are blanks."""
    return " ".join(text.replace("\ufeff", " ").replace("\0", " ").split())


def _decode(path: Path, what: str, most: int, errors: str = "strict") -> str:
    try:
        return files.read_text(path, most, errors)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {what} '{shown(path)}' ({reason(error)}): save it as UTF-8 text"
        ) from error


Row = tuple[str, tuple[str, ...], str]
"""File name, captions, and where they stand."""


def _read_tables(root: Path, tables: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Captions by path of an image, as the tables have it."""
    found: dict[str, list[str]] = {}
    for table in tables:
        folder = PurePosixPath(table).parent
        where = f"'{shown(root / table)}'"
        blank = True
        read = next(reader for end, reader in _READERS.items() if table.lower().endswith(end))
        for name, captions, place in read(_read_table(root / table), where):
            if not captions:
                raise DataError(f"{place} has no caption for '{shown(name)}'")
            for text in captions:
                _check_text(text, place)
            path = os.path.normpath(folder / name).replace(os.sep, "/")
            found.setdefault(path, []).extend(captions)
            blank = blank and not any(captions)
        if blank:
            raise DataError(f"{where} holds no captions: fill it or remove it")
    return {name: tuple(captions) for name, captions in found.items()}


def _check_text(text: str, place: str) -> None:
    """Names of files may be any bytes, captions may not."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: its caption is no text in UTF-8: save the file as UTF-8"
            ) from None


def _rows_of_lines(text: str, where: str) -> Iterable[Row]:
    return (_row(entry, place) for entry, place in _objects_of_lines(text, where))


def _objects_of_lines(text: str, where: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        place, line = f"{where} line {number}", line.strip().lstrip("\ufeff")
        if line:
            yield _parse(line, place, ": write one object per line"), place


def _rows_of_json(text: str, where: str) -> Iterable[Row]:
    tree = _parse(text, where)
    if isinstance(tree, dict):
        tree = [{_NAME: name, "text": captions} for name, captions in tree.items()]
    if not isinstance(tree, list):
        raise DataError(f"{where} must map file names to captions, or be a list of objects")
    for number, entry in enumerate(tree):
        yield _row(entry, f"{where} entry {number}")


def _parse(text: str, place: str, remedy: str = "") -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise DataError(f"{place} has '{shown(twice)}' twice: make a list of its values")
        return entry

    try:
        return json.loads(text, object_pairs_hook=unique)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON ({reason(error)}){remedy}") from error


def _rows_of_csv(text: str, where: str) -> Iterable[Row]:
    head, rows = _open_csv(text, where)
    missing = _missing(head)
    if missing and any(head):
        columns = ", ".join(repr(shown(column)) for column in head)
        raise DataError(
            f"{where} has no column {missing}{suggest(missing, head)}; its columns are {columns}: "
            "the first row must name file_name and text, separated by comma, semicolon or tab"
        )
    place = where
    try:
        for number, values in enumerate(rows, start=2):
            place = f"{where} row {number}"
            if len(values) > len(head):
                raise DataError(
                    f"{place} has {len(values)} values for {len(head)} columns: put values that "
                    "hold the separator in double quotes"
                )
            if values:
                yield _row(dict(zip(head, values, strict=False)), place)
    except csv.Error as error:
        raise DataError(f"{where} is no CSV table ({error}, after {place})") from error


def _open_csv(text: str, where: str) -> tuple[list[str], Iterator[list[str]]]:
    """The names of the columns, and the rows below, by the separator that makes sense of both.

    A first line ``sep=;`` as spreadsheets write it names the separator.
    """
    given = re.match(r"\"?sep=([,;\t|:])\"?[\r\n]+", text, re.IGNORECASE)
    text = text[given.end() :] if given else text
    begin = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    tables: list[tuple[list[str], Iterator[list[str]]]] = []
    problem: csv.Error | None = None
    for delimiter in [given[1]] if given else _DELIMITERS:
        lines = io.StringIO(text, newline="")
        rows: Iterator[list[str]] = csv.reader(
            lines, delimiter=delimiter, skipinitialspace=f"{delimiter} " in begin, strict=True
        )
        try:
            head = [name.strip().lower() for name in next((row for row in rows if row), [])]
            tables.append((head, rows))
        except csv.Error as error:  # quoted names, and this is not what separates them
            problem = error
    if not tables:
        raise DataError(f"{where} is no CSV table ({problem})")
    head, rows = max(tables, key=lambda table: (not _missing(table[0]), len(table[0])))
    twice = next((name for name in (_NAME, *_TEXT_KEYS) if head.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where} has the column {twice!r} twice: rename one")
    return head, rows


def _missing(head: Sequence[str]) -> str:
    """The first column that a table of captions needs and this one lacks."""
    if _NAME not in head:
        return _NAME
    return "" if any(key in head for key in _TEXT_KEYS) else _TEXT_KEYS[0]


def _has_captions(path: Path) -> bool:
    text, where = _read_table(path), f"'{shown(path)}'"
    if _is_csv(str(path)):
        return not _missing(_open_csv(text, where)[0])
    entries = [entry for entry, _ in _objects_of_lines(text, where)]
    known = [entry for entry in entries if isinstance(entry, Mapping) and _NAME in entry]
    # what is no entry at all is left to the reader, which says why
    return (
        not known
        or len(known) < len(entries)
        or any(key in entry for entry in known for key in _TEXT_KEYS)
    )


def _is_csv(file: str) -> bool:
    return file.lower().endswith(".csv")


def _row(entry: Any, place: str) -> Row:
    name = entry.get(_NAME) if isinstance(entry, Mapping) else None
    if isinstance(name, str):
        value = next((entry[key] for key in _TEXT_KEYS if key in entry), None)
        captions = captions_in(value)
        if captions is not None:
            return name, captions, place
    which = f"; '{shown(name)}' has no text" if isinstance(name, str) else ""
    raise DataError(f"{place} needs the texts 'file_name' and 'text' (or 'caption'){which}")


_READERS = {".jsonl": _rows_of_lines, ".json": _rows_of_json, ".csv": _rows_of_csv}
_FILES = {"metadata": "metadata.jsonl", "json": "captions.json", "csv": "captions.csv"}
