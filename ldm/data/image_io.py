"""Reading images, of files or archives: any stored mode becomes RGB, grey or RGBA, upright.

All that opens an image goes through here, so that one file means the same everywhere. Whatever a
decoder raises is a ``DataError`` that names the file. ``Reading`` has what users choose.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from ldm.data.formats import colours, jpeg, others, png, tiff, values
from ldm.data.formats.encoded import Encoded, upright, upright_size
from ldm.errors import DataError
from ldm.files import open_regular, read_bytes, reason, shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
MODES = ("RGB", "L", "RGBA")
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PCX", "PNG"),
    *("PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP"),
)
"""Formats that are decoded, whatever a file is called, where Pillow or a plug-in of it can. Others
start programs (EPS) or hold images of a size that shows when they are decoded (ICO, ICNS, FITS)."""
MOST_PIXELS = 128_000_000
"""Most pixels of an image that is decoded, unless ``Reading`` or ``allow_pixels`` say another."""
_MOST_BYTES = 16
"""Bytes a pixel that a file may have, at ``most_pixels`` of them."""
_HEAD = 16
_ALLOW = "most_pixels (of reading, or --most-pixels) allows more"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How image files are read, where it is not the file that says it.

    Attributes:
        value_range: [black, white], values of images with more than 8 bits; those beyond are cut.
            None: a TIFF file may state it (MaxSampleValue); else 16 bits are 0 to 65535, while
            fractions, integers of 32 bits, and 16 bits that end below 4096, are errors.
        color: stored = numbers as they are in the file, whatever colours they stand for, as the
            original code and published statistics have it; srgb = converted by the ICC profile of
            the file.
        most_pixels: of an image that is decoded; larger ones are errors. None: ``MOST_PIXELS``.

    Raises:
        DataError: a value is not possible.
    """

    value_range: Sequence[float] | None = None
    color: str = colours.STORED
    most_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.color not in colours.COLORS:
            raise DataError(f"color '{self.color}' is not one of {', '.join(colours.COLORS)}")
        if self.most_pixels is not None and not (
            type(self.most_pixels) is int and self.most_pixels > 0
        ):
            raise DataError(f"most_pixels {self.most_pixels!r} is no number of pixels")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _checked_range(self.value_range))

    @property
    def limit(self) -> int:
        """Most pixels of an image that is decoded."""
        return self.most_pixels or _allowed


AS_IT_IS = Reading()
"""Nothing was chosen."""
_allowed = MOST_PIXELS
_current = ContextVar("reading", default=AS_IT_IS)


def allow_pixels(count: int) -> None:
    """Choose the most pixels of an image for this whole process, where no ``Reading`` says it."""
    global _allowed
    _allowed = Reading(most_pixels=count).limit


def as_reading(reading: Reading | Mapping[str, object] | None) -> Reading:
    """The option ``reading`` of a data set, in which YAML has a mapping.

    Raises:
        DataError: it has an unknown name or a value that is not possible.
    """
    if isinstance(reading, Reading):
        return reading
    try:
        return Reading(**(reading or {}))  # type: ignore[arg-type]
    except TypeError:
        raise DataError(
            f"reading {reading!r} must have some of value_range, color, most_pixels"
        ) from None


@contextlib.contextmanager
def reading_as(reading: Reading) -> Iterator[None]:
    """Read images in this way, in whichever function they are read."""
    token = _current.set(reading)
    try:
        yield
    finally:
        _current.reset(token)


def read_image(
    path: Path, at_least: int | None = None, mode: str = "RGB", turn: bool = True
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a file to an upright image; the first one if it is animated.

    Args:
        path: a file of one of ``FORMATS``.
        at_least: the shorter side that will be needed. A JPEG that is several times larger is
            decoded at a half, a quarter or an eighth of its size, with a factor 2 in reserve.
        mode: one of ``MODES``; see ``ldm.data.formats.values``.
        turn: False: it stays as it is stored, whatever its metadata say.

    Returns:
        The image and its (width, height) as stored and turned upright, before any reduction.

    Raises:
        DataError: the file is missing, truncated, no image, or too large; the message names it.
    """
    with _complaints(shown(path)):
        data = read_bytes(path, _MOST_BYTES * _current.get().limit)
        return _decode(data, shown(path), at_least, mode, turn)


def decode_image(
    data: bytes, name: str, at_least: int | None = None, mode: str = "RGB"
) -> tuple[Image.Image, tuple[int, int]]:
    """As ``read_image``, of the content of a file.

    Args:
        data: the encoded image.
        name: what messages call it.
        at_least: the shorter side that will be needed.
        mode: RGB, L or RGBA.

    Raises:
        DataError: it is truncated, no image, or too large; the message has its name.
    """
    with _complaints(name):
        return _decode(data, name, at_least, mode)


def read_ids(path: Path) -> tuple[str, Image.Image]:
    """An upright image whose samples are numbers, not colours, and are not scaled.

    Grey of 1, 2 or 4 bits has the numbers of its file.

    Returns:
        Its mode as Pillow has it, and the image.

    Raises:
        DataError: see ``read_image``.
    """
    with _complaints(shown(path)):
        data = read_bytes(path, _MOST_BYTES * _current.get().limit)
        encoded = _take_apart(io.BytesIO(data), data[:_HEAD], whole=True)
        with _opened(encoded, data, shown(path)) as image:
            way = _orientation(encoded, image)
            _load(image, encoded)
            mode, step = image.mode, {2: 85, 4: 17}.get(encoded.bits, 1)
            if mode == "L" and step > 1:
                return mode, upright(image.point(lambda value: value // step), way)
            return mode, upright(image, way)


def read_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image file, upright, from its head; None if it is no image."""
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
            file.seek(0)
            encoded = _take_apart(file, head, whole=False)
            if encoded.size is not None:
                size = upright_size(encoded.size, encoded.orientation)
                return size if min(size) > 0 else None
            file.seek(0)
            with Image.open(file, formats=_formats()) as image:
                return upright_size(image.size, _orientation(encoded, image))
    except Exception:  # whatever a decoder raises: reading says why
        return None


def read_format(data: bytes) -> tuple[str, str, tuple[int, int]] | None:
    """Format, mode and stored (width, height), in Pillow's words; None if it is no image."""
    try:
        encoded = _take_apart(io.BytesIO(data), data[:_HEAD], whole=True)
        with _opened(encoded, data, "") as image:
            return image.format or "", image.mode, image.size
    except Exception:  # as above
        return None


def _decode(
    data: bytes, name: str, at_least: int | None, mode: str, turn: bool = True
) -> tuple[Image.Image, tuple[int, int]]:
    convert = {"RGB": values.to_rgb, "L": values.to_grey, "RGBA": values.to_rgba}[mode]
    reading = _current.get()
    encoded = _take_apart(io.BytesIO(data), data[:_HEAD], whole=True)
    with _opened(encoded, data, name) as image:
        stored = image.size
        way = _orientation(encoded, image) if turn else 1
        if at_least is not None:
            image.draft("RGB", (2 * at_least, 2 * at_least))
        _load(image, encoded)
        span = values.find_span(image, encoded, reading.value_range)  # type: ignore[arg-type]
        picture: Image.Image = image
        if reading.color == colours.SRGB and not values.deep(image.mode):
            picture = _in_srgb(image, encoded, name)
        return upright(convert(picture, span), way), upright_size(stored, way)


def _take_apart(file: BinaryIO, head: bytes, whole: bool) -> Encoded:
    """The file without metadata, of the formats that are taken apart; of others nothing."""
    if head.startswith(jpeg.MAGIC):
        return jpeg.take_apart(file, whole)
    if head.startswith(png.MAGIC):
        return png.take_apart(file, whole)
    if head.startswith(tiff.MAGICS):
        return tiff.take_apart(file, whole)
    return Encoded()


def _opened(encoded: Encoded, data: bytes, name: str) -> Image.Image:
    _silence()
    stream = _Named(encoded.data or data, name)
    # these two as they are: Image.open has a limit of its own, for the size before any reduction
    if data.startswith(jpeg.MAGIC):
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(png.MAGIC):
        return PngImagePlugin.PngImageFile(stream)
    limit = _current.get().limit
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit // 2 + 1
    try:
        return Image.open(stream, formats=_formats())
    except Image.DecompressionBombError as error:
        raise DataError(f"{error} {_ALLOW}") from error
    except UnidentifiedImageError as error:
        what = f"cannot identify an image in it, {others.described(data)}"
        raise DataError(f"{what}; repair the file or remove it") from error


def _load(image: Image.Image, encoded: Encoded) -> None:
    """Decode an image whose size is allowed."""
    limit = _current.get().limit
    for width, height in (image.size, encoded.tile):
        if width * height > limit:
            what = f"it has {width} x {height} pixels, more than the {limit} that are decoded"
            raise DataError(f"{what}; {_ALLOW}")
    image.load()


def _orientation(encoded: Encoded, image: Image.Image) -> int:
    """Of a file that was taken apart, or as Pillow's reader found the metadata."""
    if encoded.size is not None:
        return encoded.orientation
    found = [image.info.get(key) for key in ("exif", "xmp")]
    exif, xmp = (value if isinstance(value, bytes) else b"" for value in found)
    return Encoded(exif=exif, xmp=xmp).orientation


def _in_srgb(image: Image.Image, encoded: Encoded, name: str) -> Image.Image:
    """By the profile of its file; without a usable one as it is, which is said once."""
    try:
        profile = colours.stored_profile(encoded) or image.info.get("icc_profile") or b""
        return colours.to_srgb(image, profile) if profile else image
    except colours.ProfileError as error:
        _warn_once(name, str(error))
        return image


_warned: set[str] = set()


def _warn_once(name: str, why: str) -> None:
    if not _warned:
        _warned.add(name)
        _log.warning(
            "'%s': its colour profile cannot be used (%s), its colours are taken as stored; "
            "further ones are so without a word",
            *(name, why),
        )


def _checked_range(given: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not float("-inf") < low < high < float("inf"):
        raise DataError(f"value_range {given!r} is not [black, white] with black < white")
    return low, high


@contextlib.contextmanager
def _complaints(name: str) -> Iterator[None]:
    """Make one error, with the name of the image, of whatever a decoder raises."""
    try:
        yield
    except DataError as error:
        raise DataError(f"cannot read image '{name}': {error}") from error
    except Exception as error:  # decoders raise any kind, see the tests
        raise DataError(
            f"cannot read image '{name}' ({reason(error)}): repair the file or remove it"
        ) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _silence() -> None:
    """Keep what Pillow has to say of metadata and size from becoming an error or a flood.

    Filters are put back by whoever collects warnings, so that one call at the start is not enough.
    """
    for category in (UserWarning, Image.DecompressionBombWarning):
        known = any(f[0] == "ignore" and f[2] is category and f[3] for f in warnings.filters)
        if not known:
            warnings.filterwarnings("ignore", category=category, module=r"PIL\.")


class _Named(io.BytesIO):
    """Bytes that messages call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name = name

    def __str__(self) -> str:
        return self._name

    __repr__ = __str__  # Pillow's messages have this one
