"""Data sets whose items are the same whenever, in whichever process and worker they are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from operator import itemgetter
from typing import Any

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ldm.data.shared_epoch import SharedEpoch
from ldm.training.data_order import Row
from ldm.training.seeding import GlobalState, aside, key, seed_global


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
