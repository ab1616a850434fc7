"""Masks of one's own, from a folder of pictures."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data.folder_items import FolderItems
from ldm.data.folder_listing import list_folder
from ldm.data.image_files import read_image
from ldm.data.transforms import Framing


class MaskFiles:
    """A mask generator (``ldm.data.masks``) that draws one of the masks of a folder.

    The masks are black and white pictures of any size, white where pixels are to be filled in. They
    go with any image: of each the largest centred part that has the shape of the image is taken,
    at the nearest pixels. A mask that cannot be read is passed over, with a warning.

    Args:
        root: the folder; its sub-folders are read too.
        invert: black is the hole.

    Raises:
        DataError: the folder is missing or holds no picture.
    """

    def __init__(self, root: str | Path, invert: bool = False) -> None:
        root = Path(root).expanduser()
        self.invert = invert
        read = functools.partial(read_image, mode="L")
        self._items = FolderItems(root, list_folder(root, what="mask").images, read, "skip", 0)

    def __len__(self) -> int:
        return len(self._items)

    def __call__(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Bool (height, width), True = hole.

        Raises:
            DataError: not one of the masks is readable.
        """
        _, (picture, _) = self._items[int(generator.integers(len(self)))]
        return threshold(picture, height, width) != self.invert


def threshold(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """Where a grey picture is white, from 128 of 255 on: bool (height, width)."""
    framed = Framing(height, width, interpolation="nearest")(picture, lambda: 0.0)
    return np.asarray(framed) >= 128
