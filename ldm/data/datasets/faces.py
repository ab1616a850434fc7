"""CelebA-HQ and FFHQ with the split lists of the original."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data.arrays import open_array
from ldm.data.datasets.lists import FileSource, read_list
from ldm.data.image_io import EXTENSIONS
from ldm.data.listing import list_folder
from ldm.errors import DataError
from ldm.files import shown

_NUMBER = re.compile(r"(\d+)$")
LISTS = (
    "the published split is in the folder data/ of CompVis/taming-transformers on GitHub: "
    "celebahqtrain.txt (25,000), celebahqvalidation.txt (5,000), ffhqtrain.txt (60,000) and "
    "ffhqvalidation.txt (10,000)"
)


class Faces(FileSource):
    """A source (``ldm.data.ImageSource``) of listed faces.

    Images are known by the number at the end of their name, so that the list, which names
    ``imgHQ00042.npy`` or ``00042.png``, goes with every form of these sets: arrays (1, 3, H, W) of
    bytes, png or jpg, in one folder or in many.

    Args:
        root: the folder.
        files: a text file with a name on each line.

    Raises:
        DataError: list or folder is missing, two files have one number, or listed ones are absent.
    """

    def __init__(self, root: str | Path, files: str | Path) -> None:
        folder = Path(root).expanduser()
        listed = [line for _, line in read_list(files, LISTS)]
        found: dict[int, str] = {}
        for file in list_folder(folder, (*EXTENSIONS, ".npy"), "face").images:
            number = _number(file)
            if number is not None and number in found:
                raise DataError(
                    f"'{shown(folder / found[number])}' and '{shown(folder / file)}' have the same "
                    "number: "
                    "keep one form of the data set in this folder"
                )
            if number is not None:
                found[number] = file
        absent = [line for line in listed if _number(line) not in found]
        if absent:
            raise DataError(
                f"'{shown(folder)}' lacks {len(absent)} of {len(listed)} files of "
                f"'{shown(files)}', the first is '{shown(absent[0])}'"
            )
        chosen = [found[number] for line in listed if (number := _number(line)) is not None]
        super().__init__(folder, chosen)

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image, and its size as stored."""
        path = self.root / self.files[index]
        if path.suffix.lower() != ".npy":
            return super().read(index, at_least)
        image = _from_array(path)
        return image, image.size


def _number(name: str) -> int | None:
    match = _NUMBER.search(name.rsplit(".", 1)[0])
    return int(match.group(1)) if match else None


def _from_array(path: Path) -> Image.Image:
    array = np.asarray(open_array(path))
    shape = array.shape
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(
            f"face '{shown(path)}' must be bytes (1, 3, H, W), got {array.dtype} {shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))
