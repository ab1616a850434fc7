"""Boxes of many images in little memory, filtered as layout-to-image models do."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ldm.data.box_tokens import Box
from ldm.errors import DataError

_log = logging.getLogger(__name__)


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
                bits = (box.group, box.occluded, box.depiction, box.inside)
                flags.append(sum(bit << i for i, bit in enumerate(bits)))
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
            Box(int(class_id), *edges, *(bool(bits >> i & 1) for i in range(4)))
            for class_id, edges, bits in zip(
                self._classes[part].tolist(),
                self._edges[part].tolist(),
                self._flags[part].tolist(),
                strict=True,
            )
        ]
