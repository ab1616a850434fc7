"""Which rows of a data set make up which batch: a function of seed and place in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ldm.training.data.seeding import key

Row = tuple[int, int]
"""An epoch, and the index of an item in the data set; draws of the item are made from both."""


@dataclass(frozen=True)
class Split:
    """How the batch of an optimiser step is shared out.

    Attributes:
        rank: number of this process.
        world: how many processes there are.
        parts: how many parts each works on one after the other, accumulating gradients.
    """

    rank: int = 0
    world: int = 1
    parts: int = 1

    def rows(self, batch_size: int, part: int) -> slice:
        """The rows of a batch that are a part of this process."""
        size = batch_size // (self.world * self.parts)
        start = (part * self.world + self.rank) * size
        return slice(start, start + size)


@dataclass(frozen=True)
class Order:
    """The rows of a data set, epoch after epoch, cut into batches.

    The shuffled epochs follow each other in one long sequence, and batch k has its rows from
    k * batch_size on. A batch that holds the last rows of an epoch and the first of the next
    belongs to the next; its rows keep the epochs that they are of. So every row comes once per
    epoch, also where the batch size does not divide.

    Attributes:
        count: rows of the data set.
        batch_size: rows of a batch, not more than there are.
        seed: of the order.
    """

    count: int
    batch_size: int
    seed: int

    def batches_before(self, epoch: int) -> int:
        """Batches of all epochs before this one."""
        return epoch * self.count // self.batch_size

    def batches_in(self, epoch: int) -> int:
        """Batches of an epoch; some have one more where the batch size does not divide."""
        return self.batches_before(epoch + 1) - self.batches_before(epoch)

    def most_batches(self) -> int:
        """Batches of the longest epoch."""
        return -(-self.count // self.batch_size)

    def rows(self, epoch: int) -> Tensor:
        """The rows (batches_in * batch_size,) of the batches of an epoch."""
        carried = self.carried(epoch)
        before = [_shuffled(self.count, self.seed, epoch - 1)[-carried:]] if carried else []
        own = _shuffled(self.count, self.seed, epoch)
        return torch.cat([*before, own])[: self.batches_in(epoch) * self.batch_size]

    def carried(self, epoch: int) -> int:
        """Rows that are left of the epoch before; the first batch of an epoch begins with them."""
        return epoch * self.count % self.batch_size


@lru_cache(maxsize=1)  # the next epoch begins with what is left of this one
def _shuffled(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(key(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


class TrainingBatches(Sampler[list[Row]]):
    """The parts of this process of the batches of an epoch, in turn.

    Args:
        order: which rows make up which batch.
        split: which of them are this process's.
        epoch: the first epoch.
        taken: batches of that epoch to leave out.
    """

    def __init__(self, order: Order, split: Split, epoch: int = 0, taken: int = 0) -> None:
        self._order, self._split = order, split
        self.epoch, self._taken = epoch, taken

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; another one starts at its beginning."""
        if epoch != self.epoch:
            self.epoch, self._taken = epoch, 0

    def __len__(self) -> int:
        """Parts of the longest epoch; others end one batch earlier."""
        return self._order.most_batches() * self._split.parts

    def __iter__(self) -> Iterator[list[Row]]:
        rows, size = self._order.rows(self.epoch), self._order.batch_size
        epochs = torch.full_like(rows, self.epoch)
        epochs[: self._order.carried(self.epoch)] -= 1
        batches = torch.stack([epochs, rows], 1).reshape(-1, size, 2)
        for batch in batches[self._taken :]:
            for part in range(self._split.parts):
                yield [(epoch, row) for epoch, row in batch[self._split.rows(size, part)].tolist()]


@dataclass(frozen=True)
class ValidationPlace:
    """Where a validation batch of this process lies.

    Attributes:
        block: number of the training-sized batch that its first row would be in.
        start: its first row, counted within the block.
        stop: the row after its last.
        total: rows of the block, including some beyond it that this batch may reach.
        first: number of the block's first row in the data set.
    """

    block: int
    start: int
    stop: int
    total: int
    first: int


class ValidationBatches(Sampler[list[Row]]):
    """All rows of a set in order, each in one batch of one process.

    All processes have the same number of batches, none of them empty. Their sizes may differ by
    one row at the end of the set.

    Args:
        count: rows of the set.
        batch_size: rows of the batch of an optimiser step.
        split: which of them are this process's.
    """

    def __init__(self, count: int, batch_size: int, split: Split) -> None:
        self._count, self._block, self._split = count, batch_size, split
        self._step = batch_size // split.parts
        # A remainder of fewer rows than processes goes with the batch before it.
        full, rest = divmod(count, self._step)
        self._batches = max(1, full + (rest >= split.world))

    def place(self, index: int) -> ValidationPlace:
        """Where a batch lies."""
        begin = index * self._step
        last = index == self._batches - 1
        size = (self._count if last else begin + self._step) - begin
        block = begin // self._block
        offset = begin - block * self._block
        start, stop = (offset + size * (self._split.rank + i) // self._split.world for i in (0, 1))
        total = max(self._block, offset + size)
        return ValidationPlace(block, start, stop, total, block * self._block)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Row]]:
        for index in range(self._batches):
            place = self.place(index)
            yield [(0, place.first + row) for row in range(place.start, place.stop)]
