"""Taking one cut out of an image and of what belongs to it: maps, masks, smaller copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from PIL import Image

from ldm.data.transforms import Cut, Framing


def framing(
    size: int | Sequence[int],
    resize: int | str | None = None,
    crop: str = "center",
    flip: float = 0.0,
    crop_scale: Sequence[float] | None = None,
    interpolation: str = "bicubic",
) -> Framing:
    """A ``Framing`` for ``size``, the side of a square or (height, width), in pixels."""
    height, width = (size, size) if isinstance(size, int) else size
    return Framing(height, width, resize, crop, flip, crop_scale, interpolation)


def random_side(cut: Framing, width: int, height: int) -> Framing:
    """The framing "random-2d" of layout-to-image models, for an image of this size.

    The side of the crop is drawn between that of the result and the largest that the image holds
    (taming-transformers); an image that is too small is used whole.
    """
    largest = min(width / cut.width, height / cut.height)
    low = min(1.0, 1 / largest)
    return dataclasses.replace(cut, crop="random", resize=None, crop_scale=(low, 1.0))


def take(
    image: Image.Image,
    cut: Cut,
    size: tuple[int, int],
    interpolation: str,
    antialias: bool = True,
    factor: int = 1,
) -> Image.Image:
    """The part of an image that a cut names, resized and perhaps mirrored.

    Args:
        image: the image for which the cut was made, or one that is ``factor`` times smaller.
        cut: as ``Framing.cut`` makes it.
        size: (height, width) of the result for an image of full size.
        interpolation: a name as in ``Framing``.
        antialias: False, with bilinear: four neighbours are mixed however much the image shrinks,
            as OpenCV's default (and so albumentations') does.
        factor: how many times smaller image and result are.
    """
    height, width = size[0] // factor, size[1] // factor
    left, top = cut.left / factor, cut.top / factor
    right, bottom = left + cut.width / factor, top + cut.height / factor
    box = (left, top, min(right, image.width), min(bottom, image.height))
    if interpolation == "bilinear" and not antialias:
        part = image.transform(
            (width, height), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
        )
    elif (cut.width / factor, cut.height / factor) == (width, height) and _whole(box):
        x0, y0, x1, y1 = (int(edge) for edge in box)
        part = image.crop((x0, y0, x1, y1))
    else:
        part = image.resize((width, height), _resampling(interpolation), box=box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if cut.mirror else part


def snap(cut: Cut, factor: int) -> Cut:
    """The cut moved up and left, so that it begins at a whole pixel of a smaller copy."""
    return dataclasses.replace(
        cut, left=cut.left // factor * factor, top=cut.top // factor * factor
    )


def _whole(box: tuple[float, float, float, float]) -> bool:
    return all(float(edge).is_integer() for edge in box)


def _resampling(interpolation: str) -> Image.Resampling:
    name = "BOX" if interpolation == "area" else interpolation.upper()
    return Image.Resampling[name]
