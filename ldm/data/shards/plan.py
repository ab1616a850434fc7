"""Who reads which samples of a sharded data set: all of them, each once, in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ldm.distributed import announced_rank_and_count


@dataclass(frozen=True)
class Place:
    """A process among several.

    Attributes:
        rank: its number.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


def process_place() -> Place:
    """This process: as torch.distributed has it, else as the launcher says in the environment."""
    return Place(*announced_rank_and_count())


@dataclass(frozen=True)
class Span:
    """Consecutive samples of a shard.

    Attributes:
        shard: number of the shard.
        start: the first sample.
        stop: the one after the last.
        offset: number of the shard's first sample in the unshuffled set.
    """

    shard: int
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Plan:
    """How the samples of an epoch are shared out.

    The shards, in the order of the epoch, are one long sequence of samples. Every process gets a
    stretch of it, and every worker a stretch of that. Thus all is read, nothing twice, whether
    there are more shards or more workers; at most the two ends of a stretch lie within a shard.
    All processes take the same number, which distributed training needs: where it does not divide,
    a process also takes the next one's first sample.

    Attributes:
        sizes: samples of each shard.
        length: samples of an epoch over all processes: fewer or more than there are, too.
        shuffle: another order of the shards in each epoch.
        seed: of that order.
    """

    sizes: Sequence[int]
    length: int
    shuffle: bool
    seed: int

    def per_process(self, world: int) -> int:
        """Samples that each process takes in an epoch."""
        return -(-self.length // world)

    def share(
        self, place: Place, worker: int, workers: int, unit: int = 1, multiple: int = 1
    ) -> tuple[int, int]:
        """First sample of a worker in the sequence of an epoch, and how many it takes.

        Args:
            place: its process.
            worker: its number.
            workers: how many there are; the first ones take one unit more where it does not divide.
            unit: samples of a batch: shares are whole ones.
            multiple: the batches of a process are a multiple of this.
        """
        units = self.units(place.world, unit, multiple)
        least, more = divmod(units, workers)
        begin = worker * least + min(worker, more)
        count = least + (worker < more)
        return place.rank * self.length // place.world + begin * unit, count * unit

    def units(self, world: int, unit: int, multiple: int) -> int:
        """Batches that each process takes in an epoch."""
        return self.per_process(world) // (unit * multiple) * multiple

    def spans(self, epoch: int, start: int, count: int) -> Iterator[Span]:
        """The parts of shards that make up a stretch of the sequence of an epoch."""
        order = np.arange(len(self.sizes))
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        ends = np.cumsum(np.asarray(self.sizes)[order])
        place = start % int(ends[-1])
        i = int(np.searchsorted(ends, place, side="right"))
        while count > 0:
            shard, before = int(order[i]), int(ends[i]) - self.sizes[order[i]]
            first = place - before
            taken = min(self.sizes[shard] - first, count)
            if taken > 0:
                yield Span(shard, first, first + taken, int(offsets[shard]))
            count -= taken
            i = (i + 1) % len(self.sizes)
            place = int(ends[i - 1]) if i else 0
