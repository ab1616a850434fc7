"""What a folder of images holds: files, captions, classes, and which split a file belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ldm.data.image_files import EXTENSIONS
from ldm.errors import DataError

METADATA = "metadata.jsonl"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Files below a folder as relative POSIX paths, each list sorted."""

    images: list[str]
    texts: list[str]
    metadata: list[str]


def list_folder(root: Path, extensions: Sequence[str] = EXTENSIONS, what: str = "image") -> Listing:
    """Walk a folder; hidden files and folders are passed over, linked folders are followed.

    Args:
        root: the folder.
        extensions: endings, in small letters, of the files that count as images.
        what: what such a file is called in messages.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not root.is_dir():
        raise DataError(f"{what} folder '{root}' does not exist: set root to a folder of {what}s")
    found: dict[str, list[str]] = {"images": [], "texts": [], "metadata": []}
    for relative in _walk(root):
        suffix = PurePosixPath(relative).suffix.lower()
        if suffix in extensions:
            found["images"].append(relative)
        elif suffix == ".txt":
            found["texts"].append(relative)
        elif PurePosixPath(relative).name == METADATA:
            found["metadata"].append(relative)
    if not found["images"]:
        raise DataError(
            f"{what} folder '{root}' holds no {', '.join(extensions)} file: put {what}s there "
            "(nested folders are read, archives must be unpacked first)"
        )
    return Listing(**{name: sorted(paths) for name, paths in found.items()})


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

    Args:
        root: the folder, for messages.
        images: relative paths.
        mode: folder, none, or auto = folder if there are two or more and no image lies outside.
        count: how many there must be; None accepts any number.

    Raises:
        DataError: there are no classes where there must be, or of another number.
    """
    if mode not in ("auto", "folder", "none"):
        raise DataError(f"folder: classes '{mode}' is not one of auto, folder, none")
    names = _class_folders(root, images, mode)
    if count is not None and len(names) != count:
        raise DataError(
            f"folder '{root}' has {len(names)} class folders, but num_classes says {count}"
        )
    return names


def find_captions(root: Path, listing: Listing, mode: str) -> dict[str, str | Path] | None:
    """Caption, or the text file that holds it, of each image; None if there are no captions.

    Args:
        root: the folder.
        listing: what it holds.
        mode: txt, metadata, none, or auto = metadata if there is such a file, else txt if there
            is a text file beside an image. In auto mode an image without a caption gets "".
    """
    captions: dict[str, str | Path] = {}
    if mode in ("metadata", "auto") and listing.metadata:
        captions = dict(_read_metadata(root, listing.metadata))
    elif mode in ("txt", "auto"):
        texts = set(listing.texts)
        beside = (
            (image, str(PurePosixPath(image).with_suffix(".txt"))) for image in listing.images
        )
        captions = {image: root / text for image, text in beside if text in texts}
    if mode == "none" or (mode == "auto" and not captions):
        return None
    missing = [image for image in listing.images if image not in captions]
    if missing:
        message = f"{len(missing)} of {len(listing.images)} images have no caption"
        where = f"the first is '{root / missing[0]}'"
        if mode != "auto":
            remedy = (
                "a .txt file beside each" if mode == "txt" else f"a line in {METADATA} for each"
            )
            raise DataError(f"{message}, {where}: write {remedy}, or set captions=auto")
        _log.warning("%s and get an empty one; %s", message, where)
    return captions


def read_text(path: Path) -> str:
    """A caption file as one line.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read caption '{path}' ({error}): save it as UTF-8 text") from error


def _class_folders(root: Path, images: Sequence[str], mode: str) -> tuple[str, ...]:
    parts = [path.split("/", 1) for path in images]
    loose = next((p[0] for p in parts if len(p) == 1), None)
    names = tuple(sorted({p[0] for p in parts if len(p) == 2}))
    if mode == "none" or (mode == "auto" and (loose is not None or len(names) < 2)):
        return ()
    if loose is not None:
        raise DataError(
            f"'{root / loose}' lies in no class folder: move it into one, or set classes=none"
        )
    return names


def _walk(root: Path) -> Iterable[str]:
    visited = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        base = Path(folder).relative_to(root).as_posix()
        for name in files:
            if not name.startswith("."):
                yield name if base == "." else f"{base}/{name}"


def _hash(path: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _read_metadata(root: Path, files: Sequence[str]) -> Iterable[tuple[str, str]]:
    for file in files:
        folder = PurePosixPath(file).parent
        try:
            lines = (root / file).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"cannot read '{root / file}' ({error}): save it as UTF-8") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                name, caption = _parse_metadata(line, f"'{root / file}' line {number}")
                yield os.path.normpath(folder / name).replace(os.sep, "/"), caption


def _parse_metadata(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error}): write one object per line") from error
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if isinstance(name, str):
        caption = entry.get("text", entry.get("caption"))
        if isinstance(caption, str):
            return name, " ".join(caption.split())
    raise DataError(f"{where} needs the texts 'file_name' and 'text' (or 'caption')")
