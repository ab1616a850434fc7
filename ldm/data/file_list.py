"""Images that a text file lists, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.image_files import read_image
from ldm.data.transforms import Uniform
from ldm.errors import DataError


class FileList:
    """A source (``ldm.data.framed_images``) of listed files below a folder.

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
        self.root = Path(root).expanduser()
        lines = read_list(files, source)
        self.labels: list[int] | None = None
        if labels:
            pairs = [_split(line, f"'{files}' line {n}", num_classes) for n, line in lines]
            self.files = [path for path, _ in pairs]
            self.labels = [label for _, label in pairs]
        else:
            self.files = [line.lstrip("/") for _, line in lines]
        check_first(self.root, self.files, f"list '{files}'")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.root / self.files[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image; see ``ldm.data.image_files.read_image``."""
        return read_image(self.root / self.files[index], at_least)

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
