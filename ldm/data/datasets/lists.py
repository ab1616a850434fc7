"""Images that a text file lists, and lists of any names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.image_io import read_image
from ldm.data.items import Uniform
from ldm.data.listing import check_folder
from ldm.data.names import Folder
from ldm.errors import DataError
from ldm.files import read_text, reason, shown

MOST_DIGITS = 19
"""Of a class id, which must fit 64 bits."""


class FileSource:
    """What the sources of image files below a folder share; see ``ldm.data.ImageSource``.

    Args:
        root: the folder.
        files: paths below it.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = root, list(files)
        self._folder = Folder(root)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of a file, for messages."""
        return shown(self.root / self.files[index])

    def path(self, index: int) -> Path:
        """A file; see ``ldm.data.names.Folder``."""
        return self._folder.path(self.files[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image and its stored size; see ``ldm.data.image_io.read_image``."""
        return read_image(self.path(index), at_least)

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
            pairs = [_split(line, f"'{shown(files)}' line {n}", num_classes) for n, line in lines]
            listed = [path for path, _ in pairs]
            self.labels = [label for _, label in pairs]
        else:
            listed = [line.lstrip("/") for _, line in lines]
        super().__init__(Path(root).expanduser(), listed)
        check_first(self.root, self.files, f"list '{shown(files)}'")

    def entries(self, index: int, _uniform: Uniform) -> dict[str, Any]:
        """``class_label``, if the list has them."""
        return {} if self.labels is None else {"class_label": self.labels[index]}


def read_list(path: str | Path, source: str = "", names: bool = True) -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, stripped, with their numbers.

    Args:
        path: the file.
        source: where to get it, for the message if it is missing.
        names: they are names of files, which need not be UTF-8.

    Raises:
        DataError: it is missing, empty or no text.
    """
    path = Path(path).expanduser()
    try:
        text = read_text(path, errors="surrogateescape" if names else "strict")
    except FileNotFoundError:
        where = f"; {source}" if source else ": write one with a path on each line"
        raise DataError(f"there is no list of files '{shown(path)}'{where}") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the list of files '{shown(path)}' ({reason(error)}): save it as "
            "UTF-8 text"
        ) from error
    rows = enumerate(re.split(r"\r\n|\r|\n", text), 1)
    lines = [(n, line.strip()) for n, line in rows if line.strip()]
    if not lines:
        raise DataError(f"the list of files '{shown(path)}' is empty")
    return lines


def check_first(root: Path, files: Sequence[str], what: str) -> None:
    """Refuse a folder that lacks the first of its listed files.

    Raises:
        DataError: it names both.
    """
    check_folder(root, "image", f"set the folder of {what}")
    if not os.path.isfile(Folder(root).path(files[0])):
        raise DataError(
            f"'{shown(root)}' lacks '{shown(files[0])}', the first of {len(files)} files of {what}"
            ": the paths there must lead from that folder to the images"
        )


def _split(line: str, where: str, num_classes: int | None) -> tuple[str, int]:
    path, label = [*line.rsplit(None, 1), ""][:2]
    if not (label.isascii() and label.isdigit() and len(label) < MOST_DIGITS):
        raise DataError(f"{where} must be a path and a class id, got '{shown(line)}'")
    if num_classes is not None and int(label) >= num_classes:
        raise DataError(f"{where}: class id {label} is outside 0 to {num_classes - 1}")
    return path.lstrip("/"), int(label)
