"""The items of which a latent cache is made: plain and mirrored, and whether they repeat."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ldm.data.latent_shard import Item
from ldm.data.shard_items import ShardItems
from ldm.data.shards import Shards
from ldm.errors import DataError

PROBES = 32
"""Items that are looked at to find out whether epochs differ."""


class ItemPairs(Dataset[tuple[Item, Item | None]]):
    """Items of a data set, and the same from its twin that mirrors all of them.

    What a data set draws from the global generators is made to depend on (epoch, index) only.

    Args:
        name: what messages call the data set.
        plain: the data set, which mirrors nothing. Of ``Shards``, all samples in their order.
        mirrored: its twin; None: there is none.

    Raises:
        DataError: it is another stream, or the two differ in length.
    """

    def __init__(self, name: str, plain: Any, mirrored: Any | None = None) -> None:
        sets = [plain] if mirrored is None else [plain, mirrored]
        self.name, self._sets = name, [_numbered(name, dataset) for dataset in sets]
        lengths = [len(dataset) for dataset in self._sets]
        if len(set(lengths)) > 1:
            raise DataError(f"the {name} set has {lengths[0]} items, {lengths[1]} with flip=1")
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._sets[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the following items; not while workers run."""
        self._epoch = epoch
        for dataset in self._sets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> tuple[Item, Item | None]:
        items = [self._item(dataset, index) for dataset in self._sets]
        return items[0], items[1] if len(items) > 1 else None

    def changing_entry(self) -> tuple[int, str] | None:
        """A place and an entry that differ between the first two epochs; None: none was found."""
        places = sorted(set(np.linspace(0, len(self) - 1, PROBES, dtype=int).tolist()))
        for place in places:
            first, second = (self._in_epoch(epoch, place) for epoch in (0, 1))
            for entry in first:
                if not same(first[entry], second.get(entry)):
                    self.set_epoch(0)
                    return place, entry
        self.set_epoch(0)
        return None

    def _in_epoch(self, epoch: int, index: int) -> Item:
        self.set_epoch(epoch)
        return self[index][0]

    def _item(self, dataset: Any, index: int) -> Item:
        seed = hashlib.sha256(f"{self._epoch} {index}".encode()).digest()
        number = int.from_bytes(seed[:4], "little")
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        item: Item = dataset[index]
        if not isinstance(item.get("image"), Tensor) or item["image"].ndim != 3:
            raise DataError(f"item {index} of the {self.name} set has no 'image' (C, H, W)")
        return item


def _numbered(name: str, dataset: Any) -> Any:
    """A data set whose items can be asked for by number."""
    if isinstance(dataset, Shards):
        return ShardItems(dataset)
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise DataError(
            f"the {name} set, a {type(dataset).__name__}, is a stream: a cache needs items that "
            "can be asked for by number; write its images into a folder"
        )
    return dataset


def same(one: Any, other: Any) -> bool:
    """Whether two entries of items are equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other))


def without(item: Item, names: Sequence[str]) -> Item:
    """The entries of an item but some."""
    return {name: value for name, value in item.items() if name not in names}
