"""Synthetic scenes of one to three coloured shapes with everything the paper conditions on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ldm.data.captions import Tokenizer
from ldm.data.items import check_choice
from ldm.data.layouts.boxes import Box, BoxTokenizer
from ldm.data.scenes.captions import (
    CLASS_NAMES,
    COLOURS,
    SHAPES,
    class_index,
    describe,
    write_caption,
)
from ldm.data.scenes.composition import Scene, sample_scene
from ldm.data.scenes.drawing import BACKGROUNDS, draw_background, draw_object
from ldm.errors import DataError, check_count

_SPLITS = ("train", "validation", "test")


class SceneDataset(Dataset[dict[str, Any]]):
    """Scenes drawn on the fly: nothing is stored and nothing is downloaded.

    Item ``i`` depends on ``(seed, split, i)`` and the options only; the same scene is drawn at
    every resolution of one aspect ratio. Each item is a dict of

    - ``image``: float (3, H, W) in [-1, 1]
    - ``caption``: str, see ``ldm.data.scenes.captions``
    - ``class_label``: int, the class of the first object of the caption (``CLASS_NAMES``)
    - ``boxes``: float (N, 4), x0 y0 x1 y1 in [0, 1], N the largest number of objects, else 0
    - ``box_labels``: long (N,), class of each box, -1 where there is none
    - ``segmentation``: long (H, W), 0 = background, k = class k - 1
    - ``tokens``: long (L,), the caption's tokens, if there is a tokenizer
    - ``box_tokens``: long (L,), the tokens of boxes and classes, if there is a ``box_tokenizer``

    Args:
        resolution: side of a square image or (height, width), at least 16 pixels.
        length: number of scenes.
        seed: seed of the whole set.
        split: train, validation or test: three sets without common draws.
        num_objects: smallest and largest number of objects, within 1 to 3.
        shapes: the shapes that appear. Class ids always count all of ``SHAPES``.
        colours: the colours that appear.
        backgrounds: the kinds of background that appear; plain and gradient are quickest to learn.
        tokenizer: maps a caption to a long tensor (L,) or (1, L).
        box_tokenizer: makes tokens of the boxes, for as many classes as ``CLASS_NAMES``.

    Raises:
        DataError: an option is out of its range.
    """

    classes = CLASS_NAMES

    def __init__(
        self,
        resolution: int | Sequence[int],
        length: int,
        seed: int = 0,
        split: str = "train",
        num_objects: Sequence[int] = (1, 3),
        shapes: Sequence[str] = SHAPES,
        colours: Sequence[str] = COLOURS,
        backgrounds: Sequence[str] = BACKGROUNDS,
        tokenizer: Tokenizer | None = None,
        box_tokenizer: BoxTokenizer | None = None,
    ) -> None:
        height, width = (
            (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        )
        if min(height, width) < 16:
            raise DataError(f"scenes: resolution {resolution} is below 16 pixels")
        check_choice("scenes", "split", split, _SPLITS)
        low, high = num_objects
        if not 1 <= low <= high <= 3:
            raise DataError(f"scenes: num_objects {list(num_objects)} is not within 1 to 3")
        if length < 1 or seed < 0:
            raise DataError(
                f"scenes: length {length} must be positive and seed {seed} not negative"
            )
        check_count("length", length)
        if box_tokenizer is not None and box_tokenizer.num_classes != len(CLASS_NAMES):
            raise DataError(
                f"scenes: num_classes of box_tokenizer is {box_tokenizer.num_classes}, but there "
                f"are {len(CLASS_NAMES)} classes"
            )
        _check_subset("shapes", shapes, SHAPES)
        _check_subset("colours", colours, COLOURS)
        _check_subset("backgrounds", backgrounds, BACKGROUNDS)
        self.height, self.width = height, width
        self.length = length
        self.num_objects = (low, high)
        self.shapes, self.colours = tuple(shapes), tuple(colours)
        self.backgrounds = tuple(backgrounds)
        self.tokenizer, self.box_tokenizer = tokenizer, box_tokenizer
        self._entropy = (seed, _SPLITS.index(split))

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The description from which item ``index`` is drawn."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of a set of {self.length}")
        unit = min(self.height, self.width)
        size = (self.height / unit, self.width / unit)
        rng = np.random.default_rng((*self._entropy, index))
        return sample_scene(
            rng, self.num_objects, self.shapes, self.colours, size, self.backgrounds
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        image = draw_background(scene.background, self.height, self.width)
        segmentation = np.zeros((self.height, self.width), np.int64)
        labels = [class_index(item.shape, item.colour) for item in scene.objects]
        for item, label in zip(scene.objects, labels, strict=True):
            draw_object(image, segmentation, item, label + 1)
        spec = describe([(item.shape, item.colour) for item in scene.objects], scene.relation)
        caption = write_caption(spec)
        missing = self.num_objects[1] - len(labels)
        boxes = self._boxes(scene)
        padded = np.array([*boxes, *[(0.0,) * 4] * missing], np.float32)
        entries: dict[str, Any] = {
            "image": torch.from_numpy(image),
            "caption": caption,
            "class_label": labels[0],
            "boxes": torch.from_numpy(padded),
            "box_labels": torch.from_numpy(np.array(labels + [-1] * missing)),
            "segmentation": torch.from_numpy(segmentation),
        }
        if self.tokenizer is not None:
            entries["tokens"] = self.tokenizer(caption).reshape(-1)
        if self.box_tokenizer is not None:
            found = [Box(label, *box) for label, box in zip(labels, boxes, strict=True)]
            entries["box_tokens"] = self.box_tokenizer(found)
        return entries

    def _boxes(self, scene: Scene) -> list[tuple[float, float, float, float]]:
        unit = min(self.height, self.width)
        w, h = unit / self.width, unit / self.height
        return [
            ((o.x - o.radius) * w, (o.y - o.radius) * h, (o.x + o.radius) * w, (o.y + o.radius) * h)
            for o in scene.objects
        ]


def _check_subset(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    wrong = [value for value in chosen if value not in known]
    if wrong or not chosen:
        raise DataError(f"scenes: {name} {list(chosen)} must be some of {', '.join(known)}")
