"""Encoding the items of a data set into the shards of a latent cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.atomic_write import write_atomically
from ldm.data.latent_manifest import DTYPES, Manifest, Split, intact, shard_path
from ldm.data.latent_shard import Item, Written, pack, write_shard
from ldm.data.latent_source import ItemPairs, without
from ldm.errors import DataError

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

    def missing(self, split: str) -> list[int]:
        """Numbers of the shards that are not there, or not whole."""
        about = self.manifest.splits[split]
        return [n for n in range(about.count) if self._record(split, n, about) is None]

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
        manifest.save(self.root)
        for split, about in manifest.splits.items():
            for number in range(about.count):
                self._note(split, number).unlink(missing_ok=True)
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
        text = json.dumps(asdict(written))
        write_atomically(self._note(split, number), lambda file: file.write(text.encode()))

    def _note(self, split: str, number: int) -> Path:
        """File that says that a shard is done, until the manifest does."""
        return shard_path(self.root, split, number).with_suffix(".json")

    def _record(self, split: str, number: int, about: Split) -> Written | None:
        """What is known of a shard that is there; None: it is not, or not whole."""
        note = self._note(split, number)
        if note.exists():
            written = Written(**json.loads(note.read_text()))
        elif number < len(about.shards):
            written = about.shards[number]
        else:
            return None
        return written if intact(shard_path(self.root, split, number), written) else None


def _unchanged(items: list[Pair]) -> list[Pair]:
    return items
