"""Items of another data set, each with a generator for what is made of it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from ldm.data.readable_items import ReadableItems
from ldm.data.skips import Skips
from ldm.errors import DataError

REFUSED = "refused by its data set"

_PURPOSE = 1
"""Numbers of their own, should both data sets have the same seed."""


class WrappedItems:
    """Items of a data set of images, and random numbers of (seed, epoch, index).

    Args:
        images: data set whose items are dicts with ``image`` float (C, H, W) in [-1, 1].
        seed: seed of the generators.
        refused: what an item does for which the data set raises ``DataError``, such as an image
            that is too small: error = raise, skip = take the next one instead.

    Raises:
        DataError: the data set is empty, or its items have no numbers.
    """

    def __init__(self, images: Dataset[dict[str, Any]], seed: int, refused: str = "error") -> None:
        name = type(images).__name__
        if isinstance(images, IterableDataset) or not isinstance(images, Sized):
            raise DataError(f"{name} has no items by number: it is no data set of single images")
        if refused not in ("error", "skip"):
            raise DataError(f"{name}: refused '{refused}' is not one of error, skip")
        self.images, self._name = images, name
        self.skips = Skips([REFUSED])
        self._skip, self._refused, self._first = refused == "skip", set[int](), ""
        self._items = ReadableItems(name, len(images), images.__getitem__, "error", seed)

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give generators, and the images if they draw, new numbers, also in running workers."""
        self._items.set_epoch(epoch)
        if hasattr(self.images, "set_epoch"):
            self.images.set_epoch(epoch)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], np.random.Generator]:
        """An item, or the next one that is not refused, and the generator of ``index``.

        Raises:
            DataError: all are refused, or the item has no image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a set of {len(self)}")
        for step in range(len(self)):
            used = (index + step) % len(self)
            if used in self._refused:
                continue
            try:
                _, entries = self._items[used]
            except DataError as error:
                if not self._skip:
                    raise
                self._refused.add(used)
                self._first = self._first or str(error)
                self.skips.add(REFUSED, str(error))
                continue
            if getattr(entries.get("image"), "ndim", 0) != 3:
                raise DataError(f"item {used} of {self._name} has no 'image' (C, H, W)")
            return entries, self._items.generator(index, _PURPOSE)
        raise DataError(
            f"{self._name} refuses all of its {len(self)} items; the first: {self._first}"
        )
