"""What a folder of images holds: files and classes, which split a file belongs to, lists of files.

A file belongs to training or validation by the hash of its path, so that files that are added to a
folder move no others. What a listing leaves out is counted by reason and said once.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from posixpath import basename, splitext

from PIL import Image

from ldm.data.image_io import EXTENSIONS, FORMATS
from ldm.data.items import check_choice
from ldm.data.names import Names, normal
from ldm.errors import DataError, suggest
from ldm.files import reason, shown

METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_TABLES = ("captions.json", "captions.csv")
"""In small letters, like ``METADATA``; their case does not matter."""
ALL = "all"
"""Value of ``extensions``: whatever Pillow reads."""
NO_PERMISSION, NO_FILE, NO_TARGET = "no permission", "no regular file", "link to nothing"
LOOP, TOO_OFTEN = "link to a folder above it", "folder that is linked too often"

_FOREIGN = (
    *(".heic", ".heif", ".jxl", ".svg", ".eps", ".exr", ".hdr", ".raw", ".ico", ".icns", ".fits"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".xbm", ".xpm"),
)
"""Endings of images of other formats."""
_MOST_VISITS = 1000
"""So often a folder is read under different paths, should links form a net."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Files below a folder as relative POSIX paths, each list sorted.

    Attributes:
        images: the images.
        texts: files that may hold the captions of one image.
        metadata: tables as Hugging Face has them.
        tables: tables of captions.
        left_out: how many files or folders were left out, by reason: the ending of an image format
            that is not read ("bmp"), ``NO_PERMISSION``, ``NO_FILE`` (a pipe, a device), ...
        examples: the first of each.
    """

    images: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, path: str) -> None:
        """Count something by reason."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        self.examples[reason] = min(path, self.examples.get(reason, path))

    def told(self) -> str:
        """What was left out, in a few words; "" if nothing was."""
        return ", ".join(
            f"{reason}: {count} ('{shown(self.examples[reason])}')"
            for reason, count in sorted(self.left_out.items())
        )


def image_endings(further: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Endings, in small letters and with a dot, of the files that count as images.

    Args:
        further: endings beside jpg, jpeg, png and webp; ``ALL`` = of every format that Pillow
            reads; None: no others.

    Raises:
        DataError: Pillow reads no such format.
    """
    if further is None:
        return EXTENSIONS
    readable = _readable()
    if further == ALL:
        return tuple(dict.fromkeys((*EXTENSIONS, *sorted(readable))))
    several = isinstance(further, Iterable) and not isinstance(further, str)
    listed = list(further) if several else [further]
    endings = ["." + str(ending).lower().removeprefix(".") for ending in listed]
    unknown = [ending for ending in endings if ending not in readable]
    if unknown:
        raise DataError(
            f"extensions: Pillow reads no '{unknown[0]}'{suggest(unknown[0], readable)}: give a "
            f"list of {', '.join(sorted(readable))}, or {ALL}"
        )
    return tuple(dict.fromkeys((*EXTENSIONS, *endings)))


def _readable() -> set[str]:
    Image.init()
    formats = {name for name in FORMATS if name in Image.OPEN} | {"MPO"}  # opened as JPEG
    return {end for end, name in Image.registered_extensions().items() if name in formats}


def list_folder(
    root: Path,
    extensions: Sequence[str] = EXTENSIONS,
    what: str = "image",
    option: str = "",
) -> Listing:
    """Walk a folder; hidden files and folders are passed over, linked folders are followed.

    Whatever else is left out is counted, and logged in one line. Only regular files are listed.

    Args:
        root: the folder.
        extensions: endings, in small letters, of the files that count as images.
        what: what such a file is called in messages.
        option: that lets further formats in, for messages; "": there is none.

    Raises:
        DataError: the folder is missing, without permission, or holds no image.
    """
    check_folder(root, what, f"set root to a folder of {what}s")
    pictures = set(EXTENSIONS) <= set(extensions)
    others = (_readable() | set(_FOREIGN)) if pictures else set[str]()
    found, endings = Listing(), Counter[str]()
    for path in _walk(root, found, {*extensions, *others, ".txt"}):
        suffix = splitext(path)[1].lower()
        endings[suffix] += 1
        if suffix in extensions:
            found.images.append(path)
        elif suffix == ".txt":
            found.texts.append(path)
        elif suffix in others:
            found.leave_out(suffix[1:], path)
        elif basename(path).lower() in METADATA:
            found.metadata.append(path)
        elif basename(path).lower() in CAPTION_TABLES:
            found.tables.append(path)
    for paths in (found.images, found.texts, found.metadata, found.tables):
        paths.sort()
    _tell(root, found, endings, extensions, what, option)
    return found


def check_folder(root: Path, what: str, remedy: str) -> None:
    """Refuse a folder that is not there or may not be read.

    Args:
        root: the folder.
        what: is in it.
        remedy: what to do.

    Raises:
        DataError: it names the folder and the reason.
    """
    try:
        os.scandir(root).close()
    except (FileNotFoundError, ValueError):
        raise DataError(f"{what} folder '{shown(root)}' does not exist: {remedy}") from None
    except OSError as error:
        raise DataError(
            f"{what} folder '{shown(root)}' cannot be read ({reason(error)}): {remedy}"
        ) from error


def _tell(
    root: Path,
    found: Listing,
    endings: Counter[str],
    extensions: Sequence[str],
    what: str,
    option: str,
) -> None:
    """Say what was left out, or refuse a folder without images."""
    told, readable = found.told(), _readable() if found.left_out else set()
    more = [reason for reason in sorted(found.left_out) if f".{reason}" in readable]
    if more and option:
        told += f"; set {option}=[{', '.join(more)}] of the data set to read more"
    elif more:
        read = ", ".join(ending[1:] for ending in extensions)
        told += f"; only {read} are read: convert the others"
    if not found.images:
        kinds = ", ".join(f"{n} {end or 'without ending'}" for end, n in endings.most_common(5))
        there = f"; it holds {kinds}" * bool(kinds) + f"; left out are {told}" * bool(told)
        raise DataError(
            f"{what} folder '{shown(root)}' holds no {', '.join(extensions)} file: put "
            f"{what}s there (nested folders are read, archives must be unpacked first){there}"
        )
    if told:
        _log.warning("%s folder '%s': left out are %s", what, shown(root), told)


_Chain = tuple[tuple[int, int], "_Chain | None"]
"""A folder by device and number, and the folders above it on the path that led there."""


def _walk(root: Path, found: Listing, counted: set[str]) -> Iterator[str]:
    """Paths of the regular files below a folder.

    A folder is read again under each path that leads to it, unless it lies above itself.

    Args:
        root: the folder.
        found: counts what is passed over.
        counted: endings of the files that are counted if they are no regular files.
    """
    visits = Counter[tuple[int, int]]()
    todo = deque[tuple[str, _Chain | None]]([("", None)])
    while todo:
        here, above = todo.popleft()  # short paths come before the long ones of links
        try:
            status = os.stat(root / here)
            identity = (status.st_dev, status.st_ino)
            if _lies_in(identity, above):
                found.leave_out(LOOP, here)
                continue
            visits[identity] += 1
            if visits[identity] > _MOST_VISITS:
                found.leave_out(TOO_OFTEN, here)
                continue
            with os.scandir(root / here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{here}/{entry.name}" if here else entry.name
                    kind = _kind(entry)
                    if kind == "folder":
                        todo.append((path, (identity, above)))
                    elif kind == "file":
                        yield path
                    elif splitext(path)[1].lower() in counted or _is_table(entry.name):
                        found.leave_out(kind, path)
        except PermissionError:
            found.leave_out(NO_PERMISSION, here)
        except OSError as error:
            found.leave_out(reason(error), here)


def _is_table(name: str) -> bool:
    return name.lower() in (*METADATA, *CAPTION_TABLES)


def _kind(entry: os.DirEntry[str]) -> str:
    """``file``, ``folder``, or why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return NO_TARGET if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE
    except PermissionError:
        return NO_PERMISSION
    except OSError as error:
        return reason(error)


def _lies_in(identity: tuple[int, int], chain: _Chain | None) -> bool:
    while chain is not None:
        if chain[0] == identity:
            return True
        chain = chain[1]
    return False


def split_files(
    root: Path, files: Sequence[str], split: str, fraction: float, seed: int
) -> list[str]:
    """The files of a split; see ``choose_split``.

    Args:
        root: the folder, for messages.
        files: paths below it.
        split: train, validation or all.
        fraction: share of the files that are held out for validation.
        seed: of the choice.

    Raises:
        DataError: the split is unknown or empty.
    """
    check_choice("folder", "split", split, ("train", "validation", "all"))
    if not 0 <= fraction < 1:
        raise DataError(f"validation_fraction {fraction} is not within 0 to 1")
    chosen = choose_split(files, split, fraction, seed)
    if not chosen:
        raise DataError(
            f"folder '{shown(root)}': the {split} split of {len(files)} images is empty at "
            f"validation_fraction={fraction}: add images or set split=all"
        )
    return [files[i] for i in chosen]


def choose_split(images: Sequence[str], split: str, fraction: float, seed: int) -> list[int]:
    """Indices of the images of ``split``: train, validation or all.

    A file belongs to validation if the hash of (seed, relative path), as a number in [0, 1), is
    below ``fraction``: adding files moves no other. Only where that leaves a split empty, the
    file with the lowest (highest) hash is put there.
    """
    if split == "all":
        return list(range(len(images)))
    hashes = [_hash(path, seed) for path in images]
    bound = fraction
    if fraction > 0 and len(images) > 1:
        ordered = sorted(hashes)
        bound = min(max(fraction, (ordered[0] + ordered[1]) / 2), ordered[-1])
    return [i for i, value in enumerate(hashes) if (value < bound) == (split == "validation")]


def find_classes(
    root: Path, images: Sequence[str], mode: str, count: int | None = None
) -> tuple[str, ...]:
    """Names of the first-level folders, sorted; () if the folder has no classes.

    They are sorted by their normal form, so that ids are the same on all systems.

    Args:
        root: the folder, for messages.
        images: relative paths.
        mode: folder, none, or auto = folder if there are two or more and no image lies outside.
        count: how many there must be; None accepts any number.

    Raises:
        DataError: there are no classes where there must be, or of another number, or two names of
            folders mean the same.
    """
    check_choice("folder", "classes", mode, ("auto", "folder", "none"))
    names = _class_folders(root, images, mode)
    if count is not None and len(names) != count:
        raise DataError(
            f"folder '{shown(root)}' has {len(names)} class folders, but num_classes says {count}"
        )
    return names


def as_spelled(names: Sequence[str], images: Sequence[str], root: Path) -> list[str]:
    """Names of classes as the first-level folders of images are called; see ``ldm.data.names``.

    Raises:
        DataError: two folders have one name in two spellings.
    """
    folders = {path.split("/", 1)[0] for path in images if "/" in path}
    there = Names(folders, f"folder '{shown(root)}'")
    return [there.find(name, "") or name for name in names]


def _class_folders(root: Path, images: Sequence[str], mode: str) -> tuple[str, ...]:
    parts = [path.split("/", 1) for path in images]
    loose = next((p[0] for p in parts if len(p) == 1), None)
    folders = {p[0] for p in parts if len(p) == 2}
    names = tuple(sorted(folders, key=lambda name: (normal(name), name)))
    if mode == "none" or (mode == "auto" and (loose is not None or len(names) < 2)):
        return ()
    if loose is not None:
        raise DataError(
            f"'{shown(root / loose)}' lies in no class folder: move it into one, or set "
            "classes=none"
        )
    for one, other in pairwise(names):
        if normal(one) == normal(other):
            raise DataError(
                f"folder '{shown(root)}' has the class '{shown(one)}' in two spellings, "
                f"{one!a} and {other!a}: make one folder of them, or set classes=none"
            )
    return names


def _hash(path: str, seed: int) -> float:
    digest = hashlib.sha256(os.fsencode(f"{seed}:{path}")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
