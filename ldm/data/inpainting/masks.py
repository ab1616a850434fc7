"""Random holes for inpainting at any size: strokes, boxes, the sets of LaMa, files.

A mask generator is called as ``masks(height, width, generator)`` and returns bool (height, width),
True where pixels are to be filled in. All numbers of pixels are those of an image whose shorter
side is ``reference`` pixels, and are scaled to the image at hand: the same state of the ``numpy``
generator draws the same shapes at every size of one aspect ratio.

``lama_masks`` gives the masks of LaMa (arXiv 2109.07161), with which the paper's inpainting models
are measured; ``MaskFiles`` masks of one's own, from a folder of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ldm.data.framing import Framing
from ldm.data.image_io import read_image
from ldm.data.items import ReadableItems
from ldm.data.listing import image_endings, list_folder
from ldm.errors import DataError

Masks: TypeAlias = Callable[[int, int, np.random.Generator], np.ndarray]
"""``masks(height, width, generator)``: bool (height, width), True = hole."""

_ATTEMPTS = 100
_MIN_RADIUS = math.sqrt(0.5)
"""Of a stroke, in pixels of the image: wherever it lies, it covers the centre of a pixel."""


class Segment(NamedTuple):
    """A straight piece of a stroke, between two points (x, y), in pixels of the reference."""

    start: tuple[int, int]
    end: tuple[int, int]
    width: int


@dataclass(frozen=True)
class Strokes:
    """Strokes of a brush, each of 1 to 5 straight segments with round ends.

    Every segment has a direction of its own out of four, 0.01 + {0, 1, 2, 3} radians, mirrored for
    every other stroke, a length of 10 to ``max_length`` + 9 and a width of 5 to ``max_width`` + 4
    pixels, all uniform; it ends at the border of the image at the latest.

    Attributes:
        reference: shorter side of the image in which pixels are counted.
        count: smallest and largest number of strokes.
        max_length: of a segment.
        max_width: of the brush.
    """

    reference: int
    count: Sequence[int]
    max_length: int
    max_width: int

    def __post_init__(self) -> None:
        _check_range("strokes: count", self.count, 1)
        if min(self.reference, self.max_length, self.max_width) < 1:
            raise DataError(
                f"strokes: reference {self.reference}, max_length {self.max_length} and max_width "
                f"{self.max_width} must be positive"
            )

    def segments(
        self, height: int, width: int, generator: np.random.Generator
    ) -> list[list[Segment]]:
        """The strokes on a reference image of this size, as lists of segments."""
        return [
            self._stroke(height, width, generator, mirrored=i % 2 == 0)
            for i in range(_draw(generator, self.count))
        ]

    def __call__(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Bool (height, width), True under the strokes; at least one pixel is."""
        mask = np.zeros((height, width), bool)
        scale, rows, columns = _reference_size(height, width, self.reference)
        for stroke in self.segments(rows, columns, generator):
            for segment in stroke:
                _paint(mask, segment, scale)
        return mask

    def _stroke(
        self, height: int, width: int, generator: np.random.Generator, mirrored: bool
    ) -> list[Segment]:
        x, y = int(generator.integers(width)), int(generator.integers(height))
        segments = []
        for _ in range(_draw(generator, (1, 5))):
            angle = 0.01 + int(generator.integers(4))
            length = 10 + int(generator.integers(self.max_length))
            brush = 5 + int(generator.integers(self.max_width))
            aside = math.sin(angle) * (-1 if mirrored else 1)
            end = (
                min(max(int(x + length * aside), 0), width),
                min(max(int(y + length * math.cos(angle)), 0), height),
            )
            segments.append(Segment((x, y), end, brush))
            x, y = end
        return segments


@dataclass(frozen=True)
class Boxes:
    """Upright rectangles, anywhere in the image.

    Attributes:
        reference: shorter side of the image in which pixels are counted.
        count: smallest and largest number of boxes.
        side: smallest and largest side of a box; width and height are drawn apart.
        margin: distance that they keep from the border.
    """

    reference: int
    count: Sequence[int]
    side: Sequence[int]
    margin: int = 0

    def __post_init__(self) -> None:
        _check_range("boxes: count", self.count, 1)
        _check_range("boxes: side", self.side, 1)
        if self.margin < 0 or self.side[1] + 2 * self.margin > self.reference:
            raise DataError(
                f"boxes: sides up to {self.side[1]} with a margin of {self.margin} do not lie in a "
                f"reference image of {self.reference} pixels"
            )

    def __call__(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Bool (height, width), True in the boxes."""
        mask = np.zeros((height, width), bool)
        scale, rows, columns = _reference_size(height, width, self.reference)
        for _ in range(_draw(generator, self.count)):
            w, h = _draw(generator, self.side), _draw(generator, self.side)
            x = _draw(generator, (self.margin, columns - self.margin - w))
            y = _draw(generator, (self.margin, rows - self.margin - h))
            # a pixel belongs to the box if its centre does
            left, right = (math.ceil(edge * scale - 0.5) for edge in (x, x + w))
            top, bottom = (math.ceil(edge * scale - 0.5) for edge in (y, y + h))
            mask[top:bottom, left:right] = True
        return mask


@dataclass(frozen=True)
class Mixture:
    """One of several kinds of mask, drawn anew until it is neither empty nor too large.

    Attributes:
        kinds: mask generators.
        weights: how often each is drawn, in any unit.
        max_area: largest share of the image that may be masked.
    """

    kinds: Sequence[Masks]
    weights: Sequence[float]
    max_area: float = 1.0

    def __post_init__(self) -> None:
        weights = list(self.weights)
        if len(weights) != len(self.kinds) or min(weights, default=0) < 0 or not sum(weights) > 0:
            raise DataError(f"masks: {len(self.kinds)} kinds do not go with weights {weights}")
        if not 0 < self.max_area <= 1:
            raise DataError(f"masks: max_area {self.max_area} is not within 0 to 1")

    def __call__(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Bool (height, width).

        Raises:
            DataError: not one of a hundred masks was small enough.
        """
        shares = np.array(self.weights, np.float64)
        for _ in range(_ATTEMPTS):
            kind = generator.choice(len(shares), p=shares / shares.sum())
            mask = self.kinds[kind](height, width, generator)
            if 0 < mask.mean() <= self.max_area:
                return mask
        raise DataError(
            f"masks: none of {_ATTEMPTS} of {height} x {width} pixels covers at most "
            f"{self.max_area:g} of the image and is not empty: raise max_area or draw smaller ones"
        )


def _draw(generator: np.random.Generator, bounds: Sequence[int]) -> int:
    return int(generator.integers(bounds[0], bounds[1] + 1))


def _reference_size(height: int, width: int, reference: int) -> tuple[float, int, int]:
    """Pixels of the image per pixel of the reference; height and width of the reference."""
    scale = min(height, width) / reference
    return scale, round(height / scale), round(width / scale)


def _paint(mask: np.ndarray, segment: Segment, scale: float) -> None:
    """Mark the pixels whose centre is at most half a width away from a segment."""
    (x0, y0), (x1, y1) = (
        ((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5) for x, y in segment[:2]
    )
    radius = max(segment.width * scale / 2, _MIN_RADIUS)
    top, bottom = (max(math.floor(min(y0, y1) - radius), 0), math.ceil(max(y0, y1) + radius) + 1)
    left, right = (max(math.floor(min(x0, x1) - radius), 0), math.ceil(max(x0, x1) + radius) + 1)
    part = mask[top:bottom, left:right]
    ys, xs = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    dx, dy = x1 - x0, y1 - y0
    along = ((xs - x0) * dx + (ys - y0) * dy) / max(dx * dx + dy * dy, 1e-12)
    along = along.clip(0, 1)
    part |= (xs - x0 - along * dx) ** 2 + (ys - y0 - along * dy) ** 2 <= radius * radius


def _check_range(name: str, bounds: Sequence[int], least: int) -> None:
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
        raise DataError(f"{name} {list(bounds)} is not [low, high] with {least} <= low <= high")


# The published settings end at one stroke less; the code that reads them adds one.
SETS: Mapping[str, Mixture] = {
    "training-256": Mixture(
        (Strokes(256, (1, 6), 200, 100), Boxes(256, (1, 4), (30, 150), 10)), (1, 1)
    ),
    "thick-512": Mixture(
        (Strokes(512, (1, 6), 450, 250), Boxes(512, (1, 4), (30, 300), 10)), (1, 0.3), 0.5
    ),
    "medium-512": Mixture(
        (Strokes(512, (4, 11), 200, 100), Boxes(512, (1, 5), (30, 150), 0)), (1, 0.3), 0.5
    ),
    "thin-512": Mixture((Strokes(512, (4, 71), 100, 20),), (1,), 0.5),
    "thick-256": Mixture(
        (Strokes(256, (1, 6), 200, 100), Boxes(256, (1, 3), (30, 150), 10)), (1, 0.3), 0.5
    ),
    "medium-256": Mixture(
        (Strokes(256, (4, 6), 100, 50), Boxes(256, (1, 5), (10, 50), 0)), (1, 0.3), 0.5
    ),
    "thin-256": Mixture((Strokes(256, (4, 51), 40, 10),), (1,), 0.5),
}
"""The masks that LaMa trains with (at 256 pixels, of any area) and those it is measured with."""


def lama_masks(name: str) -> Mixture:
    """One of ``SETS``, for images of any size.

    Raises:
        DataError: there is no such set.
    """
    if name not in SETS:
        raise DataError(f"masks: '{name}' is not one of {', '.join(SETS)}")
    return SETS[name]


class MaskFiles:
    """A mask generator (``ldm.data.inpainting.masks``) that draws one of the masks of a folder.

    The masks are black and white pictures of any size, white where pixels are to be filled in. They
    go with any image: of each the largest centred part that has the shape of the image is taken,
    at the nearest pixels. A mask that cannot be read is passed over, with a warning.

    Args:
        root: the folder; its sub-folders are read too.
        invert: black is the hole.
        extensions: further endings of pictures; see ``ldm.data.listing.image_endings``.

    Raises:
        DataError: the folder is missing or holds no picture.
    """

    def __init__(
        self,
        root: str | Path,
        invert: bool = False,
        extensions: Sequence[str] | str | None = None,
    ) -> None:
        self.root, self.invert = Path(root).expanduser(), invert
        endings = image_endings(extensions)
        self.files = list_folder(self.root, endings, "mask", "extensions").images
        what = f"folder '{self.root}'"
        self._items = ReadableItems(what, len(self.files), self._read, "skip", 0)

    def __len__(self) -> int:
        return len(self._items)

    def __call__(self, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
        """Bool (height, width), True = hole.

        Raises:
            DataError: not one of the masks is readable.
        """
        _, picture = self._items[int(generator.integers(len(self)))]
        return threshold(picture, height, width) != self.invert

    def _read(self, index: int) -> Image.Image:
        return read_image(self.root / self.files[index], mode="L")[0]


def threshold(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """Where a grey picture is white, from 128 of 255 on: bool (height, width)."""
    framed = Framing(height, width, interpolation="nearest")(picture, lambda: 0.0)
    return np.asarray(framed) >= 128
