"""Layouts as tokens: the published encoding of boxes and classes, and its inverse.

``BoxTable`` keeps the boxes of a large data set in little memory, filtered (``BoxFilter``) as
layout-to-image models are trained.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm.errors import ConfigError, DataError

TOKENS_PER_BOX = 3
NUM_MODIFIERS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Box:
    """An object of an image.

    Attributes:
        class_id: its class, from 0.
        x0: left edge; all edges are shares of the width or height of the image, from the top left.
        y0: upper edge.
        x1: right edge.
        y1: lower edge.
        group: several objects of the class in one box.
        occluded: something hides a part of it.
        depiction: a drawing or the like of it.
        inside: seen from its inside.
    """

    class_id: int
    x0: float
    y0: float
    x1: float
    y1: float
    group: bool = False
    occluded: bool = False
    depiction: bool = False
    inside: bool = False

    @property
    def modifier(self) -> int:
        """The flags as a number: 1 (group), 2 (occluded), 4 (depiction) and 8 (inside), added."""
        flags = (self.group, self.occluded, self.depiction, self.inside)
        return sum(flag << i for i, flag in enumerate(flags))


WHOLE = (0.0, 0.0, 1.0, 1.0)
"""A crop (x0, y0, x1, y1), as shares of the image, that leaves it whole."""
Crop = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxTokenizer:
    """Makes tokens of boxes as layout-to-image models read them (LDM, Table 17; 92 tokens).

    Every object is three tokens: ``class_id + num_classes * modifier``, where ``modifier`` stands
    for its flags, and the places of its top-left and bottom-right corners. A place is
    ``round(y (g-1)) g + round(x (g-1))`` on a grid of g x g, with g the root of ``vocab_size``, 90.
    "None" (the last token) fills up to ``max_objects`` objects, then come the corners of the crop.
    Boxes are cut at the edges of the image and stay in its coordinates, not those of the crop,
    which has tokens of its own; objects that the crop misses are left out. The paper writes the
    triple in another order; this is that of the code.

    Attributes:
        num_classes: number of classes.
        max_objects: objects per layout; further ones are left out.
        vocab_size: number of token ids.
        flags: encode the modifier; else it is 0.

    Raises:
        ConfigError: the tokens of the classes do not fit below "none".
    """

    num_classes: int
    max_objects: int = 30
    vocab_size: int = 8192
    flags: bool = True

    def __post_init__(self) -> None:
        modifiers = NUM_MODIFIERS if self.flags else 1
        if self.num_classes < 1 or self.max_objects < 1:
            raise ConfigError("num_classes and max_objects of box tokens must be at least 1")
        if self.num_classes * modifiers > self.none:
            raise ConfigError(
                f"{self.num_classes} classes x {modifiers} modifiers do not fit below token "
                f"{self.none}: keep at most {self.none // modifiers} classes"
                + (f", or set flags=false (at most {self.none})" if self.flags else "")
            )

    @property
    def none(self) -> int:
        """The token of no object."""
        return self.vocab_size - 1

    @property
    def grid(self) -> int:
        """Places along a side of the image."""
        return math.isqrt(self.vocab_size)

    @property
    def length(self) -> int:
        """Tokens per layout."""
        return TOKENS_PER_BOX * self.max_objects + 2

    def __call__(
        self,
        boxes: Sequence[Box],
        crop: Crop = WHOLE,
        flip: bool = False,
        shuffle: np.random.Generator | None = None,
    ) -> Tensor:
        """Tokens (length,), int64, of the boxes of an image.

        Args:
            boxes: in coordinates of the whole image.
            crop: (x0, y0, x1, y1) of the part that is shown, as shares of the image.
            flip: whether the crop was mirrored.
            shuffle: puts the objects in random order, as in training; None keeps theirs.

        Raises:
            DataError: a box lies outside the image or has no area, its class is unknown, or the
                crop is none.
        """
        _check_crop(crop)
        for box in boxes:
            self._check(box)
        shown = [box for box in boxes if _overlap(box, crop)][: self.max_objects]
        if shuffle is not None:
            shown = [shown[i] for i in shuffle.permutation(len(shown))]
        tokens = []
        for box in shown:
            edges = (max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, 1.0), min(box.y1, 1.0))
            tokens += [self._object(box), *self._corners(edges, flip)]
        tokens += [self.none] * (self.length - 2 - len(tokens))
        return torch.tensor([*tokens, *self._corners(crop, flip)], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> tuple[list[Box], Crop]:
        """The boxes and the crop of tokens (length,), within half a place of the original.

        Raises:
            DataError: a token is none that this encoding makes.
        """
        if tokens.shape != (self.length,):
            raise DataError(f"expected {self.length} box tokens, got shape {tuple(tokens.shape)}")
        *objects, first, last = tokens.tolist()
        boxes = []
        for i in range(0, len(objects), TOKENS_PER_BOX):
            triple = objects[i : i + TOKENS_PER_BOX]
            if triple != [self.none] * TOKENS_PER_BOX:
                boxes.append(self._box(*triple))
        return boxes, (*self._place(first), *self._place(last))

    def _check(self, box: Box) -> None:
        edges = (box.x0, box.y0, box.x1, box.y1)
        if not 0 <= box.class_id < self.num_classes:
            raise DataError(
                f"class id {box.class_id} of {box} is outside 0 to {self.num_classes - 1}"
            )
        if not all(map(math.isfinite, edges)) or box.x1 <= box.x0 or box.y1 <= box.y0:
            raise DataError(f"{box} has no area: x0 < x1 and y0 < y1 must hold")
        if not _overlap(box, WHOLE):
            raise DataError(f"{box} lies outside the image, which reaches from 0 to 1")

    def _object(self, box: Box) -> int:
        return box.class_id + self.num_classes * (box.modifier if self.flags else 0)

    def _corners(self, edges: Crop, flip: bool) -> tuple[int, int]:
        x0, y0, x1, y1 = edges
        if flip:
            x0, x1 = 1 - x1, 1 - x0
        return self._token(x0, y0), self._token(x1, y1)

    def _token(self, x: float, y: float) -> int:
        last = self.grid - 1
        return round(y * last) * self.grid + round(x * last)

    def _place(self, token: int) -> tuple[float, float]:
        if not 0 <= token < self.grid**2:
            raise DataError(f"token {token} is no place of a grid of {self.grid} x {self.grid}")
        return token % self.grid / (self.grid - 1), token // self.grid / (self.grid - 1)

    def _box(self, token: int, first: int, last: int) -> Box:
        modifier, class_id = divmod(token, self.num_classes)
        if token < 0 or modifier >= (NUM_MODIFIERS if self.flags else 1):
            raise DataError(f"token {token} is no object of {self.num_classes} classes")
        return Box(class_id, *self._place(first), *self._place(last), *_flags(modifier))


def _flags(modifier: int) -> list[bool]:
    return [bool(modifier >> i & 1) for i in range(4)]


def _check_crop(crop: Crop) -> None:
    x0, y0, x1, y1 = crop
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise DataError(f"crop {crop} must be (x0, y0, x1, y1) with 0 <= x0 < x1 <= 1, y alike")


def _overlap(box: Box, crop: Crop) -> bool:
    x0, y0, x1, y1 = crop
    return min(box.x1, x1) > max(box.x0, x0) and min(box.y1, y1) > max(box.y0, y0)


@dataclass(frozen=True)
class BoxFilter:
    """Which objects and images are kept.

    Attributes:
        min_objects: least number of objects of an image.
        max_objects: largest number.
        min_area: objects of at most this share of the image are left out, before they are counted.
    """

    min_objects: int = 2
    max_objects: int = 30
    min_area: float = 1e-5


class BoxTable:
    """Images by name, in the order in which they appear, and their boxes.

    Args:
        rows: name of the image and box, in any order; a box without area, or one that lies outside
            the image, is left out, with one warning that counts them.
        keep: which objects and images are kept.
        what: where the boxes are from, for messages.

    Raises:
        DataError: no image is left.
    """

    def __init__(self, rows: Iterable[tuple[str, Box]], keep: BoxFilter, what: str) -> None:
        ids: dict[str, int] = {}
        image, classes, flags, edges = array("q"), array("i"), array("B"), array("f")
        bad = total = 0
        for name, box in rows:
            total += 1
            width = min(box.x1, 1) - max(box.x0, 0)
            height = min(box.y1, 1) - max(box.y0, 0)
            if not (width > 0 and height > 0):
                bad += 1
            elif width * height > keep.min_area:
                image.append(ids.setdefault(name, len(ids)))
                classes.append(box.class_id)
                flags.append(box.modifier)
                edges.extend((box.x0, box.y0, box.x1, box.y1))
        if bad:
            _log.warning("%s: %d of %d boxes have no area and are left out", what, bad, total)
        owner = np.asarray(image, np.int64)
        counts = np.bincount(owner, minlength=len(ids))
        kept = (counts >= keep.min_objects) & (counts <= keep.max_objects)
        self.names = [name for name, i in ids.items() if kept[i]]
        if not self.names:
            raise DataError(
                f"{what}: not one of {len(ids)} images has {keep.min_objects} to "
                f"{keep.max_objects} objects of more than {keep.min_area:g} of its area"
            )
        order = np.argsort(owner, kind="stable")
        order = order[kept[owner[order]]]
        self._classes = np.asarray(classes, np.int32)[order]
        self._flags = np.asarray(flags, np.uint8)[order]
        self._edges = np.asarray(edges, np.float32).reshape(-1, 4)[order]
        self._starts = np.concatenate([[0], np.cumsum(counts[kept])])

    def __len__(self) -> int:
        return len(self.names)

    def boxes(self, index: int) -> list[Box]:
        """The boxes of an image."""
        part = slice(int(self._starts[index]), int(self._starts[index + 1]))
        return [
            Box(class_id, *edges, *_flags(modifier))
            for class_id, edges, modifier in zip(
                *(column[part].tolist() for column in (self._classes, self._edges, self._flags)),
                strict=True,
            )
        ]
