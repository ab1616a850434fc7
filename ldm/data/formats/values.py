"""From stored samples of any mode to 8-bit RGB, grey or RGBA: what is black, what is white."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ldm.data.formats.encoded import Encoded
from ldm.errors import DataError

Span = tuple[float, float]
FULL: Span = (0.0, 65535.0)
"""Black and white of 16 bits."""
_STRIP = 1 << 22
"""So many pixels are converted at once, which bounds memory."""


def deep(mode: str) -> bool:
    """Whether an image of a mode holds numbers of more than 8 bits: I;16, I, F and their kin."""
    return mode.startswith(("I", "F"))


def find_span(image: Image.Image, encoded: Encoded, given: Span | None) -> Span | None:
    """The values of black and white; None: it is an image of 8 bits.

    Args:
        image: as Pillow decoded it.
        encoded: its file.
        given: what the user says of images of more than 8 bits.

    Raises:
        DataError: nothing says it, or values do not look as if 16 bits were used.
    """
    bits = encoded.bits or (16 if image.mode.startswith("I") else 8)
    if encoded.signed and not deep(image.mode):
        raise DataError(f"samples of {bits} bits with a sign are not read")
    if not deep(image.mode):
        if bits == 16:
            _check_colours(image, given or encoded.span)
        return None
    span = given or encoded.span
    if span is None:
        span = _by_type(image, bits, encoded.signed)
    return (span[1], span[0]) if encoded.inverted else span


def _by_type(image: Image.Image, bits: int, signed: bool) -> Span:
    low, high = _extremes(image)
    if image.mode == "F" or bits > 16 or signed:
        kind = "fractions" if image.mode == "F" else f"integers of {bits} bits"
        raise DataError(
            f"it holds {kind} from {low:g} to {high:g}, and nothing says which are black and "
            "white: set value_range to [black, white]"
        )
    if 0 < high < 4096 and low < high:
        raise DataError(
            f"it has 16 bits, but its values end at {high:g}, as those of 12 or fewer bits do: set "
            "value_range to [black, white], e.g. [0, 4095], or to [0, 65535] if it is that dark"
        )
    return FULL


def _check_colours(image: Image.Image, span: Span | None) -> None:
    """Colours of 16 bits reach us as their upper 8 bits, so that no other span can be applied."""
    if span == FULL:
        return
    bands = image.getextrema()
    pairs = bands[:3] if isinstance(bands[0], tuple) else (bands,)
    high = max(int(pair[1]) for pair in pairs)
    varied = any(pair[0] < pair[1] for pair in pairs)
    if span is not None or (0 < high < 16 and varied):
        raise DataError(
            f"it has colours of 16 bits whose values end below {(high + 1) * 256}, and colours are "
            "read at the full range only: save it so, or set value_range to [0, 65535] if it is "
            "that dark"
        )


def _extremes(image: Image.Image) -> tuple[float, float]:
    least, greatest = np.inf, -np.inf
    for top, bottom in _rows(image):
        part = np.asarray(image.crop((0, top, image.width, bottom)))
        low, high = float(part.min()), float(part.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError("it holds NaN or infinity")
        least, greatest = min(least, low), max(greatest, high)
    return least, greatest


def to_rgb(image: Image.Image, span: Span | None = None) -> Image.Image:
    """Any mode as 8-bit RGB.

    Transparency is laid over white, CMYK and Lab go through Pillow's conversions, and deep images
    are scaled so that ``span`` becomes 0 to 255. (Pillow itself reduces 16-bit RGB to 8 bits.)
    """
    if deep(image.mode):
        return _in_strips(image, "RGB", lambda part: _bytes(part, span).convert("RGB"))
    if image.has_transparency_data:
        return _in_strips(image, "RGB", _over_white)
    return _as(image, "RGB")


def to_grey(image: Image.Image, span: Span | None = None) -> Image.Image:
    """Any mode as grey.

    Deep images keep their precision: mode F with values in [0, 255] that are not rounded. All else
    becomes 8-bit mode L, colours by their luma (ITU-R 601) after ``to_rgb``.
    """
    if deep(image.mode):
        return _in_strips(image, "F", lambda part: Image.fromarray(_scaled(part, span)))
    if image.mode == "L" and not image.has_transparency_data:
        return image
    return _in_strips(image, "L", lambda part: to_rgb(part).convert("L"))


def to_rgba(image: Image.Image, span: Span | None = None) -> Image.Image:
    """Any mode as 8-bit RGBA; what has no transparency is opaque (alpha 255)."""
    if deep(image.mode):
        return _in_strips(image, "RGBA", lambda part: _with_alpha(part, span))
    if image.has_transparency_data:
        return _as(image, "RGBA")
    return _as(image, "RGB").convert("RGBA")


def _as(image: Image.Image, mode: str) -> Image.Image:
    """Without a copy of what is of the mode already."""
    if image.mode == "La":  # which Pillow converts to its kin only
        image = image.convert("LA")
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, _as(image, "RGBA")).convert("RGB")


def _scaled(image: Image.Image, span: Span | None) -> np.ndarray:
    """Float32 in [0, 255]; a value that stands for "clear" is white."""
    low, high = span or FULL
    stored = np.asarray(image)
    values = (stored.astype(np.float64) - low) / ((high - low) / 255)
    if not np.isfinite(values).all():
        raise DataError("it holds NaN or infinity")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        values[stored == clear] = 255
    return values.clip(0, 255).astype(np.float32)


def _bytes(image: Image.Image, span: Span | None) -> Image.Image:
    return Image.fromarray(np.floor(_scaled(image, span).astype(np.float64) + 0.5).astype(np.uint8))


def _with_alpha(image: Image.Image, span: Span | None) -> Image.Image:
    picture = _bytes(image, span).convert("RGBA")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
        picture.putalpha(Image.fromarray(alpha))
    return picture


def _rows(image: Image.Image) -> list[tuple[int, int]]:
    """Top and bottom of strips of an image."""
    height = max(1, _STRIP // max(1, image.width))
    return [(top, min(top + height, image.height)) for top in range(0, image.height, height)]


def _in_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """What ``convert`` makes of an image, of one strip after another."""
    rows = _rows(image)
    if len(rows) < 2:
        return convert(image)
    result = Image.new(mode, image.size)
    for top, bottom in rows:
        part = image.crop((0, top, image.width, bottom))
        result.paste(convert(part), (0, top))
    return result
