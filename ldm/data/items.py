"""Items that are read when they are asked for.

A data set that meets a broken file in the middle of a night takes the next item instead, counts
it, and goes on (``next_usable``, ``Skips``). Random numbers depend on (seed, epoch, index) only,
so that a resumed run repeats its crops with any number of workers (``ItemDraws``).
``ReadableItems`` has both for files; ``DerivedItems`` for data sets that are made of another one.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ldm.errors import DataError

T = TypeVar("T")
Uniform = Callable[[], float]
"""Gives random numbers in [0, 1), one a call."""

UNREADABLE = "unreadable"
EMPTY_CAPTION = "empty caption"
REFUSED = "refused by its data set"

_DERIVED = 1
"""Purpose of the draws of ``DerivedItems``, should both data sets have the same seed."""
_ROWS = 256
_ALWAYS = 5
"""So many messages of a kind are logged by each worker; then only the 10th, 100th, ..."""

_log = logging.getLogger(__name__)


def check_choice(what: str, name: str, value: str, known: Sequence[str]) -> None:
    """Refuse the value of an option that is not a known one.

    Args:
        what: whose option it is, for the message.
        name: of the option.
        value: that was given.
        known: those that there are.

    Raises:
        DataError: the value is none of them.
    """
    if value not in known:
        raise DataError(f"{what}: {name} '{value}' is not one of {', '.join(known)}")


def next_usable(
    index: int, count: int, read: Callable[[int], T | None], complaint: Callable[[], str]
) -> tuple[int, T]:
    """The item at an index or, if it cannot be used, the next one that can, and round again.

    Args:
        index: which.
        count: number of items.
        read: gives an item; None: it cannot be used, which ``read`` has counted.
        complaint: what to say if not one can be used.

    Returns:
        The index that was used, and the item.

    Raises:
        IndexError: there is no such index.
        DataError: not one item can be used.
    """
    if not 0 <= index < count:
        raise IndexError(f"item {index} of a set of {count}")
    for step in range(count):
        used = (index + step) % count
        value = read(used)
        if value is not None:
            return used, value
    raise DataError(complaint())


class SharedEpoch:
    """An epoch that is set for all loader workers, or by one of them for itself.

    It lies in shared memory, so that workers that outlive an epoch see the change. What a worker
    sets is its own: the batch at the end of an epoch has items of two, and the other workers are
    in the next one.
    """

    def __init__(self) -> None:
        self._shared = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()
        self._own: int | None = None

    def __int__(self) -> int:
        return int(self._shared) if self._own is None else self._own

    def set(self, epoch: int) -> None:
        """Choose the epoch of the following items."""
        if get_worker_info() is None:
            self._shared.fill_(epoch)
        else:
            self._own = epoch


class ItemDraws:
    """Random numbers for items, which depend on (seed, epoch, index) only.

    Args:
        seed: seed of the draws.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._epoch = seed, SharedEpoch()

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


class Skips:
    """Counts what a data set leaves out, by reason.

    The counts lie in shared memory, a row per worker, so that the process that owns the data set
    sees those of its workers.

    Args:
        reasons: what can be wrong with a sample, in a few words each.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        shape = (_ROWS, len(self.reasons))
        self._counts = torch.zeros(shape, dtype=torch.int64, device="cpu").share_memory_()

    def add(self, reason: str, message: str | None = None) -> int:
        """Count one; log a message unless this worker logged many of this reason.

        Returns:
            How many this worker has counted for this reason.
        """
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_ROWS - 1)
        cell = self._counts[row, self.reasons.index(reason)]
        cell += 1
        count = int(cell)
        if message is not None and (count <= _ALWAYS or str(count).strip("0") == "1"):
            _log.warning("%s (%s, number %d)", message, reason, count)
        return count

    def counts(self) -> dict[str, int]:
        """Number of each reason so far, over all workers; reasons without any are left out."""
        totals = self._counts.sum(0).tolist()
        return {reason: int(n) for reason, n in zip(self.reasons, totals, strict=True) if n}


def left_out(dataset: Any) -> dict[str, int]:
    """What a data set and those inside it (``images``) have left out, by reason.

    These are items that could not be used so far, and files that its listing did not take.
    """
    found: dict[str, int] = {}
    inner = getattr(dataset, "images", None)
    if inner is not None and inner is not dataset:
        found.update(left_out(inner))
    skipped = dataset.skips.counts() if hasattr(dataset, "skips") else {}
    for counts in (skipped, getattr(dataset, "left_out", {})):
        for reason, count in counts.items():
            found[reason] = found.get(reason, 0) + count
    return found


class ReadableItems(ItemDraws, Generic[T]):
    """Items by index, of which some may be unreadable, and their draws.

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
        super().__init__(seed)
        check_choice(what, "broken", broken, ("skip", "error"))
        if count < 1:
            raise DataError(f"{what} is empty")
        self.broken: set[int] = set()
        self.skips = Skips([UNREADABLE, EMPTY_CAPTION])
        self._what, self._count, self._read = what, count, read
        self._skip, self._first = broken == "skip", ""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[int, T]:
        """The index of the item or, if it is broken, of the next readable one, and its content."""
        used, value = next_usable(index, self._count, self._usable, self._complaint)
        if used != index:
            self.skips.add(UNREADABLE)
        return used, value

    def _usable(self, index: int) -> T | None:
        if index in self.broken:
            return None
        try:
            return self._read(index)
        except DataError as error:
            if not self._skip:
                raise
            self.broken.add(index)
            self._first = self._first or str(error)
            number = len(self.broken)
            _log.warning("%s; the next one is used instead (%d so far)", error, number)
            return None

    def _complaint(self) -> str:
        return (
            f"{self._what}: not one of {self._count} images is readable; the first: {self._first}"
        )


class DerivedItems(Dataset[dict[str, Any]], ABC):
    """The items of a data set of images, with what is made of each image at random.

    Args:
        images: data set whose items are dicts with ``image`` float (C, H, W) in [-1, 1].
        seed: seed of what is random.
        refused: what an item does for which the data set raises ``DataError``, such as an image
            that is too small: error = raise, skip = take the next one instead.

    Attributes:
        skips: how many items ``images`` refused, over all workers.

    Raises:
        DataError: the data set is empty, or its items have no numbers.
    """

    def __init__(self, images: Dataset[dict[str, Any]], seed: int, refused: str) -> None:
        name = type(images).__name__
        if isinstance(images, IterableDataset) or not isinstance(images, Sized):
            raise DataError(f"{name} has no items by number: it is no data set of single images")
        check_choice(name, "refused", refused, ("error", "skip"))
        if not len(images):
            raise DataError(f"{name} is empty")
        self.images, self.skips = images, Skips([REFUSED])
        self._name, self._count, self._draws = name, len(images), ItemDraws(seed)
        self._skip, self._refused, self._first = refused == "skip", set[int](), ""

    @abstractmethod
    def derive(self, image: Tensor, generator: np.random.Generator) -> dict[str, Any]:
        """The further entries of an item, of its image (C, H, W)."""

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Give the following items, and ``images`` if it draws, new numbers, also in workers."""
        self._draws.set_epoch(epoch)
        if hasattr(self.images, "set_epoch"):
            self.images.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        used, entries = next_usable(index, self._count, self._usable, self._complaint)
        image: Any = entries.get("image")
        if getattr(image, "ndim", 0) != 3:
            raise DataError(f"item {used} of {self._name} has no 'image' (C, H, W)")
        return {**entries, **self.derive(image, self._draws.generator(index, _DERIVED))}

    def _usable(self, index: int) -> dict[str, Any] | None:
        if index in self._refused:
            return None
        try:
            return self.images[index]
        except DataError as error:
            if not self._skip:
                raise
            self._refused.add(index)
            self._first = self._first or str(error)
            self.skips.add(REFUSED, str(error))
            return None

    def _complaint(self) -> str:
        return f"{self._name} refuses all of its {self._count} items; the first: {self._first}"
