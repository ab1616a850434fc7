"""Items that are read when asked for: broken ones are passed over, draws repeat."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from ldm.data.shared_epoch import SharedEpoch
from ldm.data.skips import Skips
from ldm.data.transforms import Uniform
from ldm.errors import DataError

T = TypeVar("T")

UNREADABLE = "unreadable"
EMPTY_CAPTION = "empty caption"

_log = logging.getLogger(__name__)


class ReadableItems(Generic[T]):
    """Items by index, and random numbers that repeat.

    The numbers for an item depend on (seed, epoch, index) only, so that a resumed run repeats its
    crops with any number of workers.

    Args:
        what: of what set they are, for messages.
        count: number of items.
        read: reads one; raises ``DataError`` if it cannot.
        broken: what an unreadable item does: skip = warn once per item (and worker) and take the
            next readable one instead, error = raise.
        seed: seed of the draws.

    Raises:
        DataError: there is no item, or ``broken`` is unknown.
    """

    def __init__(
        self, what: str, count: int, read: Callable[[int], T], broken: str, seed: int
    ) -> None:
        if broken not in ("skip", "error"):
            raise DataError(f"{what}: broken '{broken}' is not one of skip, error")
        if count < 1:
            raise DataError(f"{what} is empty")
        self.broken: set[int] = set()
        self.skips = Skips([UNREADABLE, EMPTY_CAPTION])
        self._what, self._count, self._read = what, count, read
        self._skip, self._seed = broken == "skip", seed
        self._first = ""
        self._epoch = SharedEpoch()

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Give the items new draws, also in running workers."""
        self._epoch.set(epoch)

    def draws(self, index: int) -> Uniform:
        """Source of random numbers in [0, 1) for an item."""
        return self.generator(index).random

    def generator(self, index: int, purpose: int = 0) -> np.random.Generator:
        """Generator for an item; other purposes draw other numbers."""
        key = (self._seed, int(self._epoch), index)
        return np.random.default_rng((*key, purpose) if purpose else key)

    def __getitem__(self, index: int) -> tuple[int, T]:
        """The index of the item or, if it is broken, of the next readable one, and its content."""
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of a set of {self._count}")
        for step in range(self._count):
            used = (index + step) % self._count
            if used in self.broken:
                continue
            try:
                value = self._read(used)
            except DataError as error:
                if not self._skip:
                    raise
                self._note(used, error)
                continue
            if step:
                self.skips.add(UNREADABLE)
            return used, value
        raise DataError(
            f"{self._what}: not one of {self._count} images is readable; the first: {self._first}"
        )

    def _note(self, index: int, error: DataError) -> None:
        self.broken.add(index)
        self._first = self._first or str(error)
        _log.warning("%s; the next one is used instead (%d so far)", error, len(self.broken))
