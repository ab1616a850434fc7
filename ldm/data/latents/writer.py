"""Encoding the items of a data set into the shards of a latent cache.

``ItemPairs`` gives the items, plain and mirrored, and finds out whether they differ between epochs;
``Encoder`` puts latents in the place of images; ``Writer`` makes the shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ldm.data.latents.manifest import DTYPES, Manifest, Split, as_written, intact, shard_path
from ldm.data.latents.shard import Item, Written, pack, write_shard
from ldm.data.shards.dataset import Shards
from ldm.data.shards.indexed import ShardItems
from ldm.errors import DataError
from ldm.files import file_sha256, read_json, remove_leftovers, write_text

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


Pair = tuple[Item, Item | None]


@dataclass(frozen=True)
class Encoder:
    """How the image of an item becomes the entry that is kept.

    Attributes:
        entry: its name.
        encode: images (B, C, H, W) in [-1, 1] -> what is kept (B, ...), float32 on the CPU.
        dtype: fp32 or bf16, in which it is kept.
        left_out: entries of the items that are not kept.
    """

    entry: str
    encode: Callable[[Tensor], Tensor]
    dtype: str
    left_out: tuple[str, ...] = ("image",)

    def __call__(self, items: Sequence[Item], where: str) -> list[Item]:
        """Items with the entry in place of the image.

        Raises:
            DataError: it is not finite; ``where`` says which items these are.
        """
        shapes = {tuple(item["image"].shape) for item in items}
        if len(shapes) > 1:
            raise DataError(f"{where}: images have different shapes, {sorted(shapes)}")
        kept = self.encode(torch.stack([item["image"] for item in items]))
        if not bool(kept.isfinite().all()):
            raise DataError(f"{where}: the autoencoder gives values that are not finite")
        kept = kept.to(getattr(torch, DTYPES[self.dtype]))
        return [
            {self.entry: value, **without(item, self.left_out)}
            for item, value in zip(items, kept, strict=True)
        ]


@dataclass(frozen=True)
class Writer:
    """Makes shards of a data set.

    Attributes:
        root: folder of the cache.
        manifest: what is to be made.
        encode: makes of items what is kept.
        batch_size: images that are encoded at once.
        workers: processes that read images; 0: this one.
    """

    root: Path
    manifest: Manifest
    encode: Encoder
    batch_size: int
    workers: int

    def forget(self) -> None:
        """Remove the notes on shards that are there: of what they were made is not known."""
        for split in self.manifest.splits:
            for note in (self.root / split).glob("*.json"):
                note.unlink()

    def missing(self, split: str) -> list[int]:
        """Numbers of the shards that are not there, or not what was written: all are read."""
        about = self.manifest.splits[split]
        return [n for n in range(about.count) if not self._whole(split, n, about)]

    def write(
        self,
        pairs: ItemPairs,
        split: str,
        numbers: Sequence[int],
        progress: Callable[[int], object],
    ) -> None:
        """Make some shards of a split; ``progress`` is told how many items were added.

        A shard is the same whatever else is made in this call.
        """
        about = self.manifest.splits[split]
        for epoch in sorted({about.span(number)[0] for number in numbers}):
            pairs.set_epoch(epoch)
            chosen = [number for number in numbers if about.span(number)[0] == epoch]
            batches = [batch for number in chosen for batch in self._batches(about, number)]
            loader = DataLoader(
                pairs,
                batch_sampler=batches,
                num_workers=self.workers,
                collate_fn=_unchanged,
            )
            source = iter(loader)
            for number in chosen:
                plain: list[Item] = []
                mirrored: list[Item] = []
                for batch in self._batches(about, number):
                    where = f"items {batch[0]} to {batch[-1]} of the {split} set"
                    items: list[Pair] = next(source)
                    plain += self.encode([item for item, _ in items], where)
                    twins = [twin for _, twin in items if twin is not None]
                    mirrored += self.encode(twins, where) if twins else []
                    progress(len(batch))
                self._keep(split, number, plain, mirrored)

    def finish(self) -> Manifest:
        """Write the manifest with all shards; the notes on each are needed no more."""
        shards = {
            split: tuple(
                record
                for number in range(about.count)
                if (record := self._record(split, number, about)) is not None
            )
            for split, about in self.manifest.splits.items()
        }
        manifest = self.manifest.with_shards(shards)
        if manifest != self.manifest:
            manifest.save(self.root)
        for split, about in manifest.splits.items():
            for number in range(about.count):
                self._note(split, number).unlink(missing_ok=True)
            remove_leftovers(self.root / split, alone=True)
        return manifest

    def _batches(self, about: Split, number: int) -> list[list[int]]:
        _, start, stop = about.span(number)
        return [
            list(range(first, min(first + self.batch_size, stop)))
            for first in range(start, stop, self.batch_size)
        ]

    def _keep(self, split: str, number: int, plain: list[Item], mirrored: list[Item]) -> None:
        columns = pack(plain, mirrored, self.manifest.schema)
        written = write_shard(shard_path(self.root, split, number), columns)
        write_text(self._note(split, number), json.dumps(asdict(written)))

    def _note(self, split: str, number: int) -> Path:
        """File that says that a shard is done, until the manifest does."""
        return shard_path(self.root, split, number).with_suffix(".json")

    def _whole(self, split: str, number: int, about: Split) -> bool:
        """Whether a shard is there, its checksum that of its note or of the manifest."""
        record, path = self._record(split, number, about), shard_path(self.root, split, number)
        try:
            return record is not None and file_sha256(path) == record.sha256
        except OSError:
            return False

    def _record(self, split: str, number: int, about: Split) -> Written | None:
        """What is known of a shard that is there; None: it is not, or not whole."""
        note = self._note(split, number)
        if os.path.lexists(note):
            try:
                written = as_written(read_json(note, DataError))
            except DataError:
                return None  # damaged: the shard is made anew, and the note with it
        elif number < len(about.shards):
            written = about.shards[number]
        else:
            return None
        return written if intact(shard_path(self.root, split, number), written) else None


def _unchanged(items: list[Pair]) -> list[Pair]:
    return items
