"""What a folder of images holds: files, classes, and which split a file belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ldm.data.image_files import EXTENSIONS
from ldm.errors import DataError

METADATA = "metadata.jsonl"
CAPTION_TABLES = ("captions.json", "captions.csv")


@dataclass(frozen=True)
class Listing:
    """Files below a folder as relative POSIX paths, each list sorted."""

    images: list[str]
    texts: list[str]
    metadata: list[str]
    tables: list[str]


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
    found: dict[str, list[str]] = {
        "images": [],
        "texts": [],
        "metadata": [],
        "tables": [],
    }
    for relative in _walk(root):
        suffix = PurePosixPath(relative).suffix.lower()
        if suffix in extensions:
            found["images"].append(relative)
        elif suffix == ".txt":
            found["texts"].append(relative)
        elif PurePosixPath(relative).name == METADATA:
            found["metadata"].append(relative)
        elif PurePosixPath(relative).name in CAPTION_TABLES:
            found["tables"].append(relative)
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
