"""An image file taken apart: what its pixels need, and what says how to show them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from ldm.data.formats.directory import read_directory

MOST_METADATA = 1 << 20
"""Most bytes that are looked at for the orientation."""
_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\s*["'<]""")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Encoded:
    """A file without what its pixels do not need.

    Attributes:
        data: for the decoder; empty if only the head was read.
        size: (width, height) as stored; None: the head does not say it.
        exif: EXIF data, which begin with a header of TIFF.
        xmp: a text in XML.
        profile: an ICC profile, perhaps compressed, see ``compressed``.
        compressed: zlib was applied to the profile.
        bits: of a sample; 0: what Pillow makes of the file tells.
        signed: samples are integers with a sign.
        inverted: 0 is white, which Pillow heeds in samples of up to 8 bits only.
        tile: (width, height) of a part that is decoded as a whole, if the file has such.
        span: the values of black and white, if the file states them.
    """

    data: bytes = b""
    size: tuple[int, int] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    compressed: bool = False
    bits: int = 0
    signed: bool = False
    inverted: bool = False
    tile: tuple[int, int] = (0, 0)
    span: tuple[float, float] | None = None

    @property
    def orientation(self) -> int:
        """Of 1 to 8; see ``orientation``."""
        return orientation(self.exif, self.xmp)


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Which way is up, by the table of EXIF: 1 (as stored) to 8.

    Only this one tag is looked at. Whatever is damaged, of another type than an integer, not a
    single one or unknown, is 1. XMP counts where EXIF has no such tag.
    """
    directory = read_directory(io.BytesIO(exif.removeprefix(b"Exif\0\0")))
    if directory is not None and _ORIENTATION in directory.entries:
        value = directory.integer(_ORIENTATION)
    else:
        found = _IN_XMP.search(xmp[:MOST_METADATA])
        value = int(found[1]) if found else None
    return value if value is not None and 1 <= value <= 8 else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image, turned as an orientation says."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) after ``upright``."""
    return (size[1], size[0]) if orientation >= 5 else size


def rest_of(file: BinaryIO, whole: bool) -> bytes:
    """What follows in a file, for the decoder; nothing if only the head is read."""
    return file.read() if whole else b""
