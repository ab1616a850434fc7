"""Random numbers that depend on the seed and the place in training, and on nothing before it.

Items are the same whenever, in whichever process and worker they are made. No state of a generator
is saved, and nothing beside training, such as pictures and validation, can disturb it: a resumed
run draws what the run would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from operator import itemgetter
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ldm.data.items import SharedEpoch
from ldm.layers.rng import BatchGenerator
from ldm.training.data.order import Row
from ldm.training.data.position import Position
from ldm.training.data.seeding import GlobalState, aside, key, seed_global


class SeededItems(Dataset[Any]):
    """Items of a map-style data set, by epoch and index.

    The global generators of torch, numpy and Python are seeded by (seed, epoch, index) before an
    item is made, for data sets that draw from them. Generators of the data set's own are its own
    affair: it may have a method ``set_epoch``.

    Args:
        items: the data set.
        seed: that of the run.
    """

    def __init__(self, items: Any, seed: int) -> None:
        self._items, self._seed = items, seed

    def __getitems__(self, rows: Sequence[Row]) -> list[Any]:
        """The items of a batch; named so for torch's loader."""
        with nullcontext() if get_worker_info() is not None else aside():
            epochs = groupby(rows, key=itemgetter(0))
            return [item for epoch, part in epochs for item in self._of_epoch(epoch, part)]

    def __getitem__(self, row: Row) -> Any:
        return self.__getitems__([row])[0]

    def _of_epoch(self, epoch: int, rows: Iterable[Row]) -> Iterator[Any]:
        if hasattr(self._items, "set_epoch"):
            self._items.set_epoch(epoch)  # in this worker, which may have a copy of its own
        for _, index in rows:
            seed_global(key(self._seed, "item", epoch, index))
            yield self._items[index]


class SeededStream(IterableDataset[Any]):
    """Items of an iterable data set that draws from the global generators, if from any.

    They are seeded by (seed, epoch, process, worker) at the beginning of each iteration.

    Args:
        items: the data set.
        seed: that of the run.
        rank: number of this process.
    """

    def __init__(self, items: Any, seed: int, rank: int) -> None:
        self._items, self._seed, self._rank = items, seed, rank
        self._epoch = SharedEpoch()

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch.set(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        seed_ = key(self._seed, "stream", int(self._epoch), self._rank, number)
        if worker is not None:
            seed_global(seed_)
            yield from self._items
            return
        yield from _apart(self._items, seed_)


def _apart(items: Any, seed: int) -> Iterator[Any]:
    """Iterate with global generators that training does not see, nor the other way round."""
    with aside():
        seed_global(seed)
        iterator, mine = iter(items), GlobalState()
    while True:
        with aside():
            mine.restore()
            try:
                item = next(iterator)
            except StopIteration:
                return
            mine = GlobalState()
        yield item


class StepRandomness(pl.Callback):
    """Seeds training batches by (seed, step, part, process), those of validation by their place.

    Draws of a task go through ``task.generator``: each sample of the batch of an optimiser step
    gets the same numbers in whatever processes and parts the batch is worked on. The global
    generators, from which dropout draws, differ between them.

    Args:
        seed: that of the run.
        position: where training stands.
    """

    def __init__(self, seed: int, position: Position) -> None:
        self._seed = seed
        self._position = position

    def setup(self, trainer: Any, task: Any, stage: str) -> None:
        """Tell the data and the task the seed."""
        task.seed = self._seed
        if hasattr(trainer.datamodule, "seed"):
            trainer.datamodule.seed = self._seed

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, _index: int) -> None:
        """Seed the batch."""
        step, part = self._position.batches, self._position.part
        own = key(self._seed, "step", step, part, trainer.global_rank)
        seed_global(own)
        torch.manual_seed(own)  # of the devices, too
        size = batch_length(batch)
        parts = trainer.accumulate_grad_batches
        start = (part * trainer.world_size + trainer.global_rank) * size
        task.generator = BatchGenerator(
            task.device,
            key(self._seed, "batch", step),
            key(self._seed, "own", step, part, trainer.global_rank),
            start,
            start + size,
            size * trainer.world_size * parts,
        )

    def on_validation_batch_start(
        self, trainer: Any, task: Any, batch: Any, batch_idx: int, _dataloader_idx: int = 0
    ) -> None:
        """Give the rows of the validation set the numbers they always get."""
        task.generator = validation_generator(trainer, task.device, batch, batch_idx)


def validation_generator(
    trainer: Any, device: torch.device, batch: Any, index: int
) -> BatchGenerator:
    """The generator of a validation batch: the same at every validation, of every run."""
    size = batch_length(batch)
    place = None
    if hasattr(trainer.datamodule, "validation_place"):
        place = trainer.datamodule.validation_place(index)
    if place is None or place.stop - place.start != size:  # a stream, or the user's own module
        own = key("validation", index, trainer.global_rank)
        return BatchGenerator(device, own, own, 0, size, size)
    own = key("validation", place.block, trainer.global_rank)
    whole = key("validation", place.block)
    return BatchGenerator(device, whole, own, place.start, place.stop, place.total)


def batch_length(batch: Any) -> int:
    """Samples of a batch."""
    value = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    return len(value)
