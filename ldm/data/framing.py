"""From a photograph to the tensor that a model sees: resize, crop, mirror, scale to [-1, 1].

A ``Framing`` is the recipe. For one image it draws a ``Cut``, the part that becomes the result, and
``take`` takes it out of the image and of all that belongs to it: label maps, masks, smaller copies.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.items import Uniform, check_choice
from ldm.errors import DataError

KEEP = "keep"
"""Value of ``resize`` that cuts the crop out of the image as it is."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """The part of an image that becomes the result, in pixels of the image."""

    left: float
    top: float
    width: float
    height: float
    mirror: bool


@dataclass(frozen=True)
class Framing:
    """Resize an image so that it covers the crop, cut the crop out, perhaps mirror it.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        resize: shorter side before the crop; None = the smallest that covers the crop; "keep" =
            as it is (only an image smaller than the crop is enlarged to cover it).
        crop: center or random.
        flip: probability of a horizontal mirror image.
        crop_scale: (low, high) within (0, 1]: side of the crop before it is resized, drawn
            uniformly, in units of the largest crop of this shape that the image holds. It goes
            with ``crop="random"`` and without ``resize``. (0.5, 1) is the recipe of the ImageNet
            first stages. None = 1, without a draw.
        interpolation: nearest, area (the mean over the covered pixels), bilinear, bicubic or
            lanczos; all but nearest are anti-aliased.
    """

    height: int
    width: int
    resize: int | str | None = None
    crop: str = "center"
    flip: float = 0.0
    crop_scale: Sequence[float] | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"size {self.height} x {self.width} must be positive")
        if self.crop not in ("center", "random"):
            raise ValueError(f"crop '{self.crop}' is neither 'center' nor 'random'")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip} is not a probability")
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation '{self.interpolation}' is not one of {', '.join(_FILTERS)}"
            )
        if self.resize not in (None, KEEP) and not isinstance(self.resize, int):
            raise ValueError(f"resize {self.resize!r} is neither a number of pixels nor '{KEEP}'")
        if isinstance(self.resize, int) and self.resize < max(self.height, self.width):
            raise ValueError(f"resize {self.resize} is below the crop {self.height} x {self.width}")
        if self.crop_scale is not None:
            self._check_crop_scale(list(self.crop_scale))

    def _check_crop_scale(self, bounds: list[float]) -> None:
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= 1:
            raise ValueError(f"crop_scale {bounds} is not [low, high] with 0 < low <= high <= 1")
        if self.crop != "random" or self.resize is not None:
            raise ValueError(
                "crop_scale draws the size of random crops: it needs crop=random and no resize"
            )

    @property
    def needed(self) -> int | None:
        """Shorter side to which an image may be reduced while it is decoded; None = not at all."""
        if self.resize == KEEP:
            return None
        if isinstance(self.resize, int):
            return self.resize
        smallest = 1.0 if self.crop_scale is None else self.crop_scale[0]
        return math.ceil(max(self.height, self.width) / smallest)

    def scale(self, width: int, height: int) -> float:
        """Factor by which an image of this size is resized, at its largest crop: > 1 enlarges."""
        if isinstance(self.resize, int):
            return self.resize / min(width, height)
        cover = max(self.width / width, self.height / height)
        if self.resize == KEEP:
            return max(1.0, cover)
        return cover if self.crop_scale is None else cover / self.crop_scale[1]

    def cut(self, width: int, height: int, uniform: Uniform) -> Cut:
        """Choose the part of an image of this size that becomes the result.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
            uniform: gives the draws in [0, 1): column, row, flip and, if it is asked for, scale.
        """
        u, v, mirror = uniform(), uniform(), uniform()
        scale = self.scale(width, height)
        if self.crop_scale is not None:
            low, high = self.crop_scale
            scale *= high / (low + (high - low) * uniform())
        cut_width, cut_height = min(self.width / scale, width), min(self.height / scale, height)
        if self.crop == "center":
            left, top = (width - cut_width) // 2, (height - cut_height) // 2
        else:
            left = min(int(u * (width - cut_width + 1)), width - cut_width)
            top = min(int(v * (height - cut_height + 1)), height - cut_height)
        return Cut(left, top, cut_width, cut_height, mirror < self.flip)

    def __call__(self, image: Image.Image, uniform: Uniform, antialias: bool = True) -> Image.Image:
        """Frame an image; ``uniform`` gives the draws as for ``cut``, ``antialias`` is ``take``'s.

        Cropping and resizing are one step; the crop starts at a whole pixel, so an image that
        needs no resizing is copied exactly. Colours are weighted by alpha where there is one.
        """
        cut = self.cut(*image.size, uniform)
        return take(image, cut, (self.height, self.width), self.interpolation, antialias)


def make_framing(
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


def checked_framing(what: str, size: int | Sequence[int], **options: Any) -> Framing:
    """As ``make_framing``, for a data set.

    Args:
        what: which data set it is, for messages.
        size: side of a square or (height, width), in pixels.
        **options: of ``Framing``.

    Raises:
        DataError: the options do not go together.
    """
    try:
        return make_framing(size, **options)
    except ValueError as error:
        raise DataError(f"{what}: {error}") from None


class Enlargement:
    """What happens to an image that is smaller than its crop.

    Args:
        framing: the crop.
        policy: upscale = enlarge it, with one warning, or error = raise.
    """

    def __init__(self, framing: Framing, policy: str) -> None:
        check_choice("folder", "small", policy, ("upscale", "error"))
        self._framing, self._policy = framing, policy
        self._warned = False

    def check(self, path: str | Path, width: int, height: int) -> None:
        """Warn of an image of this size, or refuse it, if it must be enlarged."""
        scale = self._framing.scale(width, height)
        if scale <= 1:
            return
        message = (
            f"image '{path}' of {width} x {height} pixels is smaller than the crop and must be "
            f"enlarged {scale:.2f} times"
        )
        if self._policy == "error":
            raise DataError(f"{message}: remove it, lower size or set small=upscale")
        if not self._warned:
            self._warned = True
            _log.warning("%s; further ones are enlarged without a word", message)


def to_tensor(image: Image.Image) -> Tensor:
    """An image with values in [0, 255] as float (C, H, W) in [-1, 1].

    Args:
        image: of mode L (C = 1), RGB (3), RGBA (4), or F (1), whose fractions are kept.
    """
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    # Cubic interpolation of fractions overshoots; that of bytes is clipped by Pillow.
    return pixels.float().div_(127.5).sub_(1).clamp_(-1, 1).contiguous()


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
        part = image.resize((width, height), _FILTERS[interpolation], box=box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if cut.mirror else part


def snap(cut: Cut, factor: int) -> Cut:
    """The cut moved up and left, so that it begins at a whole pixel of a smaller copy."""
    return dataclasses.replace(
        cut, left=cut.left // factor * factor, top=cut.top // factor * factor
    )


def _whole(box: tuple[float, float, float, float]) -> bool:
    return all(float(edge).is_integer() for edge in box)
