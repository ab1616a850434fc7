"""Decoding of images that lie in an archive or a database rather than in a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

from PIL import Image

from ldm.data.image_files import read_image


class _Named(io.BytesIO):
    """Bytes that messages call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name = name

    def __str__(self) -> str:
        return self._name

    __repr__ = __str__  # Pillow's messages have this one


def decode_image(
    data: bytes, name: str, at_least: int | None = None, mode: str = "RGB"
) -> tuple[Image.Image, tuple[int, int]]:
    """As ``ldm.data.image_files.read_image``, of the content of a file.

    Args:
        data: the encoded image.
        name: what messages call it.
        at_least: the shorter side that will be needed.
        mode: RGB, L or RGBA.

    Raises:
        DataError: it is truncated or no image; the message has its name.
    """
    return read_image(cast("Path", _Named(data, name)), at_least, mode)
