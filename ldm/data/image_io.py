"""Reading images, of files or archives: any stored mode becomes RGB, grey or RGBA, upright."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageOps

from ldm.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
MODES = ("RGB", "L", "RGBA")

_ORIENTATION = 0x0112
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on a damaged file."""


def read_image(
    path: Path, at_least: int | None = None, mode: str = "RGB"
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a file to an upright image.

    Args:
        path: a jpg, png or webp file.
        at_least: the shorter side that will be needed. A JPEG that is several times larger is
            decoded at a half, a quarter or an eighth of its size, with a factor 2 in reserve.
        mode: one of ``MODES``; see ``to_rgb``, ``to_grey`` and ``to_rgba``.

    Returns:
        The image and its (width, height) as stored and turned upright, before any reduction.

    Raises:
        DataError: the file is missing, truncated or not an image; the message names it.
    """
    convert = {"RGB": to_rgb, "L": to_grey, "RGBA": to_rgba}[mode]
    try:
        with Image.open(path) as image:
            stored = image.size
            if at_least is not None:
                image.draft("RGB", (2 * at_least, 2 * at_least))
            image.load()
            reduced = image.size
            upright = ImageOps.exif_transpose(image)
            turned = upright.size != reduced
            return convert(upright), (stored[1], stored[0]) if turned else stored
    except DECODING_ERRORS as error:
        raise DataError(
            f"cannot read image '{path}' ({error}): repair the file or remove it"
        ) from error


def read_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image file, upright, from its head; None if it is no image."""
    try:
        with Image.open(path) as image:
            # that of a PNG may stand behind the pixels
            turned = image.format != "PNG" and image.getexif().get(_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except DECODING_ERRORS:
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB.

    Transparency is laid over white, CMYK goes through Pillow's conversion, and 16-bit grey is
    divided by 257, which maps 65535 to 255. (Pillow itself reduces 16-bit RGB to 8 bits.)
    """
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Convert any mode to grey.

    16-bit grey keeps its precision: it becomes mode F with values in [0, 255] that are not
    rounded. All else becomes 8-bit mode L, colours by their luma (ITU-R 601) after ``to_rgb``.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(values.clip(0, 255).astype(np.float32))
    return to_rgb(image).convert("L")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGBA; what has no transparency is opaque (alpha 255)."""
    if image.mode.startswith("I"):
        return to_rgb(image).convert("RGBA")
    return image.convert("RGBA")


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
    """As ``ldm.data.image_io.read_image``, of the content of a file.

    Args:
        data: the encoded image.
        name: what messages call it.
        at_least: the shorter side that will be needed.
        mode: RGB, L or RGBA.

    Raises:
        DataError: it is truncated or no image; the message has its name.
    """
    return read_image(cast("Path", _Named(data, name)), at_least, mode)
