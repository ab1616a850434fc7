"""Images with layouts: boxes of objects as tokens that follow the crop and the mirror."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import Dataset

from ldm.data.framing import Cut, make_framing, random_side, take, to_tensor
from ldm.data.image_io import Reading, as_reading, read_image, reading_as
from ldm.data.items import ReadableItems, Skips, check_choice
from ldm.data.layouts.boxes import Box, BoxTokenizer, Crop
from ldm.errors import DataError
from ldm.files import shown

_log = logging.getLogger(__name__)

CROPS = ("center", "random-1d", "random-2d")
_SHUFFLE = 1
"""Purpose of the draws that order the objects, apart from those of the crop."""


class BoxSource(Protocol):
    """Where images and their boxes come from.

    Besides, it may have ``frame(index)``, the (width, height) of the image on which the boxes were
    drawn. Where that is the size as stored and not the upright one, the image stays as stored.
    """

    classes: Sequence[str]
    """Names of the classes by id."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def path(self, index: int) -> Path:
        """File of an image."""
        ...

    def boxes(self, index: int) -> list[Box]:
        """Boxes of an image, in shares of the whole image."""
        ...


class LayoutImages(Dataset[dict[str, Any]]):
    """Images and box tokens, as VQGAN+T and LDM train on them.

    Each item is a dict of ``image`` float (3, H, W) in [-1, 1] and ``box_tokens`` long (L,).

    Args:
        source: images and boxes.
        tokens: makes the tokens; its number of classes must be that of the source.
        size: side of the square result or (height, width), in pixels.
        crop: center; random-1d, the largest part of that shape at a random place; or random-2d,
            also of random size, not below that of the result.
        flip: probability of a horizontal mirror image.
        shuffle: put the objects in random order, as in training.
        interpolation: nearest, area, bilinear, bicubic or lanczos.
        antialias: False, with bilinear: what taming-transformers does.
        seed: seed of crops, flips and orders.
        broken: what an unreadable image does: skip = warn once per image (and worker) and take
            the next readable one instead, error = raise.
        reading: see ``ldm.data.FramedImages``.

    Raises:
        DataError: the options do not fit together.
    """

    def __init__(
        self,
        source: BoxSource,
        tokens: BoxTokenizer,
        size: int | Sequence[int],
        crop: str = "center",
        flip: float = 0.0,
        shuffle: bool = False,
        interpolation: str = "bilinear",
        antialias: bool = True,
        seed: int = 0,
        broken: str = "skip",
        reading: Reading | Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("layouts", "crop", crop, CROPS)
        if tokens.num_classes != len(source.classes):
            raise DataError(
                f"layouts: num_classes of the tokens is {tokens.num_classes}, but there are "
                f"{len(source.classes)} classes: make them the same"
            )
        kind = "center" if crop == "center" else "random"
        self.source, self.tokens = source, tokens
        self.framing = make_framing(size, None, kind, flip, None, interpolation)
        self._two, self._shuffle, self._antialias = crop == "random-2d", shuffle, antialias
        # The smallest random-2d crop has the size of the result: nothing may be reduced.
        self._at_least = None if self._two or not antialias else self.framing.needed
        self._warned, self.reading = False, as_reading(reading)
        what = type(source).__name__
        self._items = ReadableItems(what, len(source), self._read, broken, seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by id."""
        return tuple(self.source.classes)

    @property
    def skips(self) -> Skips:
        """How often another image was taken in place of a broken one, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new crops, flips and orders, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        used, image = self._items[index]
        frame = random_side(self.framing, *image.size) if self._two else self.framing
        cut = frame.cut(*image.size, self._items.draws(index))
        part = take(image, cut, (frame.height, frame.width), frame.interpolation, self._antialias)
        order = self._items.generator(index, _SHUFFLE) if self._shuffle else None
        crop, boxes = _shares(cut, *image.size), self.source.boxes(used)
        self._check(used, len(boxes))
        tokens = self.tokens(boxes, crop, cut.mirror, order)
        return {"image": to_tensor(part), "box_tokens": tokens}

    def _check(self, index: int, count: int) -> None:
        if count > self.tokens.max_objects and not self._warned:
            self._warned = True
            _log.warning(
                "'%s' has %d objects, the tokens hold %d: the others are left out, here and "
                "further on without a word",
                *(shown(self.source.path(index)), count, self.tokens.max_objects),
            )

    def _read(self, index: int) -> Image.Image:
        path = self.source.path(index)
        frame = self.source.frame(index) if hasattr(self.source, "frame") else None
        with reading_as(self.reading):
            image, size = read_image(path, self._at_least)
            if frame is not None and size != frame and size[::-1] == frame:
                # the boxes were drawn on the image as it is stored
                return read_image(path, self._at_least, turn=False)[0]
        return image


def _shares(cut: Cut, width: int, height: int) -> Crop:
    right, bottom = (cut.left + cut.width) / width, (cut.top + cut.height) / height
    return cut.left / width, cut.top / height, min(right, 1.0), min(bottom, 1.0)
