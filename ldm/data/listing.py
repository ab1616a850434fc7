"""What a folder of images holds: files and classes, which split a file belongs to, lists of files.

A file belongs to training or validation by the hash of its path, so that files that are added to a
folder move no others. ``FileList`` is the source of images that a text file lists.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ldm.data.image_io import EXTENSIONS, read_image
from ldm.data.items import Uniform, check_choice
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
    found: dict[str, list[str]] = {"images": [], "texts": [], "metadata": [], "tables": []}
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
            f"folder '{root}': the {split} split of {len(files)} images is empty at "
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

    Args:
        root: the folder, for messages.
        images: relative paths.
        mode: folder, none, or auto = folder if there are two or more and no image lies outside.
        count: how many there must be; None accepts any number.

    Raises:
        DataError: there are no classes where there must be, or of another number.
    """
    check_choice("folder", "classes", mode, ("auto", "folder", "none"))
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


class FileSource:
    """What the sources of image files below a folder share; see ``ldm.data.ImageSource``.

    Args:
        root: the folder.
        files: paths below it.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = root, list(files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of a file."""
        return str(self.root / self.files[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image and its stored size; see ``ldm.data.image_io.read_image``."""
        return read_image(self.root / self.files[index], at_least)

    def entries(self, _index: int, _uniform: Uniform) -> dict[str, Any]:
        """Nothing more is known of them."""
        return {}


class FileList(FileSource):
    """A source (``ldm.data.ImageSource``) of listed files below a folder.

    Args:
        root: the folder.
        files: a text file with a path below ``root`` on each line. Leading slashes are ignored,
            as are empty lines.
        labels: lines end in a class id, after a blank, as in the lists of Places365.
        num_classes: number of classes, with ``labels``; None accepts any id from 0.
        source: where to get the list, for the message if it is missing.

    Raises:
        DataError: list or folder is missing, the list is empty, a line has no class id or an
            unknown one, or the first file is not there.
    """

    def __init__(
        self,
        root: str | Path,
        files: str | Path,
        labels: bool = False,
        num_classes: int | None = None,
        source: str = "",
    ) -> None:
        lines = read_list(files, source)
        self.labels: list[int] | None = None
        if labels:
            pairs = [_split(line, f"'{files}' line {n}", num_classes) for n, line in lines]
            listed = [path for path, _ in pairs]
            self.labels = [label for _, label in pairs]
        else:
            listed = [line.lstrip("/") for _, line in lines]
        super().__init__(Path(root).expanduser(), listed)
        check_first(self.root, self.files, f"list '{files}'")

    def entries(self, index: int, _uniform: Uniform) -> dict[str, Any]:
        """``class_label``, if the list has them."""
        return {} if self.labels is None else {"class_label": self.labels[index]}


def read_list(path: str | Path, source: str = "") -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, stripped, with their numbers.

    Args:
        path: the file.
        source: where to get it, for the message if it is missing.

    Raises:
        DataError: it is missing, empty or no text.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        where = f"; {source}" if source else ": write one with a path on each line"
        raise DataError(f"there is no list of files '{path}'{where}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of files '{path}' ({error})") from error
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"the list of files '{path}' is empty")
    return lines


def check_first(root: Path, files: Sequence[str], what: str) -> None:
    """Refuse a folder that lacks the first of its listed files.

    Raises:
        DataError: it names both.
    """
    if not root.is_dir():
        raise DataError(f"image folder '{root}' does not exist: set the folder of {what}")
    if not (root / files[0]).is_file():
        raise DataError(
            f"'{root}' lacks '{files[0]}', the first of {len(files)} files of {what}: the paths "
            "there must lead from that folder to the images"
        )


def _split(line: str, where: str, num_classes: int | None) -> tuple[str, int]:
    path, _, label = line.rpartition(" ")
    if not path or not label.isdigit():
        raise DataError(f"{where} must be a path and a class id, got '{line}'")
    if num_classes is not None and int(label) >= num_classes:
        raise DataError(f"{where}: class id {label} is outside 0 to {num_classes - 1}")
    return path.strip().lstrip("/"), int(label)
