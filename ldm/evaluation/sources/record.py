"""``samples.json``: what the programs of sampling say of the images they leave, and whose they are.

A folder of samples may come from somebody else: what the record says is checked before it is used,
and names files in its own folder only.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ldm.errors import UserError
from ldm.files import read_json, shown

RECORD = "samples.json"
RUN_FROM_HERE = "run_from_here"
"""Entry of a record: the model, as a path from the record's folder."""
_ABOVE = 3
"""Folders above that of a record in which its run is looked for."""
_MOST_LABEL = 1 << 31


@dataclass(frozen=True)
class SampleRecord:
    """What a record says.

    Attributes:
        files: the images, as POSIX paths below the folder.
        labels: class ids; None: some have none.
        prompts: None: some have none.
        settings: all that decided what the images are.
        made_by: the calls that made them.
        run_from_here: the model, as a path from the record's folder; "": not recorded.
    """

    files: list[str]
    labels: list[int] | None
    prompts: list[str] | None
    settings: dict[str, Any]
    made_by: list[Any]
    run_from_here: str


def has_record(folder: Path) -> bool:
    """Whether a folder holds what the programs of sampling wrote."""
    return os.path.lexists(folder / RECORD)


def read_record(folder: Path) -> SampleRecord:
    """The record of a folder of samples.

    Raises:
        UserError: it cannot be read, is something else, or names files outside its folder.
    """
    where = f"'{shown(folder / RECORD)}'"
    remedy = "not written by the sampling scripts? Without it all images of the folder count"
    tree = read_json(folder / RECORD, where=where, remedy=remedy, table=True)
    entries = tree.get("samples")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: it has no list of samples; {remedy}")
    files, names = list[str](), set[str]()
    for number, entry in enumerate(entries):
        name = entry.get("file")
        wrong = _wrong_name(name)
        if not wrong and name in names:
            wrong = "is there twice"
        if wrong:
            raise UserError(f"{where}: the file of sample {number} {wrong}; {remedy}")
        files.append(name)
        names.add(name)
    return SampleRecord(
        files,
        _column(entries, "label", _is_label, "class ids from 0 on", where),
        _column(entries, "prompt", _is_text, "texts", where),
        _typed(tree, "settings", dict, where),
        _typed(tree, "made_by", list, where),
        _typed(tree, RUN_FROM_HERE, str, where),
    )


def check_files(folder: Path, files: list[str]) -> None:
    """Refuse files that are absent, or lie elsewhere by way of a link.

    Raises:
        UserError: it says which.
    """
    absent = [file for file in files if not os.path.isfile(folder / file)]
    if absent or not files:
        first = f", first {shown(absent[0])}" if absent else ""
        raise UserError(
            f"'{shown(folder)}': {len(absent)} of the {len(files)} images that {RECORD} lists are "
            f"absent{first}: repeat the sampling command, it goes on where it stopped"
        )
    root, real = os.path.realpath(folder), functools.cache(os.path.realpath)
    for file in files:
        path = folder / file
        place = os.path.realpath(path) if path.is_symlink() else real(path.parent)
        if os.path.commonpath([root, place]) != root:
            raise UserError(
                f"'{shown(path)}' leads out of the folder by a link to '{shown(place)}': copy the "
                "images into it"
            )


def find_run(folder: Path, record: SampleRecord) -> Path | None:
    """The folder of the run that made the samples, wherever both were moved; None: it is not there.

    It is where the record says, seen from the record's folder. One of the last release only has
    the path that was typed then: the run is the one above, or else lies at that path from here.
    """
    typed = record.settings.get("run")
    typed = typed if isinstance(typed, str) else ""
    if record.run_from_here:
        path = Path(os.path.realpath(folder)) / record.run_from_here
        if _describes(path):
            return Path(os.path.normpath(path))
    above = next(_runs_above(folder), None)
    here = Path(typed) if typed and _describes(Path(typed)) else None
    same = above is not None and above.name == Path(os.path.normpath(typed)).name
    return above if same or here is None else here


def _runs_above(folder: Path) -> Iterator[Path]:
    for path in Path(os.path.realpath(folder)).parents[:_ABOVE]:
        if _describes(path) and any(
            (path / name).exists() for name in ("status.json", "checkpoints")
        ):
            yield path


def _describes(path: Path) -> bool:
    try:
        return (path / "config.yaml").is_file()
    except (OSError, ValueError):  # too long, or a zero byte
        return False


def _wrong_name(name: Any) -> str:
    """What is wrong with the name of a file; "": nothing."""
    if not isinstance(name, str) or not name:
        return "has no name"
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return f"'{ascii(name)[1:-1][:60]}' does not lie in the folder"
    try:
        unusable = "\0" in name or not os.fsencode(name)
    except UnicodeEncodeError:
        unusable = True
    return f"'{ascii(name)[1:-1][:60]}' is no name of a file" if unusable else ""


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_LABEL


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _column(
    entries: list[dict[str, Any]], key: str, good: Any, what: str, where: str
) -> list[Any] | None:
    values = [entry.get(key) for entry in entries]
    for number, value in enumerate(values):
        if value is not None and not good(value):
            raise UserError(
                f"{where}: {key} {str(value)[:20]!r} of sample {number} is wrong: they are {what}"
            )
    return None if not values or None in values else values


def _typed(tree: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = tree.get(key, kind())
    if not isinstance(value, kind):
        raise UserError(f"{where}: its {key} is a {type(value).__name__}, not a {kind.__name__}")
    return value
